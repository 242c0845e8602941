"""Download the data of an evaluation suite into the Hugging Face cache, and count its items.

    lance suite leaderboard
    lance suite               the suite of params.yaml

No stage downloads it, so run this once before `dvc repro`.
"""

import os
from typing import Annotated

from typer import Argument

from stages.core.params import PARAMS_FILE
from stages.core.params import load as load_yaml
from stages.core.progress import say
from stages.evaluation import suite


def main(
    name: Annotated[
        str | None, Argument(help="a folder of evaluation/; by default, evaluate.suite of params.yaml")
    ] = None,
) -> None:
    """Download a suite's data, and count the items of each benchmark."""
    name = name or str(load_yaml(PARAMS_FILE)["evaluate"]["suite"])
    os.environ["HF_HUB_OFFLINE"] = "0"  # stages/__init__.py switches the network off for the stages
    settings = suite.load(name)
    rows = suite.items(settings, suite.load_tasks(name, settings))
    for benchmark, task in settings.all.items():
        parts = [row["part"] for row in rows if row["benchmark"] == benchmark]
        counts = ", ".join(f"{parts.count(part):,} {part}" for part in suite.PARTS)
        metrics = ", also ".join([task.metric, *task.also])
        say(f"{benchmark}: {counts} items, {task.shots} shots, {metrics}")
