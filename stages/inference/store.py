"""The completion store: every model call is kept under the hash of what decides it, and is never made twice.

One SQLite file for all experiments, worktrees and processes of a repository, outside DVC's outs: it survives a killed
stage, and may be deleted at any time at the price of computing again. Each value carries a checksum, so that what is
torn or damaged is computed again and never served.
"""

import hashlib
import json
import sqlite3
import time
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
CHUNK = 500  # keys per query
WRITES_BETWEEN_CHECKS = 100
EVICTED = 0.1  # share of the completions that leave at once when the store is full
WAIT = 60  # seconds for another writer
DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)


def store_file(settings: "schema.Store") -> Path:
    """Where `runtime.store` says the store is; a relative path starts at the repository's root."""
    return repository.root() / settings.path


def _checksum(key: bytes, value: bytes) -> bytes:
    return hashlib.blake2b(key + value, digest_size=16).digest()


def _decoded(value: bytes) -> Completion:
    fields = json.loads(value)
    return Completion(**{**fields, "numbers": tuple(Number(**each) for each in fields["numbers"])})


T = TypeVar("T")


def _is_damage(error: Exception) -> bool:
    """Whether the file is no longer the database that this module wrote: our own SQL cannot be at fault."""
    if isinstance(error, sqlite3.ProgrammingError):  # a mistake of ours, which must not cost a sound file
        return False
    code = getattr(error, "sqlite_errorcode", None)  # Python's own errors of decoding have none
    return code is None or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def _whole(rows: Iterable[tuple[bytes, bytes, bytes]]) -> dict[bytes, bytes]:
    """{key: value} of (key, value, checksum), those that are neither torn nor damaged."""
    return {key: value for key, value, sum_ in rows if isinstance(value, bytes) and sum_ == _checksum(key, value)}


class Reader:
    """Looks into a store and leaves no trace: nothing counts as served or as used, and no file is made. A file that is
    missing or damaged holds nothing, as for a stage, which begins anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = False

    def find(self, keys: Iterable[bytes]) -> dict[bytes, Completion]:
        """The completions that are here and whole."""
        if not self.path.exists():
            return {}
        asked, found = list(keys), dict[bytes, bytes]()
        journal = self.path.with_name(f"{self.path.name}-wal").exists()  # without one, nobody writes
        try:
            uri = f"{self.path.resolve().as_uri()}?{'mode=ro' if journal else 'immutable=1'}"
            with closing(sqlite3.connect(uri, uri=True)) as db:
                for start in range(0, len(asked), CHUNK):
                    chunk = asked[start : start + CHUNK]
                    marks = ", ".join("?" * len(chunk))
                    rows = db.execute(f"SELECT key, value, checksum FROM completions WHERE key IN ({marks})", chunk)
                    found |= _whole(rows)
        except DAMAGE as error:
            if not _is_damage(error):
                raise UserError(f"completion store {self.path}: {error}; try again") from None
            self.damaged = True
            return {}
        return {key: _decoded(value) for key, value in found.items()}


class Store:
    def __init__(self, path: Path, max_gb: float) -> None:
        self.path, self.max_bytes, self._writes = path, max_gb * GIGABYTE, 0
        self._inode = 0
        with self._said():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open()
            except DAMAGE as error:
                self._replace_damaged(error)

    @classmethod
    def of_the_repository(cls, settings: "schema.Store") -> "Store":
        return cls(store_file(settings), settings.max_gb)

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)  # each statement is a transaction
        self._inode = self.path.stat().st_ino
        self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._db.execute("PRAGMA journal_mode = WAL")  # readers and a writer do not wait for each other
        self._db.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last ones, never damage others
        self._db.executescript(SCHEMA)

    def _replace_damaged(self, error: Exception) -> None:
        """Put a damaged file aside, unless another process has done so already, and begin anew; raises the error again
        if it is another one."""
        if not _is_damage(error):
            raise error
        self._db.close()
        with FileLock(self._beside(".lock"), timeout=WAIT):
            if self._moved():
                self._open()
                return
            for journal in ("", "-wal", "-shm"):
                if (damaged := self._beside(journal)).exists():
                    damaged.replace(self._beside(f".damaged{journal}"))
            self._open()
        say(
            f"completion store {self.path} is damaged ({error}): it is now {self.path.name}.damaged, and completions "
            "are made anew"
        )

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _moved(self) -> bool:
        """Whether the open file is no longer the one at the store's place."""
        return not self.path.exists() or self.path.stat().st_ino != self._inode

    @contextmanager
    def _said(self) -> Iterator[None]:
        """An error of the disk as the user's: what is stored stays stored."""
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            raise UserError(
                f"completion store {self.path}: {error}; free disk space, lower runtime.store.max_gb or set "
                "runtime.store.path to another disk, then run again: what was completed is kept"
            ) from None

    def _safely(self, action: Callable[[], T]) -> T:
        """The action's result; on a damaged file once more, with a new one."""
        with self._said():
            try:
                return action()
            except DAMAGE as error:
                self._replace_damaged(error)
                return action()

    def find(self, keys: Iterable[bytes]) -> dict[bytes, Completion]:
        """The completions that are here and whole; each counts as served."""
        found: dict[bytes, Completion] = {}
        asked = list(keys)
        for start in range(0, len(asked), CHUNK):
            chunk = asked[start : start + CHUNK]
            found |= self._safely(lambda chunk=chunk: self._found(chunk))  # type: ignore[misc]
        return found

    def _found(self, keys: list[bytes]) -> dict[bytes, Completion]:
        marks = ", ".join("?" * len(keys))
        rows = self._db.execute(f"SELECT key, value, checksum FROM completions WHERE key IN ({marks})", keys)
        whole = _whole(rows)
        marks = ", ".join("?" * len(whole))
        self._db.execute(
            f"UPDATE completions SET served = served + 1, used = ? WHERE key IN ({marks})", [int(time.time()), *whole]
        )
        return {key: _decoded(value) for key, value in whole.items()}

    def put(self, key: bytes, completion: Completion) -> None:
        """Keep a completion; it is safe from here on, whatever happens to this process."""
        value = json.dumps(vars(completion), default=vars, ensure_ascii=False).encode()
        row = (key, value, _checksum(key, value), completion.tokens, completion.seconds, 0, int(time.time()))
        self._safely(lambda: self._db.execute("INSERT OR REPLACE INTO completions VALUES (?, ?, ?, ?, ?, ?, ?)", row))
        if self._writes % WRITES_BETWEEN_CHECKS == 0:
            self._safely(self._look_after)
        self._writes += 1

    def _look_after(self) -> None:
        """Go over to the new file if another process has put this one aside as damaged; keep the bound."""
        if self._moved():
            self._db.close()
            self._open()
        while self._bytes() > self.max_bytes:
            (rows,) = self._db.execute("SELECT count(*) FROM completions").fetchone()
            if not rows:
                return
            oldest = "SELECT key FROM completions ORDER BY used LIMIT ?"
            self._db.execute(f"DELETE FROM completions WHERE key IN ({oldest})", [max(1, int(rows * EVICTED))])
            self._db.execute("PRAGMA incremental_vacuum").fetchall()

    def bytes(self) -> int:
        return self._safely(self._bytes)

    def _bytes(self) -> int:
        pages, size, free = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size", "freelist_count")
        )
        return int((pages - free) * size)

    def totals(self) -> dict[str, Any]:
        """Completions, tokens and seconds that are here, and those that were served instead of computed."""
        names = ("completions", "tokens", "seconds", "served", "served_tokens", "served_seconds")
        sums = "sum(tokens), sum(seconds), sum(served), sum(served * tokens), sum(served * seconds)"
        row = self._safely(lambda: self._db.execute(f"SELECT count(*), {sums} FROM completions").fetchone())
        return {name: value or 0 for name, value in zip(names, row, strict=True)}

    def close(self) -> None:
        self._db.close()
