"""filter: keep what is of a sensible length, new, and not in the benchmark (paper, section 3.3; the last two are ours).

    python -m stages.filter --rows iterations/1/generated.jsonl --seed iterations/0/seed.jsonl
        --out iterations/1/filtered.jsonl

A new instruction falls with all its responses. A text falls that the judge would not read as it is, since a tag of its
prompt or a verdict stands in it (the prompt set's review/). Each drop keeps its reason, in dropped.jsonl and in the
counts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from stages.core.command import run
from stages.core.params import read_params
from stages.core.progress import progress, say
from stages.core.prompts import ReviewPrompt
from stages.core.records import Record, Tally, counts_file, read, write, write_json
from stages.data import lineage
from stages.data.similarity import Benchmark, distinct, duplicates, embed, mean_distance, mean_words, rouge_l

BASE, BENCHMARK = Path("iterations/0/base"), Path("iterations/0/benchmark.jsonl")
Settings = dict[str, Any]


def own_fault(text: str, what: str, settings: Settings, review: ReviewPrompt) -> str | None:
    """What is wrong with a text whatever the others are."""
    count = len(text.split())
    if count < settings[f"min_{what}_words"]:
        return f"{what} too short"
    if count > settings[f"max_{what}_words"]:
        return f"{what} too long"
    return f"{what} speaks for the judge" if review.sanitise(text) != text else None


def likeness_fault(text: str, what: str, source: str, siblings: list[str], limit: float) -> str | None:
    """Whether a text repeats its source or a sibling: ROUGE-L above `limit`, or the same text."""
    if text == source or rouge_l(text, source) > limit:
        return f"{what} like its source"
    if any(text == sibling or rouge_l(text, sibling) > limit for sibling in siblings):
        return f"{what} like a sibling"
    return None


def instruction_faults(
    instructions: dict[str, Record], settings: Settings, review: ReviewPrompt, benchmark: Benchmark
) -> dict[str, str]:
    """Why new instructions fall: {instruction: reason}; siblings are the kept ones of the same seed."""
    faults: dict[str, str] = {}
    kept: dict[str, list[str]] = {}
    with progress("filter instructions", len(instructions)) as advance:
        for instruction, record in instructions.items():
            siblings = kept.setdefault(record["seed"]["id"], [])
            fault = own_fault(instruction, "instruction", settings, review)
            fault = fault or likeness_fault(
                instruction, "instruction", record["seed"]["prompt"], siblings, settings["max_instruction_rouge_l"]
            )
            if not fault and benchmark.overlap(instruction) >= settings["ngram_overlap"]:
                fault = "in the benchmark"
            if fault:
                faults[instruction] = fault
            else:
                siblings.append(instruction)
            advance(1)
    return faults


def response_faults(records: list[Record], settings: Settings, review: ReviewPrompt) -> Iterator[str | None]:
    """Why each record's response falls, or None. A flawed response must differ from the original and its siblings by
    ROUGE-L; the responses to one new instruction need only be different texts: a right and a wrong answer may differ in
    a single word, and their pair is what DPO learns from."""
    kept: dict[str, list[str]] = {}
    with progress("filter responses", len(records)) as advance:
        for record in records:
            siblings = kept.setdefault(record["prompt"], [])
            response = record["response"]
            fault = own_fault(response, "response", settings, review)
            if not fault and response in siblings:
                fault = "response like a sibling"
            if not fault and record["route"] == "flawed":
                source, limit = record["seed"]["response"], settings["max_response_rouge_l"]
                fault = likeness_fault(response, "response", source, siblings, limit)
            if not fault:
                siblings.append(response)
            yield fault
            advance(1)


def embedding_faults(
    instructions: list[str], earlier: list[str], model: Path, cosine: float
) -> tuple[set[str], float | None]:
    """The new instructions that repeat an earlier one, of the seed set or of another record; and the mean distance of
    those that do not."""
    if not instructions:
        return set(), None
    with progress("filter embeddings", len(earlier) + len(instructions)) as advance:
        vectors = embed(earlier + instructions, model)
        advance(len(vectors))
    found = duplicates(vectors, len(earlier), cosine) if cosine < 1 else set()
    repeated = {row - len(earlier) for row in found}
    fresh = [len(earlier) + row for row in range(len(instructions)) if row not in repeated]
    return {instructions[row] for row in repeated}, mean_distance(vectors[fresh])


def diversity(instructions: list[str], distance: float | None, near: int, of: int) -> Record:
    """How different the kept new instructions are, and which share of the compared ones repeats an earlier one."""
    shares = {f"distinct_{size}": distinct(instructions, size) for size in (1, 2)}
    known = {"distance": distance, **shares, "near_duplicates": near / of if of else None}
    return {key: None if value is None else round(value, 4) for key, value in known.items()}


def main(
    rows: Annotated[Path, Option(help="generated rows")],
    seed: Annotated[Path, Option(help="the seed set that they were generated from")],
    out: Annotated[Path, Option(help="rows kept, iterations/ITERATION/filtered.jsonl; the others go to dropped.jsonl")],
) -> None:
    """Keep what is of a sensible length, new, and not in the benchmark."""
    iteration, params = out.parent.name, read_params("filter")
    settings, review = params["filter"], ReviewPrompt(params["prompts"])
    records = read(rows)
    items = [item["text"] for item in read(BENCHMARK)]
    instructions = {record["prompt"]: record for record in reversed(records) if record["route"] == "new"}
    instructions = dict(reversed(instructions.items()))
    faults = instruction_faults(instructions, settings, review, Benchmark(items, settings["ngram"]))
    standing = [each for each in instructions if each not in faults]
    earlier = list(dict.fromkeys(row["prompt"] for row in read(seed)))
    repeated, distance = embedding_faults(standing, earlier, BASE, settings["max_cosine"])
    faults |= dict.fromkeys(repeated, "instruction like an earlier one")

    tally, dropped = Tally(len(records)), []
    candidates = []
    for record in records:
        if record["route"] == "new" and record["prompt"] in faults:
            dropped.append({**record, "reason": faults[record["prompt"]]})
        else:
            candidates.append(record)
    kept = []
    for record, fault in zip(candidates, response_faults(candidates, settings, review), strict=True):
        if fault:
            dropped.append({**record, "reason": fault})
        else:
            kept.append(record)
    for record in dropped:
        tally.drop(record["reason"])
    write(out, kept)
    write(out.with_name("dropped.jsonl"), dropped)
    new = [each for each in instructions if each not in faults]
    counts = {
        "rows": tally.counts(len(kept)),
        "diversity": diversity(new, distance, len(repeated), len(standing)),
        "words": {"instruction": mean_words(new), "response": mean_words([record["response"] for record in kept])},
        "examples": lineage.dropped(dropped),
    }
    write_json(counts_file("filter", iteration), counts)
    warning = "; nothing is left, training passes its input on" if not kept else ""
    say(f"filter@{iteration}: {len(kept):,} of {len(records):,} rows kept{warning}")


if __name__ == "__main__":
    run(main)
