"""params.yaml is checked before anything runs, and one line names every problem."""

from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, error_line, merged

from stages.check import check_spread
from stages.core import schema
from stages.core.errors import UserError
from stages.core.schema import REFERENCES, check_params, iteration_problems

PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def test_the_shipped_parameters_are_valid():
    check_params(PARAMS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"treshold": 7.0}, "treshold: unknown parameter, did you mean 'threshold'?"),
        ({"review": {"sample": 3}}, "review.sample: unknown parameter, did you mean 'samples'?"),
        ({"threshold": 11}, "threshold: input should be less than or equal to 10, not 11"),
        ({"threshold": -0.5}, "threshold: input should be greater than or equal to 0, not -0.5"),
        ({"threshold": "high"}, "threshold: input should be a valid number, not 'high'"),
        ({"samples": 0}, "samples: input should be greater than or equal to 1, not 0"),
        ({"review": {"top_p": 0}}, "review.top_p: input should be greater than 0, not 0"),
        ({"review": {"estimator": "some"}}, "review.estimator: input should be 'sampled', 'expected' or 'elicited'"),
        (
            {"review": {"max_tokens": 0}},
            "review.max_tokens: 0 needs review.estimator: elicited, which alone can do without",
        ),
        ({"review": {"scale": "rank"}}, "review.scale: input should be 'absolute' or 'quantile', not 'rank'"),
        ({"select": {"pairs": "best"}}, "select.pairs: input should be 'all' or 'extremes', not 'best'"),
        (
            {"select": {"agreement": [0.9, 0.5]}},
            "select.agreement: [0.9, 0.5] is neither null nor two shares from 0 to 1, the lower one first, such as",
        ),
        ({"select": {"agreement": 0.5}}, "select.agreement: 0.5 is neither null nor two shares"),
        ({"select": {"agreement": [0.5, True]}}, "select.agreement: [0.5, True] is neither null nor two shares"),
        ({"select": {"agreement": [0.5, 2]}}, "select.agreement: [0.5, 2] is neither null nor two shares"),
        ({"select": {"agreement": [0.1, 0.5, 0.9]}}, "select.agreement: [0.1, 0.5, 0.9] is neither null nor two"),
        (
            {"select": {"max_spread": -1}},
            "select.max_spread: input should be greater than or equal to 0 or null, not -1",
        ),
        ({"sft": {"enabled": "no"}}, "sft.enabled: input should be true or false, not 'no'"),
        ({"dpo": {"beta": float("inf")}}, "dpo.beta: input should be a finite number"),
        ({"random_state": 5_000_000_000}, "random_state: input should be less than 4294967296"),
        ({"microworld": {"heads": 3}}, "microworld.heads: 3 must divide hidden"),
        ({"evaluate": {"limit": 1}}, "evaluate.limit: input should be greater than or equal to 2"),
        ({"training": {"four_bit": True}}, "training.four_bit: true needs training.lora, since 4-bit weights"),
        (
            {"training": {"lora": {"rank": 0, "alpha": 8, "dropout": 0.0}}},
            "training.lora.rank: input should be greater",
        ),
        (
            {"training": {"lora": {"rank": 4, "dropout": 0.0}}},
            "training.lora.alpha: missing, add it, such as alpha: 32",
        ),
        ({"training": {"lora": 16}}, "training.lora: should be null or {rank: 16, alpha: 32, dropout: 0.0}, not 16"),
        ({"training": {"four_bit": None}}, "training.four_bit: input should be true or false, not null"),
        ({"training": {"autocast": "float16"}}, "training.autocast: input should be 'bfloat16' or null, not 'float16'"),
        ({"seed": {"columns": {"prompt": "x"}}}, "seed.columns.response: missing, add it, such as response: COLUMN"),
        (
            {"seed": {"columns": {"prompt": [], "response": "x"}}},
            "seed.columns.prompt: [] is neither a column, nor a list",
        ),
        ({"seed": {"columns": {"prompt": "x", "response": 5}}}, "seed.columns.response: 5 is neither a column, nor a"),
        (
            {"seed": {"columns": {"prompt": "x", "response": "rejected"}}},
            "seed.columns.response: 'rejected' names a rejected answer, which is never a seed; name another column",
        ),
        (
            {"seed": {"columns": {"prompt": "x", "response": "y", "ignore": "z"}}},
            "seed.columns.ignore: 'z' is not a list of columns",
        ),
        ({"model": {"hub": {"id": "a/b"}}}, "model.hub.revision: missing, add it, such as revision: COMMIT"),
        ({"model": {"hub": {"revison": "x"}}}, "model.hub.revison: unknown parameter, did you mean 'revision'?"),
        ({"model": {"hub": {"id": "gpt2"}}}, "model.hub.id: 'gpt2' is not of the form OWNER/NAME"),
        ({"model": {"hub": {"revision": "main"}}}, "'main' is not a commit of 40 hexadecimal digits; copy one from ID"),
        ({"seed": {"hub": {"revision": "main"}}}, "seed.hub.revision: 'main' is not a commit of 40 hexadecimal digits"),
        (
            {"runtime": {"server": {"url": "here"}}},
            "url: 'here' is not an address that begins with http:// or https://",
        ),
        ({"dpo": {"reference": "base"}}, "dpo.reference: input should be 'sft' or 'warm_start', not 'base'"),
        (
            {"review": {"by": "verifier", "scale": "quantile"}},
            "review.by: verifier has few: a 10 may not be above 8; set review.scale: absolute",
        ),
        (
            {"sft": {"start": "base", "enabled": False}},
            "sft.start: base needs sft.enabled: true, set it or sft.start: parent",
        ),
        (
            {"dpo": {"start": "base"}},
            "dpo.start: base would leave what SFT trains unused, set sft.enabled: false or dpo.start: sft",
        ),
        (
            {"dpo": {"start": "parent", "enabled": False}, "sft": {"enabled": False}},
            "dpo.start: parent needs dpo.enabled: true, set it or dpo.start: sft",
        ),
        ({"sft": {"start": "sft"}}, "sft.start: input should be 'parent', 'warm_start' or 'base', not 'sft'"),
        ({"dpo": {"label_smoothing": 0.5}}, "dpo.label_smoothing: input should be less than 0.5, not 0.5"),
        ({"average": 1.0}, "average: input should be less than 1, not 1.0"),
        (
            {"average": 0.5, "training": {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0}}},
            "average: 0.5 needs training.lora: null, since the mean of two adapters' updates has twice their rank; set",
        ),
        ({"runtime": {"training": {"sharding": "zero2"}}}, "sharding: input should be 'fsdp' or 'zero3' or null"),
        (
            {"runtime": {"training": {"sharding": "zero3"}}},
            "sharding: 'zero3' needs runtime.training.processes above 1",
        ),
        ({"runtime": {"engine": "abacus"}}, "runtime.engine: input should be 'auto', 'transformers'"),
    ],
)
def test_a_bad_parameter_is_named_with_what_it_should_be(changes, message):
    with pytest.raises(UserError) as error:
        check_params(merged(PARAMS, {**changes}) if all(name in PARAMS for name in changes) else {**PARAMS, **changes})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"sft": {"start": "base"}, "average": 0.5},
        {"sft": {"enabled": False}, "dpo": {"start": "warm_start", "reference": "warm_start"}},
        {"sft": {"enabled": False}, "dpo": {"enabled": False}},
    ],
)
def test_trainings_may_start_from_other_models_and_be_averaged(changes):
    check_params(merged(PARAMS, changes))


def test_a_missing_parameter_is_named():
    values = deepcopy(PARAMS)
    del values["review"]["samples"]
    with pytest.raises(UserError, match=r"review\.samples: missing, restore it from git"):
        check_params(values)


@pytest.mark.parametrize(("old", "new"), schema.RENAMED.items())
def test_an_old_name_is_one_line_that_says_the_new_one(old, new):
    values = deepcopy(PARAMS)
    (*section, name), last = old.split("."), new.split(".")[-1]
    parameters = values[section[0]] if section else values
    parameters[name] = parameters.pop(last)
    with pytest.raises(UserError) as error:
        check_params(values)
    assert str(error.value) == f"params.yaml: {old}: is now called {new}, rename it"


def test_a_parent_that_is_a_truth_value_is_named():
    iterations = {
        "True": {"parent": "0", "judge": "0", "writer": "0"},
        "2": {"parent": True, "judge": "0", "writer": True},
    }
    with pytest.raises(UserError, match=r"iterations\.2\.parent\.str: input should be a valid string, not true"):
        check_params({**PARAMS, "iterations": iterations})


def test_a_section_without_its_parameters_is_one_line():
    with pytest.raises(UserError, match=r"^params\.yaml: training: should be a section, restore it from git$"):
        check_params({**PARAMS, "training": None})


def test_all_problems_are_named_at_once():
    with pytest.raises(UserError) as error:
        check_params({**PARAMS, "threshold": 11, "samples": 0, "treshold": 1})
    assert all(name in str(error.value) for name in ("threshold: input", "samples: input", "treshold: unknown"))


def tree(**models: str) -> dict:
    """Iterations by their parent, judge and writer: tree(i1="0 0 0") has one iteration, of the warm start alone."""
    return {key[1:]: dict(zip(REFERENCES, references.split(), strict=True)) for key, references in models.items()}


@pytest.mark.parametrize(
    ("iterations", "message"),
    [
        (
            {1: {"parent": "0", "judge": "0", "writer": "0"}},
            'the key 1 must be quoted, "1", since dvc silently drops other keys',
        ),
        (tree(i1="0 0 0", i2="7 0 0"), "iterations.2.parent: there is no iteration '7'; there are 0, 1, 2"),
        (tree(i1="0 0 0", i2="0 7 0"), "iterations.2.judge: there is no iteration '7'; there are 0, 1, 2"),
        (tree(i1="0 0 0", i2="0 0 7"), "iterations.2.writer: there is no iteration '7'; there are 0, 1, 2"),
        (tree(i1="2 0 0", i2="1 0 0"), "a cycle of parents, judges or writers, 1 → 2 → 1"),
        (tree(i1="1 0 0"), "a cycle of parents, judges or writers, 1 → 1"),
        (tree(i1="0 2 0", i2="1 0 0"), "a cycle of parents, judges or writers, 1 → 2 → 1"),
        (tree(i1="0 0 2", i2="1 0 0"), "a cycle of parents, judges or writers, 1 → 2 → 1"),
        (tree(i0="0 0 0"), "'0' cannot name an iteration"),
        ({"1": None}, "iterations.1: must name its parent, its judge and its writer, such as {parent"),
        ({"1": {"parent": "0"}}, "iterations.1: must name its judge and its writer, such as {parent"),
        (
            {"1": {"parent": "0", "judge": "0"}},
            'iterations.1: must name its writer, such as {parent: "0", judge: "0", writer: "0"}',
        ),
        ({}, "must name at least one iteration"),
        (None, "must name at least one iteration"),
    ],
)
def test_a_broken_tree_of_iterations_is_explained(iterations, message):
    assert message in "; ".join(iteration_problems(iterations))


def test_branches_and_names_are_a_valid_tree():
    assert iteration_problems(tree(i1="0 0 0", i2="1 1 0", i2b="1 0 1", i3="2b 2 1")) == []


def test_a_parent_may_be_a_number_as_dvc_writes_it():
    numbers = {str(key): dict.fromkeys(REFERENCES, key - 1) for key in (1, 2)}
    assert iteration_problems(numbers) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"treshold": 7.0}, "did you mean 'threshold'"),
        ({"seed": {"path": "nowhere.jsonl"}}, "seed.path: nowhere.jsonl does not exist; create it"),
        ({"prompts": "haiku"}, "prompts: prompts/haiku does not exist"),
        (
            {"evaluate": {"suite": "chess"}},
            "evaluate.suite: evaluation/chess/suite.yaml does not exist; choose one of ifeval, instructions, ",
        ),
    ],
)
def test_the_stage_ends_with_one_line(project, changes, message):
    if "treshold" in changes:
        with (project.folder / "params.yaml").open("a") as params:
            params.write("treshold: 7.0\n")
    else:
        project.change(changes)
    assert message in error_line(project.stage("stages.check"))
    assert not Path(project.folder, "iterations/params.valid").exists()


@pytest.mark.parametrize("rate", ["1e-05", "1e-5", "0.00001"])
def test_a_number_is_read_as_dvc_writes_it(project, rate):
    """YAML 1.2, dvc's, has 1e-05 for a number; YAML 1.1 for a text."""
    text = project.read("params.yaml").replace("learning_rate: 1.0e-4", f"learning_rate: {rate}")
    (project.folder / "params.yaml").write_text(text)
    assert project.stage("stages.check").returncode == 0


@pytest.mark.parametrize("estimator", ["sampled", "expected"])
@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("generate/flawed.md", "Spoil $response.", "prompts/micro/generate/flawed.md has no placeholder $instruction"),
        (
            "generate/answers.yaml",
            "instruction: '(?P<answer>.+)'\nflawed: ''\nresponse: ''",
            "'instruction' must be words such as \"Final Answer:\", or empty",
        ),
        ("generate/answers.yaml", "instruction: 'Final Answer:'", "answers.yaml: flawed: Field required"),
        ("review/verdict.yaml", "verdict: '(?P<score>.)'", "verdict.yaml: verdict: Input should be a valid list"),
        ("review/verdict.yaml", "verdict: '", "prompts/micro/review/verdict.yaml is not YAML"),
        ("review/verdict.yaml", "verdict: [{label: score, highest: 5}]", "add up to 5; they must add up to 10"),
        ("tags.yaml", None, "tags.yaml does not exist"),
        ("tags.yaml", "instruction: question", "tags.yaml: response: Field required"),
        ("tags.yaml", "instruction: q\nresponse: Q", "instruction and response have the same tag"),
        (
            "tags.yaml",
            "instruction: question\nresponse: answer",
            "review/prompt.md: $response does not stand between <answer> and </answer>",
        ),
        (
            "review/prompt.md",
            "<question>$instruction</question><response>$response",
            "review/prompt.md: $response does not stand between <response> and </response>",
        ),
        (
            "generate/instruction.md",
            "<question></question>$instruction<response>$response</response>",
            "generate/instruction.md: $instruction does not stand between <question> and </question>",
        ),
        (
            "generate/instruction.md",
            "<question>$instruction</question><response>$response</response>$shot",
            "generate/instruction.md: unknown placeholder $shot",
        ),
        ("system.md", None, "system prompt prompts/micro/system.md does not exist"),
    ],
)
def test_a_prompt_that_only_a_late_stage_reads_is_looked_at_first(project, estimator, file, text, message):
    project.change({"review": {"estimator": estimator}})
    path = project.folder / "prompts/micro" / file
    path.unlink() if text is None else path.write_text(text)
    assert message in error_line(project.stage("stages.check"))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "instruction.md",
            "<question>$instruction</question><response>$response</response>",
            "generate/instruction.md has no placeholder $shots, which generate.shots: 3 needs",
        ),
        ("shot.md", None, "prompts/micro/generate/shot.md does not exist"),
        ("shot.md", "<question>$instruction</question>", "generate/shot.md has no placeholder $response"),
    ],
)
def test_a_set_shows_several_seeds_only_where_it_says_how(project, file, text, message):
    path = project.folder / "prompts/micro/generate" / file
    path.unlink() if text is None else path.write_text(text)
    assert project.stage("stages.check").returncode == 0  # one seed is shown
    project.change({"generate": {"shots": 3}})
    assert message in error_line(project.stage("stages.check"))


def test_params_that_are_not_yaml_are_one_line(project):
    (project.folder / "params.yaml").write_text("threshold: [7.0\n")
    assert "params.yaml is not YAML" in error_line(project.stage("stages.check"))


@pytest.mark.parametrize("prompt", ["question", ["question", "choices"], "{question}\n\n{choices}"])
@pytest.mark.parametrize("ignore", [{}, {"ignore": []}, {"ignore": ["score"]}])
def test_the_columns_of_a_prompt_are_one_several_or_a_template(prompt, ignore):
    check_params(merged(PARAMS, {"seed": {"columns": {"prompt": prompt, "response": "answer", **ignore}}}))


@pytest.mark.parametrize(
    ("review", "gives"),
    [
        ({"estimator": "expected"}, "review.estimator: expected gives one"),
        ({"estimator": "elicited", "samples": 3}, "review.estimator: elicited gives one"),
        ({"samples": 1}, "review.samples: 1 gives one"),
    ],
)
def test_the_spread_of_a_single_verdict_is_refused(review, gives):
    with pytest.raises(UserError, match=rf"^params\.yaml: select\.max_spread: needs several .* and {gives}") as error:
        check_spread(merged(PARAMS, {"select": {"max_spread": 1.5}, "review": review}))
    assert "\n" not in str(error.value)
    check_spread(merged(PARAMS, {"select": {"max_spread": None}, "review": review}))
    check_spread(merged(PARAMS, {"select": {"max_spread": 1.5}, "review": {"samples": 2}}))
