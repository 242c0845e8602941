"""evaluate: lm-eval on the suite's benchmarks, with standard errors, in the chat format of training and generation.

    python -m stages.evaluate --model iterations/1/model --parent iterations/0

The validation part of the items chooses the best iteration, and the test part is reported; the paper chooses on what it
reports. Every item's score is kept, to compare iterations on the same items. An iteration that is worse than the best
one before it can stop the chain (`evaluate.stop_on`): the stages after it then have nothing to do.
"""

import json
from collections.abc import Sequence
from heapq import nsmallest
from operator import itemgetter
from pathlib import Path
from typing import Annotated

from typer import Option

from stages.core import cost
from stages.core.command import run
from stages.core.params import read_params, read_runtime
from stages.core.progress import say
from stages.core.prompts import read_system_prompt
from stages.core.records import counts_file, read, write, write_json
from stages.core.rows import BenchmarkItem, ItemScore, JudgingPair
from stages.evaluation import harness, judging, suite
from stages.evaluation.bootstrap import difference, mean_score, of_one_group
from stages.evaluation.scores import item_scores, other_scores, pair_scores, summarise_suite

BENCHMARK, PAIRS = Path("iterations/0/benchmark.jsonl"), Path("iterations/0/judgebench.jsonl")


def select_samples(items: Sequence[BenchmarkItem | JudgingPair], limit: int | None) -> dict[str, list[int]]:
    """The items to evaluate, {task: indices}: all of them, or `limit` of each part of a benchmark, chosen by the hash
    of their content from all of its tasks. A larger limit keeps those of a smaller one."""
    parts: dict[tuple[str, str], list[BenchmarkItem | JudgingPair]] = {}
    for item in items:
        parts.setdefault((item["benchmark"], item["part"]), []).append(item)
    indices: dict[str, list[int]] = {}
    for part in parts.values():
        for item in part if limit is None else nsmallest(limit, part, key=itemgetter("id")):
            indices.setdefault(item["task"], []).append(item["index"])
    return {task: sorted(numbers) for task, numbers in indices.items()}


def select_pairs(limit: int | None) -> list[JudgingPair]:
    """The pairs to judge, of each kind at most `limit`."""
    pairs = read(PAIRS, JudgingPair)
    return [pairs[index] for index in select_samples(pairs, limit).get(judging.TASK, [])]


def update_best(
    folder: Path, parent: Path | None, scores: list[ItemScore], stop_on: str | None, confidence: float
) -> bool:
    """Write the best validation scores of this iteration and its ancestors (best.jsonl), and whether the chain stops
    here or stopped before (stop.json). Returns whether it stops here, because this iteration is worse than the best one
    before it, with the given confidence."""
    best, stopped = scores, False
    if parent:
        best = read(parent / "best.jsonl", ItemScore)
        stopped = json.loads((parent / "stop.json").read_text(encoding="utf-8"))["stopped"]
    declined = stop_on == "decline" and difference(scores, best, confidence).is_loss
    write(folder / "best.jsonl", scores if mean_score(scores) > mean_score(best) else best)
    write_json(folder / "stop.json", {"stopped": stopped or declined})
    return declined and not stopped


def main(
    model: Annotated[Path, Option(help="model folder, iterations/ITERATION/model; the results are written beside it")],
    parent: Annotated[Path | None, Option(help="the parent's folder, iterations/PARENT; none for iteration 0")] = None,
) -> None:
    """Evaluate a model on the suite."""
    folder, iteration, runtime = model.parent, model.parent.name, read_runtime()
    params = read_params("evaluate" if parent else "evaluate-0")
    settings = suite.load(params["evaluate.suite"])
    tasks = suite.load_tasks(params["evaluate.suite"], settings)
    items, system_prompt = read(BENCHMARK, BenchmarkItem), read_system_prompt(params["prompts"])
    samples, pairs = select_samples(items, params["evaluate.limit"]), select_pairs(params["evaluate.limit"])

    name = f"evaluate@{iteration}"
    results, preferred, answers, reasoning = harness.evaluate_model(
        name, model, list(tasks.values()), samples, pairs, system_prompt, runtime
    )
    scores = item_scores(items, results, {key: benchmark.metric for key, benchmark in settings.all.items()})
    scores += pair_scores(pairs, preferred)
    summary = summarise_suite(scores, other_scores(items, results, settings), settings)
    if reasoning["completions"]:
        summary["reasoning"] = reasoning
    validation = [row for row in scores if row["part"] == "validation" and row["benchmark"] in settings.tasks]
    stops = update_best(folder, parent, validation, params["evaluate.stop_on"], params["evaluate.stop_confidence"])

    harness.write_results(folder / "evaluation", results)
    write(counts_file("evaluate", iteration).with_name("scores.jsonl"), scores)
    write_json(counts_file("evaluate", iteration), summary)
    cost.write("evaluate", iteration, cost.of_completions(answers, harness.gpus(runtime)))
    test, score = summary["test"], summary["judging"]
    judged = f", judging {score['score']:.1f} ± {score['stderr']:.1f} %" if score else ""
    say(f"{name}: test {test['score']:.1f} ± {test['stderr']:.1f} %{judged}")
    if params["evaluate.stop_on"] and (single := of_one_group(validation)):
        say(f"{name}: evaluate.stop_on has no effect: the validation items of {', '.join(single)} are all of one group")
    if stops:
        say(f"{name}: worse than the best iteration before it; the chain is stopped (evaluate.stop_on: decline)")


if __name__ == "__main__":
    run(main, launch="generate")
