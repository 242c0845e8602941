"""What the last run left in results/ and costs/, as shares of rows and numbers of model calls."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from stages.core.records import Record

JUDGE = ("review", "assess")


class Last(NamedTuple):
    """What the last run left: {iteration: {stage: its counts}} and what each cost."""

    results: dict[str, Record]
    costs: dict[str, Record]


def last_run(iterations: Iterable[str]) -> Last:
    found = []
    for folder in (Path("results"), Path("costs")):
        paths = {key: sorted((folder / key).glob("*.json")) for key in ["0", *iterations]}
        found.append({key: {path.stem: _json(path) for path in each} for key, each in paths.items()})
    return Last(*found)


def _json(path: Path) -> Record:
    found: Record = json.loads(path.read_text(encoding="utf-8"))
    return found


def shares(results: Record, threshold: float) -> dict[str, float]:
    """What an iteration's stages made of the rows that they took in; none where a stage did not run or had no row."""
    parts: dict[str, tuple[float, float]] = {}
    if review := results.get("review"):
        rows = review["rows"]
        parts["unscored"] = rows["in"] - rows["out"], rows["in"]
        nearest = review["scores"]["nearest"] if review["scores"] else []
        parts["low"] = sum(number for score, number in enumerate(nearest) if score <= threshold), sum(nearest)
    if generate := results.get("generate"):
        named = {"instructions": "new_instructions", "responses": "responses", "flawed": "flawed_responses"}
        parts |= {ours: (generate[name]["out"], generate[name]["in"]) for ours, name in named.items()}
    if kept := results.get("filter"):
        parts["kept"] = kept["rows"]["out"], kept["rows"]["in"]
    if (select := results.get("select")) and "assess" in results:
        rows = results["assess"]["rows"]["in"]
        parts["grown"] = select["seed"]["new"], rows
        parts |= {name: (_before_the_bound(select[name]), rows) for name in ("sft", "pairs")}
    return {name: part / whole for name, (part, whole) in parts.items() if whole}


def _before_the_bound(tally: Record) -> int:
    dropped = tally["dropped"]
    return int(tally["new"] + dropped.get("over the bound", 0) + dropped.get("there already", 0))


def calls_of(stage: str, results: Record) -> int:
    """The model calls of a stage, or the rows of a training, by its counts."""
    counts = results.get(stage, {})
    if stage in JUDGE:
        return int(counts.get("verdicts", {}).get("asked", 0))
    if stage == "generate":
        tallies = (counts.get(name, {"in": 0}) for name in ("new_instructions", "responses", "flawed_responses"))
        return int(sum(tally["in"] for tally in tallies))
    if stage == "evaluate":
        parts = (counts.get(part) or {"items": 0} for part in ("test", "validation", "judging", "apart"))
        return int(sum(part["items"] for part in parts))
    return int(counts.get("rows", {"out": 0})["out"])
