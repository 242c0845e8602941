"""Votes of the responses to one instruction: two of them vote for the same if they have the same final answer.

A response without a final answer that can be read votes for itself alone. As in self-consistency (arXiv 2203.11171).
"""

from collections import Counter
from collections.abc import Callable, Sequence

from stages.core.rows import Candidate

FinalAnswer = Callable[[str], str | None]  # from a response to its final answer, normalised; None: it has none


def votes(answers: Sequence[str | None]) -> list[int]:
    """How many responses have the final answer of each one, itself included; 1 where it has none."""
    counts = Counter(answers)
    return [1 if answer is None else counts[answer] for answer in answers]


def agreement(answers: Sequence[str | None]) -> float | None:
    """The share of the responses that have the most frequent final answer; None if fewer than two can be read."""
    if len(answers) - answers.count(None) < 2:
        return None
    return max(votes(answers)) / len(answers)


def agreements(generated: Sequence[Candidate], final_answer: FinalAnswer) -> dict[str, float | None]:
    """{instruction: the agreement of the responses that the model wrote to it}. Of equal responses, of which the filter
    keeps one, each has its vote; flawed ones and the seed's own have none."""
    answers: dict[str, list[str | None]] = {}
    for row in generated:
        if row["route"] != "flawed":
            answers.setdefault(row["prompt"], []).append(final_answer(row["response"]))
    return {prompt: agreement(read) for prompt, read in answers.items()}
