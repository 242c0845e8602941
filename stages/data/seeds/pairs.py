"""Seed data as pairs of prompt and response, from files of all common formats and layouts.

files.py reads the rows of a file or data set, layouts.py the pair of a row; here unusable rows are told or
counted.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from stages.core.errors import UserError
from stages.core.records import Record, Tally, content_id
from stages.core.rows import JudgeTrainingPair, Pair
from stages.data.seeds.columns import column_names
from stages.data.seeds.fields import names
from stages.data.seeds.layouts import Reading, read_row
from stages.data.seeds.source import RowError, Rows, shown
from stages.data.seeds.text import comparable

PLACES = 10  # of rows with the same problem, in its line
DETAILS = 20  # of one reason that get a line each
REASONS, REMEDIES = 12, 2  # in the line that sums up

SomePair = TypeVar("SomePair", bound=Pair)


class SeedTally(Tally):
    """Counts the rows of a source, and what else there is to tell about those that are used."""

    def __init__(self) -> None:
        super().__init__(0)
        self.noted: Counter[str] = Counter()  # rows by remark

    def note(self, remarks: Iterable[str]) -> None:
        """Count remarks on a row, each once."""
        self.noted.update({shown(remark, 200) for remark in remarks})


def pairs(
    rows: Rows, source: str, tally: SeedTally, columns: Record | None = None, on_bad: str = "fail"
) -> Iterator[Pair]:
    """The pair of each usable row; the tally counts the others.

    `columns`: seed.columns of params.yaml, None to detect the layout. Raises `UserError` if no row has one of them, or
    no row can be used, or with `on_bad: fail` one cannot, after a line for each problem.
    """

    def pair(reading: Reading) -> Pair:
        row: Pair = {"prompt": reading.prompt, "response": reading.response}
        return {**row, "check": reading.check} if reading.check else row

    yield from _usable(rows, lambda fields: read_row(fields, columns), pair, source, tally, on_bad, columns)


def judge_training_pairs(rows: Rows, source: str, tally: SeedTally, on_bad: str) -> Iterator[JudgeTrainingPair]:
    """Like `pairs`, each with its `review`."""

    def pair(reading: Reading) -> JudgeTrainingPair:
        return {"prompt": reading.prompt, "response": reading.response, "review": reading.review or ""}

    yield from _usable(rows, lambda fields: read_row(fields, with_review=True), pair, source, tally, on_bad)


def _usable(
    rows: Rows,
    parse: Callable[[Record], Reading],
    pair: Callable[[Reading], SomePair],
    source: str,
    tally: SeedTally,
    on_bad: str,
    columns: Record | None = None,
) -> Iterator[SomePair]:
    """Each row's pair. Unusable rows and duplicates are counted and, with `on_bad: fail`, an error."""
    seen: set[int] = set()  # hashes of the pairs before
    problems, absent, first_row = Problems(source), set(column_names(columns) if columns else ()), None
    for where, row in rows:
        tally.rows += 1
        try:
            fields = _fields(row)
            first_row = first_row or fields
            absent -= fields.keys()
            reading = parse(fields)
            _need_new(reading, seen)
        except (RowError, RecursionError) as error:
            problem = error if isinstance(error, RowError) else RowError("nested too deeply")
            tally.drop(problem.reason)
            problems.add(where, problem)
        else:
            if reading.notes or reading.unread:
                tally.note([*reading.notes, *(f"{name} not read" for name in reading.unread)])
            yield pair(reading)
    if absent and first_row:
        raise UserError(
            f"{source} has no column {', '.join(map(repr, sorted(absent)))}, its first row has {names(first_row)}; "
            "correct seed.columns"
        )
    if problems.rows and (on_bad == "fail" or problems.rows == tally.rows):
        raise problems.error(tally)


def _fields(row: Any) -> Record:
    """A row's fields; raises `RowError` if it could not be read or has none."""
    if isinstance(row, RowError):
        raise row
    if not isinstance(row, dict):
        raise RowError("not a row of named fields")
    return row


def _need_new(reading: Reading, seen: set[int]) -> None:
    """Remember a pair; raises `RowError` if one that differs only in its encoding or blanks was seen before."""
    identity = int(content_id(comparable(reading.prompt), comparable(reading.response)), 16)
    if identity in seen:
        raise RowError("duplicate")
    seen.add(identity)


class Problems:
    """The unusable rows of a source; equal problems are one line."""

    def __init__(self, source: str) -> None:
        self.source, self.rows = source, 0
        self._counts: Counter[str] = Counter()  # by message
        self._places: dict[str, list[str]] = {}
        self._messages: Counter[str] = Counter()  # how many messages a reason has
        self._remedies: dict[str, str] = {}  # by reason, of the first row

    def add(self, where: str, problem: RowError) -> None:
        """Count a row's problem."""
        self.rows += 1
        message = str(problem)
        if message not in self._counts:
            message = message if self._messages[problem.reason] < DETAILS else problem.reason
            self._messages[problem.reason] += 1
        self._counts[message] += 1
        places = self._places.setdefault(message, [])
        if len(places) < PLACES:
            places.append(where)
        if len(self._remedies) < REMEDIES and problem.reason not in self._remedies:
            self._remedies[problem.reason] = problem.remedy

    def error(self, tally: SeedTally) -> UserError:
        """Print a line for each problem; returns the error that sums them up."""
        for message, count in self._counts.items():
            more = f" and {count - PLACES:,} more" if count > PLACES else ""
            print(f"{self.source}, {_listed(self._places[message])}{more}: {message}", file=sys.stderr)
        listed = "each" if max(self._counts.values()) <= PLACES else "each kind"
        advice = "; ".join(dict.fromkeys(filter(None, self._remedies.values()))) or "correct or remove them"
        drop = ", or set seed.on_bad: drop" if self.rows < tally.rows else ""
        return UserError(
            f"{self.source}: {self.rows:,} of {tally.rows:,} rows cannot be used, {listed} named above "
            f"({reasons(tally)}); {advice}{drop}"
        )


def _listed(places: list[str]) -> str:
    """line 2, 3, 5: places, with what is equal in a row only once."""
    listed, before = [], None
    for where in places:
        what, _, number = where.rpartition(" ")
        listed.append(number if what == before else where)
        before = what
    return ", ".join(listed)


def reasons(tally: Tally) -> str:
    """Why rows were dropped, and how many; of many reasons, the most frequent ones."""
    listed = sorted(tally.dropped.most_common(REASONS))
    more = len(tally.dropped) - len(listed)
    return ", ".join(f"{reason} {rows:,}" for reason, rows in listed) + (f", {more:,} other reasons" if more else "")


def chosen(rows: Iterable[Pair], limit: int | None, random_state: int) -> list[Pair]:
    """At most `limit` rows, in the order of the hash of their content: a file in another order gives the same ones, and
    a larger limit keeps those of a smaller one. Holds no more rows than that in memory."""
    from heapq import nsmallest

    def key(row: Pair) -> str:
        return content_id(str(random_state), row["prompt"], row["response"])

    return sorted(rows, key=key) if limit is None else nsmallest(limit, rows, key=key)
