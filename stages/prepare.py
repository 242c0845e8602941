"""prepare: the seed set, validated, and the warm start's training rows. `python -m stages.prepare`

Every problem of a seed file is named with its line. A row whose prompt is an item of the benchmark is left out. The
rows used are chosen by the hash of their content and `random_state`: a file in another order gives the same seed set.
"""

import json
from pathlib import Path

from stages.core.errors import UserError, run
from stages.core.params import declared
from stages.core.progress import say
from stages.core.prompts import Review
from stages.core.records import Record, Tally, content_id, need_text, read, write, write_json
from stages.core.similarity import mean_words, words

OUT, COUNTS = Path("iterations/0"), Path("results/0/prepare.json")


def parse(text: str, path: Path, parameter: str, fields: tuple[str, ...]) -> list[Record]:
    """The rows of a JSON Lines file; each must have every field as a non-empty text."""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{parameter} {path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON ({error.msg}); correct or remove the line") from None
        for field in fields:
            if not isinstance(row, dict) or not isinstance(row.get(field), str) or not row[field].strip():
                raise UserError(f"{where}: no text in the field '{field}'; every row needs {' and '.join(fields)}")
            try:
                row[field].encode()
            except UnicodeEncodeError:
                raise UserError(f"{where}: half of a surrogate pair in the field '{field}'; correct the text") from None
        rows.append({field: row[field].strip() for field in fields})
    return rows


def not_in_benchmark(rows: list[Record], items: set[tuple[str, ...]], tally: Tally) -> list[Record]:
    """The rows whose prompt is no item, whatever its case and punctuation."""
    clean = [row for row in rows if tuple(words(row["prompt"])) not in items]
    tally.drop("in the benchmark", len(rows) - len(clean))
    return clean


def choose(rows: list[Record], limit: int, random_state: int) -> list[Record]:
    """At most `limit` rows, in the order of the hash of their content."""
    return sorted(rows, key=lambda row: content_id(str(random_state), row["prompt"], row["response"]))[:limit]


def seed_set(rows: list[Record], limit: int, random_state: int, tally: Tally) -> list[Record]:
    """Distinct rows with their identity; `score` is filled by the first review."""
    distinct = {content_id(row["prompt"], row["response"]): row for row in rows}
    tally.drop("duplicate", len(rows) - len(distinct))
    chosen = choose(list(distinct.values()), limit, random_state)
    tally.drop("over seed.limit", len(distinct) - len(chosen))
    return [
        {"id": content_id(row["prompt"], row["response"]), **row, "iteration": "0", "score": None} for row in chosen
    ]


def judge_row(row: Record, review: Review) -> Record:
    """A judge-training row, with what it reviews and by which prompt."""
    prompt = review.prompt(row["prompt"], row["response"])
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
    params = declared("prepare")
    path, reviews = Path(params["seed.path"]), Path(params["seed.reviews"])
    rows = parse(need_text(path, "seed.path"), path, "seed.path", ("prompt", "response"))
    if not rows:
        raise UserError(f"seed.path {path} has no rows; it needs JSON Lines with the fields prompt and response")
    judged = parse(need_text(reviews, "seed.reviews"), reviews, "seed.reviews", ("prompt", "response", "review"))
    review = Review(params["prompts"])
    items = {tuple(words(item["text"])) for item in read(OUT / "benchmark.jsonl")}
    tally, judge_tally = Tally(len(rows)), Tally(len(judged))
    clean = not_in_benchmark(rows, items, tally)
    if not clean:
        raise UserError(f"seed.path {path}: every row is an item of the benchmark; give other seed data")
    seed = seed_set(clean, params["seed.limit"], params["random_state"], tally)
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
    say(f"prepare: {len(seed):,} of {len(rows):,} seed rows, {len(judge):,} judge-training rows")


if __name__ == "__main__":
    run(main)
