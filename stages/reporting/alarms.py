"""Alarms: known failures of self-training, each detected by a rule, with advice from the paper's analysis.

An alarm is {"name", "iteration", "finding", "advice"}. The thresholds are `alarms` in params.yaml. Rules look at
validation scores and counts; the test part decides nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from statistics import fmean
from typing import Any, TypedDict

from stages.reporting.summary import Gain, IterationRow, Scores, is_stopped, with_interval

# Completes "An alarm fires for an iteration if …", with the names of the thresholds.
RULES = {
    "decline": "validation is worse than in the best iteration before it: at confidence level {decline}, the whole "
    "interval of the difference lies below 0",
    "oscillation": "validation has reversed its direction at least {oscillation} times, the last time here; only steps "
    "whose interval excludes 0 count",
    "slow improvement": "the chain ends here after two or more iterations, and its best validation score is less than "
    "{slow} points per iteration above the warm start's",
    "judge collapse": "the standard deviation of the judge's scores is below {judge_spread}, or the share of them that "
    "round to the same number is above {judge_same}; with review.scale: quantile, only if the share of equal scores is",
    "duplicates": "the share of new instructions that repeat an earlier one is above {duplicates} and has grown since "
    "the iteration before",
    "length drift": "the kept responses are, on average, more than {max_length_ratio} times longer or shorter than the "
    "seed set's",
    "unreadable verdicts": "the share of readable verdicts in review or assess is below {min_parsed}",
    "few pairs": "there are fewer than {min_pairs} new pairs and DPO is enabled",
    "falling rewards": "through DPO, the chosen and the rejected responses' mean rewards both fall by more than "
    "{rewards_fall}, from the first tenth of its logged steps to the last",
}
ADVICE = {
    "decline": "The judge is drifting or the filters are too loose. Let the warm start judge (iterations.t.judge: 0), "
    "replay more judge-training rows (select.max_judge), raise select.min_sft_score or select.min_margin, or use the "
    "model in best/. evaluate.stop_on: decline ends such a chain by itself.",
    "oscillation": "SFT and DPO undo each other's work. Lower dpo.learning_rate or sft.learning_rate, or bring "
    "select.max_sft and select.max_pairs closer together.",
    "slow improvement": "Too little of the data is new. Raise generate.temperature, samples or generate.max_low, or "
    "use a larger and more diverse seed set.",
    "judge collapse": "Where scores lie close together, absolute thresholds mean little: with review.scale: quantile, "
    "ranks are compared instead. A judge whose scores are in no order either (judging %) selects at random: train it "
    "on more seed.reviews, with low and high scores; lower the learning rates; or try review.estimator: expected or "
    "elicited.",
    "duplicates": "The model repeats itself. Raise generate.temperature or samples, generate from more seeds "
    "(generate.max_low), or end the chain here.",
    "length drift": "The judge may reward length instead of quality. Tighten filter.max_response_words or "
    "filter.min_response_words, and look at the sampled pairs in report.html.",
    "unreadable verdicts": "Adapt prompts/<set>/review to what the model writes, train the judge on more seed.reviews, "
    "or raise review.max_tokens if reviews are cut off.",
    "few pairs": "DPO has little to learn from. Lower select.min_margin, raise samples or generate.max_high, or raise "
    "review.samples for finer-grained scores.",
    "falling rewards": "DPO makes the chosen responses less likely, too. Add an NLL term on them (dpo.nll), pull more "
    "strongly towards the reference (raise dpo.beta), or lower dpo.learning_rate.",
}


def rules(thresholds: dict[str, Any]) -> dict[str, str]:
    """{alarm: its rule, with the thresholds filled in}."""
    return {name: rule.format_map(thresholds) for name, rule in RULES.items()}


class Alarm(TypedDict):
    """A failure of self-training that was seen, and what to do about it."""

    name: str
    iteration: str
    finding: str
    advice: str


def detect(rows: dict[str, IterationRow], scores: Scores, thresholds: dict[str, Any]) -> list[Alarm]:
    """The alarms of all iterations that ran, in the iterations' order. `rows` is {iteration: row} of the summary."""
    alarms: list[Alarm] = []
    for key, row in rows.items():
        if row["parent"] is not None and not is_stopped(row):
            alarms += score_alarms(key, scores, thresholds)
            alarms += count_alarms(key, rows, thresholds)
    return alarms


def unmeasured(rows: dict[str, IterationRow], scores: Scores) -> list[str]:
    """The alarms that could not fire in an iteration that ran, since what they look at was not measured there."""
    has_intervals = None if scores.of_one_group("validation") else True
    measures: dict[str, Callable[[IterationRow], object]] = {
        "decline": lambda _: has_intervals,
        "oscillation": lambda _: has_intervals,
        "judge collapse": lambda row: row["assess"]["scores"],
        "duplicates": lambda row: row["filter"]["diversity"]["near_duplicates"],
        "length drift": lambda row: row["filter"]["words"]["response"],
        "falling rewards": lambda row: row["dpo"].get("passed_on") or changes_of_rewards(row),
    }
    ran = {key: row for key, row in rows.items() if row["parent"] is not None and not is_stopped(row)}
    missing = {name: [key for key, row in ran.items() if measure(row) is None] for name, measure in measures.items()}
    return [f"{name} in iteration {', '.join(keys)}" for name, keys in missing.items() if keys]


def score_alarms(key: str, scores: Scores, thresholds: dict[str, Any]) -> list[Alarm]:
    """An iteration's alarms from validation scores."""
    return [
        *_alarms("decline", key, decline(key, scores, thresholds["decline"])),
        *_alarms("oscillation", key, oscillation(key, scores, thresholds["oscillation"], thresholds["decline"])),
        *_alarms("slow improvement", key, slow(key, scores, thresholds["slow"])),
    ]


def count_alarms(key: str, rows: dict[str, IterationRow], thresholds: dict[str, Any]) -> list[Alarm]:
    """An iteration's alarms from its stages' counts, compared with its parent and the warm start."""
    row, warm_start = rows[key], rows["0"]
    parent = rows[row["parent"] or "0"]
    spread, same = thresholds["judge_spread"], thresholds["judge_same"]
    return [
        *_alarms("judge collapse", key, judge_collapse(row, spread, same)),
        *_alarms("duplicates", key, duplicates(row, parent, thresholds["duplicates"])),
        *_alarms("length drift", key, length_drift(row, warm_start, thresholds["max_length_ratio"])),
        *_alarms("unreadable verdicts", key, unreadable(row, thresholds["min_parsed"])),
        *_alarms("few pairs", key, few_pairs(row, thresholds["min_pairs"])),
        *_alarms("falling rewards", key, falling_rewards(row, thresholds["rewards_fall"])),
    ]


def _alarms(name: str, iteration: str, findings: Iterable[str]) -> Iterator[Alarm]:
    for finding in findings:
        yield {"name": name, "iteration": iteration, "finding": finding, "advice": ADVICE[name]}


def decline(key: str, scores: Scores, confidence: float) -> Iterator[str]:
    """Validation is worse than in the best ancestor, by a paired test on the same items."""
    best = scores.best_of(scores.ancestry(key)[:-1])
    change = scores.difference(key, best, "validation", confidence)
    if change.is_loss:
        points: Gain = {"points": change.points, "low": change.low, "high": change.high}
        yield f"validation {with_interval(points)} points against iteration {best}"


def oscillation(key: str, scores: Scores, reversals: int, confidence: float) -> Iterator[str]:
    """Validation went up and down in turn, the last reversal here. Steps that may be chance are ignored."""
    ancestry = scores.ancestry(key)
    steps = [scores.difference(child, parent, "validation", confidence) for parent, child in pairwise(ancestry)]
    signs = [1 if step.is_gain else -1 for step in steps if step.is_gain or step.is_loss]
    turns = sum(sign != following for sign, following in pairwise(signs))
    turned_here = (steps[-1].is_gain or steps[-1].is_loss) and signs[-2:] in ([1, -1], [-1, 1])
    if turned_here and turns >= reversals:
        trail = " → ".join(f"{scores.validation(iteration):.1f}" for iteration in ancestry)
        yield f"validation reversed its direction {turns} times: {trail}"


def slow(key: str, scores: Scores, points: float) -> Iterator[str]:
    """At the end of a chain of at least two iterations: validation rose by fewer points per iteration than `points`."""
    ancestry = scores.ancestry(key)
    gain = scores.validation(scores.best_of(ancestry)) - scores.validation("0")
    pace = gain / (len(ancestry) - 1)
    if key in scores.leaves() and len(ancestry) > 2 and pace < points:
        yield f"the best validation score is {pace:.2f} points per iteration above the warm start's"


def judge_collapse(row: IterationRow, min_spread: float, max_same: float) -> Iterator[str]:
    """The judge's scores of new rows lie close together: their standard deviation is small, or most round to the same
    number. Where ranks are compared, that matters only if most are equal."""
    scores = row["assess"]["scores"]
    if not scores:
        return
    if ranks := row["select"].get("ranks"):
        if ranks["same"] > max_same:
            yield f"{ranks['same']:.0%} of the judge's scores are equal, so their ranks are too"
        return
    most = max(scores["nearest"])
    same = most / sum(scores["nearest"])
    if scores["spread"] < min_spread:
        spread, mean = scores["spread"], scores["mean"]
        yield f"the judge's scores lie close together, with a standard deviation of {spread:.2f} around {mean:.1f}"
    elif same > max_same:
        yield f"{same:.0%} of the judge's scores round to {scores['nearest'].index(most)}"


def duplicates(row: IterationRow, parent: IterationRow, max_share: float) -> Iterator[str]:
    """Many new instructions repeat an earlier one, and more than in the parent."""
    share = row["filter"]["diversity"]["near_duplicates"]
    before = (parent["filter"]["diversity"]["near_duplicates"] if "filter" in parent else 0.0) or 0.0
    if share is not None and share > max(max_share, before):
        yield f"{share:.0%} of the new instructions repeat an earlier one, after {before:.0%} in the iteration before"


def length_drift(row: IterationRow, warm_start: IterationRow, max_ratio: float) -> Iterator[str]:
    """The kept responses are much longer or shorter than the seed set's, in mean words."""
    words, seed_words = row["filter"]["words"]["response"], warm_start["prepare"]["words"]["response"]
    if words and seed_words and not 1 / max_ratio <= words / seed_words <= max_ratio:
        yield f"responses have {words:.1f} words on average, the seed set's {seed_words:.1f}"


def unreadable(row: IterationRow, min_share: float) -> Iterator[str]:
    """Too few verdicts can be read, in review or in assess."""
    for stage, counts in (("review", row["review"]), ("assess", row["assess"])):
        verdicts = counts["verdicts"]
        if verdicts["written"] and verdicts["readable"] / verdicts["written"] < min_share:
            yield f"{verdicts['readable']:,} of {verdicts['written']:,} verdicts in {stage} are readable"


def few_pairs(row: IterationRow, min_pairs: int) -> Iterator[str]:
    """Fewer new pairs than DPO needs, unless it is switched off."""
    pairs = row["select"]["pairs"]["new"]
    if pairs < min_pairs and row["dpo"].get("passed_on") != "dpo.enabled is false":
        yield f"{pairs:,} new pairs"


def falling_rewards(row: IterationRow, most: float) -> Iterator[str]:
    """Through DPO, the chosen and the rejected responses both become less likely, against the reference."""
    changes = changes_of_rewards(row)
    if changes and max(changes) < -most:
        chosen, rejected = changes
        yield f"the mean reward of chosen responses changed by {chosen:+.2f}, of rejected ones by {rejected:+.2f}"


def changes_of_rewards(row: IterationRow) -> tuple[float, float] | None:
    """By how much the mean rewards of the chosen and of the rejected responses changed through DPO, from the first
    tenth of the logged points to the last, each at least a point. None: DPO was skipped, or has fewer than two points,
    or was logged without rewards."""
    log = row["dpo"].get("log", [])
    rewards = [(point["chosen"], point["rejected"]) for point in log if "chosen" in point and "rejected" in point]
    if len(rewards) < 2:
        return None
    width = -(-len(rewards) // 10)
    (chosen, rejected), (last_chosen, last_rejected) = (
        (fmean(side) for side in zip(*part, strict=True)) for part in (rewards[:width], rewards[-width:])
    )
    return last_chosen - chosen, last_rejected - rejected
