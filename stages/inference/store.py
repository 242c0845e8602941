"""The completion store keeps every model call under the hash of what decides it, so that none is made twice.

It is one SQLite file for all experiments, worktrees and processes of a repository, outside DVC's outs. It survives a
killed stage, and you may delete it at any time: completions are then computed again. Every value has a checksum, so a
torn or damaged one is computed again and never served.
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
CREATE TABLE IF NOT EXISTS completions (
  key BLOB PRIMARY KEY,          -- SHA-256 of what decides the completion
  value BLOB NOT NULL,           -- the completion as JSON in UTF-8
  checksum BLOB NOT NULL,        -- of key and value
  tokens INTEGER NOT NULL,       -- written by the model
  seconds REAL NOT NULL,         -- of computing
  served INTEGER NOT NULL,       -- how often it was found here instead of computed
  used INTEGER NOT NULL          -- when last, seconds since 1970; the least recently used leaves first
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON completions (used);
"""
GIGABYTE = 10**9
KEYS_PER_QUERY = 500
WRITES_BETWEEN_CHECKS = 100  # of the file's size, and of whether another process has replaced the file
EVICTED = 0.1  # share of the completions that are deleted at once when the store is full
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
                for chunk in _chunks(keys):
                    values |= _select(db, chunk)
        except DAMAGE as error:
            if not _is_damage(error):
                raise UserError(f"completion store {self.path}: {error}; try again") from None
            self.damaged = True
            return {}
        return {key: _decode(value) for key, value in values.items()}


class Store:
    """Reads and writes the store's file. Every method raises `UserError` if the disk fails or is full."""

    def __init__(self, path: Path, max_gb: float) -> None:
        """Open the file, or create it with its folder. Over `max_gb` gigabytes, the least recently used completions
        are deleted. A damaged file is renamed to end in .damaged, and a new one begun."""
        self.path, self.max_bytes, self._writes = path, max_gb * GIGABYTE, 0
        self._inode = 0
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
        for chunk in _chunks(keys):
            completions |= self._retry_if_damaged(lambda chunk=chunk: self._find(chunk))  # type: ignore[misc]
        return completions

    def put(self, key: bytes, completion: Completion) -> None:
        """Store a completion. When this returns, the completion survives whatever happens to the process."""
        value = json.dumps(vars(completion), default=vars, ensure_ascii=False).encode()
        row = (key, value, _checksum(key, value), completion.tokens, completion.seconds, 0, int(time.time()))
        insert = "INSERT OR REPLACE INTO completions VALUES (?, ?, ?, ?, ?, ?, ?)"
        self._retry_if_damaged(lambda: self._db.execute(insert, row))
        if self._writes % WRITES_BETWEEN_CHECKS == 0:
            self._retry_if_damaged(self._check_file)
        self._writes += 1

    def size_bytes(self) -> int:
        """The size of the store, without the pages that are free for reuse."""
        return self._retry_if_damaged(self._size_bytes)

    def totals(self) -> dict[str, Any]:
        """The completions in the store with their tokens and seconds of computing (`completions`, `tokens`, `seconds`),
        and those that were served instead of computed, once for each time (`served`, `served_tokens`,
        `served_seconds`)."""
        names = ("completions", "tokens", "seconds", "served", "served_tokens", "served_seconds")
        sums = "sum(tokens), sum(seconds), sum(served), sum(served * tokens), sum(served * seconds)"
        query = f"SELECT count(*), {sums} FROM completions"
        row = self._retry_if_damaged(lambda: self._db.execute(query).fetchone())
        return {name: value or 0 for name, value in zip(names, row, strict=True)}

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

    def _find(self, keys: list[bytes]) -> dict[bytes, Completion]:
        values = _select(self._db, keys)
        update = f"UPDATE completions SET served = served + 1, used = ? WHERE key IN ({_marks(values)})"
        self._db.execute(update, [int(time.time()), *values])
        return {key: _decode(value) for key, value in values.items()}

    def _check_file(self) -> None:
        """Reopen the store if another process has replaced a damaged file, and evict completions if it is too large."""
        if self._was_replaced():
            self._db.close()
            self._open()
        while self._size_bytes() > self.max_bytes:
            (rows,) = self._db.execute("SELECT count(*) FROM completions").fetchone()
            if not rows:
                return
            oldest = "SELECT key FROM completions ORDER BY used LIMIT ?"
            self._db.execute(f"DELETE FROM completions WHERE key IN ({oldest})", [max(1, int(rows * EVICTED))])
            self._db.executescript("PRAGMA incremental_vacuum")  # `execute` would free a single page

    def _size_bytes(self) -> int:
        pages, size, free = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size", "freelist_count")
        )
        return int((pages - free) * size)

    def _retry_if_damaged(self, action: Callable[[], T]) -> T:
        """The result of `action`; if the file turns out to be damaged, of a second try with a new file."""
        with self._disk_errors():
            try:
                return action()
            except DAMAGE as error:
                self._replace_damaged(error)
                return action()

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


def _chunks(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The keys, as many at once as a query takes."""
    remaining = list(keys)
    for start in range(0, len(remaining), KEYS_PER_QUERY):
        yield remaining[start : start + KEYS_PER_QUERY]


def _select(db: sqlite3.Connection, keys: list[bytes]) -> dict[bytes, bytes]:
    """{key: value} of the keys that are stored and whose checksum is right."""
    rows = db.execute(f"SELECT key, value, checksum FROM completions WHERE key IN ({_marks(keys)})", keys)
    return {
        key: value
        for key, value, checksum in rows
        if isinstance(key, bytes) and isinstance(value, bytes) and checksum == _checksum(key, value)
    }


def _marks(keys: Iterable[bytes]) -> str:
    """SQL placeholders for the keys: ?, ?, …"""
    return ", ".join("?" for _ in keys)


def _checksum(key: bytes, value: bytes) -> bytes:
    return hashlib.blake2b(key + value, digest_size=16).digest()


def _decode(value: bytes) -> Completion:
    fields = json.loads(value)
    return Completion(**{**fields, "numbers": tuple(Number(**number) for number in fields["numbers"])})


def _is_damage(error: Exception) -> bool:
    """Whether the file is no longer the database that this module wrote; since its SQL is right, an error in it counts
    as damage of the schema."""
    if isinstance(error, sqlite3.ProgrammingError):  # wrong use of the sqlite3 module, not the file's fault
        return False
    code = getattr(error, "sqlite_errorcode", None)  # Python's own decoding errors have none
    return code is None or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
