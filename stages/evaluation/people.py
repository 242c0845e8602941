"""How the judge agrees with people, people with each other, and at which bounds the judge would agree with them best.

A share weighs each labelled row by the number of rows that it stands for (data/drawing.py), and has Wilson's interval
for as many rows as the weights are worth (Kish 1965: the square of their sum over the sum of their squares). It stays
wide where all of a few rows agree. A rank correlation and a difference of shares have a bootstrap's interval.

People's scores are always compared with the present bound: that is what they were asked. The judge's own bound may
move, so that "above 7" in people's words may be "above 5.5" in its own.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations
from math import sqrt
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from stages.core.counts import (
    Agreement,
    BestBound,
    BoundRows,
    Correlation,
    Interval,
    LabelledPair,
    LabelledRow,
    PeopleCounts,
)
from stages.evaluation.bootstrap import paired_interval

if TYPE_CHECKING:
    import numpy

GRID = tuple(half / 2 for half in range(20))  # bounds that are tried, beside the present one: 0 to 9.5
ROUTES = {"threshold": ("seed",), "min_sft_score": ("new", "own")}  # whose scores a bound is compared with
MARGIN = "min_margin"
BOUNDS = (*ROUTES, MARGIN)
Z = 1.959964  # of a 95 % interval


class Case(NamedTuple):
    """A labelled row at a bound: by what share its labels agree, and for how many rows it stands, 0 if it is none of
    those that the bound lets through."""

    agrees: float
    weight: float


def bound_rows(now: float, compared: Iterable[float]) -> BoundRows:
    """A bound with how many of all `compared` scores or margins lie above it and above each bound that is tried."""
    scores = list(compared)
    return {"now": float(now), "above": {str(bound): sum(score > bound for score in scores) for bound in tried(now)}}


def tried(now: float) -> list[float]:
    """The bounds of the grid and the present one."""
    return sorted({*GRID, float(now)})


def people_counts(
    labels: int, bounds: dict[str, BoundRows], rows: list[LabelledRow], pairs: list[LabelledPair]
) -> PeopleCounts:
    """What is known of labelled rows and pairs. `labels`: how many there are in all, of other rows too."""
    names = {name for row in rows for name in row["labels"]} | {name for pair in pairs for name in pair["labels"]}
    here: set[tuple[str, ...]] = {(name, row["id"]) for row in rows for name in row["labels"]}
    here |= {(name, *sorted((pair["chosen"], pair["rejected"]))) for pair in pairs for name in pair["labels"]}
    best = {name: best_bound(name, bounds[name], rows, pairs) for name in bounds}
    return {
        "labels": labels,
        "elsewhere": labels - len(here),
        "people": len(names),
        "bounds": bounds,
        "rows": rows,
        "pairs": pairs,
        "judge": of_judge(bounds, rows, pairs),
        "between": between_people(bounds, rows, pairs),
        "best": {name: bound for name, bound in best.items() if bound},
    }


def pooled(iterations: Sequence[PeopleCounts]) -> PeopleCounts:
    """The counts of several iterations together. A row with the same score in several, such as a seed, is one row."""
    rows: dict[tuple[str, str, float], LabelledRow] = {}
    pairs: dict[tuple[str, str, float], LabelledPair] = {}
    for counts in iterations:
        for row in counts["rows"]:
            weight = rows.get(key := (row["id"], row["route"], row["compared"]), {"weight": 0.0})["weight"]
            rows[key] = {**row, "weight": weight + row["weight"]}
        for pair in counts["pairs"]:
            weight = pairs.get(key := (pair["chosen"], pair["rejected"], pair["margin"]), {"weight": 0.0})["weight"]
            pairs[key] = {**pair, "weight": weight + pair["weight"]}
    first = iterations[0]
    bounds: dict[str, BoundRows] = {
        name: {
            "now": bound["now"],
            "above": {at: sum(counts["bounds"][name]["above"][at] for counts in iterations) for at in bound["above"]},
        }
        for name, bound in first["bounds"].items()
    }
    return people_counts(first["labels"], bounds, list(rows.values()), list(pairs.values()))


def of_judge(bounds: dict[str, BoundRows], rows: list[LabelledRow], pairs: list[LabelledPair]) -> Agreement:
    """How the judge agrees with people at the present bounds."""
    different = {(row["id"], row["score"]): row for row in rows}.values()
    shares = {name: share(cases(name, bounds[name]["now"], bounds, rows, pairs)) for name in bounds}
    return {
        "rank": correlation([(row["score"], fmean(row["labels"].values())) for row in different]),
        "threshold": shares["threshold"],
        "min_sft_score": shares.get("min_sft_score", share([])),
        "min_margin": shares[MARGIN],
    }


def cases(
    name: str, bound: float, bounds: dict[str, BoundRows], rows: list[LabelledRow], pairs: list[LabelledPair]
) -> list[Case]:
    """Each labelled row that a bound is for: how far the judge's score, compared with `bound`, and people's, compared
    with the present one, agree."""
    if name == MARGIN:
        return [Case(fmean(pair["labels"].values()), pair["weight"] * (pair["margin"] > bound)) for pair in pairs]
    now = bounds[name]["now"]
    return [
        Case(fmean((label > now) == (row["compared"] > bound) for label in row["labels"].values()), row["weight"])
        for row in rows
        if row["route"] in ROUTES[name]
    ]


def between_people(
    bounds: dict[str, BoundRows], rows: list[LabelledRow], pairs: list[LabelledPair]
) -> Agreement | None:
    """How people agree with each other, over every two of them that labelled the same; each row counts once. Of pairs
    they are asked about those that the judge is asked about: a small margin is a hard choice for all."""
    scored = [
        [(row["labels"][one], row["labels"][other]) for one, other in combinations(sorted(row["labels"]), 2)]
        for row in {row["id"]: row for row in rows}.values()
    ]
    preferred = [
        [(pair["labels"][one], pair["labels"][other]) for one, other in combinations(sorted(pair["labels"]), 2)]
        for pair in pairs
        if pair["margin"] > bounds[MARGIN]["now"]
    ]
    if not any([*scored, *preferred]):
        return None

    def same_side(name: str) -> Interval:
        if name not in bounds:
            return share([])
        now = bounds[name]["now"]
        return share([Case(fmean((a > now) == (b > now) for a, b in both), 1.0) for both in scored if both])

    return {
        "rank": correlation([(float(one), float(other)) for both in scored for one, other in both]),
        "threshold": same_side("threshold"),
        "min_sft_score": same_side("min_sft_score"),
        "min_margin": share([Case(fmean(1 - abs(a - b) for a, b in both), 1.0) for both in preferred if both]),
    }


def best_bound(name: str, bound: BoundRows, rows: list[LabelledRow], pairs: list[LabelledPair]) -> BestBound | None:
    """The bound with the highest lower end of its agreement's interval, the nearest to the present one of equal ones;
    None without labels. Being the best of many, it is rather too good."""
    now, bounds = bound["now"], {name: bound}
    shares = {at: share(cases(name, at, bounds, rows, pairs)) for at in tried(now)}
    lowest = {at: agreement["low"] for at, agreement in shares.items() if agreement["low"] is not None}
    if not lowest:
        return None
    best = max(lowest, key=lambda at: (lowest[at], -abs(at - now)))
    present, other = cases(name, now, bounds, rows, pairs), cases(name, best, bounds, rows, pairs)
    points, low, high = gain(other, present) if shares[now]["of"] else (None, None, None)
    return {
        "bound": best,
        "agreement": shares[best],
        "now": shares[now],
        "points": points,
        "low": low,
        "high": high,
        "rows": (bound["above"][str(now)], bound["above"][str(best)]),
    }


def share(counted: list[Case]) -> Interval:
    """The weighted share of agreement in percent, with Wilson's 95 % interval; `of`: the rows labelled."""
    weights = [case.weight for case in counted if case.weight]
    if not weights:
        return {"percent": None, "of": 0, "low": None, "high": None}
    part = sum(case.agrees * case.weight for case in counted) / sum(weights)
    size = sum(weights) ** 2 / sum(weight**2 for weight in weights)
    middle, radius = part + Z**2 / (2 * size), Z * sqrt(part * (1 - part) / size + Z**2 / (4 * size**2))
    low, high = ((middle + sign * radius) / (1 + Z**2 / size) for sign in (-1, 1))
    return {
        "percent": round(100 * part, 2),
        "of": len(weights),
        "low": round(100 * max(0.0, low), 2),
        "high": round(100 * min(1.0, high), 2),
    }


def gain(cases: list[Case], baseline: list[Case]) -> tuple[float, float | None, float | None]:
    """By how many points the same rows agree better in `cases` than in `baseline`, with a bootstrap's interval."""
    import numpy

    def points(*columns: "numpy.ndarray", axis: int = -1) -> "numpy.ndarray":
        agrees, weight, agreed, weighed = columns
        new, old = (
            quotient((part * by).sum(axis=axis), by.sum(axis=axis))
            for part, by in ((agrees, weight), (agreed, weighed))
        )
        return numpy.asarray(100 * (new - old))

    rows = [(*new, *old) for new, old in zip(cases, baseline, strict=True)]
    columns = list(numpy.array(rows, dtype=float).T)
    return round(float(points(*columns)), 2), *paired_interval(points, columns, 2)


def correlation(scores: list[tuple[float, float]]) -> Correlation:
    """Spearman's rank correlation of two scores of each row; None where one side has less than two different ones."""
    if min((len(set(side)) for side in zip(*scores, strict=True)), default=0) < 2:
        return {"rank": None, "of": len(scores), "low": None, "high": None}
    import numpy

    one, other = numpy.array(scores, dtype=float).T
    low, high = paired_interval(spearman, [one, other], 4)
    return {"rank": round(float(spearman(one, other)), 4), "of": len(scores), "low": low, "high": high}


def spearman(one: "numpy.ndarray", other: "numpy.ndarray", axis: int = -1) -> "numpy.ndarray":
    """The correlation of ranks along an axis, as `scipy.stats.spearmanr` of two samples; 0 where a side is constant."""
    import numpy
    from scipy.stats import rankdata

    a, b = (rankdata(side, axis=axis) for side in (one, other))
    a, b = (ranks - ranks.mean(axis=axis, keepdims=True) for ranks in (a, b))
    return quotient((a * b).sum(axis=axis), numpy.sqrt((a**2).sum(axis=axis) * (b**2).sum(axis=axis)))


def quotient(part: "numpy.ndarray", whole: "numpy.ndarray") -> "numpy.ndarray":
    """The quotient, 0 where `whole` is 0."""
    import numpy

    return numpy.asarray(numpy.divide(part, whole, out=numpy.zeros(numpy.shape(whole)), where=whole > 0))
