"""The judge: from rendered review prompts to reviews with their scores.

`sampled`, the paper's way, samples several reviews of a pair and reads each one's verdict. `expected` writes one review
greedily and takes the mean score under the judge's own probabilities where its verdict stands (arXiv 2503.03064).
"""

import re
from typing import Any, NamedTuple

from stages.core.prompts import verdict_pattern, verdict_scale
from stages.inference.client import Client
from stages.inference.engines import Completion, Sampling
from stages.judging.expected_score import Part, Probabilities, expectation, parts, probabilities, unresolved
from stages.judging.verdict import score


class Verdict(NamedTuple):
    """A review and what was read from it; None where no verdict can be read."""

    completion: Completion
    score: float | None  # 0–10
    written: float | None  # the verdict as the judge wrote it; by `sampled` the same as the score


Place = tuple[int, Part]  # the row of a review, and one of the scores that its verdict sums

ONE_TOKEN = Sampling(temperature=0, top_p=1, max_tokens=1, random_state=0, numbers=True)


def reviews_of(
    client: Client, task: str, rendered: list[str], prompts: str, settings: dict[str, Any], random_state: int
) -> list[list[Verdict]]:
    """The reviews of each rendered prompt, scored by `review.estimator`; `settings`: that section of params.yaml."""
    pattern = verdict_pattern(prompts)
    if settings["estimator"] == "sampled":
        sampling = Sampling(settings["temperature"], settings["top_p"], settings["max_tokens"], random_state)
        samples = client.complete_rendered(task, rendered, settings["samples"], sampling)
        return [[sampled(completion, pattern) for completion in completions] for completions in samples]
    greedy = Sampling(temperature=0, top_p=1, max_tokens=settings["max_tokens"], random_state=0, numbers=True)
    reviews = [completion for (completion,) in client.complete_rendered(task, rendered, 1, greedy)]
    scores = expected(client, task, rendered, reviews, pattern, verdict_scale(prompts))
    return [[sampled(review, pattern)._replace(score=mean)] for review, mean in zip(reviews, scores, strict=True)]


def sampled(completion: Completion, pattern: re.Pattern[str]) -> Verdict:
    """A review with its verdict; a truncated one has none."""
    verdict = score(completion.text, pattern) if completion.finish == "stop" else None
    return Verdict(completion, verdict, verdict)


def expected(
    client: Client,
    task: str,
    rendered: list[str],
    reviews: list[Completion],
    pattern: re.Pattern[str],
    scale: dict[str, int],
) -> list[float | None]:
    """The mean of each review's verdict under the judge's probabilities; None where it cannot be read.

    `scale`: the highest score of each of the pattern's groups. The verdict is the sum of their means.
    """
    verdicts = [parts(review.text, pattern, scale) if review.finish == "stop" else [] for review in reviews]
    following = _following(client, task, rendered, reviews, verdicts)
    return [
        _total(
            [
                expectation(probabilities(review, part.start), part.scale, following.get((row, part), {}))
                for part in verdict
            ]
        )
        for row, (review, verdict) in enumerate(zip(reviews, verdicts, strict=True))
    ]


def _total(means: list[float | None]) -> float | None:
    """The sum of a verdict's parts; None if there are none, or one of them cannot be read."""
    readable = [mean for mean in means if mean is not None]
    return round(sum(readable), 4) if means and len(readable) == len(means) else None


def _following(
    client: Client, task: str, rendered: list[str], reviews: list[Completion], verdicts: list[list[Part]]
) -> dict[Place, dict[str, Probabilities]]:
    """What follows each token that may be a score or begin another one, as 1 and 10: read from the review where it
    wrote that token, otherwise asked of the judge as one more token."""
    following: dict[Place, dict[str, Probabilities]] = {}
    prompts: dict[tuple[Place, str], str] = {}
    for row, (review, verdict) in enumerate(zip(reviews, verdicts, strict=True)):
        for part in verdict:
            for token in unresolved(probabilities(review, part.start), part.scale):
                if review.text.startswith(token, part.start):
                    next_token = probabilities(review, part.start + len(token))
                    following.setdefault((row, part), {})[token] = next_token
                else:
                    before = rendered[row] + review.reasoning + review.text[: part.start]
                    prompts[(row, part), token] = before + token
    answers = client.complete_rendered(f"{task} other scores", list(prompts.values()), 1, ONE_TOKEN)
    for (place, token), (answer,) in zip(prompts, answers, strict=True):
        following.setdefault(place, {})[token] = probabilities(answer, 0)
    return following
