"""The completion store's side of sharing: which of its calls no shard holds yet, and the merging of a shard.

The table `shared` says which ids the shards hold that were pushed from here or merged. A call counts as shared on a
remote only while one of these shards lies there; so a second remote, or one that was emptied, gets all of them.
"""

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from stages.core.errors import UserError
from stages.inference.engines import Completion
from stages.inference.store import GIGABYTE, INSERT, Store, chunks, decode, ids, is_whole, marks, row, size_bytes

SCHEMA = """
CREATE TABLE IF NOT EXISTS shared (
  first INTEGER NOT NULL,        -- of the ids, from first to last
  last INTEGER NOT NULL,
  shard TEXT NOT NULL            -- its name
);
"""
ROWS_PER_QUERY = 1000

Ids = tuple[int, int]  # from the first to the last


class Call(NamedTuple):
    """A stored completion."""

    id: int
    key: bytes
    value: bytes


def known_shards(store: Store) -> set[str]:
    """The names of the shards that were pushed from here or merged."""
    return {shard for _, _, shard in store.run(_shared)}


def unshared(store: Store, shards: Collection[str]) -> list[Ids]:
    """Ranges of ids that hold all calls that are in none of these shards."""

    def gaps(db: sqlite3.Connection) -> list[Ids]:
        (start, end), between = ids(db), []
        for first, last, shard in _shared(db):
            if shard in shards:
                between.append((start, first - 1))
                start = max(start, last + 1)
        return [(first, last) for first, last in [*between, (start, end)] if first <= last]

    return store.run(gaps)


def count(store: Store, ranges: Iterable[Ids]) -> int:
    """How many calls have their ids in these ranges."""
    query = "SELECT count(*) FROM calls WHERE id BETWEEN ? AND ?"
    return store.run(lambda db: sum(int(db.execute(query, span).fetchone()[0]) for span in ranges))


def read(store: Store, ranges: Iterable[Ids]) -> Iterator[Call]:
    """The undamaged calls with ids in these ranges."""
    query = "SELECT id, key, value, checksum FROM calls WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
    for first, last in ranges:
        start = first
        while rows := store.run(lambda db: db.execute(query, (start, last, ROWS_PER_QUERY)).fetchall()):  # noqa: B023
            yield from (Call(*call) for *call, written in rows if is_whole(call[1], call[2], written))
            start = rows[-1][0] + 1


def share(store: Store, shard: str, ids: list[int]) -> None:
    """Record that a shard holds the calls with these ids, in ascending order."""
    store.run(lambda db: _share(db, shard, ids))


def merge(store: Store, shard: str, values: dict[bytes, bytes]) -> int:
    """Store the values of a shard, all or none, and record that it holds them. What is stored whole already stays.

    Returns how many are new. Raises `ValueError` if a value is no completion, and `UserError` if they do not fit under
    the store's bound: nothing is evicted for them.
    """
    rows = {key: row(key, values[key], _decode(values[key])) for key in sorted(values)}  # as the index has them

    def insert(db: sqlite3.Connection) -> int:
        stored: dict[bytes, int] = {}
        with store.transaction():
            for keys in chunks(rows):
                found = db.execute(f"SELECT id, key, value, checksum FROM calls WHERE key IN ({marks(keys)})", keys)
                stored |= {key: number for number, key, value, written in found if is_whole(key, value, written)}
            _, newest = ids(db)
            db.executemany(INSERT, (columns for key, columns in rows.items() if key not in stored))
            if size_bytes(db) > store.max_bytes:
                raise UserError(
                    f"completion store {store.path} would grow beyond {store.max_bytes / GIGABYTE:g} GB; raise "
                    "runtime.store.max_gb, then pull again: what was merged is kept"
                )
            new = (number for (number,) in db.execute("SELECT id FROM calls WHERE id > ?", [newest]))
            _share(db, shard, sorted([*stored.values(), *new]))
        return len(rows) - len(stored)

    return store.run(insert)


def _shared(db: sqlite3.Connection) -> list[tuple[int, int, str]]:
    db.execute(SCHEMA)
    return db.execute("SELECT first, last, shard FROM shared ORDER BY first").fetchall()


def _share(db: sqlite3.Connection, shard: str, ids: list[int]) -> None:
    db.execute(SCHEMA)
    db.executemany("INSERT INTO shared VALUES (?, ?, ?)", [(first, last, shard) for first, last in runs(ids)])


def runs(ids: list[int]) -> list[Ids]:
    """Ascending numbers as ranges without holes."""
    starts = [index for index, number in enumerate(ids) if index == 0 or number != ids[index - 1] + 1]
    return [(ids[start], ids[end - 1]) for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)]


def _decode(value: bytes) -> Completion:
    """A completion that another machine stored. Raises `ValueError` if it is none, or has fields unknown here."""
    try:
        return decode(value)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError("of an unknown format") from None
