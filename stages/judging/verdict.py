"""Reading a verdict: only at its own place, the end of the judge's own completion."""

import re
from collections.abc import Sequence
from statistics import fmean


def score(completion: str, verdict: re.Pattern[str]) -> float | None:
    """The verdict's named groups, summed; None (missing, never 0) where it is not there or outside 0–10.

    The pattern ends in `\\Z`, so a score that the judge merely quotes from the response, earlier on, is not read.
    """
    found = verdict.search(completion)
    if not found:
        return None
    try:
        total = sum(float(part) for part in found.groupdict().values())
    except (TypeError, ValueError):  # a group that is empty or no number: nothing that could be read
        return None
    return total if 0 <= total <= 10 else None


def mean_score(scores: Sequence[float | None]) -> float | None:
    """The mean of the readable scores (paper: of all, an unreadable one counted as 0); None if there is none."""
    readable = [each for each in scores if each is not None]
    return round(fmean(readable), 4) if readable else None
