"""sft and dpo: real trl trainers on tiny parts; same rows, same bytes; switched off, the model passes on."""

import json
import re
import shutil
import subprocess
import sys
import time
from contextlib import chdir

import pytest
from conftest import error_line

from stages.core import checkpoints
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


def killed_after(project, command, checkpoint):
    """Start a stage, and kill -9 it as soon as a checkpoint of its training is whole."""
    process = subprocess.Popen([sys.executable, "-m", *command], cwd=project.folder, stdout=subprocess.PIPE, text=True)
    whole = f".dvc/checkpoints/*/{checkpoint}/trainer_state.json"
    while not list(project.folder.glob(whole)) and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    (place,) = (project.folder / ".dvc/checkpoints").iterdir()
    return place


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["sft", "dpo"])
def test_a_killed_training_goes_on_from_its_last_whole_checkpoint_to_the_same_bytes(prepared, phase):
    """Killed after a checkpoint, with a torn later one beside it."""
    prepared.change({"sft": {"epochs": 4, "batch_size": 2}, "dpo": {"epochs": 4, "batch_size": 2}})
    shutil.copytree(prepared.folder / "iterations/0/model", prepared.folder / "iterations/1/sft")
    if phase == "sft":
        out = "iterations/1/trained"
        command = ["stages.sft", "sft", "iterations/0/model", "iterations/1/sft.jsonl", out, "results/1/sft.json"]
    else:
        out, command = "iterations/1/model", ["stages.dpo", "1"]
    assert "goes on" not in prepared.run("python", "-m", *command).stdout
    unbroken, counts = weights(prepared, out), prepared.read(f"results/1/{phase}.json")
    tokens = json.loads(prepared.read(f"costs/1/{phase}.json"))["tokens"]
    assert list((prepared.folder / ".dvc/checkpoints").iterdir()) == []  # deleted when done
    shutil.rmtree(prepared.folder / out)

    prepared.change({"runtime": {"checkpoint_minutes": 0}})
    place = killed_after(prepared, command, "checkpoint-5")
    assert not (prepared.folder / out).exists(), "it was killed too late"
    torn = place / "checkpoint-31"
    shutil.copytree(place / "checkpoint-5", torn)
    (torn / "trainer_state.json").write_text('{"global_step": 31, ')
    said = prepared.run("python", "-m", *command).stdout
    assert re.search(r"goes on from a checkpoint after step \d+ of 32", said)
    assert weights(prepared, out) == unbroken
    assert prepared.read(f"results/1/{phase}.json") == counts
    assert json.loads(prepared.read(f"costs/1/{phase}.json"))["tokens"] == tokens
    assert list((prepared.folder / ".dvc/checkpoints").iterdir()) == []


@pytest.mark.slow
def test_another_process_at_the_same_training_leaves_its_checkpoints_alone(prepared):
    with chdir(prepared.folder), checkpoints.folder("sft") as place, checkpoints.folder("sft") as other:
        assert place.parent == prepared.folder / ".dvc/checkpoints"
        assert other.is_dir()
        assert place != other
    assert not place.exists()


@pytest.mark.slow
def test_a_training_that_diverges_saves_nothing_and_says_what_to_lower(prepared):
    prepared.change({"sft": {"learning_rate": 1.0, "epochs": 40, "batch_size": 1}})
    model = prepared.folder / "iterations/0/model/model.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({name: value * 1e18 for name, value in load_file(model).items()}, model, metadata={"format": "pt"})
    said = error_line(sft(prepared))
    assert re.search(
        r"sft iterations/1/sft: the loss of step 1 is nan, and nothing is saved; lower sft.learning_r", said
    )
    assert not (prepared.folder / "iterations/1/sft").exists()


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
