"""The difference of a suite's score between two iterations, on the same items, with its 95 % confidence interval.

Paired bootstrap within each benchmark (Koehn 2004; scipy's percentile interval): both models answer the same items, so
what makes an item hard for both cancels out, and the interval is narrower than that of two independent scores. Items of
one group, such as the same problem in several languages, are resampled together, since their scores are correlated.
"""

from dataclasses import dataclass

from stages.core.rows import ItemScore

RESAMPLES = 10_000
BATCH = 100  # resamples at once: 14,000 items × 100 × 8 bytes = 11 MB


@dataclass(frozen=True)
class Difference:
    """A difference of two scores in percentage points, and the ends of its confidence interval."""

    points: float
    low: float
    high: float


def difference(rows: list[ItemScore], baseline: list[ItemScore], confidence: float = 0.95) -> Difference:
    """By how many points `rows` score better than `baseline`, two models' scores on the same items. Raises `ValueError`
    if the items are not the same."""
    import numpy
    from scipy.stats import bootstrap

    before = {row["id"]: row["score"] for row in baseline}
    if before.keys() != {row["id"] for row in rows}:
        raise ValueError("two iterations can only be compared on the same items")
    sums: dict[str, dict[str, list[float]]] = {}  # by benchmark and group: the sum of the gains, and their number
    for row in sorted(rows, key=lambda row: str(row["id"])):
        total = sums.setdefault(row["benchmark"], {}).setdefault(row["group"], [0.0, 0.0])
        total[0] += 100 * (row["score"] - before[row["id"]])
        total[1] += 1
    groups = [numpy.array(list(sums[benchmark].values())).T for benchmark in sorted(sums)]

    def mean(*resampled: "numpy.ndarray", axis: int = -1) -> "numpy.ndarray":
        """The mean over benchmarks of their mean gain, for the indices of each benchmark's resampled groups."""
        means = [
            gains[indices].sum(axis=axis) / counts[indices].sum(axis=axis)
            for (gains, counts), indices in zip(groups, resampled, strict=True)
        ]
        return numpy.asarray(numpy.stack(means).mean(axis=0))

    indices = [numpy.arange(benchmark.shape[1]) for benchmark in groups]
    interval = bootstrap(
        indices, mean, n_resamples=RESAMPLES, batch=BATCH, confidence_level=confidence, method="percentile", rng=0
    ).confidence_interval
    return Difference(*(round(float(points), 4) for points in (mean(*indices), interval.low, interval.high)))


def mean_score(rows: list[ItemScore]) -> float:
    """A suite's score: the mean over its benchmarks of their mean score, in percent."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["benchmark"], []).append(row["score"])
    return 100 * sum(sum(values) / len(values) for values in scores.values()) / len(scores)
