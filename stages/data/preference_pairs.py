"""Preference pairs: the lowest response to a prompt is rejected, and the clear leaders are chosen (paper, section 3.4),
or the best one alone (arXiv 2401.10020)."""

from typing import Literal, TypedDict

from stages.core.records import Tally, content_id
from stages.core.rows import JudgedCandidate, Lineage, PreferencePair, ReviewedSeed
from stages.data.lineage import judged, seed_verdicts, verdicts
from stages.data.scale import Scale, absolute
from stages.data.votes import FinalAnswer

NO_LEAD = "does not lead by more than select.min_margin"


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
    """By how much one response leads another on the scale, to four digits: 4.3333 leads 2.3333 by 2, not by more."""
    return round(scale(chosen["score"]) - scale(rejected["score"]), 4)


def lowest(pool: list[Response]) -> Response:
    """The rejected response of a pool; of equal scores the first by its id."""
    return min(pool, key=lambda response: (response["score"], response["id"]))


def leaders(pool: list[Response], min_margin: float, tally: Tally, scale: Scale = absolute) -> list[Response]:
    """`select.pairs: all`: each response that leads the lowest by more than `min_margin` (paper, section 3.4: 2)."""
    rejected = lowest(pool)
    chosen = [response for response in pool if margin(response, rejected, scale) > min_margin]
    leading = {rejected["id"], *(response["id"] for response in chosen)}
    tally.drop(NO_LEAD, [response for response in pool if response["id"] not in leading])
    return chosen


def best(
    pool: list[Response],
    min_margin: float,
    tally: Tally,
    scale: Scale = absolute,
    final_answer: FinalAnswer = lambda response: None,
) -> list[Response]:
    """`select.pairs: extremes`: the highest response, of equal scores the first by its id, if it leads the lowest by
    more than `min_margin` and their final answers differ or are not known; else none. The next best is not tried."""
    if len(pool) == 1:
        return []
    rejected = lowest(pool)
    others = [response for response in pool if response["id"] != rejected["id"]]
    chosen, *between = sorted(others, key=lambda response: (-response["score"], response["id"]))
    tally.drop("neither the best nor the worst of its pool", between)
    answer = final_answer(chosen["response"])
    if margin(chosen, rejected, scale) <= min_margin:
        tally.drop(NO_LEAD, [chosen])
    elif answer is not None and answer == final_answer(rejected["response"]):
        tally.drop("same final answer as the rejected one", [chosen])
    else:
        return [chosen]
    return []


def preference_pairs(
    pools: dict[str, list[Response]],
    iteration: str,
    min_margin: float,
    tally: Tally,
    scale: Scale = absolute,
    kind: Literal["all", "extremes"] = "all",
    final_answer: FinalAnswer = lambda response: None,
) -> list[PreferencePair]:
    """The pairs of every pool by `select.pairs`, the `kind`; the tally counts the responses that might be chosen."""
    rows: list[PreferencePair] = []
    for prompt, pool in pools.items():
        rejected = lowest(pool)
        tally.drop("the rejected one of its pool", [rejected])
        if kind == "extremes":
            chosen_ones = best(pool, min_margin, tally, scale, final_answer)
        else:
            chosen_ones = leaders(pool, min_margin, tally, scale)
        for chosen in chosen_ones:
            rows.append(
                {
                    "id": content_id(prompt, chosen["response"], rejected["response"]),
                    "prompt": prompt,
                    "chosen": chosen["response"],
                    "rejected": rejected["response"],
                    "margin": margin(chosen, rejected, scale),
                    "iteration": iteration,
                    "lineage": {"chosen": chosen["lineage"], "rejected": rejected["lineage"]},
                }
            )
    return rows
