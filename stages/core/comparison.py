"""Comparing two iterations on the same items: the difference of a suite's score, with its 95 % interval.

Paired bootstrap over items, within each benchmark (Koehn 2004; scipy's percentile interval): both models answer the
same items, so what they share cancels, and the interval is narrower than that of two independent scores.
"""

from dataclasses import dataclass

from stages.core.records import Record

RESAMPLES = 10_000
BATCH = 100  # resamples at once: 14,000 items × 100 × 8 bytes = 11 MB


@dataclass(frozen=True)
class Difference:
    """Points (percent), with the ends of the interval."""

    points: float
    low: float
    high: float


def difference(rows: list[Record], baseline: list[Record], confidence: float = 0.95) -> Difference:
    """By how many points `rows` is better than `baseline`, both the scores of the same items ({"id", "benchmark",
    "score"}). Raises `ValueError` where they are not the same items."""
    import numpy
    from scipy.stats import bootstrap

    before = {row["id"]: row["score"] for row in baseline}
    if before.keys() != {row["id"] for row in rows}:
        raise ValueError("two iterations can only be compared on the same items")
    gains: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda row: str(row["id"])):
        gains.setdefault(row["benchmark"], []).append(100 * (row["score"] - before[row["id"]]))

    def mean(*benchmarks: "numpy.ndarray", axis: int = -1) -> "numpy.ndarray":
        means = numpy.stack([each.mean(axis=axis) for each in benchmarks])
        return numpy.asarray(means.mean(axis=0))

    data = [numpy.array(gains[name]) for name in sorted(gains)]
    found = bootstrap(
        data, mean, n_resamples=RESAMPLES, batch=BATCH, confidence_level=confidence, method="percentile", rng=0
    ).confidence_interval
    return Difference(*(round(float(each), 4) for each in (mean(*data), found.low, found.high)))


def mean_score(rows: list[Record]) -> float:
    """A suite's score: the mean over its benchmarks, in percent."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["benchmark"], []).append(row["score"])
    return 100 * sum(sum(each) / len(each) for each in scores.values()) / len(scores)
