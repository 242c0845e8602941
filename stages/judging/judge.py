"""The judge: from rendered review prompts to reviews with their scores.

`sampled`, the paper's way, samples several reviews of a pair and reads each one's verdict. `expected` writes one review
greedily and takes the mean score under the judge's own probabilities where its verdict stands (arXiv 2503.03064).
`elicited` does the same, and puts the verdict's words into the judge's mouth where it has written none that can be
read: behind its review or, with `review.max_tokens: 0`, as its first words.
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
    )  # as the judge wrote it, by `sampled` the same as the score; its likeliest score where it is elicited
    on_scores: float | None = None  # where it is elicited: the probability that the judge writes a score there


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
        return [[verdict] for verdict in read_or_elicited(client, task, rendered, reviews, rule)]
    return [[verdict] for verdict in expected(client, task, rendered, reviews, rule)]


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
) -> list[Verdict]:
    """Each review with the mean of its verdict under the judge's probabilities, the sum of its parts' means; None where
    it cannot be read."""
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
    return [sampled(review, rule)._replace(score=_total(parts)) for review, parts in zip(reviews, means, strict=True)]


class NextScore(NamedTuple):
    """The score that the judge would write where a text ends; None if no score is among the likeliest tokens there."""

    mean: float | None
    likeliest: float | None
    on_scores: float  # their probability together


def read_or_elicited(
    client: Client, task: str, rendered: list[str], reviews: list[Completion], rule: verdict.Verdict
) -> list[Verdict]:
    """Each review with the mean of the verdict that it has, also where it is cut off behind that, or else of an
    elicited one."""
    whole = [replace(review, finish="stop") if review.finish == "length" else review for review in reviews]
    verdicts = expected(client, task, rendered, whole, rule)
    rows = [row for row, read in enumerate(verdicts) if read.score is None and read.completion.finish != "too long"]
    without = [reviews[row] for row in rows]
    others = elicited(client, f"{task} verdicts", [rendered[row] for row in rows], without, rule)
    for row, other in zip(rows, others, strict=True):
        verdicts[row] = other
    return verdicts


def elicited(
    client: Client, task: str, rendered: list[str], reviews: list[Completion], rule: verdict.Verdict
) -> list[Verdict]:
    """Each review with a verdict's words put behind it, part by part, each with the score that is likeliest there, and
    the mean under the judge's probabilities, the sum of its parts' means. It is None only if no score is among the
    likeliest tokens, or if the review and the words do not fit the context."""
    reviews = [
        replace(review, reasoning=review.reasoning + reasoning.ending(prompt, review.reasoning))
        for prompt, review in zip(rendered, reviews, strict=True)
    ]
    scores: list[list[NextScore]] = [[] for _ in reviews]  # of each part
    for number, part in enumerate(rule.parts):
        reviews = [replace(review, text=rule.begun(review.text, number)) for review in reviews]
        for row, score in _next_scores(client, task, rendered, reviews, part.highest).items():
            if score is None:
                reviews[row] = replace(reviews[row], finish="too long")
                continue
            scores[row].append(score)
            likeliest = "" if score.likeliest is None else f"{score.likeliest:g}"
            reviews[row] = replace(reviews[row], text=reviews[row].text + likeliest)
    return [_elicited(review, parts) for review, parts in zip(reviews, scores, strict=True)]


def _elicited(review: Completion, parts: list[NextScore]) -> Verdict:
    if review.finish == "too long":
        return Verdict(review, None, None)
    score, likeliest = _total([part.mean for part in parts]), _total([part.likeliest for part in parts])
    return Verdict(review, score, likeliest, fmean(part.on_scores for part in parts))


def _next_scores(
    client: Client, task: str, rendered: list[str], reviews: list[Completion], highest: int
) -> dict[int, NextScore | None]:
    """{row: the score behind each review as far as it goes}; None if that does not fit the context. One that did not
    fit before is left out."""
    rows = [row for row, review in enumerate(reviews) if review.finish != "too long"]
    prompts = [client.up_to_number(rendered[row] + reviews[row].reasoning + reviews[row].text) for row in rows]
    answers = [answer for (answer,) in client.complete_rendered(task, prompts, 1, FIRST_TOKEN)]
    fitting = {row: answer for row, answer in zip(rows, answers, strict=True) if answer.finish != "too long"}
    reviews, positions = list(reviews), {row: Position(row, len(reviews[row].text), highest) for row in fitting}
    for row, answer in fitting.items():
        likely = [(token.lstrip(), logprob) for number in answer.numbers for token, logprob in number.logprobs.items()]
        reviews[row] = replace(reviews[row], numbers=(Number(positions[row].start, by_text(likely)),))
    following = _following(client, task, rendered, reviews, list(positions.values()))
    scores: dict[int, NextScore | None] = dict.fromkeys(rows)
    for row, position in positions.items():
        first = probabilities(reviews[row], position.start)
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
