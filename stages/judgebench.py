"""judgebench: pairs of responses whose better one is known, to measure how well a model judges.

    python -m stages.judgebench

Every evaluation asks its model for both scores of a pair (evaluation/judging.py). A suite that lists judging benchmarks
of its own needs no pairs.
"""

from collections import Counter
from pathlib import Path

from stages.core.command import run
from stages.core.params import read_params
from stages.core.progress import prepare_transformers, say
from stages.core.prompts import ReviewPrompt
from stages.core.records import read, write
from stages.core.rows import JudgingPair, SeedRow
from stages.evaluation import judging, suite

SEED, OUT = Path("iterations/0/seed.jsonl"), Path("iterations/0/judgebench.jsonl")


def pairs(name: str, settings: suite.Suite, review: ReviewPrompt) -> list[JudgingPair]:
    """Pairs of the suite's and the seed set's rows."""
    known: list[judging.Known] = []
    if with_pairs := {benchmark: use for benchmark, use in settings.all.items() if use.pair}:
        prepare_transformers()
        used = settings.model_copy(update={"tasks": with_pairs, "judging": {}, "reported_only": {}})
        known += judging.of_suite(used, suite.load_tasks(name, used))
    known += judging.of_seeds([*read(SEED, SeedRow)])
    return judging.judging_pairs(known, review)


def main() -> None:
    """List the pairs."""
    params = read_params("judgebench")
    name = params["evaluate.suite"]
    settings = suite.load(name)
    rows = [] if settings.judging else pairs(name, settings, ReviewPrompt(params["prompts"]))
    write(OUT, rows)
    kinds = Counter(row["benchmark"].removeprefix(f"{judging.TASK} ") for row in rows)
    listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    say(f"judgebench: {listed or f'the suite {name} has judging benchmarks of its own'}")


if __name__ == "__main__":
    run(main)
