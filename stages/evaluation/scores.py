"""Scores of an evaluation: of each item, of each benchmark, and of the suite."""

from collections.abc import Iterable
from typing import SupportsFloat

from stages.core.counts import BenchmarkScore, EvaluationCounts, SuiteScore
from stages.core.errors import UserError
from stages.core.records import Record
from stages.core.rows import BenchmarkItem, ItemScore, JudgingPair, Part
from stages.evaluation.suite import Suite

CHANCE = 50.0  # percent of pairs


def item_scores(items: list[BenchmarkItem], results: Record, metrics: dict[str, str]) -> list[ItemScore]:
    """The score of each evaluated item of the benchmarks in `metrics` ({benchmark: metric,filter}), from 0 to 1:
    lm-eval's metric, or one minus it if lower is better. `results`: lm-eval's. Raises `UserError` if a score is no
    number."""
    scores: list[ItemScore] = []
    by_position = {(item["task"], item["index"]): item for item in items}
    for task, samples in results["samples"].items():
        for sample in samples:
            item = by_position[task, sample["doc_id"]]
            metric, _, filter_name = metrics.get(item["benchmark"], "").partition(",")
            if sample["filter"] == filter_name:
                value = _number(sample.get(metric), f"{item['benchmark']}: {metric}")
                score = value if results["higher_is_better"][task][metric] else 1 - value
                scores.append(
                    {
                        "id": item["id"],
                        "group": item["group"],
                        "benchmark": item["benchmark"],
                        "part": item["part"],
                        "score": score,
                    }
                )
    return scores


def _number(value: object, name: str) -> float:
    if not isinstance(value, SupportsFloat):  # F1, for one, has values of whole benchmarks only
        raise UserError(
            f"evaluate.suite: {name} is {value!r} for an item, not a number; choose another metric in suite.yaml (the "
            "answers stay in the completion store)"
        )
    return float(value)


def other_scores(items: list[BenchmarkItem], results: Record, settings: Suite) -> dict[str, list[ItemScore]]:
    """Like `item_scores`, by each metric that suite.yaml lists under `also`: {metric: scores}."""
    benchmarks: dict[str, list[str]] = {}
    for name, benchmark in settings.all.items():
        for metric in benchmark.also:
            benchmarks.setdefault(metric, []).append(name)
    return {metric: item_scores(items, results, dict.fromkeys(names, metric)) for metric, names in benchmarks.items()}


def pair_scores(pairs: list[JudgingPair], preferred: list[float]) -> list[ItemScore]:
    """The scores of judged pairs, like those of items."""
    return [
        {
            "id": pair["id"],
            "group": pair["group"],
            "benchmark": pair["benchmark"],
            "part": pair["part"],
            "score": preference,
        }
        for pair, preference in zip(pairs, preferred, strict=True)
    ]


def summarise_suite(scores: list[ItemScore], others: dict[str, list[ItemScore]], settings: Suite) -> EvaluationCounts:
    """The suite's score in each part, and its other benchmarks over both parts. How the model judges is measured by the
    suite's own judging benchmarks or, without any, by each kind of pair that was judged."""
    kinds = sorted({row["benchmark"] for row in scores} - {*settings.all})
    judging = summarise(scores, others, settings.judging or kinds) if settings.judging or kinds else None
    if judging and not settings.judging:
        judging["chance"] = CHANCE

    def part(name: Part) -> SuiteScore:
        return summarise(
            _of(name, scores), {metric: _of(name, rows) for metric, rows in others.items()}, settings.tasks
        )

    return {
        "validation": part("validation"),
        "test": part("test"),
        "judging": judging,
        "apart": summarise(scores, others, settings.reported_only) if settings.reported_only else None,
    }


def _of(part: Part, rows: list[ItemScore]) -> list[ItemScore]:
    return [row for row in rows if row["part"] == part]


def summarise(scores: list[ItemScore], others: dict[str, list[ItemScore]], benchmarks: Iterable[str]) -> SuiteScore:
    """The mean over benchmarks and each benchmark's own mean, in percent, with standard errors. `others`: the scores by
    other metrics, which are stated beside a benchmark's own."""
    summaries: dict[str, BenchmarkScore] = {}
    for benchmark in benchmarks:
        summaries[benchmark] = _mean([row for row in scores if row["benchmark"] == benchmark])
        own = {metric: [row for row in rows if row["benchmark"] == benchmark] for metric, rows in others.items()}
        if also := {metric: _mean(rows) for metric, rows in own.items() if rows}:
            summaries[benchmark]["also"] = also
    mean = sum(summary["score"] for summary in summaries.values()) / len(summaries)
    stderr = sum(summary["stderr"] ** 2 for summary in summaries.values()) ** 0.5 / len(summaries)
    items = sum(summary["items"] for summary in summaries.values())
    return {"score": round(mean, 4), "stderr": round(stderr, 4), "items": items, "benchmarks": summaries}


def _mean(rows: list[ItemScore]) -> BenchmarkScore:
    """The mean in percent, with lm-eval's standard error."""
    from lm_eval.api.metrics import mean_stderr

    values = [row["score"] for row in rows]
    mean, stderr = 100 * sum(values) / len(values), 100 * mean_stderr(values)
    return {"score": round(mean, 4), "stderr": round(stderr, 4), "items": len(values)}
