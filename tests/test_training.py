"""sft and dpo: real trl trainers on tiny parts; same rows, same bytes; switched off, the model passes on."""

import json
import shutil

import pytest

from stages.core.records import write
from stages.core.training import curve, steps

ROWS = [
    {"kind": "new", "prompt": f"Which is larger, {number} or 50?", "completion": f"is {max(number, 50)}"}
    for number in range(10, 26)
]
PAIRS = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": "maybe 7"} for row in ROWS]


@pytest.fixture
def prepared(project, tiny_model):
    """A project with a model, SFT rows and pairs where sft@1 and dpo@1 look for them."""
    here = project.folder / "iterations"
    shutil.copytree(tiny_model, here / "0/model")
    write(here / "1/sft.jsonl", ROWS)
    write(here / "1/pairs.jsonl", PAIRS)
    return project


def sft(project, out="iterations/1/sft"):
    return project.stage("stages.sft", "sft", "iterations/0/model", "iterations/1/sft.jsonl", out, "results/1/sft.json")


def weights(project, model):
    return (project.folder / model / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_training_changes_the_model_to_the_same_bytes_each_time_and_writes_nothing_that_varies(prepared):
    for out in ("iterations/1/sft", "iterations/again"):
        result = sft(prepared, out)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""  # no other library's bars or warnings
    assert weights(prepared, "iterations/1/sft") == weights(prepared, "iterations/again")
    assert weights(prepared, "iterations/1/sft") != weights(prepared, "iterations/0/model")
    names = {path.name for path in (prepared.folder / "iterations/1/sft").iterdir()}
    assert names == {path.name for path in (prepared.folder / "iterations/0/model").iterdir()}
    counts = json.loads(prepared.read("results/1/sft.json"))
    assert counts["rows"] == {"in": 16, "out": 16, "dropped": {}}

    result = prepared.stage("stages.dpo", "1")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert weights(prepared, "iterations/1/model") != weights(prepared, "iterations/1/sft")
    assert json.loads(prepared.read("results/1/dpo.json"))["steps"] == 1


@pytest.mark.slow
def test_a_row_that_does_not_fit_the_context_is_dropped_and_counted(prepared):
    write(prepared.folder / "iterations/1/sft.jsonl", [*ROWS, {**ROWS[0], "prompt": "cat, " * 600}])
    assert sft(prepared).returncode == 0
    counts = json.loads(prepared.read("results/1/sft.json"))
    assert counts["rows"] == {"in": 17, "out": 16, "dropped": {"does not fit the context": 1}}


@pytest.mark.parametrize(
    ("change", "rows", "reason"),
    [
        ({"sft": {"enabled": False}}, ROWS, "sft.enabled is false"),
        ({}, [], "no SFT rows were selected"),
        ({}, [{**ROWS[0], "kind": "judge"}], "no SFT rows were selected"),
    ],
)
def test_sft_without_work_passes_its_model_on(prepared, change, rows, reason):
    prepared.change(change)
    write(prepared.folder / "iterations/1/sft.jsonl", rows)
    assert sft(prepared).returncode == 0
    assert weights(prepared, "iterations/1/sft") == weights(prepared, "iterations/0/model")
    assert json.loads(prepared.read("results/1/sft.json")) == {"passed_on": reason}


@pytest.mark.parametrize(
    ("change", "pairs", "reason"),
    [({"dpo": {"enabled": False}}, PAIRS, "dpo.enabled is false"), ({}, [], "no pairs were found")],
)
def test_dpo_without_work_passes_its_model_on(prepared, change, pairs, reason):
    prepared.change(change)
    shutil.copytree(prepared.folder / "iterations/0/model", prepared.folder / "iterations/1/sft")
    write(prepared.folder / "iterations/1/pairs.jsonl", pairs)
    assert prepared.stage("stages.dpo", "1").returncode == 0
    assert weights(prepared, "iterations/1/model") == weights(prepared, "iterations/0/model")
    assert json.loads(prepared.read("results/1/dpo.json")) == {"passed_on": reason}


def test_a_log_is_kept_as_means_of_consecutive_steps():
    assert steps(33, {"batch_size": 16, "epochs": 2}) == 6
    log = [{"loss": float(step), "rewards/margins": 0.5, "rewards/accuracies": 1.0, "epoch": 1} for step in range(250)]
    assert curve(log[:2]) == [
        {"step": 1, "loss": 0.0, "margin": 0.5, "accuracy": 1.0},
        {"step": 2, "loss": 1.0, "margin": 0.5, "accuracy": 1.0},
    ]
    assert curve(log)[0] == {"step": 3, "loss": 1.0, "margin": 0.5, "accuracy": 1.0}
    assert curve(log)[-1]["step"] == 250
    assert len(curve(log)) == 84
