"""CSV and TSV files as rows; a wrong quote loses its own row, and no part of a text is taken for a row."""

import csv
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from stages.data.seeds.source import RowError, Rows, open_text, shown

LARGEST_FIELD = 10_000_000  # characters of a CSV field; more is a quote that is not closed
LONGEST_NAME = 80  # characters of a column's name
LOOKAHEAD = 1000  # lines of a CSV file to look on for the quote that closes another
SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'", ",": "commas"}


def csv_rows(path: Path) -> Rows:
    """The rows of a CSV file. Raises `ValueError` for a header that is none."""
    yield from _separated(path, ",")


def tsv_rows(path: Path) -> Rows:
    """The rows of a TSV file. Raises `ValueError` for a header that is none."""
    yield from _separated(path, "\t")


def _separated(path: Path, separator: str) -> Rows:
    """The rows of a CSV or TSV file, each with its first line. Quotes are those of RFC 4180 in both."""
    csv.field_size_limit(LARGEST_FIELD)
    with open_text(path) as text:
        lines = _Lines(text)
        header = next((line for line in lines if line.strip()), "")
        others = [name for mark, name in SEPARATORS.items() if mark != separator and mark in header]
        if separator not in header and others and (separator == "," or others == ["commas"]):
            raise ValueError(f"its header looks separated by {others[0]} where {SEPARATORS[separator]} should be")
        lines.push_back([header])
        records = _records(lines, separator)
        names = checked_names(next(records)[1])
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


def checked_names(header: list[str] | RowError) -> list[str]:
    """The columns' names; one without a name gets its number. Raises `ValueError` if two have the same."""
    if isinstance(header, RowError):
        raise ValueError(f"its header: {header}")
    names = [name.strip() or f"column {number}" for number, name in enumerate(header, 1)]
    if any("\udc80" <= character <= "\udcff" for name in names for character in name):
        raise ValueError("its header is not UTF-8")
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
    return start if are_rows or not opens or end is None else end


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
