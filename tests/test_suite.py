"""The suites: valid for the installed lm-eval without a network, in two parts that share no item, and offline once
their data is in the cache."""

import importlib
import json
import pickle
import shutil
import sys
from contextlib import chdir
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import lm_eval.tasks
import pytest
from conftest import ROOT, error_line
from lm_eval.tasks._index import TaskIndex

import stages.benchmark
from stages.core.command import run
from stages.core.errors import UserError
from stages.evaluate import select_samples
from stages.evaluation import suite
from stages.evaluation.harness import merge_tasks
from stages.evaluation.suite import Suite, copies, items, load_tasks, part_of

SUITES = sorted(path.parent.name for path in (ROOT / "evaluation").glob("*/suite.yaml"))
MICRO_FAMILIES = 8


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(autouse=True, scope="module")
def lm_evals_own_index_is_read_once():
    """Its 12,000 files take ten seconds."""
    build = TaskIndex.build
    own = cache(lambda folder: pickle.dumps(build([folder])))

    def build_once(folders):
        index = {}
        for folder in folders:
            index |= pickle.loads(own(folder)) if folder == Path(lm_eval.tasks.__file__).parent else build([folder])
        return index

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskIndex, "build", staticmethod(build_once))
        yield


@cache
def index(name: str):
    with chdir(ROOT):
        return suite.task_manager(name, suite.load(name))


def leaves(name: str, benchmark: str) -> list[dict]:
    """The configurations of a benchmark's tasks: its own, or those of its group or tag."""
    entry = index(name).task_index[benchmark]
    if entry.kind.name == "TASK":
        return [entry.cfg]
    if entry.kind.name == "TAG":
        return [task.cfg for task in index(name).task_index.values() if benchmark in task.tags]
    return [leaf for child in entry.cfg["task"] for leaf in leaves(name, child)]


def test_there_are_the_six_suites():
    assert SUITES == ["ifeval", "instructions", "leaderboard", "math", "micro", "safety"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SUITES)
def test_every_task_metric_and_shot_count_is_known_to_the_installed_lm_eval(name):
    """Without a network: from lm-eval's own configurations."""
    described = suite.load(name)
    for benchmark, settings in described.all.items():
        metric, filter_name = settings.metric.split(",")
        configs = leaves(name, benchmark)
        assert configs
        for config in configs:
            assert metric in {entry["metric"] for entry in config["metric_list"]}, benchmark
            assert filter_name in {entry["name"] for entry in config.get("filter_list", [{"name": "none"}])}, benchmark
            shots_from = config.get("fewshot_split") or config.get("training_split") or config.get("validation_split")
            assert not settings.shots or shots_from or config.get("fewshot_config"), benchmark


def test_the_leaderboard_has_the_leaderboards_shots():
    shots = {name: benchmark.shots for name, benchmark in suite.load("leaderboard").tasks.items()}
    assert shots == {
        "arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "truthfulqa_mc2": 0, "gsm8k": 5, "winogrande": 5,
    }  # fmt: skip


@cache
def micro_items():
    described = suite.load("micro")
    return items(described, load_tasks("micro", described))


def test_the_parts_share_no_item_and_have_their_shares():
    rows = micro_items()
    texts = {part: {row["text"] for row in rows if row["part"] == part} for part in suite.PARTS}
    assert not texts["validation"] & texts["test"]
    assert len(rows) == len({row["id"] for row in rows}) == MICRO_FAMILIES * 130 + 240
    assert len(texts["validation"]) / len(texts["validation"] | texts["test"]) == pytest.approx(0.3, abs=0.03)


def test_a_part_depends_on_the_items_content_alone():
    assert [part_of(f"item {number}", 0.3) for number in range(100)].count("validation") == pytest.approx(30, abs=12)
    assert part_of("item", 0.3) == part_of("item", 0.3)
    grown = [number for number in range(100) if part_of(f"item {number}", 0.4) == "validation"]
    assert all(number in grown for number in range(100) if part_of(f"item {number}", 0.3) == "validation")


def principle(**changes) -> Suite:
    task = {"shots": 0, "metric": "acc_norm,none", "item": "{{question}}"}
    return Suite.model_validate({"validation": 0.5, "tasks": {"safety_principle": task | changes}})


def test_items_of_one_split_key_are_in_one_part():
    """As the same problem in several languages is."""
    described = principle(split='{{safe == "I can\'t help with that."}}')
    with pytest.raises(UserError, match=r"safety_principle has .*: 0.* needs 2 of each part"):
        items(described, load_tasks("safety", described))


def test_a_question_without_its_choices_is_an_item_too_where_the_suite_says_so():
    described = principle(item="{{question}} {{safe}}", question="{{question}}")
    rows = items(described, load_tasks("safety", described))
    assert all(row["text"].startswith(f"{row['question']} ") for row in rows)
    assert not any("question" in row for row in items(principle(), load_tasks("safety", principle())))
    assert suite.load("leaderboard").tasks["mmlu"].question == "{{question}}"


def test_the_safety_principles_choices_are_its_two_responses():
    (task,) = load_tasks("safety", principle())["safety_principle"]["tasks"].values()
    document = task.eval_docs[0]
    assert task.doc_to_choice(document) == [document["safe"], document["unsafe"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "exact_match,none"}, "safety_principle has no metric 'exact_match,none'; metrics: acc_norm"),
        ({"metric": "acc_norm,strict"}, "safety_principle has no metric 'acc_norm,strict'; .*filters: none"),
        ({"item": "{{qestion}}"}, "safety_principle: '{{qestion}}': 'qestion' is undefined; .*question, safe, unsafe"),
    ],
)
def test_a_mistake_in_a_benchmark_is_found_before_anything_is_evaluated(change, message):
    described = principle(**change)
    with pytest.raises(UserError, match=message):
        items(described, load_tasks("safety", described))


def test_a_local_task_needs_no_network():
    described = principle()
    assert len(items(described, load_tasks("safety", described))) == 40


@pytest.fixture
def benchmarks_error(project, monkeypatch, capsys):
    """The one line that `python -m stages.benchmark` ends with, in this process, which has lm-eval's index."""

    def ended() -> str:
        monkeypatch.chdir(project.folder)
        monkeypatch.setattr(sys, "argv", ["stages.benchmark"])
        with pytest.raises(SystemExit) as end:
            run(stages.benchmark.main)
        return error_line(SimpleNamespace(returncode=end.value.code, stderr=capsys.readouterr().err))

    return ended


def test_data_that_is_not_here_is_one_line_with_the_command_that_fetches_it(project, benchmarks_error):
    project.change({"evaluate": {"suite": "leaderboard"}})
    message = benchmarks_error()
    assert "the data of arc_challenge is not here" in message
    assert "lance suite leaderboard" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("validation: 0.2\ntasks: {}\n", "tasks: dictionary should have at least 1 item"),
        ('validation: 2\ntasks: {a: {shots: 0, metric: "acc,none", item: x}}\n', "validation: input should be less"),
        ("validation: 0.2\ntasks: {a: {shots: 0, metric: acc, item: x}}\n", "tasks.a.metric: string should match"),
        (
            'validation: 0.2\ntasks: {a: {shots: 0, metric: "acc,none", item: x}}\napart: {}\n',
            "mine/suite.yaml: apart: is now called reported_only, rename it",
        ),
        ("validation: [0.2\n", "suite.yaml is not YAML"),
    ],
)
def test_a_suite_that_cannot_be_read_is_one_line(project, text, message):
    folder = project.folder / "evaluation/mine"
    folder.mkdir()
    (folder / "suite.yaml").write_text(text)
    project.change({"evaluate": {"suite": "mine"}})
    assert message in error_line(project.stage("stages.check"))


def test_a_task_that_lm_eval_does_not_have_is_named(project, benchmarks_error):
    path = project.folder / "evaluation/micro/suite.yaml"
    path.write_text(path.read_text().replace("micro_count", "micro_cuont"))
    assert "micro/suite.yaml names micro_cuont, which lm-eval does not have" in benchmarks_error()


# ---- tags and groups -------------------------------------------------------------------------------------------------

TASK = """
task: {name}
tag: {tag}
dataset_path: json
dataset_kwargs: {{data_files: {{test: evaluation/mine/{data}.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
- {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
COPY = """
include: sum_es.yaml
task: sum_es_with_a_blank
doc_to_text: "{{question}} "
"""
GROUP = """
group: sums
task: [sum_es, sum_es_with_a_blank, sum_de]
aggregate_metric_list:
- {metric: exact_match, weight_by_size: true}
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A suite folder as lm-eval's MGSM is: a task a language under one tag, and a task that includes another one's file
    and with it its tag. The same tasks are in a group."""
    folder = tmp_path / "evaluation/mine"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for language, words in {"es": "¿Cuánto es {0} y {0}?", "de": "Was ist {0} und {0}?"}.items():
        rows = [{"question": words.format(n), "answer": str(2 * n)} for n in range(10)]
        (folder / f"{language}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / f"sum_{language}.yaml").write_text(TASK.format(name=f"sum_{language}", tag="sum", data=language))
    (folder / "sum_es_with_a_blank.yaml").write_text(COPY)
    (folder / "sums.yaml").write_text(GROUP)
    return folder


def mine_suite(*benchmarks: str, **changes) -> Suite:
    task = {"shots": 0, "metric": "exact_match,none", "item": "{{question}}"} | changes
    return Suite.model_validate({"validation": 0.5, "tasks": dict.fromkeys(benchmarks, task)})


@pytest.mark.parametrize("benchmark", ["sum", "sums"])
def test_items_that_a_tag_or_group_holds_twice_count_once(mine, benchmark, capsys):
    loaded = load_tasks("mine", mine_suite(benchmark))
    rows = items(mine_suite(benchmark), loaded)
    assert "sum_es_with_a_blank is left out, since it has the items of sum_es" in capsys.readouterr().out
    assert {row["task"] for row in rows} == {"sum_de", "sum_es"}
    assert len(rows) == len({row["text"] for row in rows}) == 20
    evaluated = merge_tasks(list(loaded.values()), select_samples(rows, None))
    assert sorted(evaluated["tasks"]) == ["sum_de", "sum_es"]
    assert {name: sorted(group.child_names) for name, group in evaluated["groups"].items()} == (
        {"sums": ["sum_de", "sum_es"]} if benchmark == "sums" else {}
    )


def test_a_copy_that_is_named_itself_is_not_left_out(mine):
    described = mine_suite("sum_es_with_a_blank")
    assert {row["task"] for row in items(described, load_tasks("mine", described))} == {"sum_es_with_a_blank"}


def test_tasks_that_share_only_some_of_their_items_are_all_kept():
    assert copies({"a": ["1", "2"], "b": ["1", "3"], "c": ["1"], "a_again": ["2", "1"], "A": ["1", "2"]}) == {
        "a": "A",
        "a_again": "A",
    }


def test_a_task_in_two_benchmarks_is_one_line(mine):
    with pytest.raises(UserError, match=r"mine/suite\.yaml: sum_de is in two benchmarks"):
        load_tasks("mine", mine_suite("sum", "sum_de"))


def test_a_benchmark_in_two_sections_is_one_line(mine):
    task = 'sum: {shots: 0, metric: "exact_match,none", item: x}'
    (mine / "suite.yaml").write_text(f"validation: 0.5\ntasks: {{{task}}}\nreported_only: {{{task}}}\n")
    with pytest.raises(UserError, match=r"sum stands in two sections; list other metrics of it under `also`"):
        suite.load("mine")


def test_a_filter_may_have_any_name(mine):
    """Such as maj@64 of gsm8k_cot_self_consistency."""
    path = mine / "sum_de.yaml"
    path.write_text(path.read_text() + 'filter_list: [{name: "maj@8", filter: [{function: take_first}]}]\n')
    (task,) = load_tasks("mine", mine_suite("sum_de", metric="exact_match,maj@8"))["sum_de"]["tasks"].values()
    assert [task_filter.name for task_filter in task._filters] == ["maj@8"]


def test_another_metric_that_a_task_does_not_have_is_one_line(mine):
    with pytest.raises(UserError, match="sum_de has no metric 'exact_match,strict'"):
        load_tasks("mine", mine_suite("sum_de", also=["exact_match,strict"]))


def test_a_task_whose_sampling_is_unclear_is_found_before_anything_is_evaluated(mine):
    path = mine / "sum_de.yaml"
    path.write_text(path.read_text() + "generation_kwargs: {do_sample: true}\n")
    with pytest.raises(UserError, match=r"mine/suite\.yaml: sum: sum_de: generation_kwargs: do_sample is true"):
        load_tasks("mine", mine_suite("sum"))


# ---- hub data, from the cache ----------------------------------------------------------------------------------------


@pytest.fixture
def cached_gsm8k(tmp_path, monkeypatch):
    """A Hugging Face cache as one load of openai/gsm8k with a network leaves it, holding 30 problems of ours."""
    import datasets

    rows = [{"question": f"What is {n} plus {n}?", "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"} for n in range(30)]
    source = tmp_path / "gsm8k"
    for split in ("train", "test"):
        (source / "main").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows).to_parquet(source / f"main/{split}-00000-of-00001.parquet")
    files = "".join(f"  - split: {split}\n    path: main/{split}-*\n" for split in ("train", "test"))
    (source / "README.md").write_text(f"---\nconfigs:\n- config_name: main\n  data_files:\n{files}---\n")
    cache_folder = tmp_path / "cache"
    datasets.load_dataset(str(source), "main", cache_dir=str(cache_folder))
    shutil.move(cache_folder / "gsm8k", cache_folder / "openai___gsm8k")
    shutil.rmtree(source)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache_folder)


@pytest.mark.slow
def test_a_hub_benchmark_works_offline_once_its_data_is_in_the_cache(cached_gsm8k):
    gsm8k = suite.load("leaderboard").tasks["gsm8k"]
    described = Suite(validation=0.2, tasks={"gsm8k": gsm8k})
    rows = items(described, load_tasks("leaderboard", described))
    assert len(rows) == 30
    assert rows[0]["text"] == "What is 0 plus 0?"


LAYOUTS = {  # of 18: whether lm-eval's strict filter finds it
    "9 + 9 = 18\n#### 18": True,
    "The answer is 18.": False,
    "**18**": False,
    "####18": False,
    "#### $18": False,
    "So she has 9 + 9 = 18 eggs.": False,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["leaderboard", "math"])
def test_the_score_of_gsm8k_is_the_one_that_no_layout_changes_and_the_strict_one_is_reported(cached_gsm8k, name):
    from lm_eval.api.instance import Instance

    gsm8k = suite.load(name).tasks["gsm8k"]
    (task,) = load_tasks(name, Suite(validation=0.2, tasks={"gsm8k": gsm8k}))["gsm8k"]["tasks"].values()
    document = task.eval_docs[9]
    right = {metric: {} for metric in (gsm8k.metric, *gsm8k.also)}
    for layout in LAYOUTS:
        answer = Instance("generate_until", document, ("", {}), 0, ("gsm8k", 9, 1), resps=[layout])
        for task_filter in task._filters:
            task_filter.apply([answer])
        for metric, results in right.items():
            name, filter_name = metric.split(",")
            results[layout] = task.process_results(document, [answer.filtered_resps[filter_name]])[name] == 1.0
    assert right == {"exact_match,flexible-extract": dict.fromkeys(LAYOUTS, True), "exact_match,strict-match": LAYOUTS}


# ---- grading of mathematics ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "completion", "right"),
    [
        ({"answer": "\\frac{1}{2}"}, "So it is \\boxed{0.5}.", 1.0),
        ({"answer": "\\frac{1}{2}"}, "So it is \\boxed{2}.", 0.0),
        ({"final_answer": ["$12$"]}, "We get $\\boxed{12}$.", 1.0),
        ({"solution": "It follows that $\\boxed{x^2+1}$."}, "The answer is $\\boxed{1+x^2}$.", 1.0),
        ({"solution": "It follows that $\\boxed{x^2+1}$."}, "I do not know.", 0.0),
    ],
)
def test_mathematics_is_graded_in_whatever_notation(document, completion, right, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "evaluation/math")
    from grade import process_results

    assert process_results(document, [completion]) == {"math_verify": right}


def test_every_row_of_the_safety_set_is_whole():
    rows = [json.loads(line) for line in (ROOT / "evaluation/safety/data/principle.jsonl").read_text().splitlines()]
    assert all(row["safe"].strip() and row["unsafe"].strip() and row["safe"] != row["unsafe"] for row in rows)
    assert len({row["question"] for row in rows}) == len(rows)


# ---- following instructions ------------------------------------------------------------------------------------------

NO_COMMAS = {
    "key": 1,
    "instruction_id_list": ["punctuation:no_comma"],
    "prompt": "Greet me. Use no commas.",
    "kwargs": [{}],
}
IN_GERMAN = {
    "key": 2,
    "instruction_id_list": ["language:response_language"],
    "prompt": "Greet me, in German only.",
    "kwargs": [{"language": "de"}],
}


@pytest.fixture
def follow(monkeypatch):
    """The checks of evaluation/ifeval, in a machine with nltk's tokenizer: a folder is enough to be found."""
    pytest.importorskip("langdetect")
    pytest.importorskip("immutabledict")
    monkeypatch.syspath_prepend(ROOT / "evaluation/ifeval")
    monkeypatch.delitem(sys.modules, "follow", raising=False)
    return partial(importlib.import_module, "follow")


@pytest.fixture
def tokenizer_is_here(tmp_path, monkeypatch):
    import nltk

    (tmp_path / "tokenizers/punkt_tab").mkdir(parents=True)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])


@pytest.mark.parametrize(
    ("document", "answer", "strict", "loose"),
    [
        (NO_COMMAS, "Hello there!", 1.0, 1.0),
        (NO_COMMAS, "Hello, there!", 0.0, 0.0),
        (NO_COMMAS, "Sure, here you are:\nHello there!", 0.0, 1.0),
        (NO_COMMAS, "", 0.0, 0.0),
        (IN_GERMAN, "Guten Morgen, wie geht es dir an diesem schönen Tag?", 1.0, 1.0),
        (IN_GERMAN, "Good morning, how are you on this beautiful day?", 0.0, 0.0),
    ],
)
def test_an_answer_follows_all_instructions_or_not(tokenizer_is_here, follow, document, answer, strict, loose):
    scores = follow().process_results(document, [answer])
    assert scores == {"prompt_level_strict_acc": strict, "prompt_level_loose_acc": loose}


def test_the_same_answer_always_has_the_same_result(tokenizer_is_here, follow):
    """langdetect samples: left alone, it takes this for another language than English about once in twelve times."""
    in_english = IN_GERMAN | {"kwargs": [{"language": "en"}]}
    scores = [follow().process_results(in_english, ["Hallo! Das is gut, man."]) for _ in range(60)]
    assert len({score["prompt_level_strict_acc"] for score in scores}) == 1


def test_nltk_data_that_is_not_here_is_one_line_before_anything_is_evaluated(monkeypatch, follow):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        UserError, match=r"the data of ifeval is not here \(LookupError: nltk's punkt_tab.* suite ifeval"
    ):
        load_tasks("ifeval", suite.load("ifeval"))


@pytest.mark.parametrize("name", ["ifeval", "instructions"])
def test_a_package_that_is_not_installed_is_one_line_with_the_extra_that_has_it(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(UserError, match=rf"{name} needs a package that is not .*langdetect.* '\.\[ifeval\]'"):
        load_tasks(name, suite.load(name))
