"""Which seeds `generate` starts from, by route, and which others it shows beside one.

Every choice goes by the hash of the rows' content and of the parent's name: it stays the same for another threshold or
a grown seed set, and differs in the next iteration.
"""

from typing import NamedTuple

from stages.core.checks import checked
from stages.core.counts import RouteCounts
from stages.core.params import Params
from stages.core.records import Tally, content_id
from stages.core.rows import ReviewedSeed, ScoredSeed
from stages.data.scale import Scale, absolute, scale_of


class Sources(NamedTuple):
    """The seeds to generate from, by route."""

    low: list[ScoredSeed]  # they get new instructions
    own: list[ScoredSeed]  # people's, whose prompts the model answers
    high: list[ScoredSeed]  # they get flawed responses
    shots: dict[str, list[ReviewedSeed]]  # {id of a low one: the seeds to show before it}; empty with generate.shots: 1


def sources_of(params: Params, reviewed: list[ReviewedSeed], parent: str) -> tuple[Sources, RouteCounts]:
    """The seeds to generate from, and their counts. A seed may be in `own` beside another route."""
    settings, scale = params["generate"], scale_of(params["review.scale"], (seed["score"] for seed in reviewed))
    routed = Tally(len(reviewed))
    bounds = settings["max_low"], settings["max_high"]
    low, high = route(reviewed, params["threshold"], *bounds, parent, routed, scale)
    counts: RouteCounts = {"seed": {**routed.counts(len(low) + len(high)), "low": len(low), "high": len(high)}}
    own = list[ScoredSeed]()
    if settings["max_own"]:
        people = people_of(reviewed)
        answered = Tally(len(people))
        own = own_seeds(people, settings["max_own"], parent, answered)
        counts["own_seed"] = answered.counts(len(own))
    others = settings["shots"] - 1
    shots = {seed["id"]: shots_of(seed, reviewed, others, settings["people_shots"], parent) for seed in low if others}
    return Sources(low, own, high, shots), counts


def route(
    reviewed: list[ReviewedSeed],
    threshold: float,
    max_low: int,
    max_high: int,
    parent: str,
    tally: Tally,
    scale: Scale = absolute,
) -> tuple[list[ScoredSeed], list[ScoredSeed]]:
    """The low and the high seeds to generate from (paper, section 3.3). The threshold is compared on the scale."""
    scored = [(source(seed), seed["score"]) for seed in by_content(reviewed, parent) if seed["score"] is not None]
    low = [seed for seed, score in scored if scale(score) <= threshold]
    high = [seed for seed, score in scored if scale(score) > threshold]
    tally.drop("unscored", len(reviewed) - len(scored))
    tally.drop("over generate.max_low", max(0, len(low) - max_low))
    tally.drop("over generate.max_high", max(0, len(high) - max_high))
    return low[:max_low], high[:max_high]


def own_seeds(people: list[ReviewedSeed], limit: int, parent: str, tally: Tally) -> list[ScoredSeed]:
    """At most `limit` of people's seeds, scored or not."""
    tally.drop("over generate.max_own", max(0, len(people) - limit))
    return [source(seed) for seed in by_content(people, parent)[:limit]]


def shots_of(
    seed: ScoredSeed, reviewed: list[ReviewedSeed], number: int, people_share: float, parent: str
) -> list[ReviewedSeed]:
    """`number` other seeds to show before one. `people_share` of them, rounded half up, are people's, and more where
    there are too few generated ones; where there are too few of people's, fewer are shown."""
    ranks = {
        row["id"]: content_id(parent, seed["id"], row["id"]) for row in reviewed if row["prompt"] != seed["prompt"]
    }
    others = sorted((row for row in reviewed if row["id"] in ranks), key=lambda row: ranks[row["id"]])
    people = people_of(others)
    generated = [row for row in others if row["iteration"] != "0"][: number - int(number * people_share + 0.5)]
    return sorted([*generated, *people[: number - len(generated)]], key=lambda row: ranks[row["id"]])


def people_of(rows: list[ReviewedSeed]) -> list[ReviewedSeed]:
    """The rows that the user's seed file has; the others were generated."""
    return [row for row in rows if row["iteration"] == "0"]


def by_content(rows: list[ReviewedSeed], parent: str) -> list[ReviewedSeed]:
    """The rows in the order in which bounds choose them."""
    return sorted(rows, key=lambda row: content_id(parent, row["id"]))


def source(seed: ReviewedSeed) -> ScoredSeed:
    """What a candidate keeps of a seed."""
    return {
        "id": seed["id"],
        "prompt": seed["prompt"],
        "response": seed["response"],
        "score": seed["score"],
        **checked(seed),
    }
