"""The mean of a verdict under the judge's own probabilities, instead of the score that it wrote (arXiv 2503.03064).

That paper takes the mean over the single tokens of whole scores. Here it is over all numbers that the judge might have
written at that place, whatever tokens they consist of: 1 may go on to 10, and 4 to 4.5. Fractions are followed up where
the review wrote one or was likely to (`may_be_fractions`).
"""

import re
from collections.abc import Mapping
from math import exp

from stages.inference.engines import Completion, holds_digit

Probabilities = dict[str, float]  # of the next token, by its text
NEGLIGIBLE = 0.001  # probability of a number's beginning below which nobody asks how it would continue

_BEGINNING = re.compile(r"\d+(?:\.\d*)?")


def probabilities(completion: Completion, start: int) -> Probabilities:
    """The tokens that the judge might have written at `start`, with their probabilities; empty where the engine
    reported none there. A token may begin with what stands before `start`, a blank or a bracket, but not a digit."""
    for number in reversed(completion.numbers):
        before = completion.text[number.start : start]
        if number.start <= start and not holds_digit(before):
            tokens = number.logprobs.items()
            return {token[len(before) :]: exp(logprob) for token, logprob in tokens if token.startswith(before)}
    return {}


def may_be_fractions(completion: Completion, start: int) -> bool:
    """Whether the number that the judge wrote at `start` has a fraction, or had more than a negligible probability of
    one. A point that ends the sentence is none."""
    whole = re.compile(r"\d+").match(completion.text, start)
    if not whole:
        return False
    written = completion.text[whole.end() :]
    tokens = [*probabilities(completion, whole.end()).items()]
    tokens += [(token[whole.end() - start :], share) for token, share in probabilities(completion, start).items()]
    likely = any(share >= NEGLIGIBLE and re.match(r"\.(?:\d|$)", token) for token, share in tokens)
    return bool(re.match(r"\.\d", written)) or (likely and not written.startswith("."))


def unresolved(
    first: Probabilities, highest: int, following: Mapping[str, Probabilities], fractions: bool
) -> list[str]:
    """The beginnings of numbers that may go on, such as 1 of 10 and 4 of 4.5, and of which nobody has asked how."""
    beginnings = dict(_beginnings("", 1.0, {"": first, **following}))
    return [
        beginning
        for beginning, share in beginnings.items()
        if share >= NEGLIGIBLE and beginning not in following and _may_go_on(beginning, highest, fractions)
    ]


def expectation(first: Probabilities, highest: int, following: Mapping[str, Probabilities]) -> float | None:
    """The mean of the numbers from 0 to `highest` under the judge's distribution, renormalised over them; None if none
    of them has any probability. `following`: the next token's probabilities after a number's beginning."""
    shares = distribution(first, highest, following)
    total = sum(shares.values())
    return sum(value * share for value, share in shares.items()) / total if total else None


def distribution(first: Probabilities, highest: int, following: Mapping[str, Probabilities]) -> dict[float, float]:
    """{number from 0 to `highest`: the probability that the judge writes it}; what else it may write is left out."""
    shares: dict[float, float] = {}
    tokens = {"": first, **following}
    for beginning, share in _beginnings("", 1.0, tokens):
        value = float(beginning)
        ended = share * (1 - sum(part for _, part in _steps(beginning, tokens.get(beginning, {}))))
        if value <= highest:
            shares[value] = shares.get(value, 0.0) + max(0.0, ended)
    return shares


Beginnings = list[tuple[str, float]]  # a number's beginning, and the probability that the judge writes it


def _beginnings(text: str, share: float, following: Mapping[str, Probabilities]) -> Beginnings:
    """The beginnings that the judge may write after the beginning `text`, and after those."""
    beginnings: Beginnings = []
    for longer, part in _steps(text, following.get(text, {})):
        beginnings += [(longer, share * part), *_beginnings(longer, share * part, following)]
    return beginnings


def _steps(text: str, tokens: Probabilities) -> Beginnings:
    """The longer beginnings that one token makes of `text`. A token may end the number, as "4\\n" does."""
    steps: dict[str, float] = {}
    for token, share in tokens.items():
        match = _BEGINNING.match(text + token)
        if match and match[0] != text:
            steps[match[0]] = steps.get(match[0], 0.0) + share
    return list(steps.items())


def _may_go_on(beginning: str, highest: int, fractions: bool) -> bool:
    """Whether a longer number from 0 to `highest`, with at most two decimals, begins so."""
    whole, point, decimals = beginning.partition(".")
    longer = not point and 0 < 10 * int(whole) <= highest
    return longer or (fractions and int(whole) < highest and len(decimals) < 2)
