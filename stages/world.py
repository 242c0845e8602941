"""world: the embedded default's data, drawn from its small world. `python -m stages.world`

Seed pairs as people answer (often wrong), true reviews to train the judge, and held-out problems for the benchmark. The
three share no problem with one another or with the base model's corpus, whatever the wording.
"""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from random import Random

from stages.core.command import run
from stages.core.records import Record, write
from stages.microworld.corpus import human_response, judged_response, review
from stages.microworld.world import FAMILIES, distinct, draw

SEEDS, REVIEWS = 600, 200
HELD_OUT = {"validation": 30, "test": 100}  # problems per family
JUDGED = {"validation": 10, "test": 20}  # judging items per family
DATA, BENCHMARK = Path("stages/microworld/data"), Path("evaluation/micro/data")


def seed_pairs(random: Random) -> Iterator[Record]:
    while True:
        problem = draw(random)
        yield {"prompt": problem.question, "response": human_response(random, problem).text}


def judge_training(random: Random) -> Iterator[Record]:
    while True:
        problem = draw(random)
        response = judged_response(random, problem)
        text = "".join(part for part, _ in review(random, problem, response))
        yield {"prompt": problem.question, "response": response.text, "review": text}


def answer_items(split: str, family: str) -> Iterator[Record]:
    for problem in distinct(Random(f"answer {split} {family}"), split, family):
        yield {"question": problem.question, "answer": problem.solution.answer}


def judging_items(split: str) -> Iterator[Record]:
    random = Random(f"judge {split}")
    for family in FAMILIES:
        for problem in islice(distinct(random, split, family), JUDGED[split]):
            response = judged_response(random, problem)
            verdict = "correct" if response.answer == problem.solution.answer else "wrong"
            yield {"question": problem.question, "response": response.text, "verdict": verdict}


def unique(rows: Iterator[Record]) -> Iterator[Record]:
    seen = set()
    for row in rows:
        if row["prompt"] not in seen:
            seen.add(row["prompt"])
            yield row


def main() -> None:
    write(DATA / "seeds.jsonl", islice(unique(seed_pairs(Random("seeds"))), SEEDS))
    write(DATA / "reviews.jsonl", islice(unique(judge_training(Random("reviews"))), REVIEWS))
    for family in FAMILIES:
        items = (islice(answer_items(split, family), number) for split, number in HELD_OUT.items())
        write(BENCHMARK / f"{family}.jsonl", chain.from_iterable(items))
    write(BENCHMARK / "judging.jsonl", chain.from_iterable(judging_items(split) for split in JUDGED))


if __name__ == "__main__":
    run(main)
