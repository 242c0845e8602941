"""evaluate: answers are read as intended, every item keeps its score, and no request is computed twice."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Project

from stages.core.errors import UserError
from stages.evaluate import select_samples, update_best
from stages.evaluation.scores import item_scores, other_scores, summarise, summarise_suite
from stages.evaluation.suite import Suite
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


def test_a_limit_holds_for_each_part_of_a_benchmark_whatever_its_number_of_tasks():
    """As for MMLU, with a task a subject. Which ones is decided by their hash, and a larger limit keeps them."""
    subjects = [
        item | {"task": f"t{n}", "id": f"{(n * 7 + item['index'] * 3) % 20}"} for n in range(4) for item in ITEMS
    ]
    other = [item | {"benchmark": "c", "task": "c", "id": item["id"]} for item in ITEMS]
    assert select_samples(ITEMS, None) == {"t": [0, 1, 2, 3, 4]}
    previous: set[tuple[str, int]] = set()
    for limit in (1, 2, 5):
        samples = select_samples(subjects + other, limit)
        chosen = {(task, index) for task, indices in samples.items() for index in indices}
        of_parts = Counter((task == "c", ITEMS[index]["part"]) for task, index in chosen)
        assert of_parts == {
            (False, "validation"): limit,
            (False, "test"): limit,
            (True, "validation"): min(limit, 2),
            (True, "test"): min(limit, 3),
        }
        assert previous <= chosen
        previous = chosen
    assert len({task for task, _ in previous}) > 3


@pytest.mark.parametrize(("higher_is_better", "score"), [(True, 0.25), (False, 0.75)])
def test_a_score_is_the_higher_the_better(higher_is_better, score):
    samples = [{"doc_id": 1, "filter": "none", "acc": 0.25}, {"doc_id": 1, "filter": "other", "acc": 1.0}]
    results = {"samples": {"t": samples}, "higher_is_better": {"t": {"acc": higher_is_better}}}
    assert item_scores(ITEMS, results, {"b": "acc,none"}) == [
        {"id": "validation1", "group": "g", "benchmark": "b", "part": "validation", "score": score}
    ]


@pytest.mark.parametrize("value", [("gold", "guess"), [1, 0], None])
def test_a_metric_without_a_number_for_each_item_is_one_line(value):
    samples = [{"doc_id": 1, "filter": "none", "f1": value}]
    results = {"samples": {"t": samples}, "higher_is_better": {"t": {"f1": True}}}
    with pytest.raises(UserError, match=r"b: f1 is .* for an item, not a number; choose another metric"):
        item_scores(ITEMS, results, {"b": "f1,none"})


def test_other_metrics_are_stated_beside_the_score_and_not_in_it():
    """As GSM8K by lm-eval's strict and flexible filters."""
    right = {"flexible": {0, 1, 2, 3}, "strict": {0}}
    samples = [
        {"doc_id": item["index"], "filter": name, "exact_match": float(item["index"] in indices)}
        for name, indices in right.items()
        for item in ITEMS
    ]
    results = {"samples": {"t": samples}, "higher_is_better": {"t": {"exact_match": True}}}
    task = {"shots": 5, "item": "x", "metric": "exact_match,flexible", "also": ["exact_match,strict"]}
    settings = Suite.model_validate({"validation": 0.5, "tasks": {"b": task}})
    scores = item_scores(ITEMS, results, {"b": "exact_match,flexible"})
    summary = summarise_suite(scores, other_scores(ITEMS, results, settings), settings)
    assert {part: summary[part]["score"] for part in ("validation", "test")} == {"validation": 100.0, "test": 66.6667}
    strict = {part: summary[part]["benchmarks"]["b"]["also"]["exact_match,strict"] for part in ("validation", "test")}
    assert {part: (score["score"], score["items"]) for part, score in strict.items()} == {
        "validation": (0.0, 2),
        "test": (33.3333, 3),
    }


def test_a_suites_score_is_the_mean_of_its_benchmarks_with_its_error():
    rows = [{"benchmark": "a", "score": value} for value in (1, 0, 1, 1)]
    rows += [{"benchmark": "b", "score": value} for value in (0, 1)]
    summary = summarise(rows, {}, ["a", "b"])
    # the standard deviation 0.5 over √4
    assert summary["benchmarks"]["a"] == {"score": 75.0, "stderr": 25.0, "items": 4}
    assert summary["benchmarks"]["b"] == {"score": 50.0, "stderr": 50.0, "items": 2}
    assert summary["score"] == 62.5
    assert summary["stderr"] == pytest.approx((25.0**2 + 50.0**2) ** 0.5 / 2, abs=1e-3)
    assert summary["items"] == 6


@pytest.mark.parametrize(("groups", "stops"), [(range(60), True), ([0] * 60, False)])
def test_a_decline_that_cannot_be_told_from_chance_stops_nothing(tmp_path, groups, stops):
    """All items of one group: the evaluation of a finished run does not end in an error either."""
    rows = [
        {"id": f"{n}", "group": f"{group}", "benchmark": "b", "part": "validation"} for n, group in enumerate(groups)
    ]
    for iteration in "01":
        (tmp_path / iteration).mkdir()
    assert not update_best(tmp_path / "0", None, [row | {"score": 1.0} for row in rows], "decline", 0.95)
    worse = [row | {"score": 0.0} for row in rows]
    assert update_best(tmp_path / "1", tmp_path / "0", worse, "decline", 0.95) == stops
    assert json.loads((tmp_path / "1/stop.json").read_text()) == {"stopped": stops}


EVALUATE = ("--model", "iterations/1/model")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_model):
    """The safety principle, a family of the default and pairs of seed rows, by a model of one layer: choices, generated
    answers and preferences."""
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
    shutil.copy(ROOT / "stages/presets/seeds.jsonl", project.folder / "iterations/0/seed.jsonl")
    assert project.stage("stages.judgebench").returncode == 0
    result = project.stage("stages.evaluate", *EVALUATE)
    assert result.returncode == 0, result.stderr
    project.output = result.stdout
    return project


@pytest.mark.slow
def test_an_evaluation_keeps_every_items_score_and_lm_evals_own_files(evaluated):
    from lm_eval.utils import make_table

    items = [json.loads(line) for line in evaluated.read("iterations/0/benchmark.jsonl").splitlines()]
    rows = [json.loads(line) for line in evaluated.read("results/1/scores.jsonl").splitlines()]
    pairs = [json.loads(line) for line in evaluated.read("iterations/0/judgebench.jsonl").splitlines()]
    assert {row["id"] for row in rows} == {item["id"] for item in items + pairs}
    summary = json.loads(evaluated.read("results/1/evaluate.json"))
    assert sum(summary[part]["items"] for part in ("validation", "test")) == len(items) == 130 + 40
    assert summary["judging"]["items"] == len(pairs) == 50 + 50
    judged = [row["score"] for row in rows if row["benchmark"] == "judging half a response"]
    assert summary["judging"]["benchmarks"]["judging half a response"]["score"] == 100 * sum(judged) / len(judged)
    assert f", judging {summary['judging']['score']:.1f} ± {summary['judging']['stderr']:.1f} %" in evaluated.output
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


# ---- tasks that sample -----------------------------------------------------------------------------------------------

SAMPLED_TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: evaluation/sampled/items.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "0"
generation_kwargs: {settings}
repeats: {repeats}
filter_list:
- name: draws
  filter: [{{function: take_first_k, k: {repeats}}}]
process_results: !function length.process_results
metric_list:
- {{metric: length, aggregation: mean, higher_is_better: true}}
"""
SAMPLED = {  # a temperature alone, and together with do_sample
    "warm": ("{until: [], max_gen_toks: 12, temperature: 1.0}", 4),
    "nucleus": ("{until: ['.'], max_gen_toks: 9, do_sample: true, temperature: 0.8, top_p: 0.95, top_k: 200}", 2),
}
LENGTH = """
def process_results(document, results):
    return {"length": sum(len(draw) % 10 for draw in results[0]) / 10 / len(results[0])}
"""


def write_sampled_suite(folder: Path) -> None:
    """Two tasks that sample, scored by the lengths of the answers, so that another draw is another score."""
    folder.mkdir()
    questions = [{"question": f"What is {number} plus {number}?" + " Say why." * (number % 3)} for number in range(12)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (folder / "length.py").write_text(LENGTH)
    for name, (settings, repeats) in SAMPLED.items():
        (folder / f"{name}.yaml").write_text(SAMPLED_TASK.format(name=name, settings=settings, repeats=repeats))
    task = {"shots": 0, "metric": "length,draws", "item": "{{question}}"}
    (folder / "suite.yaml").write_text(yaml.safe_dump({"validation": 0.5, "tasks": dict.fromkeys(SAMPLED, task)}))


@pytest.fixture(scope="module")
def sampled(tmp_path_factory, tiny_model):
    project = Project(tmp_path_factory.mktemp("sampled") / "project")
    write_sampled_suite(project.folder / "evaluation/sampled")
    shutil.copytree(tiny_model, project.folder / "iterations/1/model")
    project.change({"evaluate": {"suite": "sampled"}})
    assert project.stage("stages.benchmark").returncode == 0
    (project.folder / "iterations/0/judgebench.jsonl").touch()
    project.outs = evaluate_again(project)
    return project


def evaluate_again(project: Project, **runtime) -> dict[str, str]:
    """The scores and the answers of one more evaluation."""
    project.change({"runtime": runtime})
    result = project.stage("stages.evaluate", *EVALUATE)
    assert result.returncode == 0, result.stderr
    paths = ["results/1/scores.jsonl", *(f"iterations/1/evaluation/samples_{name}.jsonl" for name in SAMPLED)]
    return {path: project.read(path) for path in paths}


@pytest.mark.slow
def test_the_draws_of_an_item_differ(sampled):
    for name, (_, repeats) in SAMPLED.items():
        samples = sampled.outs[f"iterations/1/evaluation/samples_{name}.jsonl"].splitlines()
        draws = [json.loads(line)["resps"][0] for line in samples]
        assert len(draws) == 12
        assert all(len(set(of_item)) == len(of_item) == repeats for of_item in draws)
    scores = [json.loads(line)["score"] for line in sampled.outs["results/1/scores.jsonl"].splitlines()]
    assert len(set(scores)) > 5


@pytest.mark.slow
def test_sampled_answers_are_the_same_from_the_store_and_computed_again_in_other_batches(sampled):
    """Neither the batch nor what ran before decides a draw; a store with a part of them is that of a killed run."""
    assert evaluate_again(sampled) == sampled.outs
    for batch_rows in (1, 5):
        for path in (sampled.folder / ".dvc").glob("completions.sqlite*"):
            path.unlink()
        if batch_rows == 5:
            sampled.change({"evaluate": {"limit": 2}})
            assert sampled.stage("stages.evaluate", *EVALUATE).returncode == 0
            sampled.change({"evaluate": {"limit": None}})
        assert evaluate_again(sampled, batch_rows=batch_rows) == sampled.outs


@pytest.mark.slow
def test_a_draw_is_what_the_transformers_engine_samples(sampled, tiny_model):
    """The same model, prompt, settings and draw: lm-eval's way to generate and ours agree."""
    from stages.inference.engines import Request, Sampling
    from stages.inference.engines.transformers import TransformersEngine

    engine = TransformersEngine(tiny_model, 64)
    for line in sampled.outs["iterations/1/evaluation/samples_warm.jsonl"].splitlines()[:3]:
        sample = json.loads(line)
        prompt = sample["arguments"]["gen_args_0"]["arg_0"]
        tokens = tuple(engine.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        pending = [Request(prompt, tokens, draw) for draw in range(4)]
        completions = dict(engine.complete(pending, Sampling(1.0, 1.0, 12, 0)))
        assert [completions[request].text for request in pending] == sample["resps"][0]


@pytest.mark.slow
@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-6}])
def test_a_draw_from_the_most_likely_token_alone_is_the_greedy_answer(tiny_model, narrow):
    from lm_eval.api.instance import Instance

    from stages.evaluation.transformers_lm import TransformersLM, with_draw

    lm = TransformersLM(pretrained=str(tiny_model), device="cpu", batch_size=4)
    prompts = ["What is 2 plus 2?", "Which is larger, 4 or 5? Say why."]

    def answers(settings: dict, draw: int | None = None) -> list[str]:
        requests = [Instance("generate_until", {}, (prompt, settings), 0, ("t", 0, 1)) for prompt in prompts]
        ready = requests if draw is None else [with_draw(request, draw) for request in requests]
        return lm.generate_until(ready, disable_tqdm=True)

    greedy = answers({"until": [], "max_gen_toks": 8, "do_sample": False})
    sampled = {"until": [], "max_gen_toks": 8, "temperature": 1.0}
    assert answers(sampled | narrow, draw=0) == answers(sampled | narrow, draw=1) == greedy
    assert answers(sampled, draw=0) != greedy


@pytest.mark.slow
def test_the_plan_knows_the_draws_in_the_store(sampled):
    """Each draw is a model call with a key of its own."""
    from contextlib import chdir

    from stages.planning.changes import Planned
    from stages.planning.lookup import look_up

    with chdir(sampled.folder):
        planned = Planned("evaluate@1", [])
        look_up(planned, {"1": {"parent": "0", "judge": "0", "writer": "0"}})
    assert (planned.calls, planned.stored) == (12 * (4 + 2),) * 2


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_batch_of_choices_has_as_many_rows_as_their_logits_leave_room_for(tiny_model, monkeypatch):
    """64 rows of a 25-shot prompt would be 25 GB for a vocabulary of 50,000; the answers stay."""
    from lm_eval.api.instance import Instance

    from stages.evaluation import transformers_lm

    lm = transformers_lm.TransformersLM(pretrained=str(tiny_model), device="cpu", batch_size=64)
    texts = [("Which is larger, 4 or 5? " * (1 + number % 7), f" {number} it is") for number in range(40)]
    requests = [Instance("loglikelihood", {}, text, 0, ("t", number, 1)) for number, text in enumerate(texts)]
    shapes: list[tuple[int, int]] = []
    call = lm._model_call

    def recorded(tokens, **settings):
        shapes.append(tuple(tokens.shape))
        return call(tokens, **settings)

    monkeypatch.setattr(lm, "_model_call", recorded)
    plenty = lm.loglikelihood(requests, disable_tqdm=True)
    assert [rows for rows, _ in shapes] == [40]
    memory = 4.0e6
    monkeypatch.setattr(transformers_lm, "total_memory", lambda device: memory)
    shapes.clear()
    little = lm.loglikelihood(requests, disable_tqdm=True)
    assert len(shapes) > 1
    assert all(rows == 1 or rows * length * lm.vocab_size * 4 * 3 <= memory for rows, length in shapes)
    assert [score for score, _ in little] == pytest.approx([score for score, _ in plenty], abs=1e-4)
    assert lm.batch_size == 64
