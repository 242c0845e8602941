"""filter: keep what is of a sensible length, new, and not in the benchmark (paper, section 3.3; the last two are ours).

    python -m stages.filter --rows iterations/1/generated.jsonl --seed iterations/0/seed.jsonl
        --out iterations/1/filtered.jsonl

A new instruction is dropped with all its responses. A text with something that could be taken for a verdict is dropped
too, since the judge would not read it as it is (core/verdict.py). Every dropped row keeps its reason, in dropped.jsonl
and in the counts. docs/filter.md has the rules in their order.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Option

from stages.core.command import run
from stages.core.counts import FilterCounts
from stages.core.params import read_params
from stages.core.progress import progress, say
from stages.core.prompts import InstructionPrompt, ReviewPrompt
from stages.core.records import Tally, counts_file, read, write, write_json
from stages.core.rows import BenchmarkItem, Candidate, DroppedCandidate, Route, SeedRow
from stages.data import lineage
from stages.data.decontamination import HeldOut, held_out
from stages.data.similarity import diversity, near_duplicates, rouge_l, same_words
from stages.data.words import count_words, mean_words

BASE, BENCHMARK = Path("iterations/0/base"), Path("iterations/0/benchmark.jsonl")
Settings = dict[str, Any]  # the section `filter` of params.yaml
Kind = Literal["instruction", "response"]


def own_fault(text: str, kind: Kind, settings: Settings, review: ReviewPrompt) -> str | None:
    """What is wrong with a text by itself: its length in words, or words that would speak for the judge."""
    length = count_words(text)
    if length < settings[f"min_{kind}_words"]:
        return f"{kind} too short"
    if length > settings[f"max_{kind}_words"]:
        return f"{kind} too long"
    return f"{kind} speaks for the judge" if review.speaks_for_the_judge(text) else None


def likeness_fault(text: str, kind: Kind, sources: list[str], siblings: list[str], max_rouge_l: float) -> str | None:
    """Whether a text repeats one that it was made from, or a sibling: the same text, or ROUGE-L above `max_rouge_l`."""

    def is_like(others: list[str]) -> bool:
        return any(text == other or rouge_l(text, other) > max_rouge_l for other in others)

    return f"{kind} like its source" if is_like(sources) else f"{kind} like a sibling" if is_like(siblings) else None


def instruction_faults(
    instructions: dict[str, Candidate],
    settings: Settings,
    review: ReviewPrompt,
    examples: HeldOut,
    benchmark: HeldOut,
    prompts: Mapping[str, str],
) -> dict[str, str]:
    """{new instruction: why it is dropped}. `instructions` has a candidate of each, `prompts` each seed's prompt by its
    id. Sources are all seeds that were shown, siblings the kept instructions of the same seed."""
    faults: dict[str, str] = {}
    kept: dict[str, list[str]] = {}
    with progress("filter instructions", len(instructions)) as advance:
        for instruction, candidate in instructions.items():
            siblings = kept.setdefault(candidate["seed"]["id"], [])
            shots = [prompts[seed] for seed in candidate["lineage"].get("shots", [])]
            sources, max_rouge_l = [candidate["seed"]["prompt"], *shots], settings["max_instruction_rouge_l"]
            fault = own_fault(instruction, "instruction", settings, review)
            fault = fault or likeness_fault(instruction, "instruction", sources, siblings, max_rouge_l)
            if not fault and examples.is_in(instruction):
                fault = "instruction like an example of the prompt"
            if not fault and benchmark.is_in(instruction):
                fault = "in the benchmark"
            if fault:
                faults[instruction] = fault
            else:
                siblings.append(instruction)
            advance(1)
    return faults


def response_faults(candidates: list[Candidate], settings: Settings, review: ReviewPrompt) -> Iterator[str | None]:
    """Why each candidate's response is dropped; None: it is kept.

    A flawed response must differ by ROUGE-L from the original and from other flawed ones. Responses to one new
    instruction, and own ones, only have to be different texts: a right and a wrong answer may differ in a single word,
    and DPO learns from their pair. An own response may be the original, which the model then found by itself.
    """
    kept: dict[str, dict[Route, list[str]]] = {}
    with progress("filter responses", len(candidates)) as advance:
        for candidate in candidates:
            siblings = kept.setdefault(candidate["prompt"], {route: [] for route in lineage.ROUTES})
            route, response = candidate["route"], candidate["response"]
            fault = own_fault(response, "response", settings, review)
            if not fault and any(response in texts for texts in siblings.values()):
                fault = "response like a sibling"
            if not fault and route == "flawed":
                originals, max_rouge_l = [candidate["seed"]["response"]], settings["max_response_rouge_l"]
                fault = likeness_fault(response, "response", originals, siblings["flawed"], max_rouge_l)
            if not fault:
                siblings[route].append(response)
            yield fault
            advance(1)


def new_instructions(candidates: list[Candidate]) -> dict[str, Candidate]:
    """{new instruction: its first candidate}, in their order."""
    first: dict[str, Candidate] = {}
    for row in candidates:
        if row["route"] == "new":
            first.setdefault(row["prompt"], row)
    return first


def split(
    candidates: list[Candidate], faults: dict[str, str], settings: Settings, review: ReviewPrompt
) -> tuple[list[Candidate], list[DroppedCandidate]]:
    """The candidates kept, and those dropped: first for their instruction (`faults`), then for their response."""
    dropped: list[DroppedCandidate] = []
    standing: list[Candidate] = []
    for candidate in candidates:
        if candidate["route"] == "new" and candidate["prompt"] in faults:
            dropped.append({**candidate, "reason": faults[candidate["prompt"]]})
        else:
            standing.append(candidate)
    kept: list[Candidate] = []
    for candidate, fault in zip(standing, response_faults(standing, settings, review), strict=True):
        if fault:
            dropped.append({**candidate, "reason": fault})
        else:
            kept.append(candidate)
    return kept, dropped


def main(
    rows: Annotated[Path, Option(help="generated pairs")],
    seed: Annotated[Path, Option(help="the seed set that they were generated from")],
    out: Annotated[
        Path, Option(help="pairs kept, iterations/ITERATION/filtered.jsonl; the others go to dropped.jsonl")
    ],
) -> None:
    """Keep what is of a sensible length, new, and not in the benchmark."""
    iteration, params = out.parent.name, read_params("filter")
    settings, review = params["filter"], ReviewPrompt(params["prompts"])
    candidates = read(rows, Candidate)
    overlap = settings["benchmark_overlap"]
    benchmark = held_out(read(BENCHMARK, BenchmarkItem), overlap)
    examples = HeldOut(InstructionPrompt(params["prompts"]).own_lines(), overlap)
    prompts = {row["id"]: row["prompt"] for row in read(seed, SeedRow)}
    instructions = new_instructions(candidates)
    faults = instruction_faults(instructions, settings, review, examples, benchmark, prompts)
    standing = [instruction for instruction in instructions if instruction not in faults]
    earlier = list(dict.fromkeys(prompts.values()))
    repeated, distance = near_duplicates(standing, earlier, BASE, settings["max_cosine"])
    repeated |= same_words(standing, earlier)
    compared = len(standing) if settings["max_cosine"] < 1 else 0
    faults |= dict.fromkeys(repeated, "instruction like an earlier one")
    kept, dropped = split(candidates, faults, settings, review)

    tally = Tally(len(candidates))
    for row in dropped:
        tally.drop(row["reason"])
    write(out, kept)
    write(out.with_name("dropped.jsonl"), dropped)
    fresh = [instruction for instruction in instructions if instruction not in faults]
    counts: FilterCounts = {
        "rows": tally.counts(len(kept)),
        "diversity": diversity(fresh, distance, len(repeated) / compared if compared else None),
        "words": {"instruction": mean_words(fresh), "response": mean_words([row["response"] for row in kept])},
        "examples": lineage.dropped(dropped),
    }
    write_json(counts_file("filter", iteration), counts)
    warning = "" if kept else "; nothing is left, so training copies its input model"
    say(f"filter@{iteration}: {len(kept):,} of {len(candidates):,} rows kept{warning}")


if __name__ == "__main__":
    run(main, launch="generate")
