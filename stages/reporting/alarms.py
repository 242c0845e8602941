"""The failure signatures of self-training, found by rule; each with the advice that the paper's analysis gives.

An alarm is {"name", "iteration", "said", "advice"}. The thresholds are the section `alarms` of params.yaml. Scores are
those of the validation part: the test part is never looked at to decide anything.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from stages.core.records import Record
from stages.reporting.summary import Scores, interval

# When an alarm is raised, with the names of the thresholds.
RULES = {
    "decline": "validation is worse than in the best iteration before it: the interval of level {decline} of the "
    "difference is all below 0",
    "oscillation": "validation turned between up and down {oscillation} times or more, by steps outside such an "
    "interval, the last time here",
    "slow improvement": "at the end of a path of two iterations or more, the best validation is less than {slow} "
    "points an iteration above the warm start's",
    "judge collapse": "the standard deviation of the judge's scores is below {judge_spread}, or a share of them above "
    "{judge_same} is one and the same",
    "duplicates": "a share of the new instructions above {duplicates} repeats an earlier one, and a larger one than in "
    "the iteration before",
    "length drift": "the responses kept are on average more than {max_length_ratio} times longer or shorter than the "
    "seed set's",
    "unreadable verdicts": "of the verdicts in review or in assess, a share below {min_parsed} can be read",
    "few pairs": "there are fewer than {min_pairs} new pairs, and DPO is not switched off",
}
ADVICE = {
    "decline": "The judge drifts or the filters are too loose: let the warm start judge (iterations.t.judge: 0), "
    "replay more judge-training rows (select.max_judge), raise select.min_sft_score or select.min_margin, or use "
    "best/; evaluate.stop_on: decline ends the chain by itself.",
    "oscillation": "SFT and DPO undo each other's work: lower dpo.learning_rate or sft.learning_rate, or bring "
    "select.max_sft and select.max_pairs nearer to each other.",
    "slow improvement": "There is too little that is new: raise generate.temperature, samples or generate.max_low, or "
    "give a larger and more diverse seed set.",
    "judge collapse": "A judge that says the same of everything selects at random: train it on more seed.reviews, low "
    "and high ones, lower the learning rates, or try review.estimator: expected.",
    "duplicates": "The model repeats itself: raise generate.temperature or samples, generate from other seeds "
    "(generate.max_low), or end the chain here.",
    "length drift": "The judge may prefer a length, not a quality: bound filter.max_response_words or "
    "filter.min_response_words, and look at the pairs below.",
    "unreadable verdicts": "Adapt prompts/<set>/review to what the model writes, train the judge on more "
    "seed.reviews, or raise review.max_tokens where reviews are cut.",
    "few pairs": "DPO has little to learn from: lower select.min_margin, raise samples or generate.max_high, or raise "
    "review.samples for finer scores.",
}


def rules(thresholds: dict[str, Any]) -> dict[str, str]:
    """{alarm: when it is raised}, of all that are looked for."""
    return {name: rule.format_map(thresholds) for name, rule in RULES.items()}


def found(rows: Record, scores: Scores, thresholds: dict[str, Any]) -> list[Record]:
    """Every alarm of every iteration that ran, in the order of the iterations."""
    alarms = []
    for key, row in rows.items():
        if row["parent"] is None or row["review"].get("stopped"):
            continue
        alarms += [_alarm("decline", key, said) for said in decline(key, scores, thresholds["decline"])]
        alarms += [_alarm("oscillation", key, said) for said in oscillation(key, scores, thresholds)]
        alarms += [_alarm("slow improvement", key, said) for said in slow(key, scores, thresholds["slow"])]
        alarms += [_alarm("judge collapse", key, said) for said in judge_collapse(row, thresholds)]
        alarms += [_alarm("duplicates", key, said) for said in duplicates(row, rows, thresholds["duplicates"])]
        alarms += [
            _alarm("length drift", key, said) for said in length_drift(row, rows["0"], thresholds["max_length_ratio"])
        ]
        alarms += [_alarm("unreadable verdicts", key, said) for said in unreadable(row, thresholds["min_parsed"])]
        alarms += [_alarm("few pairs", key, said) for said in few_pairs(row, thresholds["min_pairs"])]
    return alarms


def _alarm(name: str, iteration: str, said: str) -> Record:
    return {"name": name, "iteration": iteration, "said": said, "advice": ADVICE[name]}


def decline(key: str, scores: Scores, confidence: float) -> Iterator[str]:
    """Worse than the best iteration before it on its path, on the same items."""
    best = scores.best_of(scores.path(key)[:-1])
    change = scores.compared(key, best, "validation", confidence)
    if change.high < 0:
        yield f"validation {interval(vars(change))} points against iteration {best}"


def oscillation(key: str, scores: Scores, thresholds: dict[str, Any]) -> Iterator[str]:
    """Up and down in turn: steps between neighbours that are more than chance, each the other way than the last one."""
    path = scores.path(key)
    confidence = thresholds["decline"]
    steps = [scores.compared(here, before, "validation", confidence) for before, here in pairwise(path)]
    signs = [1 if step.low > 0 else -1 for step in steps if step.low > 0 or step.high < 0]
    turns = sum(one != other for one, other in pairwise(signs))
    turned = (steps[-1].low > 0 or steps[-1].high < 0) and signs[-2:] in ([1, -1], [-1, 1])
    if turned and turns >= thresholds["oscillation"]:
        trail = " → ".join(f"{scores.validation(each):.1f}" for each in path)
        yield f"validation turned {turns} times: {trail}"


def slow(key: str, scores: Scores, points: float) -> Iterator[str]:
    """At the end of a path of two iterations or more: less than so many points an iteration."""
    path = scores.path(key)
    pace = (scores.validation(scores.best_of(path)) - scores.validation("0")) / (len(path) - 1)
    if key in scores.leaves() and len(path) > 2 and pace < points:
        yield f"validation rose by {pace:+.2f} points an iteration, over {len(path) - 1} iterations"


def judge_collapse(row: Record, thresholds: dict[str, Any]) -> Iterator[str]:
    """The scores of new rows hardly differ."""
    given = row["assess"]["scores"]
    if not given:
        return
    same = max(given["nearest"]) / sum(given["nearest"])
    if given["spread"] < thresholds["judge_spread"]:
        yield f"the judge's scores have a standard deviation of {given['spread']:.2f} around {given['mean']:.1f}"
    elif same > thresholds["judge_same"]:
        yield f"{same:.0%} of the judge's scores are {given['nearest'].index(max(given['nearest']))}"


def duplicates(row: Record, rows: Record, share: float) -> Iterator[str]:
    """Many new instructions repeat an earlier one, and more than in the iteration before."""
    here = row["filter"]["diversity"]["near_duplicates"]
    before = rows[row["parent"]]["filter"]["diversity"]["near_duplicates"] if "filter" in rows[row["parent"]] else 0.0
    if here is not None and here > max(share, before or 0.0):
        yield f"{here:.0%} of the new instructions repeat an earlier one, after {before or 0.0:.0%}"


def length_drift(row: Record, warm_start: Record, factor: float) -> Iterator[str]:
    """What is kept is much longer or shorter than the seed set's responses."""
    here, seed = row["filter"]["words"]["response"], warm_start["prepare"]["words"]["response"]
    if here and seed and not 1 / factor <= here / seed <= factor:
        yield f"responses have {here:.1f} words on average, those of the seed set {seed:.1f}"


def unreadable(row: Record, least: float) -> Iterator[str]:
    for stage in ("review", "assess"):
        verdicts = row[stage]["verdicts"]
        if verdicts["written"] and verdicts["readable"] / verdicts["written"] < least:
            yield f"{stage}: {verdicts['readable']:,} of {verdicts['written']:,} verdicts can be read"


def few_pairs(row: Record, least: int) -> Iterator[str]:
    """Fewer than DPO needs, unless it is switched off."""
    new = row["select"]["pairs"]["new"]
    if new < least and row["dpo"].get("passed_on") != "dpo.enabled is false":
        yield f"{new:,} new pairs"
