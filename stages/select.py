"""select: SFT rows, preference pairs and the grown seed set (paper, sections 3.3 and 3.4), each row with its lineage.

    python -m stages.select --reviewed iterations/1/review.jsonl --generated iterations/1/generated.jsonl
        --assessed iterations/1/assess.jsonl --parent iterations/0 --out iterations/1

S_t = S_{t-1} + the new instructions, each with its best response (the reference code loses the earlier ones). With
`select.accumulate` SFT rows and pairs add up too, as in the paper; without it each iteration trains on its own.
Judge-training rows are replayed so that the model keeps judging well. What `select.agreement` and `select.max_spread`
leave out is in none of the sets. outcomes.jsonl says of every row which sets it is in, and why not in the others.
"""

from itertools import chain
from pathlib import Path
from typing import Annotated

from typer import Option

from stages.core.checks import checked
from stages.core.command import run
from stages.core.counts import SelectCounts
from stages.core.params import read_params
from stages.core.progress import say
from stages.core.prompts import final_answer_rule
from stages.core.records import Tally, counts_file, read, write, write_json
from stages.core.rows import Candidate, JudgedCandidate, PreferencePair, ReviewedSeed, SeedRow, SftRow
from stages.data.growth import added, by_content, counted
from stages.data.lineage import judged, lineages, seed_verdicts, verdicts
from stages.data.outcomes import outcomes, reasons_of_responses
from stages.data.preference_pairs import pools, preference_pairs
from stages.data.scale import Scale, absolute, ranks, scale_of
from stages.data.screening import decided_pools, screened

JUDGE_TRAINING = Path("iterations/0/judge.jsonl")
NOT_BEST = "not the best response to its instruction"


def sft_rows(
    candidates: list[JudgedCandidate], iteration: str, min_score: float | None, tally: Tally, scale: Scale = absolute
) -> list[SftRow]:
    """Pairs but flawed ones that are scored above `min_score` on the scale (paper, section 3.4: 8)."""
    rows: list[SftRow] = []
    for candidate in candidates:
        route = candidate["route"]
        if route == "flawed":
            tally.drop("flawed on purpose", [candidate])
        elif candidate["score"] is None:
            tally.drop("unscored", [candidate])
        elif min_score is not None and scale(candidate["score"]) <= min_score:
            tally.drop("not above select.min_sft_score", [candidate])
        else:
            rows.append(
                {
                    "id": candidate["id"],
                    "kind": route,
                    "prompt": candidate["prompt"],
                    "completion": candidate["response"],
                    "iteration": iteration,
                    "lineage": judged(candidate["lineage"], candidate["score"], verdicts(candidate)),
                }
            )
    return rows


def seed_rows(candidates: list[JudgedCandidate], iteration: str, tally: Tally) -> list[SeedRow]:
    """Each new instruction with its best response, the first of equals."""
    best: dict[str, tuple[float, JudgedCandidate]] = {}
    for candidate in candidates:
        prompt, score = candidate["prompt"], candidate["score"]
        if candidate["route"] == "flawed":
            tally.drop("flawed on purpose", [candidate])
        elif candidate["route"] == "own":
            tally.drop("answers a seed's own prompt", [candidate])
        elif score is None:
            tally.drop("unscored", [candidate])
        elif prompt not in best or score > best[prompt][0]:
            if prompt in best:
                tally.drop(NOT_BEST, [best[prompt][1]])
            best[prompt] = score, candidate
        else:
            tally.drop(NOT_BEST, [candidate])
    return [
        {
            "id": candidate["id"],
            "prompt": prompt,
            "response": candidate["response"],
            "lineage": candidate["lineage"],
            "iteration": iteration,
            "score": score,
            "judge": candidate["judge"],
            "verdicts": verdicts(candidate),
            **checked(candidate),
        }
        for prompt, (score, candidate) in best.items()
    ]


def rescored(rows: list[SeedRow], reviewed: list[ReviewedSeed]) -> list[SeedRow]:
    """The parent's seed set with its newest scores."""
    newest = {row["id"]: row for row in reviewed}
    return [
        {**row, "score": review["score"], "judge": review["judge"], "verdicts": seed_verdicts(review)}
        for row, review in ((row, newest[row["id"]]) for row in rows)
    ]


def earlier_rows(parent: Path) -> tuple[list[SftRow], list[PreferencePair]]:
    """The SFT rows that the parent trained on, without those that it replayed, and its pairs."""
    sft = [row for row in read(parent / "sft.jsonl", SftRow) if row["kind"] in ("new", "own")]
    return sft, read(parent / "pairs.jsonl", PreferencePair)


def judge_rows(rows: list[SftRow], limit: int, tally: Tally) -> list[SftRow]:
    """At most `limit` judge-training rows to replay."""
    chosen = by_content(rows, limit)
    tally.drop("over select.max_judge", len(rows) - len(chosen))
    return chosen


def main(
    reviewed: Annotated[Path, Option(help="the reviewed seed set")],
    generated: Annotated[Path, Option(help="the candidates as generated: what select.agreement counts")],
    assessed: Annotated[Path, Option(help="the assessed candidates")],
    parent: Annotated[Path, Option(help="the parent's folder, iterations/PARENT: its seed set, SFT rows and pairs")],
    out: Annotated[Path, Option(help="folder for the three sets, iterations/ITERATION")],
) -> None:
    """Select SFT rows, preference pairs and new seeds."""
    params, iteration = read_params("select"), out.name
    settings = params["select"]
    seeds, assessed_rows = read(reviewed, ReviewedSeed), read(assessed, JudgedCandidate)
    earlier_seed = read(parent / "seed.jsonl", SeedRow)
    earlier_sft, earlier_pairs = earlier_rows(parent) if settings["accumulate"] else ([], [])

    if not seeds:
        stop(out, earlier_seed, iteration)
        return
    scores = [row["score"] for row in [*seeds, *assessed_rows]]
    scale = scale_of(params["review.scale"], scores)
    final_answer = final_answer_rule(params["prompts"]).read
    screening_tally = Tally(len(assessed_rows))
    candidates, screening = screened(assessed_rows, read(generated, Candidate), settings, final_answer, screening_tally)
    sft_tally = Tally(len(candidates))
    new_sft = sft_rows(candidates, iteration, settings["min_sft_score"], sft_tally, scale)
    sft = added(earlier_sft, new_sft, settings["max_sft"], sft_tally)

    scored = responses = pools(seeds, candidates)
    pair_tally = Tally(sum(len(pool) for pool in responses.values()))
    if settings["max_spread"] is not None:
        responses = decided_pools(responses, settings["max_spread"], pair_tally)
    rule = (settings["pairs"], final_answer)
    new_pairs = preference_pairs(responses, iteration, settings["min_margin"], pair_tally, scale, *rule)
    pairs = added(earlier_pairs, new_pairs, settings["max_pairs"], pair_tally)

    seed_tally = Tally(len(candidates))
    new_seed = seed_rows(candidates, iteration, seed_tally)
    seed = added(rescored(earlier_seed, seeds), new_seed, len(new_seed), seed_tally)

    judge_training = read(JUDGE_TRAINING, SftRow)
    judge_tally = Tally(len(judge_training))
    judge = judge_rows(judge_training, settings["max_judge"], judge_tally)
    write(out / "sft.jsonl", sft + judge)
    write(out / "pairs.jsonl", pairs)
    write(out / "seed.jsonl", seed)
    steps = {
        "sft": (candidates, sft_tally.reasons),
        "pairs": (chain(*scored.values()), reasons_of_responses(scored, new_pairs, pair_tally)),
        "seed": (candidates, seed_tally.reasons),
    }
    if screening is not None:
        steps = {"candidates": (assessed_rows, screening_tally.reasons), **steps}
    write(out / "outcomes.jsonl", outcomes(steps))
    counts: SelectCounts = {
        "sft": counted(sft_tally, len(earlier_sft), len(sft)),
        "pairs": counted(pair_tally, len(earlier_pairs), len(pairs)),
        "seed": counted(seed_tally, len(earlier_seed), len(seed)),
        "replayed_judge_training": judge_tally.counts(len(judge)),
        "examples": lineages(seeds, assessed_rows, pairs, sft),
    }
    if screening is not None:
        counts["screening"] = screening
    if ranked := ranks(params["review.scale"], scores):
        counts["ranks"] = ranked
    write_json(counts_file("select", iteration), counts)
    say(f"select@{iteration}: {len(sft):,} SFT rows, {len(pairs):,} pairs, {len(seed):,} seeds")


def stop(out: Path, seed: list[SeedRow], iteration: str) -> None:
    """End an iteration of a stopped chain, whose review is empty: keep the seed set and train on nothing."""
    write(out / "sft.jsonl", [])
    write(out / "pairs.jsonl", [])
    write(out / "seed.jsonl", seed)
    write(out / "outcomes.jsonl", [])
    nothing, unchanged = counted(Tally(0), 0, 0), counted(Tally(0), len(seed), len(seed))
    counts: SelectCounts = {"sft": nothing, "pairs": nothing, "seed": unchanged, "examples": []}
    write_json(counts_file("select", iteration), counts)
    say(f"select@{iteration}: the chain was stopped, nothing is selected")


if __name__ == "__main__":
    run(main)
