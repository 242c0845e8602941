"""The judge: from rendered review prompts to reviews with their scores.

`sampled`, the paper's way, samples several reviews of a pair and reads each one's verdict. `expected` writes one review
greedily and takes the mean score under the judge's own probabilities where its verdict stands (arXiv 2503.03064).
`elicited` takes that mean where the verdict's words are put into the judge's mouth: behind its review or, with
`review.max_tokens: 0`, as its first words.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, NamedTuple

from stages.core import verdict
from stages.core.prompts import verdict_rule
from stages.inference.client import Client
from stages.inference.engines import Completion, Number, Sampling, by_text
from stages.judging.expected_score import (
    Probabilities,
    distribution,
    expectation,
    may_be_fractions,
    probabilities,
    unresolved,
)
from stages.models import reasoning


class Verdict(NamedTuple):
    """A review and what was read from it; None where no verdict can be read."""

    completion: Completion
    score: float | None  # 0–10
    written: (
        float | None
    )  # as the judge wrote it, by `sampled` the same as the score; by `elicited` its likeliest score
    on_scores: float | None = None  # by `elicited`: the probability that the judge writes a score at that place


class Position(NamedTuple):
    """Where a review's score of one part of the verdict stands."""

    row: int
    start: int  # of its number, in the review
    highest: int


Following = dict[str, Probabilities]  # the next token's, by a number's beginning

ONE_TOKEN = Sampling(temperature=0, top_p=1, max_tokens=1, random_state=0, numbers=True)
FIRST_TOKEN = replace(ONE_TOKEN, numbers="everywhere")  # of a number, where the judge need not write one


def reviews_of(
    client: Client, task: str, rendered: list[str], prompts: str, settings: dict[str, Any], random_state: int
) -> list[list[Verdict]]:
    """The reviews of each rendered prompt, scored by `review.estimator`; `settings`: that section of params.yaml."""
    rule = verdict_rule(prompts)
    if settings["estimator"] == "sampled":
        sampling = Sampling(settings["temperature"], settings["top_p"], settings["max_tokens"], random_state)
        samples = client.complete_rendered(task, rendered, settings["samples"], sampling)
        return [[sampled(completion, rule) for completion in completions] for completions in samples]
    if settings["max_tokens"]:
        greedy = Sampling(temperature=0, top_p=1, max_tokens=settings["max_tokens"], random_state=0, numbers=True)
        reviews = [completion for (completion,) in client.complete_rendered(task, rendered, 1, greedy)]
    else:
        reviews = [Completion("", "stop")] * len(rendered)
    if settings["estimator"] == "elicited":
        return [[verdict] for verdict in elicited(client, task, rendered, reviews, rule)]
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


class NextScore(NamedTuple):
    """The score that the judge would write where a text ends; None if no score is among the likeliest tokens there."""

    mean: float | None
    likeliest: float | None
    on_scores: float  # their probability together


def elicited(
    client: Client, task: str, rendered: list[str], reviews: list[Completion], rule: verdict.Verdict
) -> list[Verdict]:
    """Each review with its verdict's mean under the judge's probabilities, the sum of its parts' means.

    A review that ends in a readable verdict keeps it. Behind any other one, cut off or not, the verdict's words are put
    part by part, each with the score that is likeliest there. A mean is None only if no score is among the likeliest
    tokens, or if the review and the words do not fit the context.
    """
    verdicts = [rule.read(review.text) for review in reviews]
    reviews = [
        replace(review, reasoning=review.reasoning + reasoning.ending(prompt, review.reasoning))
        for prompt, review in zip(rendered, reviews, strict=True)
    ]
    scores: list[list[NextScore]] = [[] for _ in reviews]  # of each part
    for number, part in enumerate(rule.parts):
        begun = [
            review.text[: written[number].number] if written else rule.begun(review.text, number)
            for review, written in zip(reviews, verdicts, strict=True)
        ]
        for row, next_score in _next_scores(client, task, rendered, reviews, begun, part.highest).items():
            if next_score is None:
                reviews[row] = replace(reviews[row], finish="too long")
                continue
            scores[row].append(next_score)
            if not verdicts[row]:
                score = "" if next_score.likeliest is None else f"{next_score.likeliest:g}"
                reviews[row] = replace(reviews[row], text=begun[row] + score)
    return [_elicited(review, parts) for review, parts in zip(reviews, scores, strict=True)]


def _elicited(review: Completion, parts: list[NextScore]) -> Verdict:
    if review.finish == "too long":
        return Verdict(review, None, None)
    score, likeliest = _total([part.mean for part in parts]), _total([part.likeliest for part in parts])
    return Verdict(review, score, likeliest, fmean(part.on_scores for part in parts))


def _next_scores(
    client: Client, task: str, rendered: list[str], reviews: list[Completion], begun: list[str], highest: int
) -> dict[int, NextScore | None]:
    """{row: the score behind the text that is begun there}; None for a text that does not fit the context. A review
    that did not fit is left out."""
    rows = [row for row, review in enumerate(reviews) if review.finish != "too long"]
    prompts = [client.up_to_number(rendered[row] + reviews[row].reasoning + begun[row]) for row in rows]
    answers = [answer for (answer,) in client.complete_rendered(f"{task} verdicts", prompts, 1, FIRST_TOKEN)]
    fitting = {row: answer for row, answer in zip(rows, answers, strict=True) if answer.finish != "too long"}
    texts = list(reviews)
    for row, answer in fitting.items():
        likely = [(token.lstrip(), logprob) for number in answer.numbers for token, logprob in number.logprobs.items()]
        texts[row] = replace(reviews[row], text=begun[row], numbers=(Number(len(begun[row]), by_text(likely)),))
    positions = {row: Position(row, len(begun[row]), highest) for row in fitting}
    following = _following(client, task, rendered, texts, list(positions.values()))
    scores: dict[int, NextScore | None] = dict.fromkeys(rows)
    for row, position in positions.items():
        first = probabilities(texts[row], position.start)
        shares = distribution(first, highest, following[position])
        likeliest = max(shares, key=lambda score: shares[score], default=None)
        scores[row] = NextScore(expectation(first, highest, following[position]), likeliest, sum(shares.values()))
    return scores


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
