"""select: SFT rows, preference pairs and the grown seed set (paper, sections 3.3 and 3.4), each row with its lineage.

`python -m stages.select 1 0`   iteration, parent

SFT_t and the pairs add up over the iterations. S_t = S_{t-1} + the new instructions, each with its best response (the
reference code loses earlier ones). Replay: judge-training rows, and the model's own reviews where all samples agree.
"""

from pathlib import Path
from typing import Any

from stages.core.errors import run
from stages.core.params import declared
from stages.core.progress import say
from stages.core.prompts import Review
from stages.core.records import Record, content_id, read, write, write_json
from stages.core.verdict import consistent

Settings = dict[str, Any]


def by_content(rows: list[Record], limit: int) -> list[Record]:
    """At most `limit` rows, the choice decided by their content."""
    return sorted(rows, key=lambda row: row["id"])[:limit]


def sft_rows(assessed: list[Record], iteration: str, settings: Settings) -> list[Record]:
    """New pairs scored above `sft_score`."""
    good = [
        {
            "id": row["id"],
            "kind": "new",
            "prompt": row["prompt"],
            "completion": row["response"],
            "iteration": iteration,
            "lineage": {**row["lineage"], "score": row["score"], "verdicts": verdicts(row)},
        }
        for row in assessed
        if row["route"] == "new" and row["score"] is not None and row["score"] > settings["sft_score"]
    ]
    return by_content(good, settings["max_sft"])


def verdicts(row: Record) -> list[float | None]:
    return [review["score"] for review in row["reviews"]]


def pools(reviewed: list[Record], assessed: list[Record]) -> dict[str, list[Record]]:
    """The scored responses to each instruction: the original and the flawed ones, or those to a new instruction (the
    paper makes pairs of the former only)."""
    original = {row["id"]: row for row in reviewed}
    found: dict[str, list[Record]] = {}
    for row in assessed:
        if row["score"] is None:
            continue
        pool = found.setdefault(row["prompt"], [])
        seed_id = row["lineage"]["seed"]
        if row["route"] == "flawed" and seed_id not in {each["id"] for each in pool}:
            pool.append({**original[seed_id], "lineage": {"seed": seed_id}})
        pool.append(row)
    return found


def pairs_of(pool: list[Record], margin: float) -> list[tuple[Record, Record]]:
    """(chosen, rejected): rejected is the lowest, chosen every one that leads it by more than the margin."""
    rejected = min(pool, key=lambda row: (row["score"], row["id"]))
    return [(row, rejected) for row in pool if row["score"] - rejected["score"] > margin]


def preference_pairs(found: dict[str, list[Record]], iteration: str, settings: Settings) -> list[Record]:
    rows = []
    for prompt, pool in found.items():
        for chosen, rejected in pairs_of(pool, settings["margin"]):
            sides = {"chosen": chosen, "rejected": rejected}
            rows.append(
                {
                    "id": content_id(prompt, chosen["response"], rejected["response"]),
                    "prompt": prompt,
                    "chosen": chosen["response"],
                    "rejected": rejected["response"],
                    "margin": round(chosen["score"] - rejected["score"], 4),
                    "iteration": iteration,
                    "lineage": {
                        name: {**row["lineage"], "score": row["score"], "verdicts": verdicts(row)}
                        for name, row in sides.items()
                    },
                }
            )
    return by_content(rows, settings["max_pairs"])


def added(earlier: list[Record], new: list[Record]) -> list[Record]:
    """Earlier rows and new ones; a row that is there already is not added again."""
    known = {row["id"] for row in earlier}
    return earlier + [row for row in new if row["id"] not in known]


def grown_seed(seed: list[Record], reviewed: list[Record], assessed: list[Record], iteration: str) -> list[Record]:
    """S_t: the parent's seed set with its newest scores, and each new instruction with its best response."""
    scores = {row["id"]: row["score"] for row in reviewed}
    best: dict[str, Record] = {}
    for row in assessed:
        if row["route"] == "new" and row["score"] is not None:
            standing = best.get(row["prompt"])
            if standing is None or row["score"] > standing["score"]:
                best[row["prompt"]] = row
    new = [
        {
            "id": row["id"],
            "prompt": row["prompt"],
            "response": row["response"],
            "iteration": iteration,
            "score": row["score"],
            "lineage": {**row["lineage"], "verdicts": verdicts(row)},
        }
        for row in best.values()
    ]
    return added([{**row, "score": scores[row["id"]]} for row in seed], new)


def own_reviews(rows: list[Record], review: Review, settings: Settings) -> list[Record]:
    """The model's reviews on which all its samples agree, half of them high and half low, so that replay does not
    teach the judge to say always the same."""
    found: dict[bool, list[Record]] = {True: [], False: []}
    for row in rows:
        scores = verdicts(row)
        if not consistent(scores, settings["review_spread"]):
            continue
        mean = sum(score for score in scores if score is not None) / len(scores)
        prompt = review.prompt(row["prompt"], row["response"])
        found[mean > 5].append(
            {
                "id": content_id(prompt),
                "kind": "review",
                "prompt": prompt,
                "completion": row["reviews"][0]["text"],
                "lineage": {"reviewed": row["id"], "verdicts": scores},
            }
        )
    each = min(settings["max_reviews"] // 2, len(found[True]), len(found[False]))
    return by_content(found[True], each) + by_content(found[False], each)


def judge_rows(rows: list[Record], limit: int) -> list[Record]:
    return by_content([{"id": content_id(row["prompt"]), **row} for row in rows], limit)


def main(iteration: str, parent: str) -> None:
    params = declared("select")
    settings = params["select"]
    here, before = Path("iterations", iteration), Path("iterations", parent)
    reviewed, assessed = read(here / "review.jsonl"), read(here / "assess.jsonl")
    earlier_sft = [row for row in read(before / "sft.jsonl") if row["kind"] == "new"]
    earlier_pairs = read(before / "pairs.jsonl")

    sft = added(earlier_sft, sft_rows(assessed, iteration, settings))
    pairs = added(earlier_pairs, preference_pairs(pools(reviewed, assessed), iteration, settings))
    reviews = own_reviews(assessed, Review(params["prompts"]), settings)
    judge = judge_rows(read(Path("iterations/0/judge.jsonl")), settings["max_judge"])
    parent_seed = read(before / "seed.jsonl")
    seed = grown_seed(parent_seed, reviewed, assessed, iteration)
    write(here / "sft.jsonl", sft + reviews + judge)
    write(here / "pairs.jsonl", pairs)
    write(here / "seed.jsonl", seed)
    counts = {
        "sft": {"earlier": len(earlier_sft), "new": len(sft) - len(earlier_sft), "total": len(sft)},
        "pairs": {"earlier": len(earlier_pairs), "new": len(pairs) - len(earlier_pairs), "total": len(pairs)},
        "seed": {"earlier": len(parent_seed), "new": len(seed) - len(parent_seed), "total": len(seed)},
        "replay": {"own_reviews": len(reviews), "judge": len(judge)},
    }
    write_json(Path("results", iteration, "select.json"), counts)
    say(f"select@{iteration}: {len(sft):,} SFT rows, {len(pairs):,} pairs, {len(seed):,} seeds")


if __name__ == "__main__":
    import sys

    run(main, *sys.argv[1:])
