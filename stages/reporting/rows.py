"""report/rows.html: every row of every iteration with its way, to search, to filter and to link to.

The rows of iteration t are its seed set as reviewed, and what was generated from it: what the filter dropped, and what
was assessed. Those of iteration 0 are the user's. The page is one file without a network; its rows are compressed, and
texts that several rows have are in it once.
"""

import base64
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stages.core.errors import UserError
from stages.core.records import Record, rows_of
from stages.core.rows import JudgedCandidate, Outcome, PreferencePair
from stages.judging.scores import why_unscored
from stages.reporting import page
from stages.reporting.links import NOTHING_MADE, STEPS

TEMPLATE = Path(__file__).parent / "templates/rows.html"
ROWS = 20_000  # on the page; of more, a sample
CHARACTERS = 60_000_000  # of their texts, likewise
LONGEST = 20_000  # characters of a text; the rest is left out, and the page says how much

Fates = dict[str, str | None]  # {step: why a row fell there; None: it was kept}
PAIRS = "select pairs"
SEED, JUDGE = "seed", "judge"  # beside the routes of candidates


class Line(NamedTuple):
    """A row as a file of an iteration has it."""

    iteration: str
    route: str  # of a candidate; or SEED, JUDGE
    name: str  # iteration.id, and from the second row of the same id on a number
    row: Any

    @property
    def texts(self) -> Iterator[str]:
        """All texts that the page shows as the row's own."""
        row = self.row
        yield row["prompt"]
        yield row["completion" if self.route == JUDGE else "response"]
        yield from (review["text"] for review in row.get("reviews", []))


def files(iteration: str) -> Iterator[tuple[str | None, Path]]:
    """(route; None: each row has its own, file) of an iteration's rows, in the order of the page."""
    here = Path("iterations", iteration)
    if iteration == "0":
        yield from ((SEED, here / "seed.jsonl"), (JUDGE, here / "judge.jsonl"))
    else:
        yield from ((None, here / "assess.jsonl"), (None, here / "dropped.jsonl"), (SEED, here / "review.jsonl"))


def lines(iterations: Iterable[str]) -> Iterator[Line]:
    """All rows of the run, one at a time. Raises `UserError` if a file is missing."""
    for iteration in iterations:
        seen: Counter[str] = Counter()
        for route, path in files(iteration):
            if not path.exists():
                raise UserError(f"{path} is missing; run dvc repro to make it")
            for row in rows_of(path, dict):
                seen[row["id"]] += 1
                repeat = f".{seen[row['id']]}" if seen[row["id"]] > 1 else ""
                yield Line(iteration, route or row["route"], f"{iteration}.{row['id']}{repeat}", row)


class Survey:
    """What a first pass over all rows finds: how many there are, how long, and which seeds something was made from."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.names: dict[tuple[str, str], list[str]] = {}  # of each iteration and route
        self.sources: set[tuple[str, str]] = set()  # (iteration, id) of the seeds with new or flawed candidates
        self.characters = 0
        for line in lines:
            self.names.setdefault((line.iteration, line.route), []).append(line.name)
            self.characters += sum(min(len(text), LONGEST) for text in line.texts)
            if line.route in ("new", "flawed"):
                self.sources.add((line.iteration, line.row["seed"]["id"]))

    @property
    def total(self) -> int:
        """The number of all rows."""
        return sum(map(len, self.names.values()))

    def sample(self) -> set[str]:
        """The names of the rows to show: all, or as many as the page holds, spread evenly over iterations and routes
        and in each chosen by their content."""
        limit = min(ROWS, int(self.total * CHARACTERS / max(self.characters, CHARACTERS)))
        chosen: set[str] = set()
        groups = sorted(self.names.values(), key=len)
        for number, names in enumerate(groups):
            share = (limit - len(chosen)) // (len(groups) - number)
            chosen.update(sorted(names, key=content_order)[:share])
        return chosen


def content_order(name: str) -> str:
    """The id in a row's name, which is a hash of its content, then the number of its repeat."""
    return name.partition(".")[2]


class Texts:
    """Texts by number, each once, and what was left out of those that are too long."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.left_out: dict[int, int] = {}  # characters, by the text's number

    def number(self, text: str) -> int:
        """The number of a text."""
        number = self.numbers.setdefault(text, len(self.numbers))
        if len(text) > LONGEST:
            self.left_out[number] = len(text) - LONGEST
        return number

    def shown(self) -> list[str]:
        """The texts in the order of their numbers."""
        return [text[:LONGEST] for text in self.numbers]


def steps_of(line: Line, sources: set[tuple[str, str]], selected: dict[str, Fates]) -> Fates:
    """{step of the funnel that the row came to: why it fell there; None: it was kept}. `sources`: of the survey;
    `selected`: {id: the steps of select}."""
    row, of_select = line.row, {f"select {step}": why for step, why in selected.get(line.row["id"], {}).items()}
    if line.iteration == "0":
        return {"seed rows" if line.route == SEED else "judge-training rows": None}
    if "reason" in row:
        return {"filter": row["reason"]}
    unscored = why_unscored(row) if row["score"] is None else None
    if line.route != SEED:
        if row["id"] == row["seed"]["id"] and row["seed"]["score"] is not None:
            of_select.pop(PAIRS, None)  # the seed itself stands in the pool
        return {"filter": None, "assess": unscored, **of_select}
    of_select = {step: why for step, why in of_select.items() if step == PAIRS}  # an own response may have its id
    is_source = (line.iteration, row["id"]) in sources
    return {"review": unscored, "routing": None if is_source else "unscored" if unscored else NOTHING_MADE, **of_select}


def shown(line: Line, steps: Fates, texts: Texts) -> Record:
    """A row of the page; texts are numbers."""
    row: JudgedCandidate = line.row
    prompt, response, *reviews = map(texts.number, line.texts)
    record = {"name": line.name, "iteration": line.iteration, "route": line.route, "prompt": prompt}
    record |= {"response": response, "score": row.get("score"), "steps": steps}
    if reviews:
        record["reviews"] = [
            [text, review["score"], review["written"]] for text, review in zip(reviews, row["reviews"], strict=True)
        ]
    if "seed" in row:
        seed = row["seed"]
        record["seed"] = [seed["id"], texts.number(seed["prompt"]), texts.number(seed["response"]), seed["score"]]
    if shots := row.get("lineage", {}).get("shots"):
        record["shots"] = shots
    return record | {name: row[name] for name in ("judge", "passed", "check") if name in row}


def pairs(iteration: str, sides: set[tuple[int, int]], texts: Texts) -> Iterator[Record]:
    """The preference pairs that the iteration selected, of which a side is on the page: `sides` are (prompt, response)
    of its rows."""
    for pair in rows_of(Path("iterations", iteration, "pairs.jsonl"), PreferencePair):
        if pair["iteration"] != iteration:
            continue
        prompt, chosen, rejected = (texts.numbers.get(pair[name], -1) for name in ("prompt", "chosen", "rejected"))
        if (prompt, chosen) in sides or (prompt, rejected) in sides:
            yield {
                "iteration": iteration,
                "prompt": prompt,
                "chosen": texts.number(pair["chosen"]),
                "rejected": texts.number(pair["rejected"]),
                "margin": pair["margin"],
                "scores": [pair["lineage"][side].get("score") for side in ("chosen", "rejected")],
            }


def content(iterations: list[str]) -> Record:
    """What the page knows: rows, pairs and texts, and of how many rows it shows a sample. `iterations`: the keys of
    params.yaml; the warm start's rows come last."""
    order = [*iterations, "0"]
    survey, texts = Survey(lines(order)), Texts()
    sample = survey.sample()
    rows: list[Record] = []
    chosen: list[Record] = []
    for iteration in order:
        folder, selects = Path("iterations", iteration), iteration != "0"
        outcomes = rows_of(folder / "outcomes.jsonl", Outcome) if selects else ()
        selected = {row["id"]: row["steps"] for row in outcomes}
        here = [
            shown(line, steps_of(line, survey.sources, selected), texts)
            for line in lines([iteration])
            if line.name in sample
        ]
        rows += here
        if selects:
            sides = {(row["prompt"], row["response"]) for row in here}
            chosen += pairs(iteration, sides, texts)
    return {
        "iterations": order,
        "steps": STEPS,
        "total": survey.total,
        "rows": rows,
        "pairs": chosen,
        "texts": texts.shown(),
        "left_out": texts.left_out,
    }


def html(iterations: list[str], verdict: str) -> str:
    """The page as text, under the run's verdict."""
    data = json.dumps(content(iterations), ensure_ascii=False, separators=(",", ":")).encode()
    packed = base64.b64encode(zlib.compress(data, 1)).decode("ascii")
    return page.render(TEMPLATE, verdict=verdict, data=packed)
