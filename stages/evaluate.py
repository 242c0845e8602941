"""evaluate: lm-eval on the suite's tasks, with its standard errors, in the chat format of training and generation.

    python -m stages.evaluate --model iterations/1/model --parent iterations/0

A suite is a folder of evaluation/. Its items are in two parts: the validation part chooses the best iteration, the test
part is reported. Each item's score is kept, so that two iterations can be compared on the same items. An iteration that
is worse than the best one before it may stop the chain (`evaluate.stop_on`): what follows then has nothing to do.
"""

import json
from itertools import chain
from pathlib import Path
from typing import Annotated

from typer import Option

from stages.core import cost
from stages.core.command import run
from stages.core.params import read_params, read_runtime
from stages.core.progress import say
from stages.core.prompts import read_system_prompt
from stages.core.records import Record, counts_file, read, write, write_json
from stages.evaluation import harness, suite
from stages.evaluation.bootstrap import difference, mean_score


def chosen(items: list[Record], limit: int | None) -> dict[str, list[int]]:
    """{task: the indices of its items}: all of them, or the first `limit` of each part."""
    found: dict[str, dict[str, list[int]]] = {}
    for item in items:
        found.setdefault(item["task"], {}).setdefault(item["part"], []).append(item["index"])
    return {task: sorted(chain.from_iterable(each[:limit] for each in parts.values())) for task, parts in found.items()}


def scores(items: list[Record], results: Record, benchmarks: dict[str, suite.Benchmark]) -> list[Record]:
    """Each evaluated item's score in lm-eval's metric, between 0 and 1 and the higher the better."""
    found = []
    place = {(item["task"], item["index"]): item for item in items}
    for task, samples in results["samples"].items():
        for sample in samples:
            item = place[task, sample["doc_id"]]
            metric, by = benchmarks[item["benchmark"]].metric.split(",")
            if sample["filter"] == by:
                up = results["higher_is_better"][task][metric]
                value = float(sample[metric]) if up else 1 - float(sample[metric])
                found.append({**{key: item[key] for key in ("id", "group", "benchmark", "part")}, "score": value})
    return found


def summary(rows: list[Record], benchmarks: dict[str, suite.Benchmark]) -> Record:
    """The mean over the benchmarks and each one's own, in percent, with lm-eval's standard errors."""
    from lm_eval.api.metrics import mean_stderr

    each = {}
    for benchmark in benchmarks:
        values = [row["score"] for row in rows if row["benchmark"] == benchmark]
        mean, stderr = 100 * sum(values) / len(values), 100 * mean_stderr(values)
        each[benchmark] = {"score": round(mean, 4), "stderr": round(stderr, 4), "items": len(values)}
    mean = sum(value["score"] for value in each.values()) / len(each)
    stderr = sum(value["stderr"] ** 2 for value in each.values()) ** 0.5 / len(each)
    items = sum(value["items"] for value in each.values())
    return {"score": round(mean, 4), "stderr": round(stderr, 4), "items": items, "benchmarks": each}


def follow(here: Path, before: Path | None, own: list[Record], stop_on: str | None, confidence: float) -> None:
    """Write the validation scores of the best iteration so far on this path, and whether the chain ends here."""
    best, stopped = own, False
    if before:
        best = read(before / "best.jsonl")
        stopped = json.loads((before / "stop.json").read_text(encoding="utf-8"))["stopped"]
    declined = stop_on == "decline" and difference(own, best, confidence).high < 0
    write(here / "best.jsonl", own if mean_score(own) > mean_score(best) else best)
    write_json(here / "stop.json", {"stopped": stopped or declined})
    if declined and not stopped:
        say(f"{here}: worse than the best iteration before it; the chain is stopped (evaluate.stop_on: decline)")


def main(
    model: Annotated[Path, Option(help="model folder, iterations/ITERATION/model; the results go beside it")],
    parent: Annotated[Path | None, Option(help="the parent's folder, iterations/PARENT; none for iteration 0")] = None,
) -> None:
    """Evaluate a model on the suite."""
    here, iteration, runtime = model.parent, model.parent.name, read_runtime()
    params = read_params("evaluate" if parent else "evaluate-0")
    settings = suite.load(params["evaluate.suite"])
    tasks = suite.load_tasks(params["evaluate.suite"], settings)
    items = read(Path("iterations/0/benchmark.jsonl"))
    samples = chosen(items, params["evaluate.limit"])
    results, used = harness.ask(
        f"evaluate@{iteration}", model, list(tasks.values()), samples, read_system_prompt(params["prompts"]), runtime
    )
    cost.write("evaluate", iteration, cost.of_completions(used, harness.gpus(runtime)))
    rows = scores(items, results, settings.all)
    own = [row for row in rows if row["part"] == "validation" and row["benchmark"] in settings.tasks]
    follow(here, parent, own, params["evaluate.stop_on"], params["evaluate.stop_confidence"])
    harness.write(here / "evaluation", results)
    write(counts_file("evaluate", iteration).with_name("scores.jsonl"), rows)
    found: Record = {
        part: summary([row for row in rows if row["part"] == part], settings.tasks) for part in suite.PARTS
    }
    for kind, benchmarks in (("judging", settings.judging), ("apart", settings.apart)):
        found[kind] = summary(rows, benchmarks) if benchmarks else None
    write_json(counts_file("evaluate", iteration), found)
    judged = found["judging"]
    judging = f", judging {judged['score']:.1f} ± {judged['stderr']:.1f} %" if judged else ""
    test = found["test"]
    say(f"evaluate@{iteration}: test {test['score']:.1f} ± {test['stderr']:.1f} %{judging}")


if __name__ == "__main__":
    run(main)
