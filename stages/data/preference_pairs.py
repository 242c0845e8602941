"""Preference pairs (paper, section 3.4): the lowest response to a prompt is rejected, the clear leaders are chosen."""

from typing import TypedDict

from stages.core.records import Tally, content_id
from stages.core.rows import JudgedCandidate, Lineage, PreferencePair, ReviewedSeed
from stages.data.lineage import judged, seed_verdicts, verdicts
from stages.data.scale import Scale, absolute


class Response(TypedDict):
    """A scored response to a prompt: the seed's own, or a candidate's."""

    id: str
    response: str
    score: float
    lineage: Lineage  # with score and verdicts


def pools(seeds: list[ReviewedSeed], candidates: list[JudgedCandidate]) -> dict[str, list[Response]]:
    """{prompt: its scored responses}: those to a new instruction; or a seed's original, once, with the flawed and the
    model's own ones. The paper makes pairs of original and flawed ones only."""
    seed_of = {seed["id"]: seed for seed in seeds}
    responses: dict[str, list[Response]] = {}
    for candidate in candidates:
        if candidate["score"] is None:
            continue
        pool = responses.setdefault(candidate["prompt"], [])
        seed = candidate["seed"]
        ids = {response["id"] for response in pool}
        if candidate["route"] != "new" and seed["score"] is not None and seed["id"] not in ids:
            lineage = judged({"seed": seed["id"]}, seed["score"], seed_verdicts(seed_of[seed["id"]]))
            pool.append({"id": seed["id"], "response": seed["response"], "score": seed["score"], "lineage": lineage})
        if candidate["id"] == seed["id"] and seed["score"] is not None:
            continue  # an own response that is the original
        score, response = candidate["score"], candidate["response"]
        lineage = judged(candidate["lineage"], score, verdicts(candidate))
        pool.append({"id": candidate["id"], "response": response, "score": score, "lineage": lineage})
    return responses


def margin(chosen: Response, rejected: Response, scale: Scale) -> float:
    """By how much one response leads another on the scale."""
    return scale(chosen["score"]) - scale(rejected["score"])


def pairs_of(pool: list[Response], min_margin: float, scale: Scale = absolute) -> list[tuple[Response, Response]]:
    """(chosen, rejected): rejected is the lowest, chosen each one that leads it by more than `min_margin` (paper,
    section 3.4: 2)."""
    rejected = min(pool, key=lambda response: (response["score"], response["id"]))
    return [(response, rejected) for response in pool if margin(response, rejected, scale) > min_margin]


def preference_pairs(
    pools: dict[str, list[Response]], iteration: str, min_margin: float, tally: Tally, scale: Scale = absolute
) -> list[PreferencePair]:
    """The pairs of every pool; the tally counts the responses that might have been chosen."""
    rows: list[PreferencePair] = []
    for prompt, pool in pools.items():
        pairs = pairs_of(pool, min_margin, scale)
        tally.drop("the rejected one of its pool")
        tally.drop("does not lead by more than select.min_margin", len(pool) - 1 - len(pairs))
        for chosen, rejected in pairs:
            rows.append(
                {
                    "id": content_id(prompt, chosen["response"], rejected["response"]),
                    "prompt": prompt,
                    "chosen": chosen["response"],
                    "rejected": rejected["response"],
                    "margin": round(margin(chosen, rejected, scale), 4),
                    "iteration": iteration,
                    "lineage": {"chosen": chosen["lineage"], "rejected": rejected["lineage"]},
                }
            )
    return rows
