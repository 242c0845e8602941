"""world: draw the embedded default's data from the micro world. `python -m stages.world`

Seed pairs as people answer (often wrong), the same with their problems' answers as checks, true reviews to train the
judge, and held-out problems for the benchmark. The held-out problems are neither in the others nor in the base model's
corpus, in any wording.
"""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from random import Random

from stages.core.command import run
from stages.core.records import Record, write
from stages.microworld.corpus import human_response, judged_response, true_review
from stages.microworld.world import FAMILIES, draw, draw_distinct, oracle

SEEDS, REVIEWS = 600, 200
HELD_OUT = {"validation": 30, "test": 100}  # problems per family
JUDGED = {"validation": 10, "test": 20}  # judging items per family
DATA, BENCHMARK = Path("stages/microworld/data"), Path("evaluation/micro/data")


def seed_pairs(random: Random) -> Iterator[Record]:
    """Seed rows as people of the world would write them, {"prompt", "response"}; endless."""
    while True:
        problem = draw(random)
        yield {"prompt": problem.question, "response": human_response(random, problem).text}


def with_check(row: Record) -> Record:
    """A seed row that says how a response is checked: by its problem's answer."""
    problem = oracle(row["prompt"])
    assert problem is not None
    return {**row, "check": {"kind": "answer", "expected": problem.solution.answer}}


def judge_rows(random: Random) -> Iterator[Record]:
    """Judge-training rows with true reviews, {"prompt", "response", "review"}; endless."""
    while True:
        problem = draw(random)
        response = judged_response(random, problem)
        text = "".join(part for part, _ in true_review(random, problem, response))
        yield {"prompt": problem.question, "response": response.text, "review": text}


def without_repeats(rows: Iterator[Record]) -> Iterator[Record]:
    """The rows whose prompt has not occurred before."""
    prompts = set()
    for row in rows:
        if row["prompt"] not in prompts:
            prompts.add(row["prompt"])
            yield row


def answer_items(split: str, family: str) -> Iterator[Record]:
    """Benchmark items of a held-out split, {"question", "answer"}; endless."""
    for problem in draw_distinct(Random(f"answer {split} {family}"), split, family):
        yield {"question": problem.question, "answer": problem.solution.answer}


def judging_items(split: str) -> Iterator[Record]:
    """Judging items of a held-out split, `JUDGED` per family: {"question", "response", "verdict": correct or wrong}."""
    random = Random(f"judge {split}")
    for family in FAMILIES:
        for problem in islice(draw_distinct(random, split, family), JUDGED[split]):
            response = judged_response(random, problem)
            verdict = "correct" if response.answer == problem.solution.answer else "wrong"
            yield {"question": problem.question, "response": response.text, "verdict": verdict}


def main() -> None:
    """Draw seed rows, judge-training rows and benchmark items."""
    seeds = list(islice(without_repeats(seed_pairs(Random("seeds"))), SEEDS))
    write(DATA / "seeds.jsonl", seeds)
    write(DATA / "checked.jsonl", map(with_check, seeds))
    write(DATA / "reviews.jsonl", islice(without_repeats(judge_rows(Random("reviews"))), REVIEWS))
    for family in FAMILIES:
        items = (islice(answer_items(split, family), number) for split, number in HELD_OUT.items())
        write(BENCHMARK / f"{family}.jsonl", chain.from_iterable(items))
    write(BENCHMARK / "judging.jsonl", chain.from_iterable(judging_items(split) for split in JUDGED))


if __name__ == "__main__":
    run(main)
