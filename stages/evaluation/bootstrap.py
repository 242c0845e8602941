"""The difference of a suite's score between two iterations, on the same items, with its 95 % confidence interval.

Paired bootstrap within each benchmark (Koehn 2004; scipy's percentile interval): both models answer the same items, so
what makes an item hard for both cancels out, and the interval is narrower than that of two independent scores. Items of
one group, such as the same problem in several languages, are resampled together, since their scores are correlated. A
benchmark whose items are all of one group has nothing to resample: there is no interval then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.core.rows import ItemScore

if TYPE_CHECKING:
    import numpy

RESAMPLES = 10_000
BATCH = 100  # resamples at once: 14,000 items × 100 × 8 bytes = 11 MB


@dataclass(frozen=True)
class Difference:
    """A difference of two scores in percentage points, and the ends of its confidence interval; None: there is none."""

    points: float
    low: float | None
    high: float | None

    @property
    def is_gain(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low is not None and self.low > 0

    @property
    def is_loss(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.high is not None and self.high < 0


def difference(rows: list[ItemScore], baseline: list[ItemScore], confidence: float = 0.95) -> Difference:
    """By how many points `rows` score better than `baseline`, two models' scores on the same items; without an interval
    if a benchmark has one group. Raises `ValueError` if the items are not the same."""
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
    points = round(float(mean(*indices)), 4)
    if min(map(len, indices)) == 1:
        return Difference(points, None, None)
    interval = bootstrap(
        indices, mean, n_resamples=RESAMPLES, batch=BATCH, confidence_level=confidence, method="percentile", rng=0
    ).confidence_interval
    return Difference(points, round(float(interval.low), 4), round(float(interval.high), 4))


def of_one_group(rows: list[ItemScore]) -> list[str]:
    """The benchmarks whose items are all of one group."""
    groups: dict[str, set[str]] = {}
    for row in rows:
        groups.setdefault(row["benchmark"], set()).add(row["group"])
    return sorted(benchmark for benchmark in groups if len(groups[benchmark]) == 1)


def mean_score(rows: list[ItemScore]) -> float:
    """A suite's score: the mean over its benchmarks of their mean score, in percent."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["benchmark"], []).append(row["score"])
    return 100 * sum(sum(values) / len(values) for values in scores.values()) / len(scores)


def paired_interval(
    statistic: "Callable[..., numpy.ndarray]", columns: "Sequence[numpy.ndarray]", digits: int
) -> tuple[float | None, float | None]:
    """The ends of the 95 % interval of a statistic of rows, given by column; rows are resampled whole. `statistic`
    takes the columns and the `axis` along which the rows lie. (None, None) for fewer than two rows."""
    from scipy.stats import bootstrap

    if len(columns[0]) < 2:
        return None, None
    interval = bootstrap(
        columns, statistic, n_resamples=RESAMPLES, batch=BATCH, paired=True, vectorized=True, method="percentile", rng=0
    ).confidence_interval
    return round(float(interval.low), digits), round(float(interval.high), digits)
