"""Seed data as pairs of prompt and response: JSON Lines, JSON, CSV, Parquet or a data set of the hub, in the common
shapes.

Rows are read one after the other, so that a file may be larger than the memory (a .json file is read whole). Every row
that cannot be used is told with its place and the reason.

    {"prompt": …, "response": …}   or "completion" for "response"
    {"question": …, "answer": …}
    {"instruction": …, "input": …, "output": …}   the input, if there is one, follows the instruction
    {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}

A response may be a number, as 42: its digits are its text. A float of a Parquet file is refused, since its digits are
not those that somebody wrote. A conversation of several turns, or with a system prompt of its own, cannot be used: the
loop asks one question at a time, with the prompt set's system prompt.
"""

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

from stages.core.errors import UserError
from stages.core.records import Record, Tally, content_id
from stages.models import hub

EXACT = (int, Decimal)  # no bool, and no float: 3.10 would be 3.1, 0.1 in 32 bits 0.10000000149, and 42 may be 42.0
SHAPES = (("prompt", "response"), ("prompt", "completion"), ("question", "answer"))
LONGEST = 100_000  # characters of a text; more is a broken file rather than a text
UNUSABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, surrogates
TOLD = 1000  # problems that have a line each
SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'"}  # of what other programs call CSV
BATCH = 1000  # rows of a Parquet file at once

Rows = Iterator[tuple[str, Any]]  # of a source: the place, and the row or a RowError


class RowError(Exception):
    """Why a row cannot be used: a reason to count it by, and what was seen."""

    def __init__(self, reason: str, seen: str = "") -> None:
        super().__init__(f"{reason} ({seen})" if seen else reason)
        self.reason = reason


def pairs(
    rows: Rows,
    source: str,
    tally: Tally,
    columns: dict[str, str] | None = None,
    on_bad: str = "fail",
    more: tuple[str, ...] = (),
) -> Iterator[Record]:
    """The {"prompt", "response"} of each row that can be used, and the `more` fields that it must have; the tally
    counts the others. Raises `UserError` where no row has one of the `columns`, and by `on_bad: fail`, after a line for
    each row that cannot be used."""
    known: set[int] = set()
    absent, first = set((columns or {}).values()), None
    told: list[str] = []  # after the last row: until then, a column that none has looks like each row's fault
    bad = 0
    for place, row in rows:
        tally.rows += 1
        if absent and isinstance(row, dict):
            absent -= row.keys()
            first = first or row
        found = _pair(row, columns, more, known)
        if isinstance(found, RowError):
            bad += 1
            tally.drop(found.reason)
            if on_bad == "fail" and bad <= TOLD:
                told.append(f"{source}, {place}: {found}")
        else:
            yield found
    if absent and first:
        raise UserError(
            f"{source} has no column {', '.join(map(repr, sorted(absent)))}, its first row has "
            f"{', '.join(map(str, first))}; correct seed.columns"
        )
    if bad and on_bad == "fail":
        print(*told, sep="\n", file=sys.stderr)
        named = "each" if bad <= TOLD else f"the first {TOLD:,}"
        raise UserError(
            f"{source}: {bad:,} of {tally.rows:,} rows cannot be used, {named} named above ({reasons(tally)}); correct "
            "or remove them, name the columns in seed.columns, or set seed.on_bad: drop"
        )


def reasons(tally: Tally) -> str:
    """Why rows were dropped, and how many."""
    return ", ".join(f"{reason} {number:,}" for reason, number in sorted(tally.dropped.items()))


def of_file(path: Path, what: str) -> Rows:
    """The rows of a file, each with its line or number. Raises `UserError` for a file that cannot be read."""
    readers = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise UserError(f"{what} {path} is none of {', '.join(readers)}; convert it, or rename it by what it holds")
    try:
        yield from readers[path.suffix](path)
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist; create it or correct the path") from None
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror or error}; name a file") from None
    except ValueError as error:
        said = str(error).splitlines()[0]
        raise UserError(f"{what} {path} is not a {path.suffix[1:]} file: {said}; save it again") from None


def of_hub(named: dict[str, Any]) -> Rows:
    """The rows of a data set of the hub: {"id", "config", "split", "revision"}. Raises `UserError` where it can be
    neither fetched nor found in the Hugging Face cache, or has no such rows."""
    folder = hub.fetch_data_set(named)
    from datasets import load_dataset

    try:
        rows = load_dataset(str(folder), named["config"], split=named["split"], streaming=True)
        yield from ((f"row {number:,}", row) for number, row in enumerate(rows, 1))
    except (OSError, ValueError) as error:
        raise UserError(f"seed.hub: {named['id']}: {error}; correct config or split") from error


def _json_lines(path: Path) -> Rows:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"line {number:,}", _parsed(line)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"), parse_float=Decimal)
    except UnicodeDecodeError:
        return RowError("not UTF-8")
    except json.JSONDecodeError as error:
        return RowError("not JSON", error.msg)


def _json(path: Path) -> Rows:
    text = path.read_text(encoding="utf-8-sig")
    rows = json.loads(text, parse_float=Decimal) if text.strip() else []
    if not isinstance(rows, list):
        raise ValueError("it holds no list of rows")
    yield from ((f"row {number:,}", row) for number, row in enumerate(rows, 1))


def _csv(path: Path) -> Rows:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        header = next(lines, "")
        if "," not in header and (found := [name for mark, name in SEPARATORS.items() if mark in header]):
            raise ValueError(f"its header looks separated by {found[0]} where commas should be")
        reader = csv.DictReader(chain([header], lines), strict=True)
        try:
            for row in reader:
                more = RowError("more fields than the header names") if None in row else None
                yield f"line {reader.line_num:,}", more or row
        except csv.Error as error:
            raise ValueError(f"line {reader.reader.line_num:,}: {error}") from None


def _parquet(path: Path) -> Rows:
    from pyarrow.parquet import ParquetFile

    number = 0
    for batch in ParquetFile(path).iter_batches(BATCH):
        for row in batch.to_pylist():
            number += 1
            yield f"row {number:,}", row


def _pair(row: Any, columns: dict[str, str] | None, more: tuple[str, ...], known: set[int]) -> Record | RowError:
    """A row's texts, or why it cannot be used; `known` are the hashes of the rows before it, and now this one's."""
    try:
        if isinstance(row, RowError):
            raise row
        if not isinstance(row, dict):
            raise RowError("not a row of named fields")
        prompt, response = _named(row, columns)
        pair = {"prompt": _text(prompt, "prompt"), "response": _text(response, "response")}
        pair |= {name: _text(row.get(name), name) for name in more}
        identity = int(content_id(pair["prompt"], pair["response"]), 16)
        if identity in known:
            raise RowError("duplicate")
    except RowError as problem:
        return problem
    known.add(identity)
    return pair


def _named(row: Record, columns: dict[str, str] | None) -> tuple[Any, Any]:
    """The prompt and the response, by `seed.columns` or by the row's shape."""
    if columns:
        if missing := [name for name in columns.values() if name not in row]:
            raise RowError(f"no column '{missing[0]}'", f"its fields are {', '.join(map(str, row)) or 'none'}")
        return row[columns["prompt"]], row[columns["response"]]
    if "messages" in row:
        return _single_turn(row["messages"])
    if "instruction" in row and "output" in row:
        asked = [_text(row["instruction"], "instruction"), *([row["input"]] if row.get("input") else [])]
        return "\n\n".join(map(str, asked)), row["output"]
    for names in SHAPES:
        if all(name in row for name in names):
            return row[names[0]], row[names[1]]
    raise RowError("no prompt and response", f"its fields are {', '.join(map(str, row)) or 'none'}")


def _single_turn(messages: Any) -> tuple[Any, Any]:
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        raise RowError("messages are no list of role and content")
    roles = [each.get("role") for each in messages]
    if roles != ["user", "assistant"]:
        raise RowError("not a single turn", ", ".join(map(str, roles[:4])) + (", …" if len(roles) > 4 else ""))
    return messages[0].get("content"), messages[1].get("content")


def _text(value: Any, name: str) -> str:
    if name == "response" and type(value) in EXACT:  # not a prompt: a number there is the wrong column
        value = str(value)
    if isinstance(value, int | float | Decimal):
        kind = "truth value" if isinstance(value, bool) else "number"
        raise RowError(f"a {kind} instead of text in the {name}", str(value))
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"no text in the {name}")
    if len(value) > LONGEST:
        raise RowError(f"absurdly long {name}", f"{len(value):,} characters")
    if found := UNUSABLE.search(value):
        character = found[0]
        if character >= "\ud800":
            raise RowError("not UTF-8" if "\udc80" <= character <= "\udcff" else "half of a surrogate pair")
        raise RowError("control characters", f"{character!r} in the {name}")
    return value.strip()


def chosen(rows: Iterable[Record], limit: int | None, random_state: int) -> list[Record]:
    """At most `limit` rows, in the order of the hash of their content: a file in another order gives the same ones, and
    a larger limit keeps those of a smaller one. Holds no more rows than that."""
    from heapq import nsmallest

    def key(row: Record) -> str:
        return content_id(str(random_state), row["prompt"], row["response"])

    return sorted(rows, key=key) if limit is None else nsmallest(limit, rows, key=key)
