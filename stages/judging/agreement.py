"""How the judge and the selected data agree with the verifiers, which know where a program can check a response."""

from collections.abc import Iterable, Iterator
from itertools import groupby, product
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from stages.core.records import content_id
from stages.core.rows import Check, ItemScore, JudgedCandidate, PreferencePair, SftRow
from stages.data.votes import FinalAnswer
from stages.judging.verifiers import Outcome, Request, verify

Texts = tuple[str, str]  # a prompt and a response to it


class Judged(NamedTuple):
    """A candidate with what the verifier and the judge say of it."""

    prompt: str
    passed: bool
    score: float


def verify_candidates(
    task: str, candidates: list[JudgedCandidate], functions: Path, final_answer: FinalAnswer
) -> dict[Texts, Outcome]:
    """The outcome of the check of each candidate that has one, and of its seed's own response to the same prompt.
    `final_answer`: the prompt set's rule. Raises `UserError` if what a check needs cannot be loaded."""
    checks: dict[Texts, Check] = {}
    for row in candidates:
        if "check" in row:
            checks[row["prompt"], row["response"]] = row["check"]
        seed = row["seed"]
        if "check" in seed and row["prompt"] == seed["prompt"]:
            checks[seed["prompt"], seed["response"]] = seed["check"]
    requests = {
        (prompt, response): Request(check, prompt, response, final_answer(response))
        for (prompt, response), check in checks.items()
    }
    return dict(zip(requests, verify(task, list(requests.values()), functions), strict=True))


def judge_in_order(candidates: list[JudgedCandidate], outcomes: dict[Texts, Outcome]) -> Iterator[ItemScore]:
    """Each two responses to one prompt of which one passes its check and one fails: 1 where the judge's own reviews
    score the former higher, 0 where they score it lower, else 0.5."""
    judged = []
    for row in candidates:
        outcome = outcomes.get((row["prompt"], row["response"]))
        scores = [review["score"] for review in row["reviews"] if review["score"] is not None]
        if outcome and outcome.passed is not None and scores:
            judged.append(Judged(row["prompt"], outcome.passed, fmean(scores)))
    judged.sort(key=lambda row: row.prompt)
    for prompt, rows in groupby(judged, key=lambda row: row.prompt):
        responses = list(rows)
        right, wrong = ([row.score for row in responses if row.passed is passed] for passed in (True, False))
        for number, (better, worse) in enumerate(product(right, wrong)):
            yield _item(prompt, number, 0.5 if better == worse else float(better > worse))


def rows_passing(rows: Iterable[SftRow], outcomes: dict[Texts, Outcome]) -> Iterator[ItemScore]:
    """Each SFT row with a check: whether it passes."""
    for number, row in enumerate(rows):
        outcome = outcomes.get((row["prompt"], row["completion"]))
        if outcome and outcome.passed is not None:
            yield _item(row["prompt"], number, float(outcome.passed))


def pairs_in_order(pairs: Iterable[PreferencePair], outcomes: dict[Texts, Outcome]) -> Iterator[ItemScore]:
    """Each preference pair of which one side passes its check and one fails: whether that is the chosen one."""
    for number, pair in enumerate(pairs):
        chosen, rejected = (outcomes.get((pair["prompt"], text)) for text in (pair["chosen"], pair["rejected"]))
        if chosen and rejected and {chosen.passed, rejected.passed} == {True, False}:
            yield _item(pair["prompt"], number, float(chosen.passed is True))


def _item(prompt: str, number: int, score: float) -> ItemScore:
    """An item of which those of one prompt are resampled together."""
    group = content_id(prompt)
    return {"id": f"{group}-{number}", "group": group, "benchmark": "checks", "part": "test", "score": score}
