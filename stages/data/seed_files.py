"""Seed files as rows: JSON Lines, JSON, CSV, TSV, Parquet, a folder of them, or a data set of the hub.

Rows are read one at a time, so a file may be larger than memory (a JSON list is held as text, its rows one by one).
What a row's values were written as, they stay: the digits of a number in JSON are its text. A row that cannot be read
comes as a `RowError`, and the rows after it are read; a file that cannot be read at all is a `UserError`.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from stages.core.errors import UserError
from stages.models import hub

BATCH = 1000  # rows of a Parquet file at once
LARGEST_FIELD = 10_000_000  # characters of a CSV field; more is a quote that is not closed
LONGEST_NAME = 80  # characters of a column's name
LOOKAHEAD = 1000  # lines of a CSV file to look on for the quote that closes another
OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'", ",": "commas"}
ROW_LISTS = {"data", "dataset", "examples", "instances", "items", "records", "rows", "samples"}
SPLITS = {"train", "test", "validation", "valid", "val", "dev", "eval"}
ADVICE = {
    **dict.fromkeys((".zip", ".tar", ".zst", ".7z"), "unpack it"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "export the sheet as CSV"),
    **dict.fromkeys((".arrow", ".feather"), "save it with to_parquet or to_json of Hugging Face datasets"),
}

Rows = Iterator[tuple[str, Any]]  # of a source: the place, and the row or a RowError


class RowError(Exception):
    """Why a row cannot be used: a reason to count it by, a detail, and what the user could do."""

    def __init__(self, reason: str, detail: str = "", remedy: str = "") -> None:
        super().__init__(f"{reason} ({shown(detail, 300)})" if detail else reason)
        self.reason, self.remedy = reason, remedy


class Number(str):
    """A number of a JSON file, as it is written there."""

    __slots__ = ()


def shown(text: str, length: int = 40) -> str:
    """A text for the terminal: without control characters, and cut."""
    text = text if len(text) <= length else text[: length - 1] + "…"
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def of_file(path: Path, what: str) -> Rows:
    """The rows of a file, or of all files of a folder, each with its line or number; `what`: the parameter that names
    it. Raises `UserError` for one that cannot be read."""
    if path.is_dir():
        yield from _of_folder(path, what)
        return
    suffix = _format(path)
    if suffix not in READERS:
        advice = ADVICE.get(path.suffix.lower(), "convert it, or rename it by what it holds")
        raise UserError(f"{what} {path} is none of {', '.join(READERS)}; {advice}")
    try:
        yield from READERS[suffix](path)
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist; create it or correct the path") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{what} {path} cannot be read: {error.strerror}; name a file") from None
        reason = shown(str(error).splitlines()[0], 300)
        raise UserError(f"{what} {path} is not a {suffix[1:]} file: {reason}; save it again") from None


def _format(path: Path) -> str:
    """The suffix that says what a file holds, without the one of its compression."""
    unpacked = path.with_suffix("") if path.suffix.lower() in OPENERS else path
    return unpacked.suffix.lower()


def _of_folder(folder: Path, what: str) -> Rows:
    """The rows of a folder's files by name; hidden files, README and licence are passed over."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _may_hold_rows(path.relative_to(folder)))
    names = [str(path.relative_to(folder)) for path in files]
    if not any(_format(path) in READERS for path in files):
        raise UserError(f"{what} {folder} is a folder without any {', '.join(READERS)}; name a file")
    splits = {part for name in names for part in re.split(r"[\W_\d]+", name.lower()) if part in SPLITS}
    if len(splits) > 1:
        raise UserError(
            f"{what} {folder} is a folder with several splits, {', '.join(sorted(splits))}; name the file or the "
            "folder of one of them"
        )
    for path, name in zip(files, names, strict=True):
        if _format(path) in READERS:
            yield from ((f"{name}, {place}", row) for place, row in of_file(path, what))
        else:
            yield name, RowError("a file of another kind in the folder")


def _may_hold_rows(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.suffix.lower() != ".md" and path.stem.upper() not in ("README", "LICENSE", "LICENCE")


def of_hub(settings: dict[str, Any]) -> Rows:
    """The rows of a data set of the hub, `seed.hub`: {"id", "config", "split", "revision"}. Raises `UserError` if it
    can be neither fetched nor found in the Hugging Face cache, or has no such config or split."""
    folder = hub.fetch_data_set(settings)
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        rows = load_dataset(str(folder), settings["config"], split=settings["split"], streaming=True)
        rows = rows.decode(False)  # images and audio stay bytes
        yield from ((f"row {number:,}", row) for number, row in enumerate(rows, 1))
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = shown(str(error).splitlines()[0], 300)
        raise UserError(f"seed.hub: {settings['id']}: {reason}; correct config or split") from error


def _open(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked."""
    file: IO[bytes] = OPENERS[path.suffix.lower()](path) if path.suffix.lower() in OPENERS else path.open("rb")
    return file


def _encoding(path: Path) -> str:
    """utf-8-sig, or UTF-16 or UTF-32 by the byte order mark or the zero bytes at the beginning of the file."""
    with _open(path) as file:
        encoding = json.detect_encoding(file.read(4))
    return "utf-8-sig" if encoding == "utf-8" else encoding


def _text(path: Path) -> io.TextIOWrapper:
    """The file as text with its line ends; what cannot be decoded becomes surrogates, which no text may have."""
    encoding = _encoding(path)
    errors = "surrogateescape" if encoding == "utf-8-sig" else "surrogatepass"
    return io.TextIOWrapper(_open(path), encoding=encoding, errors=errors, newline="")


# ---- JSON ------------------------------------------------------------------------------------------------------------


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises `RowError` if a key stands there twice."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise RowError("a field that stands twice", twice)
    return fields


_DECODER = json.JSONDecoder(parse_float=Number, parse_int=Number, object_pairs_hook=_fields)
_BLANKS, _BLANKS_AND_COMMAS = re.compile(r"[ \t\n\r]*"), re.compile(r"[ \t\n\r,]*")
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)  # or a string, whose brackets do not count


def _json(path: Path) -> Rows:
    """The rows of JSON Lines or of one JSON document, whichever the file holds."""
    if _encoding(path) != "utf-8-sig":
        with _text(path) as text:
            yield from _json_rows(path, (line.encode("utf-8", "surrogatepass") for line in text))
    else:
        with _open(path) as lines:
            yield from _json_rows(path, lines)


def _json_rows(path: Path, lines: Iterator[bytes] | IO[bytes]) -> Rows:
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    head = list(islice(numbered, 2))
    if _is_json_lines([line for _, line in head], _format(path)):
        yield from ((f"line {number:,}", _parsed(line)) for number, line in chain(head, numbered))
    elif head:
        with _text(path) as text:
            rows = _document(text.read())
        first = list(islice(rows, 2))
        if len(head) == len(first) == 1 and head[0][1].lstrip().startswith(b"{"):
            yield f"line {head[0][0]:,}", first[0]
        else:
            yield from ((f"row {number:,}", row) for number, row in enumerate(chain(first, rows), 1))


def _is_json_lines(head: list[bytes], suffix: str) -> bool:
    """Whether a file has a JSON value per line, by the first two lines that hold anything."""
    if not head:
        return False
    first = head[0].removeprefix(b"\xef\xbb\xbf").strip()
    whole = [_is_json(line) for line in head]
    if len(head) == 1:
        return suffix != ".json" and not whole[0] and not first.startswith(b"[")
    if whole[0]:
        return True
    if first in (b"[", b"{") or (first.startswith(b"[") and not whole[1]):
        return False
    return whole[1] or suffix != ".json"


def _is_json(line: bytes) -> bool:
    """Whether a line is a JSON value by itself."""
    try:
        json.loads(line.decode("utf-8-sig"), parse_int=str)
    except ValueError:
        return False
    except RecursionError:
        return line.strip()[:1] == b"{" and line.strip()[-1:] == b"}"
    return True


def _parsed(line: bytes) -> Any:
    """The value of a line of JSON Lines, or a `RowError`."""
    try:
        return _DECODER.decode(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return RowError("not UTF-8")
    except json.JSONDecodeError as error:
        return RowError("not JSON", error.msg)
    except RecursionError:
        return RowError("nested too deeply")
    except RowError as problem:
        return problem


def _document(text: str) -> Iterator[Any]:
    """The rows of a JSON document: a list of rows, an object that holds one or is a row itself, or objects one after
    the other. Raises `ValueError` where it breaks off."""
    start = _BLANKS.match(text).end()  # type: ignore[union-attr]  # matches always
    if text.startswith("[", start):
        yield from _values(text, start + 1, "]")
        return
    values = _values(text, start, "")
    first = list(islice(values, 2))
    yield from _rows_of(first[0]) if len(first) == 1 else chain(first, values)


def _values(text: str, position: int, end: str) -> Iterator[Any]:
    """The values from a position up to the list's end, or to that of the text; one that is not JSON is a `RowError` if
    its brackets show where it ends."""
    while True:
        position = _BLANKS_AND_COMMAS.match(text, position).end()  # type: ignore[union-attr]
        if position == len(text):
            if end:
                raise ValueError("it breaks off before the end of its list")
            return
        if end and text.startswith(end, position):
            if _BLANKS.match(text, position + 1).end() < len(text):  # type: ignore[union-attr]
                raise ValueError("something follows the end of its list")
            return
        value, position = _value(text, position)
        yield value


def _value(text: str, position: int) -> tuple[Any, int]:
    """The value at a position, or a `RowError`, and where it ends. Raises `ValueError` if that cannot be found."""
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        problem, reason = RowError("not JSON", error.msg), f"line {error.lineno:,}: {error.msg}"
    except RecursionError:
        problem, reason = RowError("nested too deeply"), "its brackets do not match"
    except RowError as error:
        problem, reason = error, "its brackets do not match"
    depth = 0
    for match in _BRACKET.finditer(text, position) if text[position] in "[{" else ():
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        after = _BLANKS.match(text, match.end()).end()  # type: ignore[union-attr]
        if depth == 0:
            if text[after : after + 1] in ("", ",", "]", "{"):
                return problem, match.end()
            break
    raise ValueError(reason)


def _rows_of(document: Any) -> list[Any]:
    """The rows that a JSON object holds: in its list of rows, as columns, or itself. Raises `ValueError` if it has
    several lists of rows, or columns of different lengths."""
    if not isinstance(document, dict):
        return [document]
    lists = {name: value for name, value in document.items() if _is_row_list(value)}
    named = [name for name in lists if name.lower() in ROW_LISTS | SPLITS]
    if len(named) > 1:
        raise ValueError(f"it holds several lists of rows, {', '.join(map(shown, named))}; keep one of them")
    if named or (lists and len(document) == 1):
        return list(lists[named[0]] if named else next(iter(lists.values())))
    columns = list(document.values())
    if columns and all(isinstance(column, dict) and all(key.isdigit() for key in column) for column in columns):
        columns = [list(column.values()) for column in columns]  # as pandas writes them
    elif not _are_columns(columns):
        return [document]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"its columns {', '.join(map(shown, document))} differ in length")
    return [dict(zip(document, values, strict=True)) for values in zip(*columns, strict=True)]


def _is_row_list(value: Any) -> bool:
    """Whether it is a list of objects, and not of messages."""
    objects = isinstance(value, list) and value and all(isinstance(row, dict) for row in value)
    return bool(objects) and not {"role", "from"} & value[0].keys()


def _are_columns(columns: list[Any]) -> bool:
    """Whether they are lists without objects; a single one only of lists, such as conversations."""
    lists = all(isinstance(column, list) and column for column in columns)
    flat = lists and not any(isinstance(value, dict) for column in columns for value in column)
    return flat and (len(columns) > 1 or all(isinstance(value, list) for column in columns for value in column))


# ---- CSV and TSV -----------------------------------------------------------------------------------------------------


def _csv(path: Path) -> Rows:
    yield from _separated(path, ",")


def _tsv(path: Path) -> Rows:
    yield from _separated(path, "\t")


def _separated(path: Path, separator: str) -> Rows:
    """The rows of a CSV or TSV file, each with its first line. Quotes are those of RFC 4180 in both."""
    csv.field_size_limit(LARGEST_FIELD)
    with _text(path) as text:
        lines = _Lines(text)
        header = next((line for line in lines if line.strip()), "")
        others = [name for mark, name in SEPARATORS.items() if mark != separator and mark in header]
        if separator not in header and others and (separator == "," or others == ["commas"]):
            raise ValueError(f"its header looks separated by {others[0]} where {SEPARATORS[separator]} should be")
        lines.push_back([header])
        records = _records(lines, separator)
        names = _names(next(records)[1])
        for number, fields in records:
            if isinstance(fields, RowError):
                yield f"line {number:,}", fields
            elif len(fields) == len(names):
                yield f"line {number:,}", dict(zip(names, fields, strict=True))
            elif fields:
                more = "more" if len(fields) > len(names) else "fewer"
                yield f"line {number:,}", RowError(f"{more} fields than the header names")


class _Lines:
    """The lines of a file, some of which may be pushed back; `number`: how many have been read."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.number = 0
        self._lines, self._ahead = iter(lines), deque[str]()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._ahead.popleft() if self._ahead else next(self._lines)
        self.number += 1
        return line

    def push_back(self, lines: list[str]) -> None:
        """Lines to read again; they are the last that were read."""
        self._ahead.extendleft(reversed(lines))
        self.number -= len(lines)


def _names(header: list[str] | RowError) -> list[str]:
    """The columns' names; one without a name gets its number. Raises `ValueError` if two have the same."""
    if isinstance(header, RowError):
        raise ValueError(f"its header: {header}")
    names = [name.strip() or f"column {number}" for number, name in enumerate(header, 1)]
    if max(map(len, names), default=0) > LONGEST_NAME:
        raise ValueError("its first line does not look like the names of columns; add a header")
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise ValueError(f"its header has '{shown(twice[0])}' twice, rename one of them")
    return names


def _records(lines: _Lines, separator: str) -> Iterator[tuple[int, list[str] | RowError]]:
    """Each record with the number of its first line; after one with a wrong quote, reading goes on where a record
    surely begins."""
    width = 0
    while True:
        used: list[str] = []  # the lines of the record being read
        reader = csv.reader(_kept(lines, used), delimiter=separator, strict=True)
        try:
            for fields in reader:
                yield lines.number - len(used) + 1, fields
                width = width or len(fields)
                used.clear()
            return
        except csv.Error as error:
            number = lines.number - len(used) + 1
            bad = _wrong_lines(used, lines, separator, width)
            lines.push_back(used[bad:])
            yield number, RowError("a wrong quote", f"{error}" + (f"; up to line {lines.number:,}" if bad > 1 else ""))


def _kept(lines: Iterator[str], used: list[str]) -> Iterator[str]:
    for line in lines:
        used.append(line)
        yield line


def _wrong_lines(used: list[str], lines: Iterator[str], separator: str, width: int) -> int:
    """How many lines a record with a wrong quote takes: `used` are those it was read from, more are added to it.

    What follows may be rows, or the rest of a text that the record has over several lines. It is such a rest, up to the
    next line with an odd number of quotes, if that line closes a quote, or if not all lines before it are whole rows.
    """
    opens, read = used[0].count('"') % 2 == 1, len(used)
    start = 1 if opens else read
    end = next((index for index in range(start, read) if used[index].count('"') % 2), None)
    while end is None and len(used) < LOOKAHEAD + read and (line := next(lines, None)) is not None:
        used.append(line)
        end = len(used) - 1 if line.count('"') % 2 else None
    are_rows = all(_is_whole(line, separator, width) for line in used[start:end])
    if end is not None and _is_rest(used[end], separator, ends=end >= read):
        may_be_row = not opens and end > start and are_rows and _is_whole(used[end], separator, width)
        return start if may_be_row else end + 1
    if are_rows or not opens:
        return start
    return len(used) if end is None else end + 1


def _is_rest(line: str, separator: str, ends: bool) -> bool:
    """Whether the one quote too many of a line closes a field that an earlier line began; `ends`: at the line's end."""
    return _width(line, separator) is not None and (line.rstrip().endswith('"') or not ends)


def _is_whole(line: str, separator: str, width: int) -> bool:
    """Whether a line by itself is a row of `width` fields."""
    return _width(line, separator) == width


def _width(line: str, separator: str) -> int | None:
    """How many fields a line has by itself; None if it is no record by itself."""
    try:
        (fields,) = csv.reader([line], delimiter=separator, strict=True)
    except (csv.Error, ValueError):
        return None
    return len(fields)


# ---- Parquet ---------------------------------------------------------------------------------------------------------


def _parquet(path: Path) -> Rows:
    from pyarrow import ArrowException, BufferReader
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        packed = path.suffix.lower() in OPENERS
        file = ParquetFile(BufferReader(_open(path).read()) if packed else path)
        names = _names(file.schema_arrow.names)
        for batch in file.iter_batches(BATCH):
            for values in zip(*map(_column, batch.columns), strict=True):
                number += 1
                yield f"row {number:,}", dict(zip(names, values, strict=True))
    except (ArrowException, MemoryError) as error:
        raise ValueError(f"row {number + 1:,}: {error}") from None


def _column(column: Any) -> list[Any]:
    """The values of a Parquet column; one that Python cannot hold is a `RowError`."""
    from pyarrow import ArrowException

    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError, ArrowException):
        return [_scalar(value) for value in column]


def _scalar(value: Any) -> Any:
    from pyarrow import ArrowException

    try:
        return value.as_py()
    except UnicodeDecodeError:
        return RowError("not UTF-8")
    except (ValueError, OverflowError, ArrowException):
        return RowError(f"a {value.type} instead of text")


READERS: dict[str, Callable[[Path], Rows]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _json),
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
