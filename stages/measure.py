"""measure: what only a world with ground truth can tell, after the loop and outside it.

    python -m stages.measure --iteration 1

How often the judge was right, how many preference pairs are in the right order, how much of what was selected is
correct. On data that is not of this world nothing is known, and the counts say so.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from typer import Option

from stages.core.command import run
from stages.core.progress import say
from stages.core.records import Record, counts_file, read, write_json
from stages.microworld.world import oracle, split_of

ANSWER = re.compile(r"(?:answer is|^is|^maybe|^i think|^guess) ([^ .]+)")
JUDGED_RIGHT = 4.0  # a score from here on calls the answer right: the world's own reviews give wrong ones at most 3


def correct(prompt: str, response: str) -> bool | None:
    """Whether the response answers the problem; None where the prompt is not a well-formed problem of this world."""
    problem = oracle(prompt)
    if problem is None:
        return None
    answers = ANSWER.findall(response)
    return bool(answers) and answers[-1] == problem.solution.answer


def share(known: Iterable[bool | None]) -> dict[str, float | int | None]:
    """{"percent", "of": rows that the world knows}"""
    values = [each for each in known if each is not None]
    return {"percent": round(100 * sum(values) / len(values), 2) if values else None, "of": len(values)}


def held_out(prompt: str) -> bool | None:
    """Whether a problem may be one of the benchmark's: worded otherwise, it passes the decontamination by n-grams."""
    problem = oracle(prompt)
    return None if problem is None else split_of(problem) != "train"


def judged_right(row: Record) -> bool | None:
    truth = correct(row["prompt"], row["response"])
    return None if truth is None else (row["score"] >= JUDGED_RIGHT) == truth


def in_order(pair: Record) -> bool | None:
    """Whether chosen is right and rejected wrong; None where both are right or both wrong."""
    chosen, rejected = (correct(pair["prompt"], pair[side]) for side in ("chosen", "rejected"))
    return None if chosen is None or chosen == rejected else bool(chosen)


def measure(assessed: list[Record], sft: list[Record], pairs: list[Record], iteration: str) -> Record:
    scored = [row for row in assessed if row["score"] is not None]
    instructions = sorted({row["prompt"] for row in assessed if row["route"] == "new"})
    new_sft = [row for row in sft if row.get("iteration") == iteration]
    new_pairs = [row for row in pairs if row["iteration"] == iteration]
    return {
        "judge_right": share(judged_right(row) for row in scored),
        "instructions_well_posed": share(oracle(instruction) is not None for instruction in instructions),
        "sft_rows_correct": share(correct(row["prompt"], row["completion"]) for row in new_sft),
        "sft_rows_held_out": share(held_out(row["prompt"]) for row in new_sft),
        "pairs_in_order": share(in_order(pair) for pair in new_pairs),
    }


def main(iteration: Annotated[str, Option(help="whose rows to measure, iterations/ITERATION")]) -> None:
    """Measure an iteration against the world's ground truth."""
    here = Path("iterations", iteration)
    found = measure(read(here / "assess.jsonl"), read(here / "sft.jsonl"), read(here / "pairs.jsonl"), iteration)
    write_json(counts_file("measure", iteration), found)
    said = ", ".join(f"{name.replace('_', ' ')} {each['percent']} % of {each['of']:,}" for name, each in found.items())
    say(f"measure@{iteration}: {said}")


if __name__ == "__main__":
    run(main)
