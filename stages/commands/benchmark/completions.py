"""The completion store at a size that a hundred thousand seeds make, and a team's store on a remote, a folder.

    lance benchmark store                 a million completions are pushed and pulled; two million are measured
    lance benchmark store --rows 20000    fewer of them

A completion is random words, 600 characters on average. The files lie in the folder for temporary ones ($TMPDIR).
"""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from stages.commands.benchmark.filtering import peak_memory
from stages.commands.benchmark.measurement import Measurement, at_most, best_of, timed
from stages.commands.store.command import pull, push
from stages.commands.store.remote import Remote
from stages.inference.engines import Completion
from stages.inference.store import INSERT, Store, row

CALLS = 20_000  # completions that are looked up, and that are put
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


def completions(rows: int, base: Path) -> Iterator[Measurement]:
    """In a process of its own, so that its memory can be told. `base` is not used."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        yield from process.submit(measured, rows).result()


def measured(rows: int) -> list[Measurement]:
    """A tenth of `rows` completions is pushed and pulled, then the others; the store is measured with twice as many."""
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        small = speed(filled(Path(folder, "small.sqlite"), range(CALLS)), CALLS)
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
    keys = [key(number) for number in numpy.random.default_rng(0).integers(rows, size=CALLS)]
    lookups, again = (CALLS / timed(lambda: store.find(keys)) for _ in range(2))
    new = [(key(-1 - number), Completion(text, "stop", 212, 131, (), 0.25)) for number, text in texts(range(CALLS))]
    puts = CALLS / timed(lambda: put_all(store, new))
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
    seconds = []
    for part in (range(first), range(first, rows)):
        fill(store, part)
        seconds.append((timed(lambda: push(store, remote)), timed(lambda: pull(other, remote))))
    sizes = (sum(file.stat().st_size for file in Path(remote.folder).iterdir()), other.size_bytes())
    for name, before, after, size in zip(("push", "pull"), *seconds, sizes, strict=True):
        against = f"the {first:,} before, {before:.1f} s; {size / rows:.0f} bytes each"
        what, growth = f"{name} of {rows - first:,} completions", after / before
        yield Measurement(what, against, after, "s", growth, "≈ 9", growth <= MAX_GROWTH)


def filled(path: Path, numbers: range) -> Store:
    """A new store with these completions."""
    store = Store(path, UNBOUNDED)
    fill(store, numbers)
    return store


def fill(store: Store, numbers: range) -> None:
    """Write completions, many in a transaction."""
    for start in range(numbers.start, numbers.stop, BATCH):
        rows = [stored(number, text) for number, text in texts(numbers[start - numbers.start :][:BATCH])]
        with store.transaction():
            store.run(lambda db, rows=rows: db.executemany(INSERT, rows))  # type: ignore[misc]


def stored(number: int, text: str) -> tuple[object, ...]:
    """The row of a completion."""
    completion = Completion(text, "stop", 212, 131, (), 0.25)
    return row(key(number), json.dumps(vars(completion), ensure_ascii=False).encode(), completion)


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
