"""Reading a verdict: only where it belongs, at the end of the judge's own completion."""

import re
from collections.abc import Sequence
from statistics import fmean

HIGHEST = 10  # score


def score(completion: str, pattern: re.Pattern[str]) -> float | None:
    """The sum of the verdict's named groups, 0–10; None (missing, never 0) if it is not there or outside that range.

    The pattern ends in `\\Z`, so a score that the judge merely quotes from the response, earlier on, is not read.
    """
    match = pattern.search(completion)
    if not match:
        return None
    try:
        total = sum(float(part) for part in match.groupdict().values())
    except (TypeError, ValueError):  # a group that is empty or not a number
        return None
    return total if 0 <= total <= HIGHEST else None


def mean_score(scores: Sequence[float | None]) -> float | None:
    """The mean of the readable scores, None without any. The reference code counts an unreadable one as 0."""
    readable = [score for score in scores if score is not None]
    return round(fmean(readable), 4) if readable else None
