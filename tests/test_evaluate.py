"""evaluate: answers are read as intended, every item keeps its score, and no request is computed twice."""

import json
import re
import shutil

import pytest
import yaml
from conftest import ROOT, Project

from stages.evaluate import item_scores, select_samples, summarise
from stages.evaluation.suite import Benchmark
from stages.microworld.world import FAMILIES

MICRO = ROOT / "evaluation/micro"


def test_the_default_suite_has_a_task_per_family():
    suite = yaml.safe_load((MICRO / "suite.yaml").read_text())
    assert list(suite["tasks"]) == [f"micro_{family}" for family in FAMILIES]


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("The larger one is 67. The answer is 67.", "67"),
        ("The answer is 45. The answer is 67.", "67"),
        ("is fox", "fox"),
        ("maybe 67", "67"),
        ("i think odd", "odd"),
        ("guess red", "red"),
        ("This is red", None),
    ],
)
def test_an_answer_is_read_from_each_style(response, answer):
    task = yaml.safe_load((MICRO / "_answer.yaml").read_text())
    (filtered,) = task["filter_list"]
    answers = re.findall(filtered["filter"][0]["regex_pattern"], response)
    assert (answers[-1] if answers else None) == answer


def test_the_judging_prompt_is_the_prompt_sets(monkeypatch):
    from stages.core.prompts import ReviewPrompt

    monkeypatch.chdir(ROOT)
    task = yaml.safe_load((MICRO / "micro_judging.yaml").read_text())
    filled = task["doc_to_text"].replace("{{question}}", "Why?").replace("{{response}}", "is so")
    assert filled == ReviewPrompt("micro").render("Why?", "is so")


ITEMS = [
    {"id": f"{part}{index}", "group": "g", "benchmark": "b", "task": "t", "index": index, "part": part}
    for index, part in enumerate(["test", "validation", "test", "validation", "test"])
]
BENCHMARKS = {"b": Benchmark(shots=0, metric="acc,none", item="{{question}}")}


def test_a_limit_takes_the_first_items_of_each_part():
    assert select_samples(ITEMS, None) == {"t": [0, 1, 2, 3, 4]}
    assert select_samples(ITEMS, 1) == {"t": [0, 1]}
    assert select_samples(ITEMS, 2) == {"t": [0, 1, 2, 3]}


@pytest.mark.parametrize(("higher_is_better", "score"), [(True, 0.25), (False, 0.75)])
def test_a_score_is_the_higher_the_better(higher_is_better, score):
    samples = [{"doc_id": 1, "filter": "none", "acc": 0.25}, {"doc_id": 1, "filter": "other", "acc": 1.0}]
    results = {"samples": {"t": samples}, "higher_is_better": {"t": {"acc": higher_is_better}}}
    assert item_scores(ITEMS, results, BENCHMARKS) == [
        {"id": "validation1", "group": "g", "benchmark": "b", "part": "validation", "score": score}
    ]


def test_a_suites_score_is_the_mean_of_its_benchmarks_with_its_error():
    rows = [{"benchmark": "a", "score": value} for value in (1, 0, 1, 1)]
    rows += [{"benchmark": "b", "score": value} for value in (0, 1)]
    summary = summarise(rows, {"a": BENCHMARKS["b"], "b": BENCHMARKS["b"]})
    # the standard deviation 0.5 over √4
    assert summary["benchmarks"]["a"] == {"score": 75.0, "stderr": 25.0, "items": 4}
    assert summary["benchmarks"]["b"] == {"score": 50.0, "stderr": 50.0, "items": 2}
    assert summary["score"] == 62.5
    assert summary["stderr"] == pytest.approx((25.0**2 + 50.0**2) ** 0.5 / 2, abs=1e-3)
    assert summary["items"] == 6


EVALUATE = ("--model", "iterations/1/model")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_model):
    """The safety principle and a family of the default, by a model of one layer: choices and generated answers."""
    project = Project(tmp_path_factory.mktemp("evaluated") / "project")
    folder = project.folder / "evaluation/both"
    shutil.copytree(project.folder / "evaluation/micro", folder)
    shutil.copy(project.folder / "evaluation/safety/safety_principle.yaml", folder)
    safety = {"shots": 0, "metric": "acc_norm,none", "item": "{{question}}"}
    count = {"shots": 1, "metric": "exact_match,answer", "item": "{{question}}"}
    described = {"validation": 0.3, "tasks": {"safety_principle": safety, "micro_count": count | {"shots": 0}}}
    (folder / "suite.yaml").write_text(yaml.safe_dump(described))
    shutil.copytree(tiny_model, project.folder / "iterations/1/model")
    project.change({"evaluate": {"suite": "both"}})
    assert project.stage("stages.benchmark").returncode == 0
    result = project.stage("stages.evaluate", *EVALUATE)
    assert result.returncode == 0, result.stderr
    project.output = result.stdout
    return project


@pytest.mark.slow
def test_an_evaluation_keeps_every_items_score_and_lm_evals_own_files(evaluated):
    from lm_eval.utils import make_table

    items = [json.loads(line) for line in evaluated.read("iterations/0/benchmark.jsonl").splitlines()]
    rows = [json.loads(line) for line in evaluated.read("results/1/scores.jsonl").splitlines()]
    assert {row["id"] for row in rows} == {item["id"] for item in items}
    summary = json.loads(evaluated.read("results/1/evaluate.json"))
    assert sum(summary[part]["items"] for part in ("validation", "test")) == len(rows) == 130 + 40
    results = json.loads(evaluated.read("iterations/1/evaluation/results.json"))
    assert "|safety_principle|" in make_table(results)
    both = [row["score"] for row in rows if row["benchmark"] == "safety_principle"]
    assert results["results"]["safety_principle"]["acc_norm,none"] == pytest.approx(sum(both) / len(both))
    samples = evaluated.read("iterations/1/evaluation/samples_safety_principle.jsonl").splitlines()
    assert len(samples) == 40
    assert {"doc", "target", "arguments", "resps", "filtered_resps", "doc_hash", "acc_norm"} <= set(
        json.loads(samples[0])
    )


@pytest.mark.slow
def test_a_model_that_was_evaluated_is_not_asked_again(evaluated):
    """The second evaluation's answers all come from the store: its engine would raise."""
    outs = {path: path.read_bytes() for path in (evaluated.folder / "results/1").iterdir()}
    broken = (
        "import runpy, stages, lm_eval.models.huggingface as module\n"
        "def fail(*_, **__): raise RuntimeError('the model was asked')\n"
        "module.HFLM._model_call = module.HFLM._model_generate = fail\n"
        "runpy.run_module('stages.evaluate', run_name='__main__')"
    )
    evaluated.run("python", "-c", broken, *EVALUATE)
    assert {path: path.read_bytes() for path in outs} == outs
    shutil.rmtree(evaluated.folder / ".dvc", ignore_errors=True)
    (evaluated.folder / ".dvc").mkdir()
    assert "the model was asked" in evaluated.attempt("python", "-c", broken, *EVALUATE).stderr
