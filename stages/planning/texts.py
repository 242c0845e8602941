"""How long the texts of the loop are, in tokens, before there are any: by the seed set, the judge-training
rows and the prompts."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

from stages.core.prompts import ReviewPrompt, fill, generation_templates, read_system_prompt
from stages.core.records import Record, Tally
from stages.core.rows import Pair
from stages.data.seed_data import judge_training_pairs, of_file, of_hub, pairs
from stages.models import hub

CHAT = 7  # tokens of the chat format around a prompt
LETTERS = 4  # characters of a token, where the model's tokenizer is not here
SAMPLE = 100  # rows that stand for the texts of a file

SomePair = TypeVar("SomePair", bound=Pair)


class Texts(NamedTuple):
    """Mean tokens: of a prompt, a response and a review, and of what the model reads to write each kind of text."""

    prompt: float
    response: float
    review: float
    to_review: float
    to_instruct: float
    to_flaw: float
    to_answer: float
    seeds: int  # rows of the file that can be used
    judge: int  # judge-training rows


def texts(params: Record) -> Texts:
    """From the seed file, the judge-training file and the prompt set; a row of a few stands for all."""
    length = _tokens(hub.fetch_config(params["model"]) / "tokenizer.json")
    given = params["seed"]
    rows = of_hub(given["hub"]) if given["hub"] else of_file(Path(given["path"]), "seed.path")
    some, seeds = _some(pairs(rows, "seed", Tally(0), given["columns"], "drop"))
    training = judge_training_pairs(of_file(Path(given["reviews"]), "seed.reviews"), "reviews", Tally(0), "drop")
    reviews, judge = _some(training)
    review = ReviewPrompt(params["prompts"])
    chat = CHAT + length(read_system_prompt(params["prompts"]))
    instruct, flaw = generation_templates(params["prompts"])

    def mean(written: Iterable[str]) -> float:
        return fmean([length(text) for text in written] or [0.0])

    def filled(template: Any) -> Iterable[str]:
        return (fill(template, instruction=row["prompt"], response=row["response"]) for row in some)

    prompt, response = mean(row["prompt"] for row in some), mean(row["response"] for row in some)
    return Texts(
        prompt=prompt + 1,
        response=response + 1,  # with the token that ends it
        review=mean(row["review"] for row in reviews) + 1 if reviews else response + 1,
        to_review=chat + mean(review.render(row["prompt"], row["response"]) for row in some),
        to_instruct=chat + mean(filled(instruct)),
        to_flaw=chat + mean(filled(flaw)),
        to_answer=chat + prompt,
        seeds=min(seeds, given["limit"] or seeds),
        judge=judge,
    )


def _some(rows: Iterator[SomePair]) -> tuple[list[SomePair], int]:
    """The first rows, and how many there are in all."""
    first = list(islice(rows, SAMPLE))
    return first, len(first) + sum(1 for _ in rows)


def _tokens(tokenizer: Path) -> Any:
    if not tokenizer.is_file():
        return lambda text: len(text) / LETTERS
    from tokenizers import Tokenizer

    model = Tokenizer.from_file(str(tokenizer))
    return lambda text: len(model.encode(text, add_special_tokens=False).ids)
