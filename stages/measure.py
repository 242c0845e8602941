"""measure: what only a world with ground truth can tell, after the loop and outside it.

    python -m stages.measure --iteration 1

How often the judge was right, how many preference pairs are in the right order, how much of what was selected is
correct. About data that is not of this world nothing is known, and the counts say so.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, cast

from typer import Option

from stages.core.command import run
from stages.core.counts import MeasureCounts, Share
from stages.core.progress import say
from stages.core.records import counts_file, read, write_json
from stages.core.rows import JudgedCandidate, PreferencePair, ReviewedPair, SftRow
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
    new_sft = [row for row in sft if row["kind"] in ("new", "own") and row["iteration"] == iteration]
    own = [row for row in assessed if row["route"] == "own"]
    new_pairs = [pair for pair in pairs if pair["iteration"] == iteration]
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


def main(iteration: Annotated[str, Option(help="the iteration to measure, iterations/ITERATION")]) -> None:
    """Measure an iteration against the world's ground truth."""
    here = Path("iterations", iteration)
    measures = measure(
        read(here / "assess.jsonl", JudgedCandidate),
        read(here / "sft.jsonl", SftRow),
        read(here / "pairs.jsonl", PreferencePair),
        iteration,
    )
    write_json(counts_file("measure", iteration), measures)
    shares = cast(dict[str, Share], measures)
    line = ", ".join(
        f"{name.replace('_', ' ')} {share['percent']} % of {share['of']:,}"
        for name, share in shares.items()
        if share["of"]
    )
    line = line or "nothing can be measured"
    say(f"measure@{iteration}: {line}")


if __name__ == "__main__":
    run(main)
