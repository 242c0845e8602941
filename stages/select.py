"""select: SFT rows, preference pairs and the grown seed set (paper, sections 3.3 and 3.4), each row with its lineage.

    python -m stages.select --reviewed iterations/1/review.jsonl --assessed iterations/1/assess.jsonl
        --parent iterations/0 --out iterations/1

S_t = S_{t-1} + the new instructions, each with its best response (the reference code loses earlier ones). By
`select.accumulate` the SFT rows and pairs add up too, as in the paper; without, each iteration trains on its own ones.
Replay: judge-training rows, so that the model goes on judging well.
"""

from pathlib import Path
from typing import Annotated

from typer import Option

from stages.core.command import run
from stages.core.params import read_params
from stages.core.progress import say
from stages.core.records import Record, Tally, content_id, counts_file, read, write, write_json
from stages.data import lineage


def by_content(rows: list[Record], limit: int) -> list[Record]:
    """At most `limit` rows, the choice decided by their content."""
    return sorted(rows, key=lambda row: row["id"])[:limit]


def verdicts(row: Record) -> list[float | None]:
    """The sampled reviews' scores; those of an earlier review where the judge has not scored the row again."""
    return [review["score"] for review in row["reviews"]] or list(row.get("verdicts", []))


def judgement(row: Record) -> Record:
    """What the judge said of a row, as the seed set keeps it."""
    return {"score": row["score"], "judge": row["judge"], "verdicts": verdicts(row)}


def judged(row: Record) -> Record:
    """A row's lineage, with what the judge said."""
    return {**row["lineage"], "score": row["score"], "verdicts": verdicts(row)}


def added(earlier: list[Record], new: list[Record], limit: int, tally: Tally) -> list[Record]:
    """Earlier rows and at most `limit` new ones, chosen by their content; a row that is there already is not added."""
    known = {row["id"] for row in earlier}
    fresh = [row for row in new if row["id"] not in known]
    chosen = by_content(fresh, limit)
    tally.drop("there already", len(new) - len(fresh))
    tally.drop("over the bound", len(fresh) - len(chosen))
    return earlier + chosen


def sft_rows(assessed: list[Record], iteration: str, bound: float, tally: Tally) -> list[Record]:
    """New pairs scored above `bound`."""
    rows = []
    for row in assessed:
        if row["route"] != "new":
            tally.drop("flawed on purpose")
        elif row["score"] is None:
            tally.drop("unscored")
        elif row["score"] <= bound:
            tally.drop("not above select.min_sft_score")
        else:
            names = {"prompt": row["prompt"], "completion": row["response"]}
            rows.append({"id": row["id"], "kind": "new", **names, "iteration": iteration, "lineage": judged(row)})
    return rows


def pools(reviewed: list[Record], assessed: list[Record]) -> dict[str, list[Record]]:
    """The scored responses to each instruction: the original and the flawed ones, or those to a new instruction (the
    paper makes pairs of the former only)."""
    original = {row["id"]: row for row in reviewed}
    found: dict[str, list[Record]] = {}
    for row in assessed:
        if row["score"] is None:
            continue
        pool = found.setdefault(row["prompt"], [])
        seed = row["lineage"]["seed"]
        if row["route"] == "flawed" and seed not in {each["id"] for each in pool}:
            pool.append({**original[seed], "lineage": {"seed": seed}})
        pool.append(row)
    return found


def pairs_of(pool: list[Record], margin: float) -> list[tuple[Record, Record]]:
    """(chosen, rejected): rejected is the lowest, chosen every one that leads it by more than the margin."""
    rejected = min(pool, key=lambda row: (row["score"], row["id"]))
    return [(row, rejected) for row in pool if row["score"] - rejected["score"] > margin]


def preference_pairs(found: dict[str, list[Record]], iteration: str, margin: float, tally: Tally) -> list[Record]:
    """The pairs of every pool; the tally counts the responses that might have been chosen."""
    rows = []
    for prompt, pool in found.items():
        pairs = pairs_of(pool, margin)
        tally.drop("the rejected one of its pool")
        tally.drop("does not lead by more than select.min_margin", len(pool) - 1 - len(pairs))
        for chosen, rejected in pairs:
            rows.append(
                {
                    "id": content_id(prompt, chosen["response"], rejected["response"]),
                    "prompt": prompt,
                    "chosen": chosen["response"],
                    "rejected": rejected["response"],
                    "margin": round(chosen["score"] - rejected["score"], 4),
                    "iteration": iteration,
                    "lineage": {"chosen": judged(chosen), "rejected": judged(rejected)},
                }
            )
    return rows


def seed_rows(assessed: list[Record], iteration: str, tally: Tally) -> list[Record]:
    """Each new instruction with its best response."""
    best: dict[str, Record] = {}
    for row in assessed:
        if row["route"] != "new":
            tally.drop("flawed on purpose")
        elif row["score"] is None:
            tally.drop("unscored")
        elif row["prompt"] not in best:
            best[row["prompt"]] = row
        else:
            tally.drop("not the best response to its instruction")
            best[row["prompt"]] = max(best[row["prompt"]], row, key=lambda each: each["score"])
    fields = ("id", "prompt", "response", "lineage")
    return [
        {**{field: row[field] for field in fields}, "iteration": iteration, **judgement(row)} for row in best.values()
    ]


def rescored(seed: list[Record], reviewed: list[Record]) -> list[Record]:
    """The parent's seed set with its newest scores."""
    newest = {row["id"]: row for row in reviewed}
    return [{**row, **judgement(newest[row["id"]])} for row in seed]


def earlier_rows(before: Path) -> tuple[list[Record], list[Record]]:
    """The SFT rows and the pairs that an iteration trained on, without what it replayed."""
    return [row for row in read(before / "sft.jsonl") if row["kind"] == "new"], read(before / "pairs.jsonl")


def judge_rows(rows: list[Record], limit: int, tally: Tally) -> list[Record]:
    chosen = by_content(rows, limit)
    tally.drop("over select.max_judge", len(rows) - len(chosen))
    return chosen


def main(
    reviewed: Annotated[Path, Option(help="the reviewed seed set")],
    assessed: Annotated[Path, Option(help="the assessed new rows")],
    parent: Annotated[Path, Option(help="the parent's folder, iterations/PARENT: its seed set, SFT rows and pairs")],
    out: Annotated[Path, Option(help="folder for the three sets, iterations/ITERATION")],
) -> None:
    """Select SFT rows, preference pairs and new seeds."""
    settings, iteration = read_params("select")["select"], out.name
    seeds, new = read(reviewed), read(assessed)
    earlier_seed = read(parent / "seed.jsonl")
    earlier_sft, earlier_pairs = earlier_rows(parent) if settings["accumulate"] else ([], [])

    if not seeds:
        stop(out, earlier_seed, iteration)
        return
    sft_tally = Tally(len(new))
    new_sft = sft_rows(new, iteration, settings["min_sft_score"], sft_tally)
    sft = added(earlier_sft, new_sft, settings["max_sft"], sft_tally)

    found = pools(seeds, new)
    pair_tally = Tally(sum(len(pool) for pool in found.values()))
    new_pairs = preference_pairs(found, iteration, settings["min_margin"], pair_tally)
    pairs = added(earlier_pairs, new_pairs, settings["max_pairs"], pair_tally)

    seed_tally = Tally(len(new))
    new_seed = seed_rows(new, iteration, seed_tally)
    seed = added(rescored(earlier_seed, seeds), new_seed, len(new_seed), seed_tally)

    judge_training = read(Path("iterations/0/judge.jsonl"))
    judge_tally = Tally(len(judge_training))
    judge = judge_rows(judge_training, settings["max_judge"], judge_tally)
    write(out / "sft.jsonl", sft + judge)
    write(out / "pairs.jsonl", pairs)
    write(out / "seed.jsonl", seed)
    counts = {
        "sft": counted(sft_tally, earlier_sft, sft),
        "pairs": counted(pair_tally, earlier_pairs, pairs),
        "seed": counted(seed_tally, earlier_seed, seed),
        "replayed_judge_training": judge_tally.counts(len(judge)),
        "examples": lineage.lineages(seeds, new, pairs, sft),
    }
    write_json(counts_file("select", iteration), counts)
    say(f"select@{iteration}: {len(sft):,} SFT rows, {len(pairs):,} pairs, {len(seed):,} seeds")


def stop(here: Path, seed: list[Record], iteration: str) -> None:
    """Where the chain was stopped, review wrote no row: the seed set is passed on, and nothing is trained on."""
    write(here / "sft.jsonl", [])
    write(here / "pairs.jsonl", [])
    write(here / "seed.jsonl", seed)
    nothing = {"new": 0, "earlier": 0, "total": 0, **Tally(0).counts(0)}
    counts = {"sft": nothing, "pairs": nothing, "seed": nothing | {"earlier": len(seed), "total": len(seed)}}
    write_json(counts_file("select", iteration), counts | {"examples": []})
    say(f"select@{iteration}: the chain was stopped, nothing is selected")


def counted(tally: Tally, earlier: list[Record], rows: list[Record]) -> Record:
    """The tally of the new rows, and how many there are now with the earlier iterations'."""
    new = len(rows) - len(earlier)
    return {"new": new, "earlier": len(earlier), "total": len(rows), **tally.counts(new)}


if __name__ == "__main__":
    run(main)
