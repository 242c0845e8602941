"""prepare: the seed set, validated, and the warm start's training rows. `python -m stages.prepare`

Every problem of a seed file is named with its line (core/seed_data.py). A row whose prompt is an item of the benchmark
is left out. The rows used are chosen by the hash of their content and `seed.random_state`.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from stages.core.command import run
from stages.core.errors import UserError
from stages.core.params import read_params
from stages.core.progress import say
from stages.core.prompts import ReviewPrompt
from stages.core.records import Record, Tally, content_id, read, write, write_json
from stages.data.seed_data import chosen, of_file, of_hub, pairs, reasons
from stages.data.similarity import mean_words, words

OUT, COUNTS = Path("iterations/0"), Path("results/0/prepare.json")
BENCHMARK = OUT / "benchmark.jsonl"


def not_in_benchmark(rows: Iterable[Record], items: set[tuple[str, ...]], tally: Tally) -> Iterator[Record]:
    """The rows whose prompt is no item, whatever its case and punctuation."""
    for row in rows:
        if tuple(words(row["prompt"])) in items:
            tally.drop("in the benchmark")
        else:
            yield row


def seed_set(rows: Iterable[Record], limit: int | None, random_state: int, tally: Tally) -> list[Record]:
    """Rows with their identity; `score` is filled by the first review."""
    kept = chosen(rows, limit, random_state)
    tally.drop("over seed.limit", tally.rows - tally.dropped.total() - len(kept))
    return [
        {
            "id": content_id(row["prompt"], row["response"]),
            **{name: row[name] for name in ("prompt", "response")},
            "iteration": "0",
            "score": None,
        }
        for row in kept
    ]


def judge_row(row: Record, review: ReviewPrompt) -> Record:
    """A judge-training row, with what it reviews and by which prompt."""
    prompt = review.render(row["prompt"], row["response"])
    lineage = {"reviewed": content_id(row["prompt"], row["response"]), "review_prompt_hash": content_id(prompt)}
    return {
        "id": content_id(prompt),
        "kind": "judge",
        "prompt": prompt,
        "completion": row["review"],
        "lineage": lineage,
    }


def warm_start(seed: list[Record], judge: list[Record]) -> list[Record]:
    """Training rows: the seed pairs as they are, and the judge-training rows."""
    pairs = [
        {"kind": "seed", "prompt": row["prompt"], "completion": row["response"], "seed": row["id"]} for row in seed
    ]
    return pairs + judge


def main() -> None:
    params = read_params("prepare")
    settings, review = params["seed"], ReviewPrompt(params["prompts"])
    source = f"seed.hub {settings['hub']['id']}" if settings["hub"] else f"seed.path {settings['path']}"
    reviews = Path(settings["reviews"])
    if not BENCHMARK.is_file():
        raise UserError(f"{BENCHMARK} is missing; run dvc repro to make it")
    items = {tuple(words(item["text"])) for item in read(BENCHMARK)}

    tally, judge_tally = Tally(0), Tally(0)
    read_rows = of_hub(settings["hub"]) if settings["hub"] else of_file(Path(settings["path"]), "seed.path")
    rows = pairs(read_rows, source, tally, settings["columns"], settings["on_bad"])
    seed = seed_set(not_in_benchmark(rows, items, tally), settings["limit"], settings["random_state"], tally)
    if not seed:
        why = f"has no rows that can be used ({reasons(tally)})" if tally.rows else "holds no rows"
        raise UserError(f"{source} {why}; give other data")
    judged = pairs(
        of_file(reviews, "seed.reviews"), f"seed.reviews {reviews}", judge_tally, None, settings["on_bad"], ("review",)
    )
    judge = [judge_row(row, review) for row in not_in_benchmark(judged, items, judge_tally)]

    write(OUT / "seed.jsonl", seed)
    write(OUT / "judge.jsonl", judge)
    write(OUT / "sft.jsonl", warm_start(seed, judge))
    write(OUT / "pairs.jsonl", [])
    length = {
        "instruction": mean_words([row["prompt"] for row in seed]),
        "response": mean_words([row["response"] for row in seed]),
    }
    write_json(COUNTS, {"seed": tally.counts(len(seed)), "judge": judge_tally.counts(len(judge)), "words": length})
    say(f"prepare: {len(seed):,} of {tally.rows:,} seed rows, {len(judge):,} judge-training rows")


if __name__ == "__main__":
    run(main)
