"""JSON Lines files, the identity of rows by content, and the tally of rows that every stage keeps."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from stages.core.counts import Counts
from stages.core.errors import UserError
from stages.core.rows import Identified

Record = dict[str, Any]  # counts and settings; what flows from stage to stage is typed in core/rows.py
Row = TypeVar("Row")


def content_id(*texts: str) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of the texts: the same content, the same id, in every run."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def read(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a JSON Lines file that a stage wrote, each of the type `kind` (core/rows.py)."""
    return list(rows_of(path, kind))


def rows_of(path: Path, kind: type[Row]) -> Iterator[Row]:
    """The same, one at a time."""
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def write(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write JSON Lines, one row a line. The same rows give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON. The same value gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def counts_file(stage: str, iteration: str) -> Path:
    """Where a stage's counts of an iteration lie."""
    return Path("results", iteration, f"{stage}.json")


def need_text(path: Path, what: str) -> str:
    """The text of a file that the user wrote. Raises `UserError` if it is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist; create it or correct the path") from None
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}; name a file") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{what} {path}, line {line}: not UTF-8; save the file as UTF-8") from None


class Tally:
    """Counts the rows of a step: in, out, and dropped by reason. The totals must add up, so that none is lost.

    Of rows that are dropped as such, and not as a number, it keeps the reason: {id: reason}.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.dropped: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}

    def drop(self, reason: str, rows: int | Sequence[Identified] = 1) -> None:
        """Count rows that are dropped for a reason: their number, or the rows."""
        if isinstance(rows, Sequence):
            self.reasons |= {row["id"]: reason for row in rows}
            rows = len(rows)
        if rows:
            self.dropped[reason] += rows

    def counts(self, out: int) -> Counts:
        """The counts of a step that kept `out` rows; raises AssertionError if a row was lost without a reason."""
        missing = self.rows - out - self.dropped.total()
        if missing:
            raise AssertionError(f"{missing} of {self.rows} rows were lost without a reason")
        return {"in": self.rows, "out": out, "dropped": dict(sorted(self.dropped.items()))}
