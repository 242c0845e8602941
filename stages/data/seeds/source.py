"""What the readers of all formats of seed files share: how a file is opened, and how a row fails."""

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

Rows = Iterator[tuple[str, Any]]  # of a source: the place, and the row or a RowError


class RowError(Exception):
    """Why a row cannot be used: a reason to count it by, a detail, and what the user could do; a function, where that
    takes time to find out."""

    def __init__(self, reason: str, detail: str = "", remedy: str | Callable[[], str] = "") -> None:
        self.reason, self._remedy = shown(reason, 200), remedy
        super().__init__(f"{self.reason} ({shown(detail, 300)})" if detail else self.reason)

    @property
    def remedy(self) -> str:
        """What the user could do; empty if there is nothing to say."""
        return self._remedy if isinstance(self._remedy, str) else self._remedy()


class Number(str):
    """A number of a JSON file, as it is written there."""

    __slots__ = ()


def shown(text: str, length: int = 40) -> str:
    """A text for the terminal: without control characters, and cut."""
    text = text if len(text) <= length else text[: length - 1] + "…"
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def format_of(path: Path) -> str:
    """The suffix that says what a file holds, without the one of its compression."""
    unpacked = path.with_suffix("") if path.suffix.lower() in OPENERS else path
    return unpacked.suffix.lower()


def open_file(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked."""
    file: IO[bytes] = OPENERS[path.suffix.lower()](path) if path.suffix.lower() in OPENERS else path.open("rb")
    return file


def encoding_of(path: Path) -> str:
    """utf-8-sig, or UTF-16 or UTF-32 by the byte order mark or the zero bytes at the beginning of the file."""
    with open_file(path) as file:
        encoding = json.detect_encoding(file.read(4))
    return "utf-8-sig" if encoding == "utf-8" else encoding


def open_text(path: Path) -> io.TextIOWrapper:
    """The file as text with its line ends; what cannot be decoded becomes surrogates, which no text may have."""
    encoding = encoding_of(path)
    errors = "surrogateescape" if encoding == "utf-8-sig" else "surrogatepass"
    return io.TextIOWrapper(open_file(path), encoding=encoding, errors=errors, newline="")
