"""The scale on which scores are compared with `threshold`, `select.min_sft_score` and `select.min_margin`.

`review.scale: absolute` compares the judge's scores as they are. `quantile` compares ranks in the judge's own
distribution: a score's rank is 10 times the share of the distribution's scores that are lower. So a rank above 7 means
"above more than 70 % of them", equal scores have equal ranks, and the lowest has 0. The distribution is all that this
iteration's judge has scored when the comparison is made: the iteration's reviewed seed set in `generate`, that and its
assessed rows in `select`, each row once. Rows without a score are not in it.

Ranks are only compared. Rows keep the judge's scores, which a later iteration ranks again, in its own distribution.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable

from stages.core.counts import Ranks
from stages.core.verdict import HIGHEST

Scale = Callable[[float], float]  # from a score to what is compared, both 0–10


def absolute(score: float) -> float:
    """The score itself."""
    return score


def quantile(scores: Iterable[float | None]) -> Scale:
    """The rank of a score among `scores`."""
    ordered = sorted(score for score in scores if score is not None)
    return lambda score: HIGHEST * bisect_left(ordered, score) / len(ordered)


def ranks(name: str, scores: Iterable[float | None]) -> Ranks | None:
    """What the counts say of a distribution in which scores are ranked; None if they are compared as they are, or if
    there are none."""
    known = [score for score in scores if score is not None]
    if name == "absolute" or not known:
        return None
    return {"scores": len(known), "same": round(max(Counter(known).values()) / len(known), 4)}


def scale_of(name: str, scores: Iterable[float | None]) -> Scale:
    """The scale that `review.scale` names, for scores that are compared in the distribution `scores`."""
    return quantile(scores) if name == "quantile" else absolute
