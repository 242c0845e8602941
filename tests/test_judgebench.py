"""judgebench: pairs whose better response is known without a model, from the suite's and the seed set's own rows."""

import json
from collections import Counter
from functools import cache
from math import log
from types import SimpleNamespace

import pytest
from conftest import ROOT, error_line

from stages.core.prompts import ReviewPrompt
from stages.evaluate import select_samples
from stages.evaluation import judging, suite
from stages.evaluation.scores import pair_scores, summarise_suite
from stages.evaluation.suite import Suite, load_tasks

SEEDS = [json.loads(line) for line in (ROOT / "stages/presets/seeds.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("solution", "result"),
    [
        ("9 + 9 = 18 eggs. The answer is 18", 18),
        ("So it is $\\boxed{40}$.", 40),
        ("She pays 1,200 dollars in all: 1,200.", 1200),
        ("0.40 euros", 40),
    ],
)
def test_a_miscalculated_solution_has_another_result_everywhere_and_is_otherwise_the_same(solution, result):
    wrong = judging.miscalculated(solution)
    (other,) = {
        int(number.replace(",", ""))
        for number in judging.NUMBER.findall(wrong)
        if number not in judging.NUMBER.findall(solution)
    }
    assert 1 <= other - result <= 9
    written = f"{other:,}" if "," in solution else str(other)
    assert wrong.replace(written, f"{result:,}" if "," in solution else str(result)) == solution
    assert judging.miscalculated(solution) == wrong


def test_a_solution_without_a_number_cannot_be_miscalculated():
    assert judging.miscalculated("It is odd.") is None


def test_a_seed_response_is_better_than_another_rows_and_than_its_own_half():
    known = list(judging.of_seeds(SEEDS))
    own = {row["prompt"]: row["response"] for row in SEEDS}
    assert all(own[pair.question] == pair.better for pair in known)
    foreign = [pair for pair in known if pair.kind == "judging another's response"]
    assert len(foreign) == len(SEEDS)
    assert all(pair.worse in own.values() and pair.worse != pair.better for pair in foreign)
    halves = [pair for pair in known if pair.kind == "judging half a response"]
    assert len(halves) > len(SEEDS) / 2
    assert all(pair.better.startswith(pair.worse) and len(pair.worse) <= len(pair.better) / 2 for pair in halves)
    assert list(judging.of_seeds(SEEDS[::-1])) == known


def test_equal_responses_and_equal_questions_make_no_pair():
    same = [{"prompt": f"Is {n} odd?", "response": "Yes."} for n in range(3)]
    assert not list(judging.of_seeds(same))
    assert not list(judging.of_seeds([{"prompt": "Name a colour.", "response": name} for name in ("Red.", "Blue.")]))


@cache
def principle() -> Suite:
    """A local benchmark of evaluation/safety, with its pair."""
    benchmark = suite.load("safety").tasks["safety_principle"]
    return Suite(validation=0.5, tasks={"safety_principle": benchmark})


def test_a_suites_answers_make_pairs_by_its_templates():
    known = list(judging.of_suite(principle(), load_tasks("safety", principle())))
    rows = [json.loads(line) for line in (ROOT / "evaluation/safety/data/principle.jsonl").read_text().splitlines()]
    assert [pair[1:] for pair in known] == [(row["question"], row["safe"], row["unsafe"]) for row in rows]
    assert {pair.kind for pair in known} == {"judging safety_principle"}


def test_answers_that_are_the_same_make_no_pair():
    """Such as two equal choices of a question."""
    document = {"question": "A?", "choices": ["p", "q", "r", "p"], "answer": 0}
    mmlu = {"mmlu": suite.load("leaderboard").tasks["mmlu"]}
    loaded = {"mmlu": {"tasks": {"mmlu_x": SimpleNamespace(eval_docs=[document])}}}
    assert not list(judging.of_suite(Suite(validation=0.2, tasks=mmlu), loaded))


DOCUMENTS = {  # as lm-eval's tasks have them
    "gsm8k": {"question": "A?", "answer": "6 * 3 = <<6*3=18>>18\n#### 18"},
    "mmlu": {"question": "A?", "choices": ["p", "q", "r", "s"], "answer": 0},
    "arc_challenge": {"question": "A?", "choices": {"text": ["p", "q"], "label": ["1", "2"]}, "answerKey": "2"},
    "truthfulqa_mc2": {"question": "A?", "mc1_targets": {"choices": ["p", "q"], "labels": [1, 0]}},
    "math_hendrycks": {"problem": "A?", "solution": "It is $\\boxed{7}$."},
    "safety_principle": {"question": "A?", "safe": "p", "unsafe": "q"},
}
ANSWERS = {
    "gsm8k": ("6 * 3 = 18\nThe answer is 18", None),
    "mmlu": ("p", "s"),
    "arc_challenge": ("q", "p"),
    "truthfulqa_mc2": ("p", "q"),
    "math_hendrycks": ("It is $\\boxed{7}$.", None),
    "safety_principle": ("p", "q"),
}


@pytest.mark.parametrize("name", ["leaderboard", "math", "safety"])
def test_the_pairs_of_each_suite_are_a_right_and_a_wrong_answer(name):
    benchmarks = {benchmark: settings for benchmark, settings in suite.load(name).all.items() if settings.pair}
    assert benchmarks
    for benchmark in benchmarks:
        task = SimpleNamespace(eval_docs=[DOCUMENTS[benchmark]])
        alone = Suite(validation=0.2, tasks={benchmark: benchmarks[benchmark]})
        ((_, question, right, wrong),) = judging.of_suite(alone, {benchmark: {"tasks": {benchmark: task}}})
        assert question.startswith("A?")
        assert (right, wrong) == (ANSWERS[benchmark][0], ANSWERS[benchmark][1] or judging.miscalculated(right))
        assert "<<" not in right


@cache
def pairs_of_seeds():
    return judging.judging_pairs(judging.of_seeds(SEEDS), ReviewPrompt("lance"))


def test_a_kind_has_at_most_fifty_pairs_as_the_judge_reads_them():
    rows = pairs_of_seeds()
    assert Counter(row["benchmark"] for row in rows) == dict.fromkeys(
        ("judging another's response", "judging half a response"), judging.PAIRS
    )
    assert [row["index"] for row in rows] == list(range(len(rows)))
    better = {ReviewPrompt("lance").render(row["prompt"], row["response"]) for row in SEEDS}
    assert {row["better"] for row in rows} <= better
    assert {(row["lead"], row["highest"]) for row in rows} == {("Response score:", 5)}
    samples = select_samples(rows, 3)["judging"]
    assert set(Counter(rows[index]["benchmark"] for index in samples).values()) == {3}


def test_a_kind_with_a_single_pair_is_left_out_since_it_has_no_standard_error():
    short = [{"prompt": f"Name {n}.", "response": f"It is {n}."} for n in range(3)]
    one = [*short, {"prompt": "Why?", "response": "word " * judging.WORDS}]
    rows = judging.judging_pairs(judging.of_seeds(one), ReviewPrompt("lance"))
    assert Counter(row["benchmark"] for row in rows) == {"judging another's response": 4}


class KnownLikelihoods:
    """An lm-eval model that gives a response's scores these probabilities."""

    def __init__(self, scores):
        self.scores, self.contexts = scores, []

    def apply_chat_template(self, messages):
        return f"{messages[0]['role']}|{messages[-1]['content']}|assistant:"

    def loglikelihood(self, requests):
        self.contexts += dict.fromkeys(request.args[0] for request in requests)
        for request in requests:
            context, score = request.args
            yield log(self.scores[context.rpartition("|assistant:")[0].split("|")[1]][int(score)]), False


def pair(better: str, worse: str, **fields) -> dict:
    row = {"id": better, "group": better, "benchmark": "judging x", "task": "judging", "index": 0, "part": "test"}
    return row | {"better": better, "worse": worse, "lead": "Score:", "highest": 2} | fields


def test_the_response_with_the_higher_mean_score_is_preferred():
    """Whatever else is likely there: only the scores' own probabilities count, in proportion."""
    model = KnownLikelihoods(
        {"good": [0.01, 0.02, 0.03], "bad": [0.3, 0.3, 0.3], "worst": [0.3, 0.2, 0.1], "twin": [0.1, 0.1, 0.1]}
    )
    asked = [pair("good", "bad"), pair("worst", "bad"), pair("bad", "good"), pair("bad", "worst"), pair("twin", "twin")]
    assert judging.preferences(model, asked, "Be careful.") == [1.0, 0.0, 0.0, 1.0, 0.5]
    assert model.contexts[0] == "system|good|assistant:Score:"
    assert judging.preferences(model, [], "") == []


def test_the_judging_score_is_that_of_the_pairs_where_the_suite_has_no_judging_benchmark_of_its_own():
    item = {"id": "i", "group": "g", "benchmark": "b", "score": 1.0}
    scores = [item | {"part": part} for part in ("test", "validation") for _ in range(2)]
    asked = [pair("p", "q", part=part) for part in ("test", "validation") for _ in range(2)]
    task = {"b": {"shots": 0, "item": "x", "metric": "acc,none"}}
    plain = Suite.model_validate({"validation": 0.5, "tasks": task})
    summary = summarise_suite(scores + pair_scores(asked, [1.0, 0.5, 0.0, 1.0]), {}, plain)
    assert summary["judging"]["score"] == 62.5
    assert summary["judging"]["benchmarks"]["judging x"]["items"] == 4
    assert summary["judging"]["stderr"] == pytest.approx(23.9357, abs=1e-3)
    assert summary["judging"]["chance"] == 50.0
    assert summary["test"]["score"] == 100.0
    own = Suite.model_validate({"validation": 0.5, "tasks": task, "judging": {"j": task["b"]}})
    judged = summarise_suite(scores + [row | {"benchmark": "j"} for row in scores], {}, own)["judging"]
    assert (list(judged["benchmarks"]), "chance" in judged) == (["j"], False)
    assert summarise_suite(scores, {}, plain)["judging"] is None


def test_the_default_has_a_judging_benchmark_of_its_own_and_no_pairs(project):
    output = project.stage("stages.judgebench").stdout
    assert "the suite micro has judging benchmarks of its own" in output
    assert project.read("iterations/0/judgebench.jsonl") == ""


def test_a_template_with_a_field_that_the_items_do_not_have_is_one_line(project):
    path = project.folder / "evaluation/safety/suite.yaml"
    benchmark = 'safety_principle: {shots: 0, metric: "acc_norm,none", item: x, pair: {question: x, right: "{{saef}}"}}'
    path.write_text(f"validation: 0.5\ntasks:\n  {benchmark}\n")
    project.change({"evaluate": {"suite": "safety"}})
    message = error_line(project.stage("stages.judgebench"))
    assert "safety_principle: '{{saef}}': 'saef' is undefined; an item has the fields question, safe, unsafe" in message
