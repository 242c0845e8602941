"""measure: what only ground truth can tell, after the loop and outside it.

    python -m stages.measure --iteration 1

How often the judge was right, how many preference pairs are in the right order, how much of what was selected is
correct: by the embedded world's oracle, by verifiers where rows have checks (core/checks.py), and by people where they
have labelled rows (`lance label`). About other data nothing is known, and the counts say so.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from typer import Option

from stages.core.command import run
from stages.core.counts import Interval, MeasureCounts, PeopleCounts, Share, VerifiedCounts
from stages.core.params import Params, read_params
from stages.core.progress import say
from stages.core.prompts import final_answer_rule
from stages.core.records import counts_file, read, write_json
from stages.core.rows import ItemScore, JudgedCandidate, PreferencePair, ReviewedPair, ReviewedSeed, SftRow
from stages.data.drawing import judged_pairs, judged_responses, labelled_pairs, labelled_rows
from stages.data.labels import read_labels
from stages.data.votes import FinalAnswer
from stages.evaluation.bootstrap import difference
from stages.evaluation.people import MARGIN, ROUTES, bound_rows, people_counts
from stages.judging import agreement, verifiers
from stages.microworld.world import oracle, split_of

ANSWER = re.compile(r"(?:answer is|^is|^maybe|^i think|^guess) ([^ .]+)")
JUDGED_RIGHT = 4.0  # scores from here on call the answer right: the world's own reviews give wrong ones 3 at most


def correct(prompt: str, response: str) -> bool | None:
    """Whether the response answers the problem; None if the prompt is not a well-formed problem of this world."""
    problem = oracle(prompt)
    if problem is None:
        return None
    answers = ANSWER.findall(response)
    return bool(answers) and answers[-1] == problem.solution.answer


def share(outcomes: Iterable[bool | None]) -> Share:
    """The share of true outcomes among those that are known."""
    booleans = [outcome for outcome in outcomes if outcome is not None]
    return {"percent": round(100 * sum(booleans) / len(booleans), 2) if booleans else None, "of": len(booleans)}


def held_out(prompt: str) -> bool | None:
    """Whether a problem is one of the benchmark's part of the world: in other words it passes the decontamination by
    n-grams."""
    problem = oracle(prompt)
    return None if problem is None else split_of(problem) != "train"


def judged_right(row: ReviewedPair) -> bool | None:
    """Whether the judge's score calls a right response right, or a wrong one wrong; None without either."""
    truth = correct(row["prompt"], row["response"])
    return None if truth is None or row["score"] is None else (row["score"] >= JUDGED_RIGHT) == truth


def in_order(pair: PreferencePair) -> bool | None:
    """Whether chosen is right and rejected wrong; None if both are right or both wrong."""
    chosen, rejected = correct(pair["prompt"], pair["chosen"]), correct(pair["prompt"], pair["rejected"])
    return None if chosen is None or chosen == rejected else chosen


def measure(
    assessed: list[JudgedCandidate], sft: list[SftRow], pairs: list[PreferencePair], iteration: str
) -> MeasureCounts:
    """An iteration's candidates, and what it selected itself."""
    instructions = sorted({row["prompt"] for row in assessed if row["route"] == "new"})
    new_sft, new_pairs = selected(sft, pairs, iteration)
    own = [row for row in assessed if row["route"] == "own"]
    counts: MeasureCounts = {
        "judge_right": share(judged_right(row) for row in assessed),
        "instructions_well_posed": share(oracle(instruction) is not None for instruction in instructions),
        "sft_rows_correct": share(correct(row["prompt"], row["completion"]) for row in new_sft),
        "sft_rows_held_out": share(held_out(row["prompt"]) for row in new_sft),
        "pairs_in_order": share(in_order(pair) for pair in new_pairs),
    }
    if own:
        counts["own_responses_right"] = share(correct(row["prompt"], row["response"]) for row in own)
    return counts


def selected(
    sft: list[SftRow], pairs: list[PreferencePair], iteration: str
) -> tuple[list[SftRow], list[PreferencePair]]:
    """The SFT rows and pairs that the iteration selected itself."""
    new_sft = [row for row in sft if row["kind"] in ("new", "own") and row["iteration"] == iteration]
    return new_sft, [pair for pair in pairs if pair["iteration"] == iteration]


def by_verifiers(
    assessed: list[JudgedCandidate],
    sft: list[SftRow],
    pairs: list[PreferencePair],
    outcomes: dict[agreement.Texts, verifiers.Outcome],
) -> VerifiedCounts:
    """The same by the outcomes of the candidates' checks."""
    return {
        "judge_in_order": interval(agreement.judge_in_order(assessed, outcomes)),
        "sft_rows_passing": interval(agreement.rows_passing(sft, outcomes)),
        "pairs_in_order": interval(agreement.pairs_in_order(pairs, outcomes)),
        "problems": verifiers.problems(outcomes.values()),
    }


def by_people(
    iteration: str, params: Params, assessed: list[JudgedCandidate], final_answer: FinalAnswer
) -> PeopleCounts | None:
    """The same by labels/, of the responses that the judge has scored and of the pairs that they make; None without
    labels."""
    people = read_labels()
    if not people:
        return None
    seeds, scale = read(Path("iterations", iteration, "review.jsonl"), ReviewedSeed), params["review.scale"]
    responses = judged_responses(iteration, seeds, assessed, scale)
    pairs = judged_pairs(iteration, seeds, assessed, scale, params["select.pairs"], final_answer)
    least = {"threshold": params["threshold"], "min_sft_score": params["select.min_sft_score"]}
    bounds = {
        name: bound_rows(least[name], (row.compared for row in responses if row.route in routes))
        for name, routes in ROUTES.items()
        if least[name] is not None
    }
    bounds[MARGIN] = bound_rows(params["select.min_margin"], (pair.margin for pair in pairs))
    number = sum(len(labels) for labels in people.values())
    return people_counts(number, bounds, labelled_rows(responses, people), labelled_pairs(pairs, people))


def interval(items: Iterable[ItemScore]) -> Interval:
    """The mean score of items in percent, with its 95 % interval: a bootstrap over prompts."""
    scored = list(items)
    if not scored:
        return {"percent": None, "of": 0, "low": None, "high": None}
    mean = difference(scored, [{**item, "score": 0.0} for item in scored])
    low, high = (None if end is None else round(end, 2) for end in (mean.low, mean.high))
    return {"percent": round(mean.points, 2), "of": len(scored), "low": low, "high": high}


def main(iteration: Annotated[str, Option(help="the iteration to measure, iterations/ITERATION")]) -> None:
    """Measure an iteration against ground truth."""
    here, params, name = Path("iterations", iteration), read_params("measure"), f"measure@{iteration}"
    assessed = read(here / "assess.jsonl", JudgedCandidate)
    sft, pairs = read(here / "sft.jsonl", SftRow), read(here / "pairs.jsonl", PreferencePair)
    measures = measure(assessed, sft, pairs, iteration)
    functions, final_answer = Path(params["review.checks"]), final_answer_rule(params["prompts"]).read
    outcomes = agreement.verify_candidates(f"{name} checks", assessed, functions, final_answer)
    if outcomes:
        measures["verifiers"] = by_verifiers(assessed, *selected(sft, pairs, iteration), outcomes)
    if (labels := by_people(iteration, params, assessed, final_answer)) is not None:
        measures["people"] = labels
    write_json(counts_file("measure", iteration), measures)
    say(f"{name}: {summary(measures)}")


def summary(measures: MeasureCounts) -> str:
    """What was measured, in a line."""
    shares: dict[str, Share] = {
        "judge right": measures["judge_right"],
        "instructions well posed": measures["instructions_well_posed"],
        "sft rows correct": measures["sft_rows_correct"],
        "sft rows held out": measures["sft_rows_held_out"],
        "pairs in order": measures["pairs_in_order"],
    }
    if "verifiers" in measures:
        verified = measures["verifiers"]
        shares |= {
            "judge in order by verifiers": verified["judge_in_order"],
            "sft rows passing": verified["sft_rows_passing"],
            "pairs in order by verifiers": verified["pairs_in_order"],
        }
    if "people" in measures:
        judge = measures["people"]["judge"]
        shares |= {"judge right at V by people": judge["threshold"], "pairs in order by people": judge["min_margin"]}
    parts = [f"{name} {share['percent']} % of {share['of']:,}" for name, share in shares.items() if share["of"]]
    return ", ".join(parts) or "nothing can be measured"


if __name__ == "__main__":
    run(main)
