"""How well a model judges: pairs of responses whose better one is known without a model.

The suite's rows give right and wrong answers (`pair` in suite.yaml); the seed set gives a response against another
row's, and against its own first half. The judge reads the set's review prompt, the words before the verdict's last
number are put into its mouth, and a response's score is the mean of the whole scores under the judge's probabilities at
that place. So every verdict can be read, whatever a model writes, and costs a pass over the prompt.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from heapq import nsmallest
from itertools import groupby
from math import exp
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from stages.core.prompts import ReviewPrompt
from stages.core.records import content_id
from stages.core.rows import JudgingPair, Pair
from stages.evaluation.suite import MIN_ITEMS, Suite, render

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.tasks.manager import TaskDict

    from stages.evaluation.answers import StoredLM

TASK = "judging"
PAIRS = 50  # of a kind
WORDS = 12  # of a response whose half is clearly worse
NUMBER = re.compile(r"\d+(?:,\d{3})*")  # of a decimal number, either side of the point


class Known(NamedTuple):
    """Two responses to a question, the better one first."""

    kind: str
    question: str
    better: str
    worse: str

    @property
    def id(self) -> str:
        """The hash of its content."""
        return content_id(*self)


def of_suite(suite: Suite, loaded: "dict[str, TaskDict]") -> Iterator[Known]:
    """Right and wrong answers to the items of each benchmark with a `pair`. Without a template for the wrong answer, it
    is the right one with another result; an answer without a number gives no pair."""
    for benchmark, settings in suite.all.items():
        if not (pair := settings.pair):
            continue
        for task in loaded[benchmark]["tasks"].values():
            for document in task.eval_docs:
                question, right = (render(text, document, benchmark) for text in (pair.question, pair.right))
                wrong = render(pair.wrong, document, benchmark) if pair.wrong else miscalculated(right)
                if wrong and wrong != right:
                    yield Known(f"{TASK} {benchmark}", question, right, wrong)


def miscalculated(solution: str) -> str | None:
    """A solution with another result, wherever that number stands in it; None if it has no number."""
    numbers = NUMBER.findall(solution)
    if not numbers:
        return None
    result = numbers[-1]
    wrong = int(result.replace(",", "")) + 1 + int(content_id(solution), 16) % 9
    written = f"{wrong:,}" if "," in result else str(wrong)
    return NUMBER.sub(lambda number: written if number[0] == result else number[0], solution)


def of_seeds(rows: list[Pair]) -> Iterator[Known]:
    """A seed's response against the next row's, by the hash of their content, and against its own first half."""
    ordered = sorted(rows, key=lambda row: content_id(row["prompt"], row["response"]))
    for row, other in zip(ordered, ordered[1:] + ordered[:1], strict=True):
        response = row["response"]
        if other["response"] != response and other["prompt"] != row["prompt"]:
            yield Known(f"{TASK} another's response", row["prompt"], response, other["response"])
        if len(response.split()) >= WORDS:
            half = response[: len(response) // 2].rsplit(maxsplit=1)[0]
            yield Known(f"{TASK} half a response", row["prompt"], response, half)


def judging_pairs(pairs: Iterable[Known], review: ReviewPrompt) -> list[JudgingPair]:
    """The review prompts of at most `PAIRS` pairs of each kind, chosen by the hash of their content; a kind with
    one has no standard error and is left out. They choose no iteration, so all are in the part that is reported."""
    last = review.verdict.parts[-1]
    rows: list[JudgingPair] = []
    for _, of_kind in groupby(sorted(pairs, key=attrgetter("kind")), key=attrgetter("kind")):
        chosen = nsmallest(PAIRS, of_kind, key=attrgetter("id"))
        for pair in chosen if len(chosen) >= MIN_ITEMS else []:
            better, worse = (review.render(pair.question, response) for response in (pair.better, pair.worse))
            row: JudgingPair = {
                "id": pair.id,
                "group": content_id(pair.question),
                "benchmark": pair.kind,
                "task": TASK,
                "index": len(rows),
                "part": "test",
                "better": better,
                "worse": worse,
                "lead": f"{last.label}:",
                "highest": last.highest,
            }
            rows.append(row)
    return rows


Chat = Callable[[list[dict[str, str]]], str]  # messages as the model reads them, up to where it answers


def requests_of(pairs: list[JudgingPair], chat: Chat, system_prompt: str) -> "list[Instance]":
    """What is asked of lm-eval's model: each score's likelihood, from 0, for the better response and then the worse."""
    from lm_eval.api.instance import Instance

    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [
        Instance("loglikelihood", {}, (context, f" {score}"), score, (TASK, pair["index"], 1))
        for pair in pairs
        for prompt in (pair["better"], pair["worse"])
        for context in [chat([*system, {"role": "user", "content": prompt}]) + pair["lead"]]
        for score in range(pair["highest"] + 1)
    ]


def preferences(lm: "StoredLM", pairs: list[JudgingPair], system_prompt: str) -> list[float]:
    """For each pair, 1 where the model scores the better response higher, 0 where it scores it lower, else 0.5."""
    requests = requests_of(pairs, lm.apply_chat_template, system_prompt)
    likelihoods = iter([likelihood for likelihood, _ in lm.loglikelihood(requests)] if requests else [])

    def score(highest: int) -> float:
        weights = [exp(next(likelihoods)) for _ in range(highest + 1)]
        return sum(number * weight for number, weight in enumerate(weights)) / sum(weights)

    scores = [(score(pair["highest"]), score(pair["highest"])) for pair in pairs]
    return [0.5 if better == worse else float(better > worse) for better, worse in scores]
