"""What a stage prints: a progress bar per task, and a closing line.

Without a terminal, lines replace the bar: every ten seconds one if another tenth of the task is done, or if the last
line is a minute old. A task of less than ten seconds has its last line alone.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

LOOK = 10.0  # seconds between two looks at a task
SILENCE = 60.0  # seconds without a line, at most
UNITS = {"second": 1, "minute": 60, "hour": 3600}


@contextmanager
def progress(task: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show the progress of a task of `total` steps, `done` of them in an earlier process. Yields a function that takes
    the number of steps just done."""
    if not total:
        yield lambda steps: None
        return
    if not sys.stdout.isatty():
        log = _Log(task, total, done)
        with log.watched():
            yield log.count
        say(f"{task}: {log.done:,} of {total:,} in {time.monotonic() - log.start:.0f} s")
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
        row = bar.add_task(task, total=total, completed=done)
        yield lambda steps: bar.advance(row, steps)


def prepare_transformers() -> None:
    """Call this before any model class is imported. It turns off transformers' progress bars, and its imports of
    scikit-learn, which takes 2 s and serves a decoding strategy, and of scipy, 0.3 s, for losses of object detection;
    neither is used here."""
    import transformers.utils

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.is_sklearn_available = transformers.utils.is_scipy_available = lambda: False


def say(line: str) -> None:
    """Print a line at once, even if stdout is a file."""
    print(line, flush=True)


class _Log:
    """The lines about a task in a log. Another thread prints them, since hours may pass between two steps."""

    def __init__(self, task: str, total: int, done: int) -> None:
        self.task, self.total, self.before, self.done = task, total, done, done
        self.start = time.monotonic()

    def count(self, steps: int) -> None:
        self.done += steps

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Print lines until the block ends."""
        ended = Event()
        thread = Thread(target=self._watch, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _watch(self, ended: Event) -> None:
        printed, tenth = self.start, self._tenth()
        while not ended.wait(LOOK):
            now = time.monotonic()
            if self.done < self.total and (self._tenth() > tenth or now - printed >= SILENCE):
                say(line(self.task, self.before, self.done, self.total, now - self.start))
                printed, tenth = now, self._tenth()

    def _tenth(self) -> int:
        return 10 * self.done // self.total


def line(task: str, before: int, done: int, total: int, seconds: float) -> str:
    """A line about a task after so many seconds in this process, with rate and time left if a step was done in it;
    `before`: the steps done earlier."""
    text = f"{task}: {done:,} of {total:,} after {duration(seconds)}"
    if done == before:
        return text
    rate = (done - before) / seconds
    unit = next((unit for unit, length in UNITS.items() if rate * length >= 1), "hour")
    return f"{text}, {rate * UNITS[unit]:,.1f} per {unit}, {duration((total - done) / rate)} left"


def duration(seconds: float) -> str:
    """A time in the unit in which it is no more than 100 or so: 45 s, 12 min, 3.5 h."""
    if seconds <= 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds <= 100 * 60 else f"{seconds / 3600:,.1f} h"
