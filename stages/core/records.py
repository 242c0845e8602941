"""JSON Lines records, their identity by content, and the tally of rows that every stage keeps."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages.core.errors import UserError

Record = dict[str, Any]


def content_id(*texts: str) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of the texts: the same content, the same id, in every run."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def read(path: Path) -> list[Record]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(path: Path, records: Iterable[Record]) -> None:
    """One record a line; the same records give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def counts_file(stage: str, iteration: str) -> Path:
    """Where a stage's counts of an iteration lie."""
    return Path("results", iteration, f"{stage}.json")


def need_text(path: Path, what: str) -> str:
    """A file that the user wrote, as text; raises `UserError` where it is missing or not UTF-8."""
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
    """Rows in, out, and dropped by reason; nothing is lost without one (the totals must add up)."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.dropped: Counter[str] = Counter()

    def drop(self, reason: str, rows: int = 1) -> None:
        if rows:
            self.dropped[reason] += rows

    def counts(self, out: int) -> dict[str, Any]:
        """{"in", "out", "dropped": {reason: rows}}; raises AssertionError where a row was lost without a reason."""
        missing = self.rows - out - self.dropped.total()
        if missing:
            raise AssertionError(f"{missing} of {self.rows} rows were lost without a reason")
        return {"in": self.rows, "out": out, "dropped": dict(sorted(self.dropped.items()))}
