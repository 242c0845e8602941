"""What a stage prints: a progress bar per task, and a closing line. Without a terminal, a line replaces the bar."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(task: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of a task of `total` steps. Yields a function that takes the number of steps just done."""
    if not total:
        yield lambda steps: None
        return
    if not sys.stdout.isatty():
        start, done = time.monotonic(), 0

        def count(steps: int) -> None:
            nonlocal done
            done += steps

        yield count
        print(f"{task}: {done:,} of {total:,} in {time.monotonic() - start:.0f} s", flush=True)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(compact=True)) as bar:
        row = bar.add_task(task, total=total)
        yield lambda steps: bar.advance(row, steps)


def prepare_transformers() -> None:
    """Call this before any model class is imported. It turns off transformers' progress bars, and its import of
    scikit-learn, which takes 2 s and serves a decoding strategy that is not used here."""
    import transformers.utils

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.is_sklearn_available = lambda: False


def say(line: str) -> None:
    """Print a line at once, even if stdout is a file."""
    print(line, flush=True)
