"""The mean of a verdict under the judge's own probabilities (arXiv 2503.03064), instead of the score that it wrote."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import exp

from stages.inference.engines import Completion
from stages.judging.verdict import score

Probabilities = dict[str, float]  # of the next token, by its text
NEGLIGIBLE = 0.001  # probability of a first digit below which nobody asks how the number would continue


@dataclass(frozen=True)
class Part:
    """One of the scores that a verdict sums: where it starts in the completion, and its highest value."""

    start: int  # characters
    scale: int


def parts(completion: str, pattern: re.Pattern[str], scale: Mapping[str, int]) -> list[Part]:
    """The verdict's named groups; none if there is no verdict, or one outside 0–10."""
    match = pattern.search(completion)
    if not match or score(completion, pattern) is None:
        return []
    return [Part(match.start(group), scale[group]) for group in pattern.groupindex]


def probabilities(completion: Completion, start: int) -> Probabilities:
    """The tokens that the judge might have written at `start`, with their probabilities; empty where the engine
    reported none there. A token may begin with the blank before `start`."""
    for number in reversed(completion.numbers):
        blank = completion.text[number.start : start]
        if number.start <= start and not blank.strip():
            tokens = number.logprobs.items()
            return {token[len(blank) :]: exp(logprob) for token, logprob in tokens if token.startswith(blank)}
    return {}


def unresolved(first: Probabilities, scale: int) -> list[str]:
    """Tokens that may be a score or the beginning of another one, such as 1 and 10."""
    scores = _scores(scale)
    return [
        token
        for token, probability in first.items()
        if probability >= NEGLIGIBLE and any(_begins(token, score) for score in scores)
    ]


def expectation(first: Probabilities, scale: int, following: Mapping[str, Probabilities]) -> float | None:
    """The mean of the scores 0 to `scale` under the judge's distribution, renormalised over them; None if none of them
    has any probability. `following`: the next token's probabilities after each unresolved token."""
    mass: dict[int, float] = {}
    for token, probability in first.items():
        next_token = following.get(token, {})
        longer = {score: next_token.get(score[len(token) :], 0.0) for score in _scores(scale) if _begins(token, score)}
        for number, rest in longer.items():
            mass[int(number)] = mass.get(int(number), 0.0) + probability * rest
        if token in _scores(scale):
            mass[int(token)] = mass.get(int(token), 0.0) + probability * (1 - sum(longer.values()))
    total = sum(mass.values())
    return sum(score * weight for score, weight in mass.items()) / total if total else None


def _begins(token: str, score: str) -> bool:
    return bool(token) and score.startswith(token) and score != token


def _scores(scale: int) -> list[str]:
    return [str(score) for score in range(scale + 1)]
