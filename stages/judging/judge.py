"""The judge: from rendered review prompts to reviews with their scores.

`sampled`, the paper's way, samples several reviews of a pair and reads each one's verdict. `expected` writes one review
greedily and takes the mean score under the judge's own probabilities where its verdict stands (arXiv 2503.03064).
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from stages.core import verdict
from stages.core.prompts import verdict_rule
from stages.inference.client import Client
from stages.inference.engines import Completion, Sampling
from stages.judging.expected_score import Probabilities, expectation, may_be_fractions, probabilities, unresolved


class Verdict(NamedTuple):
    """A review and what was read from it; None where no verdict can be read."""

    completion: Completion
    score: float | None  # 0–10
    written: float | None  # the verdict as the judge wrote it; by `sampled` the same as the score


class Position(NamedTuple):
    """Where a review's score of one part of the verdict stands."""

    row: int
    start: int  # of its number, in the review
    highest: int


Following = dict[str, Probabilities]  # the next token's, by a number's beginning

ONE_TOKEN = Sampling(temperature=0, top_p=1, max_tokens=1, random_state=0, numbers=True)


def reviews_of(
    client: Client, task: str, rendered: list[str], prompts: str, settings: dict[str, Any], random_state: int
) -> list[list[Verdict]]:
    """The reviews of each rendered prompt, scored by `review.estimator`; `settings`: that section of params.yaml."""
    rule = verdict_rule(prompts)
    if settings["estimator"] == "sampled":
        sampling = Sampling(settings["temperature"], settings["top_p"], settings["max_tokens"], random_state)
        samples = client.complete_rendered(task, rendered, settings["samples"], sampling)
        return [[sampled(completion, rule) for completion in completions] for completions in samples]
    greedy = Sampling(temperature=0, top_p=1, max_tokens=settings["max_tokens"], random_state=0, numbers=True)
    reviews = [completion for (completion,) in client.complete_rendered(task, rendered, 1, greedy)]
    scores = expected(client, task, rendered, reviews, rule)
    return [[sampled(review, rule)._replace(score=mean)] for review, mean in zip(reviews, scores, strict=True)]


def sampled(completion: Completion, rule: verdict.Verdict) -> Verdict:
    """A review with its verdict; a truncated one has none."""
    total = rule.total(completion.text) if completion.finish == "stop" else None
    return Verdict(completion, total, total)


def mean_score(scores: Sequence[float | None]) -> float | None:
    """The mean of the readable scores, None without any. The reference code counts an unreadable one as 0."""
    readable = [score for score in scores if score is not None]
    return round(fmean(readable), 4) if readable else None


def expected(
    client: Client, task: str, rendered: list[str], reviews: list[Completion], rule: verdict.Verdict
) -> list[float | None]:
    """The mean of each review's verdict under the judge's probabilities, the sum of its parts' means; None where it
    cannot be read."""
    positions = [
        Position(row, score.number, rule.parts[score.part].highest)
        for row, review in enumerate(reviews)
        if review.finish == "stop"
        for score in rule.read(review.text) or []
    ]
    following = _following(client, task, rendered, reviews, positions)
    means: list[list[float | None]] = [[] for _ in reviews]
    for position in positions:
        first = probabilities(reviews[position.row], position.start)
        means[position.row].append(expectation(first, position.highest, following[position]))
    return [_total(parts) for parts in means]


def _total(means: list[float | None]) -> float | None:
    """The sum of a verdict's parts; None if there are none, or one of them cannot be read."""
    readable = [mean for mean in means if mean is not None]
    return round(sum(readable), 4) if means and len(readable) == len(means) else None


def _following(
    client: Client, task: str, rendered: list[str], reviews: list[Completion], positions: list[Position]
) -> dict[Position, Following]:
    """What follows each beginning of a number that may go on: read from the review where it wrote that beginning,
    otherwise asked of the judge as one more token. In rounds, since a longer beginning may go on too."""
    following: dict[Position, Following] = {position: {} for position in positions}
    fractions = {position.row for position in positions if may_be_fractions(reviews[position.row], position.start)}
    while True:
        pending = [
            (position, beginning)
            for position in positions
            for beginning in unresolved(
                probabilities(reviews[position.row], position.start),
                position.highest,
                following[position],
                position.row in fractions,
            )
        ]
        if not pending:
            return following
        prompts: dict[tuple[Position, str], str] = {}
        for position, beginning in pending:
            review = reviews[position.row]
            written = review.text.startswith(beginning, position.start)
            tokens = probabilities(review, position.start + len(beginning)) if written else {}
            following[position][beginning] = tokens
            if not tokens and "." not in beginning[:-1]:  # nobody asks for a second decimal
                before = rendered[position.row] + review.reasoning + review.text[: position.start]
                prompts[position, beginning] = before + beginning
        answers = client.complete_rendered(f"{task} other scores", list(prompts.values()), 1, ONE_TOKEN)
        for (position, beginning), (answer,) in zip(prompts, answers, strict=True):
            following[position][beginning] = probabilities(answer, 0)
