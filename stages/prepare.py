"""prepare: the seed set, validated, and the warm start's training rows.

    python -m stages.prepare

Every problem of a seed file is named with its line (data/seeds/), and fields that were not read are told. A row
whose prompt is an item of the benchmark is left out. The rows used are chosen by the hash of their content and
`seed.random_state`.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from stages.core.checks import missing_packages
from stages.core.command import run
from stages.core.counts import PrepareCounts
from stages.core.errors import UserError
from stages.core.params import read_params
from stages.core.progress import say
from stages.core.prompts import ReviewPrompt
from stages.core.records import Tally, content_id, counts_file, read, write, write_json
from stages.core.rows import BenchmarkItem, JudgeTrainingPair, Pair, SeedRow, SftRow
from stages.data.decontamination import HeldOut, held_out
from stages.data.seeds.files import of_file, of_seed
from stages.data.seeds.pairs import SeedTally, chosen, judge_training_pairs, pairs, reasons
from stages.data.words import mean_words

OUT, WARM_START = Path("iterations/0"), "0"
BENCHMARK = OUT / "benchmark.jsonl"

SomePair = TypeVar("SomePair", bound=Pair)


def not_in_benchmark(rows: Iterable[SomePair], benchmark: HeldOut, tally: Tally) -> Iterator[SomePair]:
    """The rows whose prompt contains no item of the benchmark."""
    for row in rows:
        if benchmark.is_in(row["prompt"]):
            tally.drop("in the benchmark")
        else:
            yield row


def seed_set(rows: Iterable[Pair], limit: int | None, random_state: int, tally: Tally) -> list[SeedRow]:
    """At most `limit` rows as the seed set S_0; the first review will score them."""
    kept = chosen(rows, limit, random_state)
    tally.drop("over seed.limit", tally.rows - tally.dropped.total() - len(kept))
    return [seed_row(row) for row in kept]


def seed_row(row: Pair) -> SeedRow:
    """A row of S_0."""
    seed: SeedRow = {
        "id": content_id(row["prompt"], row["response"]),
        "prompt": row["prompt"],
        "response": row["response"],
        "iteration": WARM_START,
        "score": None,
    }
    if "check" in row:
        seed["check"] = row["check"]
    return seed


def seed_sft_row(row: SeedRow) -> SftRow:
    """A seed pair to train the warm start on."""
    return {
        "id": row["id"],
        "kind": "seed",
        "prompt": row["prompt"],
        "completion": row["response"],
        "iteration": WARM_START,
        "lineage": {"seed": row["id"]},
    }


def judge_sft_row(row: JudgeTrainingPair, review: ReviewPrompt) -> SftRow:
    """A review to learn judging from, after the prompt that asks for it."""
    prompt = review.render(row["prompt"], row["response"])
    reviewed = content_id(row["prompt"], row["response"])
    return {
        "id": content_id(prompt),
        "kind": "judge",
        "prompt": prompt,
        "completion": row["review"],
        "iteration": WARM_START,
        "lineage": {"reviewed": reviewed, "review_prompt_hash": content_id(prompt)},
    }


def main() -> None:
    """Write the seed set and the warm start's training rows."""
    params = read_params("prepare")
    settings, review = params["seed"], ReviewPrompt(params["prompts"])
    source = f"seed.hub {settings['hub']['id']}" if settings["hub"] else f"seed.path {settings['path']}"
    reviews = Path(settings["reviews"])
    if not BENCHMARK.is_file():
        raise UserError(f"{BENCHMARK} is missing; run dvc repro to make it")
    benchmark = held_out(read(BENCHMARK, BenchmarkItem), params["filter.benchmark_overlap"])

    tally, judge_tally = SeedTally(), SeedTally()
    usable = pairs(of_seed(settings), source, tally, settings["columns"], settings["on_bad"])
    seed = seed_set(not_in_benchmark(usable, benchmark, tally), settings["limit"], settings["random_state"], tally)
    if not seed:
        why = f"has no usable rows ({reasons(tally)})" if tally.rows else "holds no rows"
        raise UserError(f"{source} {why}; give other data")
    if missing := missing_packages([row["check"] for row in seed if "check" in row]):
        raise UserError(
            f"{source}: checks of its rows need what is not installed: {', '.join(missing)}; "
            'pip install -e ".[verifiers]", or leave the checks out of the rows'
        )
    judge_source = f"seed.reviews {reviews}"
    reviewed = judge_training_pairs(of_file(reviews, "seed.reviews"), judge_source, judge_tally, settings["on_bad"])
    judge = [judge_sft_row(row, review) for row in not_in_benchmark(reviewed, benchmark, judge_tally)]

    write(OUT / "seed.jsonl", seed)
    write(OUT / "judge.jsonl", judge)
    write(OUT / "sft.jsonl", [*map(seed_sft_row, seed), *judge])
    write(OUT / "pairs.jsonl", [])
    counts: PrepareCounts = {
        "seed": tally.counts(len(seed)),
        "judge": judge_tally.counts(len(judge)),
        "words": {
            "instruction": mean_words([row["prompt"] for row in seed]),
            "response": mean_words([row["response"] for row in seed]),
        },
    }
    for name, noted in ((source, tally.noted), (judge_source, judge_tally.noted)):
        if noted:
            say(f"prepare: {name}: " + "; ".join(f"{remark} ({rows:,} rows)" for remark, rows in sorted(noted.items())))
    if remarks := tally.noted + judge_tally.noted:
        counts["noted"] = dict(sorted(remarks.items()))
    write_json(counts_file("prepare", WARM_START), counts)
    say(f"prepare: {len(seed):,} of {tally.rows:,} seed rows, {len(judge):,} judge-training rows")


if __name__ == "__main__":
    run(main)
