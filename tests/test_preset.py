"""Presets: each is valid, extends others, changes what it sets and keeps the rest; micro takes back what they set."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, error_line, merged
from ruamel.yaml import YAML

from stages.commands import preset
from stages.core.errors import UserError
from stages.core.params import load
from stages.core.schema import check_params
from stages.data.seeds.files import of_file
from stages.data.seeds.pairs import SeedTally, pairs

PRESETS = sorted(path.stem for path in (ROOT / "stages/presets").glob("*.yaml"))
METHODS = sorted(path.stem for path in (ROOT / "stages/presets/methods").glob("*.yaml"))
REAL = [name for name in PRESETS if name not in ("micro", "lance")]  # with a model of their own
SHIPPED = (ROOT / "params.yaml").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "stages/presets", tmp_path / "stages/presets")
    (tmp_path / "params.yaml").write_text(SHIPPED, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def named(name: str) -> dict:
    """What a preset sets, itself or by one that it extends."""
    values, base = {}, name
    while base:
        own = load(preset.FOLDER / f"{base}.yaml")
        base = own.pop("extends", None)
        values = merged(own, values)
    return preset.flat(values)


def parameters(name: str) -> set[str]:
    """The parameters that a preset sets; the tree of iterations is one, and so is the model on the hub."""
    return {"model.hub" if each.startswith("model.hub") else each for each in named(name) if "iterations" not in each}


def write(name: str, text: str) -> None:
    (preset.FOLDER / f"{name}.yaml").write_text(text, encoding="utf-8")


def params_after(*names: str) -> str:
    """The text of params.yaml as shipped, after these presets in turn."""
    text = SHIPPED
    for name in names:
        text = preset.applied(name, text)
    return text


def test_there_are_the_seven_presets():
    models = ["llama-3.1-8b", "qwen2-7b", "qwen2-7b-instruct", "qwen2.5-0.5b", "smollm2-135m"]
    assert sorted(["lance", "micro", *models]) == PRESETS


def test_micro_is_what_is_shipped():
    assert preset.applied("micro", SHIPPED) == SHIPPED


def test_micro_sets_what_another_preset_sets_and_nothing_else():
    others = set().union(*(parameters(name) for name in PRESETS if name != "micro"))
    assert parameters("micro") == others
    assert all("iterations.1.parent" in named(name) for name in PRESETS)


@pytest.mark.parametrize("name", [*REAL, "lance"])
def test_a_preset_is_valid_and_changes_exactly_what_it_names(name):
    preset.main(name)
    after = load(Path("params.yaml"))
    check_params(after)
    before, changed = preset.flat(YAML(typ="safe").load(SHIPPED)), preset.flat(after)
    if name != "lance":
        del before["model.hub"]
    assert changed == before | named(name)


@pytest.mark.parametrize("name", PRESETS)
def test_every_comment_stays(name):
    preset.main(name)
    text = Path("params.yaml").read_text(encoding="utf-8")
    for line in SHIPPED.splitlines():
        assert line.partition("#")[2] in text


@pytest.mark.parametrize("name", [*REAL, "lance"])
def test_micro_brings_back_the_shipped_parameters_byte_for_byte(name):
    preset.main(name)
    assert Path("params.yaml").read_text(encoding="utf-8") != SHIPPED
    preset.main("micro")
    assert Path("params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_what_the_user_set_beside_a_preset_stays():
    Path("params.yaml").write_text(SHIPPED.replace("random_state: 0 ", "random_state: 7 "), encoding="utf-8")
    preset.main("qwen2-7b")
    assert load(Path("params.yaml"))["random_state"] == 7


def test_micro_takes_back_what_the_user_changed_in_a_preset():
    text = preset.applied("qwen2-7b", SHIPPED).replace("lora: null ", "lora: {rank: 16, alpha: 32, dropout: 0.0} ")
    assert preset.applied("micro", text.replace("threshold: 7.0", "threshold: 8.0")) == SHIPPED


@pytest.mark.parametrize("second", [*REAL, "micro"])
@pytest.mark.parametrize("first", PRESETS)
def test_one_preset_after_another_leaves_nothing_of_the_first(first, second):
    assert params_after(first, second) == params_after(second)


@pytest.mark.parametrize("first", PRESETS)
def test_lance_keeps_the_model_and_nothing_else(first):
    after, alone = (
        preset.flat(YAML(typ="safe").load(params_after(*names))) for names in ((first, "lance"), ("lance",))
    )
    model = {name: value for name, value in named(first).items() if name.startswith("model.hub")}
    if model:
        del alone["model.hub"]
    assert after == alone | model


def test_a_preset_extends_others_section_by_section_and_replaces_the_iterations():
    tree = 'iterations:\n  "{}": {{parent: "0", judge: "0", writer: "0"}}\n'
    write("base", tree.format(7) + "review: {samples: 5, top_p: 0.5}\nsamples: 9\n")
    write("middle", "extends: base\nreview: {samples: 6}\nmodel:\n  hub: {id: a/b, revision: null}\n")
    write("top", f"extends: middle\n{tree.format(8)}model: {{hub: {{id: c/d}}}}\n")
    values = YAML(typ="safe").load(preset.applied("top", SHIPPED))
    assert values["iterations"] == {"8": {"parent": "0", "judge": "0", "writer": "0"}}
    assert (values["review"]["samples"], values["review"]["top_p"], values["samples"]) == (6, 0.5, 9)
    assert values["model"]["hub"] == {"id": "c/d", "revision": None}
    assert "extends" not in values


def test_a_preset_brings_no_comments_of_its_own():
    write(
        "noted",
        "training:\n  lora:  # mine\n    rank: 4  # mine\n    alpha: 8\n    dropout: 0.0\n\n# mine\nsamples: 4\n",
    )
    noted = preset.applied("noted", SHIPPED)
    assert "mine" not in noted
    assert YAML(typ="safe").load(noted)["training"]["lora"] == {"rank": 4, "alpha": 8, "dropout": 0.0}


@pytest.mark.parametrize("following", ["\n\n", "\n\n# mine\n"])
def test_an_iteration_appended_by_dvc_is_replaced_and_the_comment_behind_it_stays(following):
    last = '  "3": {parent: "2", judge: "0", writer: "2"}\n'
    text = SHIPPED.replace(f"{last}\n", f"{last}  '4':\n    parent: '3'\n    judge: '0'\n    writer: '3'{following}")
    applied = preset.applied("qwen2-7b", text)
    assert '"4": {parent: "3", judge: "3", writer: "3"}' + following in applied
    assert preset.applied("micro", applied) == SHIPPED.replace(f"{last}\n", last.rstrip("\n") + following)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"mine": "extends: qwen\n"},
            "stages/presets/mine.yaml extends 'qwen': there is no preset 'qwen'; there are lance, llama-3.1-8b, micro,",
        ),
        (
            {"mine": "extends: mine\n"},
            "stages/presets/mine.yaml extends 'mine': that is a cycle, mine → mine; remove one `extends`",
        ),
        (
            {"mine": "extends: b\n", "b": "extends: c\n", "c": "extends: b\n"},
            "stages/presets/c.yaml extends 'b': that is a cycle, mine → b → c → b; remove one `extends`",
        ),
        ({"mine": "extends: [lance, micro]\n"}, "stages/presets/mine.yaml extends '['lance', 'micro']': there is no"),
        ({"mine": "# nothing yet\n"}, "stages/presets/mine.yaml holds no parameters; "),
        ({"mine": "extends: b\n", "b": "samples: [4\n"}, "stages/presets/b.yaml is not YAML, correct it: "),
    ],
)
def test_a_preset_that_cannot_be_read_is_one_line_and_changes_nothing(files, said):
    for name, text in files.items():
        write(name, text)
    with pytest.raises(UserError) as raised:
        preset.main("mine")
    assert str(raised.value).startswith(said)
    assert Path("params.yaml").read_text(encoding="utf-8") == SHIPPED


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["micro", "qwen2-7b", "smollm2-135m"])
def test_a_method_changes_what_it_names_on_top_of_a_preset(name, method):
    values = YAML(typ="safe").load(preset.applied(name, SHIPPED, method))
    check_params(values)
    own = preset.flat(load(preset.METHODS / f"{method}.yaml"))
    before, after = preset.flat(load(Path("params.yaml"))) | named(name), preset.flat(values)
    tree = "iterations" if any(parameter.startswith("iterations") for parameter in own) else None
    assert {parameter: after[parameter] for parameter in own} == own
    assert {
        parameter
        for parameter in after
        if after[parameter] != before.get(parameter) and not (tree and parameter.startswith(tree))
    } <= own.keys()


@pytest.mark.parametrize("method", METHODS)
def test_the_next_preset_takes_a_method_back(method):
    assert preset.applied("micro", preset.applied("micro", SHIPPED, method)) == SHIPPED


def test_the_method_lance_changes_nothing_of_the_papers_preset():
    assert preset.applied("lance", SHIPPED, "lance") == preset.applied("lance", SHIPPED)


def test_a_method_stands_on_a_preset_and_has_to_exist():
    with pytest.raises(UserError, match=r"spin is a method; name a preset before it, .* lance preset lance spin"):
        preset.main("spin")
    with pytest.raises(UserError, match="there is no method 'spinn'; there are i-sheep, iterative-rpo, lance, "):
        preset.main("micro", "spinn")
    assert Path("params.yaml").read_text(encoding="utf-8") == SHIPPED


def test_the_list_has_a_line_for_each_preset_and_method(capsys):
    preset.main()
    presets, _, methods = capsys.readouterr().out.partition(
        "\nand to put on top of one, lance preset PRESET METHOD:\n\n"
    )
    lines = presets.splitlines()
    assert [line.split()[0] for line in lines] == PRESETS
    assert [line.split()[0] for line in methods.splitlines()] == METHODS
    assert all(40 < len(line) <= 140 for line in [*lines, *methods.splitlines()])
    assert lines[0].startswith("lance              The paper's settings (LANCE, arXiv 2412.15151) for any model")


@pytest.mark.parametrize("name", REAL)
def test_a_preset_pins_its_model_and_says_what_it_takes(name):
    text = (preset.FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    revision = named(name)["model.hub.revision"]
    assert len(revision) == 40
    assert int(revision, 16)
    assert all(word in text.lower() for word in ("memory", "disk", "hour"))


@pytest.mark.parametrize("name", ["qwen2-7b", "qwen2-7b-instruct"])
def test_the_papers_settings(name):
    values = named(name)
    assert (values["threshold"], values["samples"], values["prompts"]) == (7.0, 4, "lance")
    assert (values["select.min_sft_score"], values["select.min_margin"], values["select.accumulate"]) == (
        8.0,
        2.0,
        True,
    )
    for asked in ("review", "generate"):
        assert [values[f"{asked}.{each}"] for each in ("temperature", "top_p", "max_tokens")] == [0.7, 0.9, 512]
    assert [values[f"iterations.{each}.judge"] for each in "1234"] == list("0123")
    limits = ("min_instruction_words", "max_instruction_words", "min_response_words", "max_response_words")
    assert [values[f"filter.{each}"] for each in limits] == [5, 4096, 10, 4096]
    assert values["filter.max_instruction_rouge_l"] == values["filter.max_response_rouge_l"] == 0.7


def test_the_seed_rows_of_the_smallest_real_model_are_all_used_as_they_are():
    """120 rows, none refused, changed, read in part, or with words that could speak for the judge."""
    source = ROOT / named("smollm2-135m")["seed.path"]
    tally = SeedTally()
    rows = list(pairs(of_file(source, "seed.path"), "seeds", tally))
    assert rows == [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len({row["prompt"] for row in rows}) == 120
    assert not tally.dropped
    assert not tally.noted
    longest = max(len(row["response"].split()) for row in rows)
    assert 150 < longest <= named("smollm2-135m")["filter.max_response_words"]


def test_the_command_says_what_changed_and_a_wrong_name_is_one_line(project):
    said = project.run("lance", "preset", "qwen2-7b").stdout
    assert "seed.limit: 300 → null\n" in said
    assert 'iterations.2.judge: "0" → "1"\n' in said
    assert "params.yaml has the preset qwen2-7b; what it takes stands in stages/presets/qwen2-7b.yaml" in said
    assert "seeds.jsonl does not exist; create it" in error_line(project.stage("stages.check"))
    assert "Qwen2-7B as in the paper" in project.run("lance", "preset").stdout
    assert "no preset 'qwen'; there are lance, llama-3.1-8b" in error_line(project.attempt("lance", "preset", "qwen"))
    (project.folder / "params.yaml").write_text("threshold: [7.0\n")
    assert "params.yaml is not YAML, restore it" in error_line(project.attempt("lance", "preset", "qwen2-7b"))
