"""Presets: each is valid, changes what it names and keeps the rest; micro is params.yaml as shipped."""

import shutil
from pathlib import Path

import pytest
from conftest import ROOT, error_line
from ruamel.yaml import YAML

from stages.commands import preset
from stages.core.params import load
from stages.core.schema import check

PRESETS = sorted(path.stem for path in (ROOT / "stages/presets").glob("*.yaml"))
REAL = [name for name in PRESETS if name != "micro"]
SHIPPED = (ROOT / "params.yaml").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "stages/presets", tmp_path / "stages/presets")
    (tmp_path / "params.yaml").write_text(SHIPPED, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def named(name: str) -> dict:
    return preset.flat(load(preset.FOLDER / f"{name}.yaml"))


def test_there_are_the_five_presets():
    assert PRESETS == ["llama-3.1-8b", "micro", "qwen2-7b", "qwen2-7b-instruct", "qwen2.5-0.5b"]


def test_micro_is_what_is_shipped():
    assert preset.applied("micro", "") == SHIPPED, "cp params.yaml stages/presets/micro.yaml"


@pytest.mark.parametrize("name", REAL)
def test_a_preset_is_valid_and_changes_exactly_what_it_names(name):
    preset.main(name)
    after = load(Path("params.yaml"))
    check(after)
    before, changed = preset.flat(YAML(typ="safe").load(SHIPPED)), preset.flat(after)
    del before["model.hub"]
    assert changed == before | named(name)


@pytest.mark.parametrize("name", REAL)
def test_every_comment_stays(name):
    preset.main(name)
    text = Path("params.yaml").read_text(encoding="utf-8")
    for line in SHIPPED.splitlines():
        assert line.partition("#")[2] in text


@pytest.mark.parametrize("name", REAL)
def test_micro_brings_back_the_shipped_parameters_byte_for_byte(name):
    preset.main(name)
    assert Path("params.yaml").read_text(encoding="utf-8") != SHIPPED
    preset.main("micro")
    assert Path("params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_what_the_user_set_beside_a_preset_stays():
    Path("params.yaml").write_text(SHIPPED.replace("random_state: 0 ", "random_state: 7 "), encoding="utf-8")
    preset.main("qwen2-7b")
    assert load(Path("params.yaml"))["random_state"] == 7


def test_one_preset_after_another_leaves_nothing_of_the_first():
    """All but micro name the same parameters."""
    assert len({tuple(sorted(named(name).keys() - {"iterations"})) for name in REAL}) == 1


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


def test_the_command_says_what_changed_and_a_wrong_name_is_one_line(project):
    said = project.run("lance", "preset", "qwen2-7b").stdout
    assert "seed.limit: 300 → null\n" in said
    assert 'iterations.2.judge: "0" → "1"\n' in said
    assert "params.yaml has the preset qwen2-7b; what it takes stands in stages/presets/qwen2-7b.yaml" in said
    assert "seeds.jsonl does not exist; create it" in error_line(project.stage("stages.check"))
    assert "Qwen2-7B as in the paper" in project.run("lance", "preset").stdout
    assert "no preset 'qwen'; there are llama-3.1-8b" in error_line(project.attempt("lance", "preset", "qwen"))
    (project.folder / "params.yaml").write_text("threshold: [7.0\n")
    assert "params.yaml is not YAML, restore it" in error_line(project.attempt("lance", "preset", "qwen2-7b"))
