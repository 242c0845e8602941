"""The completion store: every model call is kept under the hash of what decides it, and is never made twice.

`python -m stages.core.store`   what it holds, and what it saved

One SQLite file for all experiments, worktrees and processes of a repository, outside DVC's outs: it survives a killed
stage, and may be deleted at any time at the price of computing again. Each value carries a checksum, so that what is
torn or damaged is computed again and never served.
"""

import hashlib
import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.core.engines import Completion, Number
from stages.core.errors import UserError, run
from stages.core.params import runtime
from stages.core.progress import say

SCHEMA = """
CREATE TABLE IF NOT EXISTS completions (
  key BLOB PRIMARY KEY,          -- SHA-256 of what decides the completion
  value TEXT NOT NULL,           -- the completion as JSON
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
WRITES_BETWEEN_SIZE_CHECKS = 100
EVICTED = 0.1  # share of the completions that leave at once when the store is full
WAIT = 60  # seconds for another writer


def place() -> Path:
    """`runtime.store.path`; a relative one starts at the repository's root, which a queued experiment's temporary copy
    and every worktree of git share."""
    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    asked = ["git", "rev-parse", "--path-format=absolute", "--git-common-dir", "--show-prefix"]
    told = subprocess.run(asked, cwd=root, capture_output=True, text=True, check=False).stdout.split("\n")
    if told[0].endswith("/.git"):
        root = Path(told[0]).parent / told[1]
    return root / str(runtime()["store"]["path"])


def _checksum(key: bytes, value: str) -> bytes:
    return hashlib.blake2b(key + value.encode(), digest_size=16).digest()


def _decoded(value: str) -> Completion:
    fields = json.loads(value)
    return Completion(**{**fields, "numbers": tuple(Number(**each) for each in fields["numbers"])})


class Store:
    def __init__(self, path: Path, max_gb: float) -> None:
        self.path, self.max_bytes, self._writes = path, max_gb * GIGABYTE, 0
        with self._said():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open()
            except sqlite3.DatabaseError as error:
                self._replace_damaged(error)

    @classmethod
    def of_the_repository(cls) -> "Store":
        return cls(place(), runtime()["store"]["max_gb"])

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)  # each statement is a transaction
        self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._db.execute("PRAGMA journal_mode = WAL")  # readers and a writer do not wait for each other
        self._db.execute(
            "PRAGMA synchronous = NORMAL"
        )  # a power cut may lose the last completions, never damage others
        self._db.executescript(SCHEMA)

    def _replace_damaged(self, error: sqlite3.DatabaseError) -> None:
        """Put a file that is no longer a database aside and begin anew; raises the error again if it is another one."""
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise error
        aside = self.path.with_name(f"{self.path.name}.damaged")
        say(f"completion store {self.path} is damaged ({error}): it is now {aside.name}, and completions are made anew")
        self._db.close()
        self.path.replace(aside)
        for journal in ("-wal", "-shm"):
            self.path.with_name(self.path.name + journal).unlink(missing_ok=True)
        self._open()

    @contextmanager
    def _said(self) -> Iterator[None]:
        """An error of the disk as the user's: what is stored stays stored."""
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise UserError(
                f"completion store {self.path}: {error}; free disk space, lower runtime.store.max_gb or set "
                "runtime.store.path to another disk, then run again: what was completed is kept"
            ) from None

    def find(self, keys: Iterable[bytes]) -> dict[bytes, Completion]:
        """The completions that are here and whole; each counts as served."""
        with self._said():
            try:
                return self._found(list(keys))
            except sqlite3.DatabaseError as error:
                self._replace_damaged(error)
                return {}

    def _found(self, keys: list[bytes]) -> dict[bytes, Completion]:
        found: dict[bytes, Completion] = {}
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            marks = ", ".join("?" * len(chunk))
            rows = self._db.execute(f"SELECT key, value, checksum FROM completions WHERE key IN ({marks})", chunk)
            whole = {key: value for key, value, checksum in rows if checksum == _checksum(key, value)}
            found |= {key: _decoded(value) for key, value in whole.items()}
            marks = ", ".join("?" * len(whole))
            self._db.execute(
                f"UPDATE completions SET served = served + 1, used = ? WHERE key IN ({marks})",
                [int(time.time()), *whole],
            )
        return found

    def put(self, key: bytes, completion: Completion) -> None:
        """Keep a completion; it is safe from here on, whatever happens to this process."""
        value = json.dumps(vars(completion), default=vars, ensure_ascii=False)
        row = (key, value, _checksum(key, value), completion.tokens, completion.seconds, 0, int(time.time()))
        with self._said():
            try:
                self._db.execute("INSERT OR REPLACE INTO completions VALUES (?, ?, ?, ?, ?, ?, ?)", row)
                if self._writes % WRITES_BETWEEN_SIZE_CHECKS == 0:
                    self._evict()
            except sqlite3.DatabaseError as error:
                self._replace_damaged(error)
        self._writes += 1

    def _evict(self) -> None:
        while self.bytes() > self.max_bytes:
            (rows,) = self._db.execute("SELECT count(*) FROM completions").fetchone()
            if not rows:
                return
            oldest = "SELECT key FROM completions ORDER BY used LIMIT ?"
            self._db.execute(f"DELETE FROM completions WHERE key IN ({oldest})", [max(1, int(rows * EVICTED))])
            self._db.execute("PRAGMA incremental_vacuum").fetchall()

    def bytes(self) -> int:
        pages, size, free = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size", "freelist_count")
        )
        return int((pages - free) * size)

    def totals(self) -> dict[str, Any]:
        """Completions, tokens and seconds that are here, and those that were served instead of computed."""
        names = ("completions", "tokens", "seconds", "served", "served_tokens", "served_seconds")
        sums = "sum(tokens), sum(seconds), sum(served), sum(served * tokens), sum(served * seconds)"
        row = self._db.execute(f"SELECT count(*), {sums} FROM completions").fetchone()
        return {name: value or 0 for name, value in zip(names, row, strict=True)}

    def close(self) -> None:
        self._db.close()


def main() -> None:
    path = place()
    if not path.exists():
        say(f"completion store {path}: empty; dvc repro fills it")
        return
    store = Store.of_the_repository()
    held = store.totals()
    say(f"completion store {path}: {store.bytes() / 1e6:,.1f} MB of at most {store.max_bytes / 1e9:,g} GB")
    for what, calls, tokens, seconds in (
        ("holds", held["completions"], held["tokens"], held["seconds"]),
        ("saved", held["served"], held["served_tokens"], held["served_seconds"]),
    ):
        say(f"  {what} {calls:>12,} completions {tokens:>15,} tokens {seconds:>12,.1f} s of computing")


if __name__ == "__main__":
    run(main)
