"""One progress bar per task on a terminal; one clean line per task where there is none (a log file, CI)."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(task: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that advances the bar by so many steps of `total`."""
    if not total:
        yield lambda steps: None
        return
    if not sys.stdout.isatty():
        started, done = time.monotonic(), 0

        def count(steps: int) -> None:
            nonlocal done
            done += steps

        yield count
        print(f"{task}: {done:,} of {total:,} in {time.monotonic() - started:.0f} s", flush=True)
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
    """Before any model class is imported: no bars while transformers loads and saves, and no scikit-learn, which it
    would import for a kind of generation that nothing here uses, at 2 s a process."""
    import transformers.utils

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.is_sklearn_available = lambda: False


def say(line: str) -> None:
    """A stage's closing line."""
    print(line, flush=True)
