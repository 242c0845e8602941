"""Seed data as pairs of prompt and response: JSON Lines, JSON, CSV, Parquet or a data set of the hub, in the common
layouts.

Rows are read one at a time, so a file may be larger than memory (except .json, which is read whole). Every unusable row
is reported with its place and the reason.

    {"prompt": …, "response": …}   or "completion" for "response"
    {"question": …, "answer": …}
    {"instruction": …, "input": …, "output": …}   a non-empty input follows the instruction
    {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}

A response may be a number, as 42: its digits are its text. A float of a Parquet file is refused, since its digits are
not those that somebody wrote. A conversation of several turns or with its own system prompt cannot be used: the loop
asks one question at a time, with the prompt set's system prompt.
"""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Set
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from stages.core.errors import UserError
from stages.core.records import Record, Tally, content_id
from stages.core.rows import JudgeTrainingPair, Pair
from stages.models import hub, reasoning

EXACT = (int, Decimal)  # no bool, and no float: 3.10 would be 3.1, 0.1 in 32 bits 0.10000000149, and 42 may be 42.0
LAYOUTS = (("prompt", "response"), ("prompt", "completion"), ("question", "answer"))
ANSWERS = ("response", "review")  # texts that the model learns to write
LONGEST = 100_000  # characters of a text; more is a broken file rather than a text
UNUSABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, surrogates
PRINTED = 1000  # problems that get a line each
SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'"}  # of what other programs call CSV
BATCH = 1000  # rows of a Parquet file at once

Rows = Iterator[tuple[str, Any]]  # of a source: the place, and the row or a RowError
SomePair = TypeVar("SomePair", bound=Pair)


class RowError(Exception):
    """Why a row cannot be used: a reason to count it by, and a detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason = reason


def pairs(
    rows: Rows, source: str, tally: Tally, columns: dict[str, str] | None = None, on_bad: str = "fail"
) -> Iterator[Pair]:
    """The pair of each usable row; the tally counts the others.

    `columns`: {"prompt": NAME, "response": NAME} of other column names, None to detect the layout. Raises `UserError`
    if no row has one of them, or with `on_bad: fail`, after a line for each unusable row.
    """
    names = set((columns or {}).values())
    yield from _usable(rows, lambda row: _pair(row, columns), source, tally, on_bad, names)


def judge_training_pairs(rows: Rows, source: str, tally: Tally, on_bad: str) -> Iterator[JudgeTrainingPair]:
    """Like `pairs`, each with its `review`."""

    def parse(row: Record) -> JudgeTrainingPair:
        return {**_pair(row, None), "review": _text(row.get("review"), "review")}

    yield from _usable(rows, parse, source, tally, on_bad)


def _usable(
    rows: Rows,
    parse: Callable[[Record], SomePair],
    source: str,
    tally: Tally,
    on_bad: str,
    columns: Set[str] = frozenset(),
) -> Iterator[SomePair]:
    """Each row parsed. Unusable ones and duplicates are counted and, with `on_bad: fail`, an error, as are `columns`
    that no row has."""
    seen: set[int] = set()  # hashes of the pairs before
    problems: list[str] = []  # printed at the end: a column that no row has looks like a problem of each row
    unusable, absent, first_row = 0, set(columns), None
    for place, row in rows:
        tally.rows += 1
        try:
            fields = _fields(row)
            first_row = first_row or fields
            absent -= fields.keys()
            pair = parse(fields)
            _need_new(pair, seen)
        except RowError as problem:
            unusable += 1
            tally.drop(problem.reason)
            if on_bad == "fail" and unusable <= PRINTED:
                problems.append(f"{source}, {place}: {problem}")
        else:
            yield pair
    if absent and first_row:
        raise UserError(
            f"{source} has no column {', '.join(map(repr, sorted(absent)))}, its first row has "
            f"{', '.join(map(str, first_row))}; correct seed.columns"
        )
    if unusable and on_bad == "fail":
        print(*problems, sep="\n", file=sys.stderr)
        listed = "each" if unusable <= PRINTED else f"the first {PRINTED:,}"
        raise UserError(
            f"{source}: {unusable:,} of {tally.rows:,} rows cannot be used, {listed} named above ({reasons(tally)}); "
            "correct or remove them, name the columns in seed.columns, or set seed.on_bad: drop"
        )


def _fields(row: Any) -> Record:
    """A row's fields; raises `RowError` if it could not be read or has none."""
    if isinstance(row, RowError):
        raise row
    if not isinstance(row, dict):
        raise RowError("not a row of named fields")
    return row


def _need_new(pair: Pair, seen: set[int]) -> None:
    """Remember a pair; raises `RowError` if it was seen before."""
    identity = int(content_id(pair["prompt"], pair["response"]), 16)
    if identity in seen:
        raise RowError("duplicate")
    seen.add(identity)


def reasons(tally: Tally) -> str:
    """Why rows were dropped, and how many."""
    return ", ".join(f"{reason} {rows:,}" for reason, rows in sorted(tally.dropped.items()))


def of_file(path: Path, what: str) -> Rows:
    """The rows of a file, each with its line or number; `what`: the parameter that names it. Raises `UserError` for a
    file that cannot be read."""
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
        reason = str(error).splitlines()[0]
        raise UserError(f"{what} {path} is not a {path.suffix[1:]} file: {reason}; save it again") from None


def of_hub(settings: dict[str, Any]) -> Rows:
    """The rows of a data set of the hub, `seed.hub`: {"id", "config", "split", "revision"}. Raises `UserError` if it
    can be neither fetched nor found in the Hugging Face cache, or has no such config or split."""
    folder = hub.fetch_data_set(settings)
    from datasets import load_dataset

    try:
        rows = load_dataset(str(folder), settings["config"], split=settings["split"], streaming=True)
        yield from ((f"row {number:,}", row) for number, row in enumerate(rows, 1))
    except (OSError, ValueError) as error:
        raise UserError(f"seed.hub: {settings['id']}: {error}; correct config or split") from error


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
        raise ValueError("it does not hold a list of rows")
    yield from ((f"row {number:,}", row) for number, row in enumerate(rows, 1))


def _csv(path: Path) -> Rows:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        header = next(lines, "")
        if "," not in header and (marks := [name for mark, name in SEPARATORS.items() if mark in header]):
            raise ValueError(f"its header looks separated by {marks[0]} where commas should be")
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


def _pair(row: Record, columns: dict[str, str] | None) -> Pair:
    """A row's texts; raises `RowError` if it cannot be used."""
    prompt, response = _named(row, columns)
    return {"prompt": _text(prompt, "prompt"), "response": _text(response, "response")}


def _named(row: Record, columns: dict[str, str] | None) -> tuple[Any, Any]:
    """The prompt and the response, by `seed.columns` or by the row's layout."""
    if columns:
        if missing := [name for name in columns.values() if name not in row]:
            raise RowError(f"no column '{missing[0]}'", f"its fields are {', '.join(map(str, row)) or 'none'}")
        return row[columns["prompt"]], row[columns["response"]]
    if "messages" in row:
        return _single_turn(row["messages"])
    if "instruction" in row and "output" in row:
        parts = [_text(row["instruction"], "instruction"), *([row["input"]] if row.get("input") else [])]
        return "\n\n".join(map(str, parts)), row["output"]
    for names in LAYOUTS:
        if all(name in row for name in names):
            return row[names[0]], row[names[1]]
    raise RowError("no prompt and response", f"its fields are {', '.join(map(str, row)) or 'none'}")


def _single_turn(messages: Any) -> tuple[Any, Any]:
    """The contents of a user's and an assistant's message."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise RowError("messages are not a list of role and content")
    roles = [message.get("role") for message in messages]
    if roles != ["user", "assistant"]:
        raise RowError("not a single turn", ", ".join(map(str, roles[:4])) + (", …" if len(roles) > 4 else ""))
    return messages[0].get("content"), messages[1].get("content")


def _text(value: Any, name: str) -> str:
    """A field's text without blanks around it; raises `RowError` if it is not a usable text."""
    if name == "response" and type(value) in EXACT:  # not a prompt: a number there is the wrong column
        value = str(value)
    if isinstance(value, int | float | Decimal):
        kind = "truth value" if isinstance(value, bool) else "number"
        raise RowError(f"a {kind} instead of text in the {name}", str(value))
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"no text in the {name}")
    if len(value) > LONGEST:
        raise RowError(f"absurdly long {name}", f"{len(value):,} characters")
    if match := UNUSABLE.search(value):
        character = match[0]
        if character >= "\ud800":
            raise RowError("not UTF-8" if "\udc80" <= character <= "\udcff" else "half of a surrogate pair")
        raise RowError("control characters", f"{character!r} in the {name}")
    if name in ANSWERS and reasoning.is_in(value):
        raise RowError(f"reasoning in the {name}", "only the answer behind it is learnt; give that alone")
    return value.strip()


def chosen(rows: Iterable[Pair], limit: int | None, random_state: int) -> list[Pair]:
    """At most `limit` rows, in the order of the hash of their content: a file in another order gives the same ones, and
    a larger limit keeps those of a smaller one. Holds no more rows than that in memory."""
    from heapq import nsmallest

    def key(row: Pair) -> str:
        return content_id(str(random_state), row["prompt"], row["response"])

    return sorted(rows, key=key) if limit is None else nsmallest(limit, rows, key=key)
