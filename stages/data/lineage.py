"""Sampled rows with their lineage: seed → its review → new instruction → response → verdict → pair."""

from stages.core.records import Record

NUMBER = 10


def lineages(reviewed: list[Record], assessed: list[Record], pairs: list[Record], sft: list[Record]) -> list[Record]:
    """At most NUMBER generated rows, chosen by the hash of their content, each of another seed: those first that became
    the chosen side of a pair, then those that are SFT rows, then what is left; new and flawed ones in turn."""
    seeds = {row["id"]: row for row in reviewed}
    pair_of = {(pair["prompt"], side): pair for pair in pairs for side in (pair["chosen"], pair["rejected"])}
    chosen_ones = {(pair["prompt"], pair["chosen"]) for pair in pairs}
    trained = {row["id"] for row in sft}

    def rank(row: Record) -> tuple[bool, bool, str]:
        return (row["prompt"], row["response"]) not in chosen_ones, row["id"] not in trained, row["id"]

    found: list[Record] = []
    for route in ("new", "flawed"):
        ranked = sorted((row for row in assessed if row["route"] == route), key=rank)
        first_of_seed = {row["lineage"]["seed"]: row for row in reversed(ranked)}
        chosen = sorted(first_of_seed.values(), key=rank)[: NUMBER // 2]
        found += [lineage(row, seeds, pair_of, trained) for row in chosen]
    return found


def lineage(row: Record, seeds: dict[str, Record], pair_of: dict[tuple[str, str], Record], trained: set[str]) -> Record:
    """One row's way: what it came from, what the judge said of both, and what became of it."""
    seed = seeds[row["lineage"]["seed"]]
    pair = pair_of.get((row["prompt"], row["response"]))
    return {
        "route": row["route"],
        "seed": {**{key: seed[key] for key in ("id", "prompt", "response", "score")}, "review": said(seed)},
        "instruction": row["prompt"],
        "response": row["response"],
        "score": row["score"],
        "review": said(row),
        "sft": row["id"] in trained,
        "pair": pair and {key: pair[key] for key in ("chosen", "rejected", "margin")},
    }


def said(row: Record) -> str | None:
    """The judge's first review; none where the score is an earlier iteration's."""
    return row["reviews"][0]["text"] if row["reviews"] else None


def dropped(rows: list[Record]) -> list[Record]:
    """NUMBER rows that the filter dropped, chosen by the hash of their content, with the reason."""
    chosen = sorted(rows, key=lambda row: row["id"])[:NUMBER]
    return [{key: row[key] for key in ("route", "prompt", "response", "reason")} for row in chosen]
