"""JSON Lines and JSON as rows, by what a file holds rather than by its name.

    {"prompt": …, "response": …}                        an object per line, or objects one after the other
    [{"prompt": …, "response": …}, …]                   a list of rows
    {"data": [{"prompt": …, "response": …}, …]}         an object with a list of rows
    {"prompt": [… ], "response": [… ]}                  columns, also as pandas writes them
    {"messages": [… ]}                                  a single row

A value that is not JSON is a `RowError`, and the next one is read.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from stages.data.seeds.fields import role
from stages.data.seeds.source import Number, RowError, Rows, encoding_of, format_of, open_file, open_text, shown

ROW_LISTS = set(
    "data dataset examples instances items records rows samples train test validation valid val dev eval".split()
)


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises `RowError` if a key stands there twice."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise RowError("a field that stands twice", twice)
    return fields


_DECODER = json.JSONDecoder(parse_float=Number, parse_int=Number, object_pairs_hook=_fields)
_BLANKS, _BLANKS_AND_COMMAS = re.compile(r"[ \t\n\r]*"), re.compile(r"[ \t\n\r,]*")
_BEGIN = re.compile(r'\{\s*("(?:[^"\\]|\\.)*+")\s*:')  # of an object, with its first name
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)  # or a string, whose brackets do not count


def json_rows(path: Path) -> Rows:
    """The rows of JSON Lines or of one JSON document, whichever the file holds."""
    if encoding_of(path) != "utf-8-sig":
        with open_text(path) as text:
            yield from _rows_by_content(path, (line.encode("utf-8", "surrogatepass") for line in text))
    else:
        with open_file(path) as lines:
            yield from _rows_by_content(path, lines)


def _rows_by_content(path: Path, lines: Iterator[bytes] | IO[bytes]) -> Rows:
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    head = list(islice(numbered, 2))
    if _is_json_lines([line for _, line in head], format_of(path)):
        yield from ((f"line {number:,}", _parsed(line)) for number, line in chain(head, numbered))
    elif head:
        with open_text(path) as text:
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
        return json_value(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return RowError("not UTF-8")
    except RowError as problem:
        return problem


def json_value(text: str) -> Any:
    """The value of a JSON text, its numbers as they are written. Raises `RowError` if it is none."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise RowError("not JSON", error.msg) from None
    except RecursionError:
        raise RowError("nested too deeply") from None


def list_in_text(value: Any, name: str) -> Any:
    """The list in a field of a CSV file, where it is JSON in a text; any other value as it is. Raises `RowError` for
    brackets that are no JSON, such as Python's."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json_value(value)
    except RowError as problem:
        raise RowError(f"a text that is no list in the {name}", str(problem)) from None


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
    """The values from a position up to the list's end, or to that of the text. One that is not JSON is a `RowError`, up
    to the next object with the fields of the first, or where its brackets end it. Raises `ValueError` if neither
    shows."""
    first: dict[str, Any] = {}  # the first row
    name = ""  # of its first field, as it is written
    while True:
        position = _BLANKS_AND_COMMAS.match(text, position).end()  # type: ignore[union-attr]
        if position == len(text):
            if end and not first:
                raise ValueError("it breaks off before the end of its list")
            if end:
                yield RowError("the list of rows breaks off")
            return
        if end and text.startswith(end, position):
            if _BLANKS.match(text, position + 1).end() == len(text):  # type: ignore[union-attr]
                return
            if not first:
                raise ValueError("something follows the end of its list")
        begin = None if first else _BEGIN.match(text, position)
        name = begin[1] if begin else name
        value, position = _value(text, position, name, first)
        first = first or (value if isinstance(value, dict) else {})
        yield value


def _value(text: str, position: int, name: str, first: dict[str, Any]) -> tuple[Any, int]:
    """The value at a position, or a `RowError`, and where it ends: `name` is the first field of the `first` row, if
    there was one, or of this one. Raises `ValueError` if the end cannot be found."""
    try:
        value, end = _DECODER.raw_decode(text, position)
        if isinstance(value, dict) or not first:
            return value, end
        problem, reason = RowError("not a row of named fields"), ""
    except json.JSONDecodeError as error:
        problem, reason = RowError("not JSON", error.msg), f"line {error.lineno:,}: {error.msg}"
    except RecursionError:
        problem, reason = RowError("nested too deeply"), "its brackets do not match"
    except RowError as error:
        problem, reason = error, "its brackets do not match"
    stop = _next_object(text, position, re.escape(name), first) if name else None
    if stop is None and not first:
        stop = _end_by_brackets(text, position)
        if stop is None or not text[stop:].strip(" \t\r\n]"):  # they match nowhere, or at the end of the list
            stop = _next_object(text, position, r'"[^"\\]*"', first) or stop
        if stop is None:
            raise ValueError(reason)
    return problem, _end_of_list(text, position) if stop is None else stop


def _end_by_brackets(text: str, position: int) -> int | None:
    """Where a value ends by its brackets; None if they do not match."""
    depth = 0
    for match in _BRACKET.finditer(text, position) if text[position] in "[{" else ():
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
    return None


def _next_object(text: str, position: int, name: str, first: dict[str, Any]) -> int | None:
    """Where the next object begins whose first field is `name`, and that has two fields of the first row, if there was
    one; None if there is none. What stands within a text cannot look like it: its quotes have backslashes."""
    for match in re.compile(rf"\{{\s*{name}\s*:").finditer(text, position + 1):
        try:
            value = _DECODER.raw_decode(text, match.start())[0]
        except (json.JSONDecodeError, RecursionError, RowError):
            continue
        if len(value.keys() & (first or value).keys()) >= min(2, len(first or value)):
            return match.start()
    return None


def _end_of_list(text: str, position: int) -> int:
    """Where the list's last bracket stands, or the end of the text."""
    last = text.rfind("]", position + 1)
    return last if last >= 0 and not text[last + 1 :].strip() else len(text)


def _rows_of(document: Any) -> list[Any]:
    """The rows that a JSON object holds: in its list of rows, as columns, or itself. Raises `ValueError` if it has
    several lists of rows, or columns of different lengths."""
    if not isinstance(document, dict) or _is_row(document):
        return [document]
    lists = {name: value for name, value in document.items() if _is_row_list(value)}
    named = [name for name in lists if name.lower() in ROW_LISTS]
    if len(named) > 1:
        raise ValueError(f"it holds several lists of rows, {', '.join(map(shown, named))}; keep one of them")
    if named or (lists and len(document) == 1):
        return list(lists[named[0]] if named else next(iter(lists.values())))
    columns = list(document.values())
    if columns and all(isinstance(column, dict) for column in columns):  # as pandas writes tables
        if all(map(str.isdigit, document)):
            return columns
        if all(key.isdigit() for column in columns for key in column):
            columns = [list(column.values()) for column in columns]
    if not _are_columns(columns):
        return [document]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"its columns {', '.join(map(shown, document))} differ in length")
    return [dict(zip(document, values, strict=True)) for values in zip(*columns, strict=True)]


def _is_row(document: dict[str, Any]) -> bool:
    """Whether a JSON object has a part of a question or a response itself, whatever lists it has besides."""
    single = [name for name, value in document.items() if isinstance(value, str) and not isinstance(value, Number)]
    return any(role(name) not in (None, "verdict") for name in single)


def _is_row_list(value: Any) -> bool:
    """Whether it is a list of objects, and not of messages."""
    objects = isinstance(value, list) and value and all(isinstance(row, dict) for row in value)
    return bool(objects) and not {"role", "from"} & value[0].keys()


def _are_columns(columns: list[Any]) -> bool:
    """Whether they are lists without objects; a single one only of lists, such as conversations."""
    lists = all(isinstance(column, list) and column for column in columns)
    flat = lists and not any(isinstance(value, dict) for column in columns for value in column)
    return flat and (len(columns) > 1 or all(isinstance(value, list) for column in columns for value in column))
