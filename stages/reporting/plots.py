"""The plots' data, a list of records each, and their pictures, from the templates that `dvc plots show` uses too."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from stages.core.counts import Diversity, LogPoint, Scores
from stages.core.records import Record
from stages.reporting.links import funnel_link, score_link
from stages.reporting.summary import IterationRow, funnel, listed, trainings

TEMPLATES = Path(__file__).parent / "templates"
VEGA_BASE = "https://vega.github.io/vega-datasets/"  # which vl-convert puts before a relative address
INTERVAL = 1.96  # standard errors from a score to the end of its 95 % interval

# The first words of a reason for dropping a row, and the name of its colour in the funnel; others are "other".
OUTCOMES = {
    "instruction too": "length",
    "response too": "length",
    "instruction like": "too similar",
    "response like": "too similar",
    "duplicate": "too similar",
    "there already": "too similar",
    "in the benchmark": "in the benchmark",
    "instruction speaks": "contains a verdict",
    "response speaks": "contains a verdict",
    "unreadable": "unreadable",
    "truncated": "unreadable",
    "no readable verdict": "unreadable",
    "unscored": "unreadable",
    "could not be checked": "unreadable",
    "no check": "unreadable",
    "does not fit": "too long for the context",
    "over": "over a limit",
    "not above": "score too low",
    "does not lead": "score too low",
    "not the best": "score too low",
    "the rejected one": "score too low",
    "neither the best": "score too low",
    "same final answer": "too similar",
    "agreement": "agreement",
    "judge undecided": "agreement",
    "flawed on purpose": "flawed on purpose",
    "answers a seed's": "other",  # as it should
}
MEASURES = {
    "distance": "mean embedding distance",
    "near_duplicates": "share repeating an earlier one",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
}


def data(rows: dict[str, IterationRow]) -> dict[str, list[Record]]:
    """{plot: its records}, from the iterations of the summary."""
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


def _with_all(rows: Iterable[str], records: list[Record], y: str) -> list[Record]:
    """The records after one without a value for every iteration. Vega gives out colours in the order of the data, so
    an iteration then has the same colour in every plot, even if another one has nothing to draw."""
    return [{**records[0], "iteration": key, y: None} for key in rows] + records if records else []


def _scores(key: str, row: IterationRow) -> list[Record]:
    records = []
    for part, score in (("test", row["test"]), ("validation", row["validation"]), ("judging", row["judging"])):
        if score:
            half = INTERVAL * score["stderr"]
            low, high = max(0.0, score["score"] - half), min(100.0, score["score"] + half)
            ends = {"low": round(low, 2), "high": round(high, 2)}
            records.append({"iteration": key, "part": part, "score": round(score["score"], 2), **ends})
    return records


def _reviews(key: str, scores: Scores | None) -> list[Record]:
    if not scores:
        return []
    total = sum(scores["nearest"])
    return [
        {"iteration": key, "score": score, "percent": round(100 * rows / total, 2), "link": score_link(key, score)}
        for score, rows in enumerate(scores["nearest"])
    ]


def _funnel(key: str, row: IterationRow) -> list[Record]:
    """A bar's part for each step and outcome."""
    records = []
    for step, tally in funnel(row).items():
        outcomes = {"kept": {"kept": tally["out"]}} | _by_outcome(tally["dropped"])
        for order, (outcome, reasons) in enumerate(outcomes.items()):
            bar = {"iteration": key, "step": step, "outcome": outcome, "order": order}
            link = funnel_link(key, step, list(reasons)) or ""
            records.append({**bar, "rows": sum(reasons.values()), "reasons": listed(reasons), "link": link})
    return records


def _by_outcome(dropped: dict[str, int]) -> dict[str, dict[str, int]]:
    """{outcome: {reason: rows}}."""
    outcomes: dict[str, dict[str, int]] = {}
    for reason, rows in dropped.items():
        outcome = next((name for start, name in OUTCOMES.items() if reason.startswith(start)), "other")
        outcomes.setdefault(outcome, {})[reason] = rows
    return outcomes


def _diversity(key: str, diversity: Diversity) -> list[Record]:
    values = {title: cast(float | None, diversity.get(name)) for name, title in MEASURES.items()}
    return [
        {"iteration": key, "measure": title, "value": value} for title, value in values.items() if value is not None
    ]


def _length(key: str, row: IterationRow) -> list[Record]:
    words = row["prepare"]["words"] if row["parent"] is None else row["filter"]["words"]
    return [{"iteration": key, "text": text, "words": value} for text, value in words.items() if value is not None]


def _loss(key: str, row: IterationRow) -> list[Record]:
    return [
        {"iteration": key, "phase": phase.upper(), "step": point["step"], "loss": point["loss"]}
        for phase, counts in trainings(row).items()
        for point in counts.get("log", [])
    ]


def _rewards(key: str, log: list[LogPoint]) -> list[Record]:
    return [
        {"iteration": key, "measure": measure, "step": point["step"], "value": point.get(measure)}
        for measure in ("margin", "accuracy", "chosen", "rejected")
        for point in log
    ]


def pictures(plots: dict[str, list[Record]]) -> dict[str, str]:
    """{plot: SVG} of the plots that have data."""
    from vl_convert import vegalite_to_svg

    return {
        name: vegalite_to_svg(specification(name, records), vl_version="5.20").replace(VEGA_BASE, "")
        for name, records in plots.items()
        if records
    }


def specification(name: str, records: list[Record]) -> Record:
    """A plot's Vega-Lite specification: its template with the data, without the legend of dvc's experiments, and with
    links to the rows."""
    template = json.loads((TEMPLATES / f"{name}.json").read_text(encoding="utf-8"))
    spec: Record = _without_experiments(template)
    if "link" in records[0]:
        spec.get("spec", spec)["encoding"]["href"] = {"condition": {"test": "datum.link", "field": "link"}}
    return {**spec, "data": {"values": records}, "background": "transparent"}


def _without_experiments(node: Any) -> Any:
    if isinstance(node, dict):
        kept = {
            key: value for key, value in node.items() if not (isinstance(value, dict) and value.get("field") == "rev")
        }
        return {key: _without_experiments(value) for key, value in kept.items()}
    return [_without_experiments(value) for value in node] if isinstance(node, list) else node
