"""The plots' data, a list of records each, and their pictures, drawn from the templates that `dvc plots show` uses."""

import json
from pathlib import Path
from typing import Any

from stages.core.records import Record
from stages.reporting.summary import funnel

TEMPLATES = Path(__file__).parent / "templates"
INTERVAL = 1.96  # standard errors to the end of a 95 % interval

# A drop's reason, as it begins, and its colour's name in the funnel; what is not here is "other".
OUTCOMES = {
    "instruction too": "length",
    "response too": "length",
    "instruction like": "like another",
    "response like": "like another",
    "duplicate": "like another",
    "there already": "like another",
    "in the benchmark": "in the benchmark",
    "instruction speaks": "speaks for the judge",
    "response speaks": "speaks for the judge",
    "unreadable": "unreadable",
    "truncated": "unreadable",
    "no readable verdict": "unreadable",
    "unscored": "unreadable",
    "does not fit": "does not fit",
    "over": "over a bound",
    "not above": "not good enough",
    "does not lead": "not good enough",
    "not the best": "not good enough",
    "the rejected one": "not good enough",
    "flawed on purpose": "flawed on purpose",
}


def data(rows: Record) -> dict[str, list[Record]]:
    """{plot: its records}."""
    loop = {key: row for key, row in rows.items() if row["parent"] is not None}
    reviews = [record for key, row in loop.items() for record in _reviews(key, row["assess"]["scores"])]
    loss = [record for key, row in rows.items() for record in _loss(key, row)]
    rewards = [record for key, row in loop.items() for record in _rewards(key, row["dpo"].get("log", []))]
    return {
        "scores": [record for key, row in rows.items() for record in _scores(key, row)],
        "reviews": _with_all(rows, reviews, "percent"),
        "funnel": [record for key, row in rows.items() for record in _funnel(key, row)],
        "diversity": [record for key, row in loop.items() for record in _diversity(key, row["filter"]["diversity"])],
        "length": [record for key, row in rows.items() for record in _length(key, row)],
        "loss": _with_all(rows, loss, "loss"),
        "rewards": _with_all(rows, rewards, "value"),
    }


def _with_all(rows: Record, records: list[Record], y: str) -> list[Record]:
    """A plot's records, after one without a value of every iteration: its colours go by the order of what it is given,
    and so an iteration has the same one in each plot, even where another has nothing to draw."""
    return [{**records[0], "iteration": key, y: None} for key in rows] + records if records else []


def _scores(key: str, row: Record) -> list[Record]:
    found = []
    for part in ("test", "validation", "judging"):
        if score := row[part]:
            half = INTERVAL * score["stderr"]
            low, high = max(0.0, score["score"] - half), min(100.0, score["score"] + half)
            ends = {"low": round(low, 2), "high": round(high, 2)}
            found.append({"iteration": key, "part": part, "score": round(score["score"], 2), **ends})
    return found


def _reviews(key: str, scores: Record | None) -> list[Record]:
    if not scores:
        return []
    total = sum(scores["nearest"])
    return [
        {"iteration": key, "score": score, "percent": round(100 * number / total, 2)}
        for score, number in enumerate(scores["nearest"])
    ]


def _funnel(key: str, row: Record) -> list[Record]:
    found = []
    for step, tally in funnel(row).items():
        parts: dict[str, dict[str, int]] = {"kept": {"kept": tally["out"]}}
        for reason, number in tally["dropped"].items():
            outcome = next((name for start, name in OUTCOMES.items() if reason.startswith(start)), "other")
            parts.setdefault(outcome, {})[reason] = number
        for order, (outcome, reasons) in enumerate(parts.items()):
            said = ", ".join(f"{reason} {number:,}" for reason, number in reasons.items())
            place = {"iteration": key, "step": step, "outcome": outcome, "order": order}
            found.append({**place, "rows": sum(reasons.values()), "reasons": said})
    return found


MEASURES = {
    "distance": "mean embedding distance",
    "near_duplicates": "share that repeats an earlier one",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
}


def _diversity(key: str, diversity: Record) -> list[Record]:
    known = {name: diversity[name] for name in MEASURES if diversity[name] is not None}
    return [{"iteration": key, "measure": MEASURES[name], "value": value} for name, value in known.items()]


def _length(key: str, row: Record) -> list[Record]:
    words = row["prepare" if row["parent"] is None else "filter"]["words"]
    return [{"iteration": key, "text": text, "words": value} for text, value in words.items() if value is not None]


def _loss(key: str, row: Record) -> list[Record]:
    return [
        {"iteration": key, "phase": phase.upper(), "step": point["step"], "loss": point["loss"]}
        for phase in ("sft", "dpo")
        for point in row.get(phase, {}).get("log", [])
    ]


def _rewards(key: str, log: list[Record]) -> list[Record]:
    return [
        {"iteration": key, "measure": measure, "step": point["step"], "value": point[measure]}
        for measure in ("margin", "accuracy")
        for point in log
    ]


def pictures(plots: dict[str, list[Record]]) -> dict[str, str]:
    """{plot: SVG} of those that have data, from the templates of dvc.yaml."""
    from vl_convert import vegalite_to_svg

    return {
        name: vegalite_to_svg(filled(name, records), vl_version="5.20") for name, records in plots.items() if records
    }


def filled(name: str, records: list[Record]) -> Record:
    """A template with its data. Only here is nothing told apart by experiment: there is one."""
    template = json.loads((TEMPLATES / f"{name}.json").read_text(encoding="utf-8"))
    spec: Record = _without_experiments(template)
    return {**spec, "data": {"values": records}, "background": "transparent"}


def _without_experiments(node: Any) -> Any:
    if isinstance(node, dict):
        kept = {
            key: value for key, value in node.items() if not (isinstance(value, dict) and value.get("field") == "rev")
        }
        return {key: _without_experiments(value) for key, value in kept.items()}
    return [_without_experiments(each) for each in node] if isinstance(node, list) else node
