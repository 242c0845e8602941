"""What a row was made from, and what the judge made of it: seed → review → new instruction → response → verdict → pair.

Selected rows carry it; `lineages` and `dropped` are the sampled rows that the report shows.
"""

from stages.core.counts import DroppedExample, Example
from stages.core.rows import DroppedCandidate, JudgedCandidate, Lineage, PreferencePair, ReviewedSeed, Route, SftRow

SAMPLE = 10  # rows that were dropped
OF_A_ROUTE = 5  # candidates

ROUTES: tuple[Route, ...] = ("new", "own", "flawed")


def verdicts(row: ReviewedSeed | JudgedCandidate) -> list[float | None]:
    """The scores of a row's reviews."""
    return [review["score"] for review in row["reviews"]]


def seed_verdicts(seed: ReviewedSeed) -> list[float | None]:
    """The scores of a seed's reviews, or of its earlier ones where the same judge has not reviewed it again."""
    return verdicts(seed) or seed.get("verdicts", [])


def judged(lineage: Lineage, score: float, verdicts: list[float | None]) -> Lineage:
    """A lineage with what the judge made of the text."""
    return {**lineage, "score": score, "verdicts": verdicts}


def lineages(
    seeds: list[ReviewedSeed], candidates: list[JudgedCandidate], pairs: list[PreferencePair], sft: list[SftRow]
) -> list[Example]:
    """At most OF_A_ROUTE candidates of each route, each of another seed: first those that became the chosen side of a
    pair, then SFT rows, then the rest, by the hash of their content."""
    seed_of = {seed["id"]: seed for seed in seeds}
    pair_of = {(pair["prompt"], response): pair for pair in pairs for response in (pair["chosen"], pair["rejected"])}
    chosen = {(pair["prompt"], pair["chosen"]) for pair in pairs}
    trained = {row["id"] for row in sft}

    def rank(row: JudgedCandidate) -> tuple[bool, bool, str]:
        return (row["prompt"], row["response"]) not in chosen, row["id"] not in trained, row["id"]

    examples: list[Example] = []
    for route in ROUTES:
        ranked = sorted((row for row in candidates if row["route"] == route), key=rank)
        first_of_seed = {row["lineage"]["seed"]: row for row in reversed(ranked)}
        sample = sorted(first_of_seed.values(), key=rank)[:OF_A_ROUTE]
        examples += [example(row, seed_of, pair_of, trained) for row in sample]
    return examples


def example(
    row: JudgedCandidate,
    seed_of: dict[str, ReviewedSeed],
    pair_of: dict[tuple[str, str], PreferencePair],
    trained: set[str],
) -> Example:
    """One candidate's way. `seed_of` by id, `pair_of` by prompt and response, `trained`: ids of SFT rows."""
    seed = seed_of[row["lineage"]["seed"]]
    pair = pair_of.get((row["prompt"], row["response"]))
    return {
        "route": row["route"],
        "seed": {
            "id": seed["id"],
            "prompt": seed["prompt"],
            "response": seed["response"],
            "score": seed["score"],
            "review": first_review(seed),
        },
        "instruction": row["prompt"],
        "response": row["response"],
        "score": row["score"],
        "review": first_review(row),
        "sft": row["id"] in trained,
        "pair": pair and {"chosen": pair["chosen"], "rejected": pair["rejected"], "margin": pair["margin"]},
    }


def first_review(row: ReviewedSeed | JudgedCandidate) -> str | None:
    """The text of the judge's first review; None where the score is an earlier iteration's."""
    return row["reviews"][0]["text"] if row["reviews"] else None


def dropped(rows: list[DroppedCandidate]) -> list[DroppedExample]:
    """At most SAMPLE rows that the filter dropped, by the hash of their content, with the reason."""
    sample = sorted(rows, key=lambda row: row["id"])[:SAMPLE]
    return [
        {"route": row["route"], "prompt": row["prompt"], "response": row["response"], "reason": row["reason"]}
        for row in sample
    ]
