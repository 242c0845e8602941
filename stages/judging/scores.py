"""Scores without a judge or a verifier: by the votes of the other responses (ScPO, arXiv 2411.04109), and by who wrote
a pair (SPIN, arXiv 2401.01335; Self-Instruct, arXiv 2212.10560)."""

from collections.abc import Iterable, Sequence

from stages.core.rows import ORIGIN, VERIFIER, VOTES, Candidate, ReviewablePair, ReviewedPair
from stages.data.votes import FinalAnswer, votes

JUDGED, VERIFIED = ("judge", "both"), ("verifier", "both")  # values of review.by that take a model, and checks
HIGHEST = 10.0


def by_votes(
    rows: Iterable[ReviewablePair], generated: Sequence[Candidate], final_answer: FinalAnswer
) -> dict[str, ReviewedPair]:
    """{id: the row, with 10 times the share of the responses to its prompt that have its final answer}, over all
    responses that were `generated` but the flawed ones. A row that is none of these, such as a seed's own response, has
    no score."""
    pools: dict[str, list[Candidate]] = {}
    for candidate in generated:
        if candidate["route"] != "flawed":
            pools.setdefault(candidate["prompt"], []).append(candidate)
    shares: dict[str, float] = {}
    for pool in pools.values():
        for candidate, count in zip(pool, votes([final_answer(row["response"]) for row in pool]), strict=True):
            shares[candidate["id"]] = round(HIGHEST * count / len(pool), 4)
    return {row["id"]: _scored(row, shares.get(row["id"]), VOTES) for row in rows}


def by_origin(rows: Iterable[ReviewablePair]) -> dict[str, ReviewedPair]:
    """{id: the row, with 10 if people wrote it and 0 if a model did}."""
    return {row["id"]: _scored(row, HIGHEST if row.get("iteration") == "0" else 0.0, ORIGIN) for row in rows}


def why_unscored(row: ReviewedPair) -> str:
    """Why a row has no score."""
    if row["judge"] == VOTES:
        return "not voted on"
    if row["judge"] == VERIFIER:
        return "could not be checked" if "passed" in row else "no check"
    return "no readable verdict" if row["reviews"] else "does not fit the context"


def _scored(row: ReviewablePair, score: float | None, scorer: str) -> ReviewedPair:
    return {**row, "score": score, "judge": scorer, "reviews": []}
