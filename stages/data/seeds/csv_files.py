"""CSV and TSV files as rows; a wrong quote loses its own row, and no part of a text is taken for a row."""

import csv
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from stages.data.seeds.source import RowError, Rows, open_text, shown

LARGEST_FIELD = 10_000_000  # characters of a CSV field; more is a quote that is not closed
LONGEST_NAME = 80  # characters of a column's name
LOOKAHEAD = 1000  # lines of a CSV file to look on for the quote that closes another
KEPT_BACK = 3  # rows before a quote that closes a text which none has begun: they may be its lines
NEAR = 10  # lines behind a wrong quote that are its text's if one of them is no row
MANY = 5  # rows behind a quote that is not closed: more than a text has lines that look like rows
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
        records = _records(lines, separator, skip_blanks=f"{separator} " in header)
        names = checked_names(next(records)[1])
        for number, fields in records:
            if row := _row(names, fields):
                yield f"line {number:,}", row


def _row(names: list[str], fields: list[str] | RowError) -> dict[str, str] | RowError | None:
    """A record as a row; None for an empty line."""
    if isinstance(fields, RowError):
        return fields
    if not fields:
        return None
    if len(fields) != len(names):
        return RowError(f"{'more' if len(fields) > len(names) else 'fewer'} fields than the header names")
    if [field.strip("\ufeff \t") for field in fields] == names:
        return RowError("the header again", "files one after the other")
    return dict(zip(names, fields, strict=True))


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


def _records(lines: _Lines, separator: str, skip_blanks: bool) -> Iterator[tuple[int, list[str] | RowError]]:
    """Each record with the number of its first line; after one with a wrong quote, reading goes on where a record
    surely begins. The last rows are kept back: they may be lines of a text whose quote is lost, or end too early."""
    width = 0
    doubtful: deque[tuple[int, list[str] | RowError]] = deque()
    while True:
        used: list[str] = []  # the lines of the record being read
        reader = csv.reader(_kept(lines, used), delimiter=separator, strict=True, skipinitialspace=skip_blanks)
        try:
            for fields in reader:
                if _is_odd(used) and _closes(used[0], separator):
                    raise csv.Error("a quote that closes no text")
                record: list[str] | RowError = fields
                if any('"' in line for line in used):
                    yield from doubtful
                    doubtful.clear()
                    if _keeps_quotes(fields, "".join(used)):
                        record = RowError("blanks before a quote", "", "remove the blanks behind the separators")
                doubtful.append((lines.number - len(used) + 1, record))
                if not width or len(doubtful) > KEPT_BACK:
                    yield doubtful.popleft()
                width = width or len(fields)
                used.clear()
            yield from doubtful
            return
        except csv.Error as error:
            number = lines.number - len(used) + 1
            bad = _wrong_lines(used, lines, separator, width, str(error).startswith("unexpected end"))
            if _closes(used[0], separator):
                yield from ((row, RowError("a wrong quote", f"up to line {number:,}")) for row, _ in doubtful)
            else:
                yield from doubtful
            doubtful.clear()
            lines.push_back(used[bad:])
            yield number, RowError("a wrong quote", f"{error}" + (f"; up to line {lines.number:,}" if bad > 1 else ""))


def _keeps_quotes(fields: list[str], record: str) -> bool:
    """Whether a field has its quotes since blanks stand before them, rather than in its text."""
    spaced = [field for field in fields if field[:1] == " " and field.strip(" ")[:1] == field.strip(" ")[-1:] == '"']
    return any('"{}"'.format(field.replace('"', '""')) not in record for field in spaced)


def _kept(lines: Iterator[str], used: list[str]) -> Iterator[str]:
    for line in lines:
        used.append(line)
        yield line


def _wrong_lines(used: list[str], lines: Iterator[str], separator: str, width: int, is_end: bool) -> int:
    """How many lines a record with a wrong quote takes: `used` are those it was read from, the last one the error's, or
    with `is_end` all of the file; more are added to it.

    What follows may be rows, or the rest of a text that the record has over several lines; where both may be, it goes.
    Lines within a quote that is not closed are rows if the first line is one without its quotes, and the quote is not
    that of its last field, which may go on; or if there are many.
    """
    between = used[1:] if is_end else used[1:-1]
    in_last_field = len(next(csv.reader([used[0]], delimiter=separator), [])) >= width
    are_rows = all('"' not in line and _width(line, separator) == width for line in between)
    is_row = not in_last_field and _width(used[0].replace('"', ""), separator) == width
    if between and are_rows and ((is_row and len(between) > is_end) or len(between) >= MANY):
        return 1
    if is_end:
        return len(used)
    may_end = in_last_field or (used[0].count(separator) >= width - 1 and _width(used[-1], separator) == width)
    if len(used) > 1 and used[-1].startswith('"') and may_end:  # it ended the text before, and begins a row
        return len(used) - 1
    return _end_of_rest(used, lines, separator, width)


def _end_of_rest(used: list[str], lines: Iterator[str], separator: str, width: int) -> int:
    """Where the rest of a text with a wrong quote ends: behind the next line with an odd number of quotes, if that
    closes a quote and opens none, or else behind the last of the next lines that is no row."""
    end = len(used)
    while True:
        odd = next((index for index in range(end, len(used)) if _is_odd(used[index : index + 1])), None)
        while odd is None and len(used) < LOOKAHEAD + end and (line := next(lines, None)) is not None:
            used.append(line)
            odd = len(used) - 1 if _is_odd([line]) else None
        if odd is None:
            return end
        if not _closes(used[odd], separator):
            others = [index for index in range(end, min(odd, end + NEAR)) if _width(used[index], separator) != width]
            return end if not others else odd if odd <= end + NEAR else others[-1] + 1
        end = odd + 1


def _is_odd(lines: list[str]) -> bool:
    return sum(line.count('"') for line in lines) % 2 == 1


def _closes(line: str, separator: str) -> bool:
    """Whether the first quote of a line may close a text that an earlier line began."""
    before, quote, behind = line.replace('""', "").partition('"')
    ends = behind.lstrip(" ").startswith((separator, "\n", "\r")) or (before and not behind)
    return bool(quote and ends and not before.endswith(separator))


def _width(line: str, separator: str) -> int | None:
    """How many fields a line has by itself; None if it is no record by itself."""
    try:
        (fields,) = csv.reader([line], delimiter=separator, strict=True)
    except (csv.Error, ValueError):
        return None
    return len(fields)
