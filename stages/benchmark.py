"""benchmark: list the suite's items, each in its part; none of them is trained on. `python -m stages.benchmark`"""

from pathlib import Path

from stages.core.command import run
from stages.core.params import read_params
from stages.core.progress import prepare_transformers, say
from stages.core.records import write
from stages.evaluation import suite

OUT = Path("iterations/0/benchmark.jsonl")


def main() -> None:
    """List the suite's items."""
    prepare_transformers()
    name = read_params("benchmark")["evaluate.suite"]
    settings = suite.load(name)
    items = suite.items(settings, suite.load_tasks(name, settings))
    write(OUT, items)
    counts = ", ".join(f"{sum(item['part'] == part for item in items):,} {part}" for part in suite.PARTS)
    say(f"benchmark: {counts} items of {len(settings.all)} benchmarks")


if __name__ == "__main__":
    run(main)
