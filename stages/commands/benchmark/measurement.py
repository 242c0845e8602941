"""A row of the benchmark's table: one measurement, its baseline, and the target that the ratio must reach."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """What was measured and how it compares."""

    what: str
    against: str  # the baseline, in words
    measured: float
    unit: str  # s, %, calls or nothing
    ratio: float | None  # to the baseline
    target: str
    met: bool


def speedup(what: str, against: str, seconds: float, baseline: float, least: float) -> Measurement:
    """Seconds against a baseline's seconds; it must be at least `least` times as fast."""
    ratio = baseline / seconds
    return Measurement(what, against, seconds, "s", ratio, f"≥ {least:g}", ratio >= least)


def at_most(what: str, against: str, measured: float, baseline: float, most: float, unit: str = "s") -> Measurement:
    """A quantity that may be at most `most` times the baseline's."""
    ratio = measured / baseline
    return Measurement(what, against, measured, unit, ratio, f"≤ {most:g}", ratio <= most)


def within(what: str, seconds: float, most: float) -> Measurement:
    """Seconds without a baseline; they must not exceed `most`."""
    return Measurement(what, "", seconds, "s", None, f"≤ {most:g} s", seconds <= most)


def timed(call: Callable[[], object]) -> float:
    """Wall time of a call, in seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def best_of(runs: int, call: Callable[[], object]) -> float:
    """The shortest wall time of several runs, in seconds."""
    return min(timed(call) for _ in range(runs))
