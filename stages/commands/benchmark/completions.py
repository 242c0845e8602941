"""The completion store at a size that a hundred thousand seeds make, and a team's store on a remote, a folder.

    lance benchmark store                 a million completions are pushed and pulled; two million are measured
    lance benchmark store --rows 20000    fewer of them

A completion is random words, 600 characters on average. The files lie in the folder for temporary ones ($TMPDIR).
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from stages.commands.benchmark.filtering import peak_memory
from stages.commands.benchmark.measurement import Measurement, at_most, best_of, timed
from stages.commands.store.command import pull, push
from stages.commands.store.remote import Remote
from stages.inference.engines import Completion
from stages.inference.store import INSERT, Store, row

SMALL = 20_000  # completions in the store that the large one is compared with
CALLS, TRIES = 4_000, 5  # completions that are looked up, and that are put; the fastest of several times counts
BATCH = 20_000  # completions that are written at once to fill a store
WORDS = 67  # of a completion, on average: 600 characters
MAX_SLOWDOWN = 4
MAX_GROWTH = 14  # of the time, for nine times as many
MAX_MEMORY = 4_000  # MB
UNBOUNDED = 1_000.0  # GB


@dataclass(frozen=True)
class Speed:
    """What a store of some size does."""

    rows: int
    opening: float  # milliseconds
    lookups: float  # per second, of completions that were not used for long
    again: float  # per second, of the same ones
    puts: float  # per second
    bytes: float  # a completion


class Seconds(NamedTuple):
    """By the clock, and of the processor."""

    clock: float
    cpu: float


def completions(rows: int, base: Path) -> Iterator[Measurement]:
    """In a process of its own, so that its memory can be told. `base` is not used."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        yield from process.submit(measured, rows).result()


def measured(rows: int) -> list[Measurement]:
    """A tenth of `rows` completions is pushed and pulled, then the others; the store is measured with twice as many."""
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        small = speed(filled(Path(folder, "small.sqlite"), range(SMALL)), SMALL)
        store = Store(Path(folder, "store.sqlite"), UNBOUNDED)
        shared = list(sharing(store, Path(folder), rows))
        fill(store, range(rows, 2 * rows))
        large = speed(store, 2 * rows)
    what, against = f"store of {large.rows:,} completions", f"of {small.rows:,}"
    return [
        at_most(
            f"{what}: open", f"{against}, {small.opening:.1f} ms", large.opening, small.opening, MAX_SLOWDOWN, "ms"
        ),
        rate(f"{what}: look-ups of {CALLS:,}, not used for long", against, large.lookups, small.lookups),
        rate(f"{what}: the same look-ups again", against, large.again, small.again),
        rate(f"{what}: puts of {CALLS:,}, one by one", against, large.puts, small.puts),
        at_most(f"{what}: bytes each", f"{against}, {small.bytes:.0f}", large.bytes, small.bytes, 1.2, "bytes"),
        *shared,
        at_most("all of this: memory", f"{MAX_MEMORY:,} MB", peak_memory(), MAX_MEMORY, 1, "MB"),
    ]


def rate(what: str, against: str, large: float, small: float) -> Measurement:
    """Calls per second with a large store, and how many times slower they are than with a small one."""
    slowdown = small / large
    against = f"{against}, {small:,.0f} per s"
    return Measurement(what, against, large, "per s", slowdown, f"≤ {MAX_SLOWDOWN}", slowdown <= MAX_SLOWDOWN)


def speed(store: Store, rows: int) -> Speed:
    """Open a store of so many completions, look completions up, and put others."""
    import numpy

    store.close()
    size = store.path.stat().st_size
    opening = 1000 * best_of(3, lambda: Store(store.path, UNBOUNDED))
    store = Store(store.path, UNBOUNDED)
    numbers = numpy.random.default_rng(0).integers(rows, size=(TRIES, CALLS))
    keys = [[key(number) for number in batch] for batch in numbers]
    lookups, again = (CALLS / min(timed(lambda batch=batch: store.find(batch)) for batch in keys) for _ in range(2))  # type: ignore[misc]
    new = [
        [call(-1 - number, text) for number, text in texts(range(trial * CALLS, (trial + 1) * CALLS))]
        for trial in range(TRIES)
    ]
    puts = CALLS / min(timed(lambda batch=batch: put_all(store, batch)) for batch in new)  # type: ignore[misc]
    store.close()
    return Speed(rows, opening, lookups, again, puts, size / rows)


def put_all(store: Store, calls: list[tuple[bytes, Completion]]) -> None:
    """Put completions one by one, as an engine's are."""
    for call in calls:
        store.put(*call)


def sharing(store: Store, folder: Path, rows: int) -> Iterator[Measurement]:
    """Push and pull a tenth of the rows, then the others, by a DVC remote that is a folder."""
    from dvc.fs import LocalFileSystem

    remote = Remote("folder", str(folder / "remote"), LocalFileSystem())
    other = Store(folder / "other.sqlite", UNBOUNDED)
    first = rows // 10
    seconds: list[list[Seconds]] = []
    for part in (range(first), range(first, rows)):
        fill(store, part)
        seconds.append([used(lambda: push(store, remote)), used(lambda: pull(other, remote))])
    sizes = (sum(file.stat().st_size for file in Path(remote.folder).iterdir()), other.size_bytes())
    for name, before, after, size in zip(("push", "pull"), *seconds, sizes, strict=True):
        clock = f"{before.clock + after.clock:.0f} s by the clock for all"
        against = f"the {first:,} before, {before.cpu:.1f} s; {clock}; {size / rows:.0f} bytes each"
        yield at_most(f"{name} of {rows - first:,} completions", against, after.cpu, before.cpu, MAX_GROWTH, "CPU s")


def used(action: Callable[[], None]) -> Seconds:
    """The time that an action takes. That of the processor tells growth on a busy machine, too."""
    before = time.process_time()
    clock = timed(action)
    return Seconds(clock, time.process_time() - before)


def filled(path: Path, numbers: range) -> Store:
    """A new store with these completions."""
    store = Store(path, UNBOUNDED)
    fill(store, numbers)
    return store


def fill(store: Store, numbers: range) -> None:
    """Write completions, many in a transaction."""
    for start in range(numbers.start, numbers.stop, BATCH):
        rows = sorted(stored(number, text) for number, text in texts(numbers[start - numbers.start :][:BATCH]))
        with store.transaction():
            store.run(lambda db, rows=rows: db.executemany(INSERT, rows))  # type: ignore[misc]


def stored(number: int, text: str) -> tuple[object, ...]:
    """The row of a completion."""
    its_key, completion = call(number, text)
    return row(its_key, json.dumps(vars(completion), ensure_ascii=False).encode(), completion)


def call(number: int, text: str) -> tuple[bytes, Completion]:
    """A key, and its completion."""
    return key(number), Completion(text, "stop", 212, 131, (), 0.25)


def texts(numbers: range) -> Iterator[tuple[int, str]]:
    """A text of random words for each number."""
    import numpy

    random = numpy.random.default_rng(numbers.start)
    vocabulary = [f"word{number}" for number in range(5000)]
    for number, length in zip(numbers, random.integers(WORDS // 2, WORDS * 3 // 2, size=len(numbers)), strict=True):
        yield number, " ".join(vocabulary[word] for word in random.integers(len(vocabulary), size=length))


def key(number: int) -> bytes:
    """The key of the completion of this number."""
    return sha256(str(number).encode()).digest()
