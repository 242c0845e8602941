"""The mean of a verdict under the judge's own probabilities (arXiv 2503.03064), instead of the score that it wrote."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import exp

from stages.inference.engines import Completion
from stages.judging.verdict import score

Probabilities = dict[str, float]
NEGLIGIBLE = 0.001  # probability of a first digit below which it is not asked how the number would go on


@dataclass(frozen=True)
class Part:
    """One of the scores that a verdict sums: where it stands in the completion, and how high it can be."""

    start: int
    scale: int


def parts(completion: str, verdict: re.Pattern[str], scale: Mapping[str, int]) -> list[Part]:
    """The verdict's named groups; none where it is not there or outside 0–10."""
    found = verdict.search(completion)
    if not found or score(completion, verdict) is None:
        return []
    return [Part(found.start(group), scale[group]) for group in verdict.groupindex]


def probabilities(completion: Completion, start: int) -> Probabilities:
    """The tokens that the judge might have written at a place of its completion, with their probabilities; empty where
    the engine told nothing about that place. A token may begin with the blank before the place."""
    for number in reversed(completion.numbers):
        blank = completion.text[number.start : start]
        if number.start <= start and not blank.strip():
            likely = number.logprobs.items()
            return {token[len(blank) :]: exp(each) for token, each in likely if token.startswith(blank)}
    return {}


def unresolved(first: Probabilities, scale: int) -> list[str]:
    """Tokens that may be a score or the beginning of another one, such as 1 and 10."""
    scores = _scores(scale)
    return [
        token for token, share in first.items() if share >= NEGLIGIBLE and any(_begins(token, each) for each in scores)
    ]


def expectation(first: Probabilities, scale: int, following: Mapping[str, Probabilities]) -> float | None:
    """The mean of the scores 0 to `scale` under the judge's distribution (arXiv 2503.03064); None where it gives none
    of them any probability. `following` tells how each unresolved token goes on."""
    mass: dict[int, float] = {}
    for token, share in first.items():
        going_on = following.get(token, {})
        longer = {each: going_on.get(each[len(token) :], 0.0) for each in _scores(scale) if _begins(token, each)}
        for number, rest in longer.items():
            mass[int(number)] = mass.get(int(number), 0.0) + share * rest
        if token in _scores(scale):
            mass[int(token)] = mass.get(int(token), 0.0) + share * (1 - sum(longer.values()))
    total = sum(mass.values())
    return sum(score * each for score, each in mass.items()) / total if total else None


def _begins(token: str, score: str) -> bool:
    return bool(token) and score.startswith(token) and score != token


def _scores(scale: int) -> list[str]:
    return [str(score) for score in range(scale + 1)]
