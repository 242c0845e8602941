"""The completion store keeps every model call under the hash of what decides it, so that none is made twice.

It is one SQLite file for all experiments, worktrees and processes of a repository, outside DVC's outs. It survives a
killed stage, and you may delete it at any time: completions are then computed again. Every value has a checksum, so a
torn or damaged one is computed again and never served.

Completions lie in the order in which they were stored and are never changed. What changes lies apart in narrow tables,
so that a run that finds millions of them rewrites little.
"""

import hashlib
import json
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from stages.core import repository, schema
from stages.core.errors import UserError
from stages.core.progress import say
from stages.inference.engines import Completion, Number

SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  key BLOB NOT NULL UNIQUE,      -- SHA-256 of what decides the completion
  checksum BLOB NOT NULL,        -- of key and value
  tokens INTEGER NOT NULL,       -- written by the model
  seconds REAL NOT NULL,         -- of computing
  value BLOB NOT NULL            -- the completion as JSON in UTF-8
);
CREATE TABLE IF NOT EXISTS uses (  -- of calls that were used when they were no longer among the newest
  id INTEGER PRIMARY KEY,        -- of the call
  newest INTEGER NOT NULL        -- id of the newest call at that time; no clock, since clocks jump
);
CREATE TABLE IF NOT EXISTS served (  -- one row: the completions that were found here instead of computed
  id INTEGER PRIMARY KEY CHECK (id = 0),
  completions INTEGER NOT NULL,
  tokens INTEGER NOT NULL,
  seconds REAL NOT NULL
);
"""
SERVE = """
INSERT INTO served VALUES (0, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET completions = completions + excluded.completions,
tokens = tokens + excluded.tokens, seconds = seconds + excluded.seconds
"""
EARLIER = "completions"  # the table of an earlier version of this module, which kept all in one
LAST_USE = "calls LEFT JOIN uses USING (id)"  # each call's is coalesce(newest, id)
INSERT = "INSERT OR REPLACE INTO calls (key, checksum, tokens, seconds, value) VALUES (?, ?, ?, ?, ?)"
GIGABYTE = 10**9
KEYS_PER_QUERY = 500
WRITES_BETWEEN_CHECKS = 100  # of the file's size, and of whether another process has replaced the file
ADOPTED = 10_000  # completions of an earlier layout that are taken over at once
EVICTED = 0.1  # share of the completions that are deleted at once when the store is full
RECENT = 0.1  # share of the ids: a use is recorded only if the last one is older than these
SYNC_INTERVAL = 1.0  # seconds of puts, after one that waited for the disk, that a power cut may cost
LOCK_TIMEOUT = 60  # seconds to wait for another process's write
DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)  # what reading a damaged file raises

T = TypeVar("T")


def store_file(settings: "schema.Store") -> Path:
    """The path of the store by `runtime.store`; a relative one starts at the repository's root."""
    return repository.root() / settings.path


class Reader:
    """Looks completions up and leaves no trace: it creates no file, and nothing counts as served or used. A missing or
    damaged file holds nothing, as for a stage, which would begin a new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = False  # whether a look-up has met a damaged file

    def find(self, keys: Iterable[bytes]) -> dict[bytes, Completion]:
        """{key: completion} of the keys that are stored and undamaged. Raises `UserError` if SQLite cannot read the
        file for another reason, such as a lock."""
        if not self.path.exists():
            return {}
        values: dict[bytes, bytes] = {}
        is_open = self.path.with_name(f"{self.path.name}-wal").exists()  # without this journal, nobody is writing
        uri = f"{self.path.resolve().as_uri()}?{'mode=ro' if is_open else 'immutable=1'}"
        try:
            with closing(sqlite3.connect(uri, uri=True)) as db:
                tables = [table for table in (EARLIER, "calls") if _has(db, table)]
                for chunk in chunks(keys):
                    for table in tables:
                        values |= _select(db, chunk, table)
        except DAMAGE as error:
            if not _is_damage(error):
                raise UserError(f"completion store {self.path}: {error}; try again") from None
            self.damaged = True
            return {}
        return {key: decode(value) for key, value in values.items()}


class Store:
    """Reads and writes the store's file. Every method raises `UserError` if the disk fails or is full."""

    def __init__(self, path: Path, max_gb: float) -> None:
        """Open the file, or create it with its folder. Over `max_gb` gigabytes, the least recently used completions
        are deleted. A damaged file is renamed to end in .damaged, and a new one begun."""
        self.path, self.max_bytes, self._writes = path, max_gb * GIGABYTE, 0
        self._inode, self._synced = 0, -SYNC_INTERVAL
        with self._disk_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open()
            except DAMAGE as error:
                self._replace_damaged(error)

    @classmethod
    def from_settings(cls, settings: "schema.Store") -> "Store":
        """The store that `runtime.store` describes."""
        return cls(store_file(settings), settings.max_gb)

    def find(self, keys: Iterable[bytes]) -> dict[bytes, Completion]:
        """{key: completion} of the keys that are stored and undamaged; each counts as served and as used now."""
        completions: dict[bytes, Completion] = {}
        for chunk in chunks(keys):
            values = self.run(lambda db, chunk=chunk: _select(db, chunk))  # type: ignore[misc]
            completions |= {key: decode(value) for key, value in values.items()}
        if completions:
            self.run(lambda db: self._count(db, completions))
        return completions

    def put(self, key: bytes, completion: Completion) -> None:
        """Store a completion. When this returns, the completion survives whatever happens to the process, and a power
        cut as soon as a later put, or closing, has waited for the disk."""
        value = json.dumps(vars(completion), default=vars, ensure_ascii=False).encode()
        self.run(lambda db: self._insert(db, row(key, value, completion)))
        if self._writes % WRITES_BETWEEN_CHECKS == 0:
            self.run(self._check_file)
        self._writes += 1

    def size_bytes(self) -> int:
        """The size of the store, without the pages that are free for reuse."""
        return self.run(size_bytes)

    def totals(self) -> dict[str, Any]:
        """The completions in the store with their tokens and seconds of computing (`completions`, `tokens`, `seconds`),
        and those that were served instead of computed, once for each time (`served`, `served_tokens`,
        `served_seconds`), evicted ones included."""
        names = ("completions", "tokens", "seconds", "served", "served_tokens", "served_seconds")
        sums = "(SELECT count(*), sum(tokens), sum(seconds) FROM calls)"
        query = f"SELECT * FROM {sums} LEFT JOIN (SELECT completions, tokens, seconds FROM served)"
        row = self.run(lambda db: db.execute(query).fetchone())
        return {name: value or 0 for name, value in zip(names, row, strict=True)}

    def run(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """The result of an action on the database; if the file turns out to be damaged, of a second try with a new
        file."""
        with self._disk_errors():
            try:
                return action(self._db)
            except DAMAGE as error:
                self._replace_damaged(error)
                return action(self._db)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements of the block, or none."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield

    def close(self) -> None:
        """Close the file; SQLite removes its journal if no other process has the store open."""
        self._db.close()

    def _open(self) -> None:
        self._db = sqlite3.connect(
            self.path, timeout=LOCK_TIMEOUT, isolation_level=None, check_same_thread=False
        )  # every statement commits; a collection of garbage may close it in any thread
        weakref.finalize(self, self._db.close)  # at the process' end at the latest, whatever still refers to the store
        self._inode = self.path.stat().st_ino
        self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._db.execute("PRAGMA journal_mode = WAL")  # readers and a writer do not wait for each other
        self._db.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last rows, never damage others
        self._db.executescript(SCHEMA)
        self._adopt()

    def _adopt(self) -> None:
        """Take over what an older version of this module has stored, a part at a time: the parts reuse each other's
        pages, and other processes write between them. Its table stays, empty, since a process that began before an
        update may still write there."""
        if not _has(self._db, EARLIER):
            return
        (rows,) = self._db.execute(f"SELECT count(*) FROM {EARLIER}").fetchone()
        if not rows:
            return
        say(f"completion store {self.path}: bringing {rows:,} completions into its new layout")
        columns = "key, checksum, tokens, seconds, value"
        sums = "coalesce(sum(served), 0), coalesce(sum(served * tokens), 0), coalesce(sum(served * seconds), 0)"
        oldest = f"FROM {EARLIER} ORDER BY used, key LIMIT {ADOPTED}"
        while rows > 0:
            with self.transaction():
                self._db.execute(f"INSERT OR IGNORE INTO calls ({columns}) SELECT {columns} {oldest}")
                self._db.execute(SERVE, self._db.execute(f"SELECT {sums} FROM (SELECT * {oldest})").fetchone())
                self._db.execute(f"DELETE FROM {EARLIER} WHERE key IN (SELECT key {oldest})")
            rows -= ADOPTED

    def _insert(self, db: sqlite3.Connection, row: tuple[Any, ...]) -> None:
        """Insert a call. Once in an interval, wait until the disk has it and all before it."""
        if (now := time.monotonic()) < self._synced + SYNC_INTERVAL:
            db.execute(INSERT, row)
            return
        db.execute("PRAGMA synchronous = FULL")
        db.execute(INSERT, row)
        db.execute("PRAGMA synchronous = NORMAL")
        self._synced = now

    def _count(self, db: sqlite3.Connection, completions: dict[bytes, Completion]) -> None:
        """Count completions as served, and as used now, in one transaction."""
        seconds, tokens = (sum(getattr(each, name) for each in completions.values()) for name in ("seconds", "tokens"))
        oldest, newest = ids(db)
        recent = newest - RECENT * (newest - oldest)
        with self.transaction():
            db.execute(SERVE, (len(completions), tokens, seconds))
            for keys in chunks(completions):
                old = f"key IN ({marks(keys)}) AND coalesce(newest, id) < ?"
                insert = f"INSERT OR REPLACE INTO uses SELECT id, ? FROM {LAST_USE} WHERE {old}"
                db.execute(insert, [newest, *keys, recent])

    def _check_file(self, db: sqlite3.Connection) -> None:
        """Reopen the store if another process has replaced a damaged file, and evict completions if it is too large."""
        if self._was_replaced():
            db.close()
            self._open()
            db = self._db
        while size_bytes(db) > self.max_bytes:
            (rows,) = db.execute("SELECT count(*) FROM calls").fetchone()
            if not rows:
                return
            oldest = f"SELECT id FROM {LAST_USE} ORDER BY coalesce(newest, id), id LIMIT ?"
            with self.transaction():
                db.execute(f"DELETE FROM calls WHERE id IN ({oldest})", [max(1, int(rows * EVICTED))])
                db.execute("DELETE FROM uses WHERE id NOT IN (SELECT id FROM calls)")
            db.executescript("PRAGMA incremental_vacuum")  # `execute` would free a single page

    def _replace_damaged(self, error: Exception) -> None:
        """Rename a damaged file, unless another process has already done so, and begin a new one. Raises `error` again
        if it is not a sign of damage."""
        if not _is_damage(error):
            raise error
        self._db.close()
        with FileLock(self._sibling(".lock"), timeout=LOCK_TIMEOUT):
            if self._was_replaced():
                self._open()
                return
            for journal in ("", "-wal", "-shm"):
                if (damaged := self._sibling(journal)).exists():
                    damaged.replace(self._sibling(f".damaged{journal}"))
            self._open()
        say(
            f"completion store {self.path} is damaged ({error}): it was renamed to {self.path.name}.damaged, and "
            "completions are computed again"
        )

    def _sibling(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _was_replaced(self) -> bool:
        """Whether the open file is no longer the one at the store's path."""
        return not self.path.exists() or self.path.stat().st_ino != self._inode

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Report disk errors as `UserError`."""
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            raise UserError(
                f"completion store {self.path}: {error}; free disk space, lower runtime.store.max_gb or set "
                "runtime.store.path to another disk, then run again: finished completions are kept"
            ) from None


def ids(db: sqlite3.Connection) -> tuple[int, int]:
    """The smallest and the largest id; (0, 0) without calls."""
    row = db.execute("SELECT (SELECT min(id) FROM calls), (SELECT max(id) FROM calls)").fetchone()
    return row[0] or 0, row[1] or 0


def size_bytes(db: sqlite3.Connection) -> int:
    """The size of the file in bytes, without the pages that are free for reuse."""
    pages, size, free = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size", "freelist_count")
    )
    return int((pages - free) * size)


def chunks(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The keys, as many at once as a query takes."""
    remaining = list(keys)
    for start in range(0, len(remaining), KEYS_PER_QUERY):
        yield remaining[start : start + KEYS_PER_QUERY]


def _has(db: sqlite3.Connection, table: str) -> bool:
    return bool(db.execute("SELECT count(*) FROM sqlite_master WHERE name = ?", [table]).fetchone()[0])


def _select(db: sqlite3.Connection, keys: list[bytes], table: str = "calls") -> dict[bytes, bytes]:
    """{key: value} of the keys that are stored and whose checksum is right."""
    rows = db.execute(f"SELECT key, value, checksum FROM {table} WHERE key IN ({marks(keys)})", keys)
    return {key: value for key, value, written in rows if is_whole(key, value, written)}


def row(key: bytes, value: bytes, completion: Completion) -> tuple[Any, ...]:
    """The columns of a call, as `INSERT` takes them."""
    return key, _checksum(key, value), completion.tokens, completion.seconds, value


def marks(keys: Iterable[bytes]) -> str:
    """SQL placeholders for the keys: ?, ?, …"""
    return ", ".join("?" for _ in keys)


def is_whole(key: Any, value: Any, written: Any) -> bool:
    """Whether a key and its value are what was written, by their checksum."""
    return isinstance(key, bytes) and isinstance(value, bytes) and bool(written == _checksum(key, value))


def _checksum(key: bytes, value: bytes) -> bytes:
    return hashlib.blake2b(key + value, digest_size=16).digest()


def decode(value: bytes) -> Completion:
    """The completion that is stored as this value."""
    fields = json.loads(value)
    return Completion(**{**fields, "numbers": tuple(Number(**number) for number in fields["numbers"])})


def _is_damage(error: Exception) -> bool:
    """Whether the file is no longer the database that this module wrote; since its SQL is right, an error in it counts
    as damage of the schema."""
    if isinstance(error, sqlite3.ProgrammingError):  # wrong use of the sqlite3 module, not the file's fault
        return False
    code = getattr(error, "sqlite_errorcode", None)  # Python's own decoding errors have none
    return code is None or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
