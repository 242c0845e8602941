"""`review.estimator: expected` and `elicited` against `sampled`: how fast, and how often right by the world's ground
truth."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.commands.benchmark.generation import review_requests
from stages.commands.benchmark.loop import PARAMS, fresh_client, review_rows, seeds
from stages.commands.benchmark.measurement import Measurement, best_of, speedup, timed
from stages.core.rows import ReviewablePair, ReviewedPair
from stages.inference.engines import Sampling
from stages.inference.engines.transformers import TransformersEngine
from stages.measure import judged_right

ROUNDS = 3  # the best of so many, the estimators in turns
SAMPLED: dict[str, Any] = PARAMS["review"]
OTHERS: dict[str, dict[str, Any]] = {
    "expected": {**SAMPLED, "estimator": "expected"},
    "elicited": {**SAMPLED, "estimator": "elicited"},
    "unwritten elicited": {**SAMPLED, "estimator": "elicited", "max_tokens": 0},
}
TARGETS = {"expected": (1.3, 0), "elicited": (1.3, 0), "unwritten elicited": (2, -100)}  # times as fast, points


def estimators(base: Path) -> Iterator[Measurement]:
    """Seconds and agreement with the oracle on all seed pairs, then seconds for long rationales."""
    rows, settings = seeds(None), {"sampled": SAMPLED, **OTHERS}
    seconds, right = dict.fromkeys(settings, float("inf")), dict.fromkeys(settings, 0.0)
    for name in [*settings] * ROUNDS:
        elapsed, scored = review_time(base, rows, settings[name])
        seconds[name] = min(seconds[name], elapsed)
        right[name] = percent_right(scored)
    for name, (times, least) in TARGETS.items():
        against = f"sampled, {SAMPLED['samples']} reviews ({seconds['sampled']:.1f} s)"
        yield speedup(f"{name} review of {len(rows)} pairs", against, seconds[name], seconds["sampled"], times)
        what, against = f"{name}, agreement with the oracle", f"sampled, {right['sampled']:.2f} %"
        points = right[name] - right["sampled"]
        yield Measurement(what, against, right[name], "%", points, f"≥ {least} points", points >= least)
    yield long_rationales(base)


def review_time(base: Path, rows: list[ReviewablePair], settings: dict[str, Any]) -> tuple[float, list[ReviewedPair]]:
    """Seconds that the reviews of `rows` take, and the rows with their scores."""
    scored: list[ReviewedPair] = []
    with fresh_client(base) as client:
        review_rows(client, rows[:8], settings)  # loads the weights
        elapsed = timed(lambda: scored.extend(review_rows(client, rows, settings)))
    return elapsed, scored


def percent_right(rows: list[ReviewedPair]) -> float:
    """How many scores agree with the oracle; a row without a score does not."""
    return 100 * sum(row["score"] is not None and bool(judged_right(row)) for row in rows) / len(rows)


def long_rationales(base: Path) -> Measurement:
    """Rationales of 256 tokens: the default's model would stop earlier, so its end token is taken out of reach."""
    engine = TransformersEngine(base, None)
    engine.ends = {-1}
    drawn, greedy = Sampling(0.7, 0.9, 256, 0), Sampling(0, 1.0, 256, 0, numbers=True)
    three, one = review_requests(engine, 3, limit=64), review_requests(engine, 1, limit=64)
    sampled = best_of(3, lambda: list(engine.complete(three, drawn)))
    expected = best_of(3, lambda: list(engine.complete(one, greedy)))
    against = f"sampled, 3 reviews ({sampled:.1f} s)"
    return speedup("expected, rationales of 256 tokens", against, expected, sampled, 2)
