"""The judge: from rendered review prompts to reviews with their scores.

`sampled` is the paper's way: several reviews are sampled, and each one's verdict is read. `expected` writes one review,
greedily, and takes the mean score under the judge's own probabilities at the verdict's place (arXiv 2503.03064).
"""

import re
from typing import Any, NamedTuple

from stages.core.prompts import verdict_pattern, verdict_scale
from stages.inference.client import Client
from stages.inference.engines import Completion, Sampling
from stages.judging.expected_score import Part, Probabilities, expectation, parts, probabilities, unresolved
from stages.judging.verdict import score


class Reviewed(NamedTuple):
    """One review of a pair; None where no verdict can be read."""

    completion: Completion
    score: float | None
    written: float | None  # the verdict as the judge wrote it; by `sampled` it is the score


ONE_TOKEN = Sampling(temperature=0, top_p=1, max_tokens=1, random_state=0, numbers=True)


def reviews(
    client: Client, task: str, rendered: list[str], prompts: str, settings: dict[str, Any], random_state: int
) -> list[list[Reviewed]]:
    """The reviews of each rendered prompt, with their scores, by `review.estimator`."""
    rule = verdict_pattern(prompts)
    if settings["estimator"] == "sampled":
        sampling = Sampling(settings["temperature"], settings["top_p"], settings["max_tokens"], random_state)
        drawn = client.complete_rendered(task, rendered, settings["samples"], sampling)
        return [[sampled(each, rule) for each in completions] for completions in drawn]
    greedy = Sampling(temperature=0, top_p=1, max_tokens=settings["max_tokens"], random_state=0, numbers=True)
    written = [completion for (completion,) in client.complete_rendered(task, rendered, 1, greedy)]
    scores = expected(client, task, rendered, written, rule, verdict_scale(prompts))
    return [[sampled(each, rule)._replace(score=mean)] for each, mean in zip(written, scores, strict=True)]


def sampled(completion: Completion, rule: re.Pattern[str]) -> Reviewed:
    """A review with its verdict; a truncated one has none."""
    verdict = score(completion.text, rule) if completion.finish == "stop" else None
    return Reviewed(completion, verdict, verdict)


def expected(
    client: Client,
    task: str,
    rendered: list[str],
    written: list[Completion],
    rule: re.Pattern[str],
    scale: dict[str, int],
) -> list[float | None]:
    """The mean of each verdict under the judge's probabilities."""
    places = [parts(each.text, rule, scale) if each.finish == "stop" else [] for each in written]
    following = _following(client, task, rendered, written, places)
    scores: list[float | None] = []
    for row, (completion, found) in enumerate(zip(written, places, strict=True)):
        means = [
            expectation(probabilities(completion, part.start), part.scale, following.get((row, part), {}))
            for part in found
        ]
        readable = [mean for mean in means if mean is not None]
        scores.append(round(sum(readable), 4) if means and len(readable) == len(means) else None)
    return scores


def _following(
    client: Client, task: str, rendered: list[str], written: list[Completion], places: list[list[Part]]
) -> dict[tuple[int, Part], dict[str, Probabilities]]:
    """How each token goes on that may be a score or begin another one, as 1 and 10: by the review itself if that is
    what it wrote, else by asking the judge for one more token."""
    found: dict[tuple[int, Part], dict[str, Probabilities]] = {}
    asked: dict[tuple[int, Part, str], str] = {}
    for row, (completion, each) in enumerate(zip(written, places, strict=True)):
        for part in each:
            for token in unresolved(probabilities(completion, part.start), part.scale):
                if completion.text.startswith(token, part.start):
                    own = probabilities(completion, part.start + len(token))
                    found.setdefault((row, part), {})[token] = own
                else:
                    asked[row, part, token] = rendered[row] + completion.text[: part.start] + token
    answers = client.complete_rendered(f"{task} other scores", list(asked.values()), 1, ONE_TOKEN)
    for (row, part, token), (answer,) in zip(asked, answers, strict=True):
        found.setdefault((row, part), {})[token] = probabilities(answer, 0)
    return found
