"""Comparing two iterations on the same items: the difference of a suite's score, with its 95 % interval.

Paired bootstrap within each benchmark (Koehn 2004; scipy's percentile interval): both models answer the same items, so
what they share cancels, and the interval is narrower than that of two independent scores. Items of one group, such as
the same problem in several languages, are drawn together: they are right or wrong together too.
"""

from dataclasses import dataclass

from stages.core.rows import ItemScore

RESAMPLES = 10_000
BATCH = 100  # resamples at once: 14,000 items × 100 × 8 bytes = 11 MB


@dataclass(frozen=True)
class Difference:
    """Points (percent), with the ends of the interval."""

    points: float
    low: float
    high: float


def difference(rows: list[ItemScore], baseline: list[ItemScore], confidence: float = 0.95) -> Difference:
    """By how many points `rows` is better than `baseline`, both the scores of the same items ({"id", "group",
    "benchmark", "score"}). Raises `ValueError` where they are not the same items."""
    import numpy
    from scipy.stats import bootstrap

    before = {row["id"]: row["score"] for row in baseline}
    if before.keys() != {row["id"] for row in rows}:
        raise ValueError("two iterations can only be compared on the same items")
    sums: dict[str, dict[str, list[float]]] = {}  # by benchmark and group: the gains' sum and number
    for row in sorted(rows, key=lambda row: str(row["id"])):
        total = sums.setdefault(row["benchmark"], {}).setdefault(row["group"], [0.0, 0.0])
        total[0] += 100 * (row["score"] - before[row["id"]])
        total[1] += 1
    groups = [numpy.array(list(sums[benchmark].values())).T for benchmark in sorted(sums)]

    def mean(*drawn: "numpy.ndarray", axis: int = -1) -> "numpy.ndarray":
        means = [
            gain[each].sum(axis=axis) / count[each].sum(axis=axis)
            for (gain, count), each in zip(groups, drawn, strict=True)
        ]
        return numpy.asarray(numpy.stack(means).mean(axis=0))

    data = [numpy.arange(gains.shape[1]) for gains in groups]
    found = bootstrap(
        data, mean, n_resamples=RESAMPLES, batch=BATCH, confidence_level=confidence, method="percentile", rng=0
    ).confidence_interval
    return Difference(*(round(float(each), 4) for each in (mean(*data), found.low, found.high)))


def mean_score(rows: list[ItemScore]) -> float:
    """A suite's score: the mean over its benchmarks, in percent."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["benchmark"], []).append(row["score"])
    return 100 * sum(sum(each) / len(each) for each in scores.values()) / len(scores)
