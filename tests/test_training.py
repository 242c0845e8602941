"""sft and dpo: real trl trainers on tiny parts; same rows, same bytes; switched off, they copy the input model."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import chdir
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from conftest import RUNTIME, Project, command_line, error_line, forking_environment
from filelock import FileLock

from stages.core.errors import UserError
from stages.core.records import Tally, write
from stages.training import checkpoints
from stages.training.launch import CONFIGS
from stages.training.phase import Phase, curve

ROWS = [
    {"kind": "new", "prompt": f"Which is larger, {number} or 50?", "completion": f"is {max(number, 50)}"}
    for number in range(10, 26)
]
VARIED = [{**row, "completion": row["completion"] + " indeed" * (index % 4)} for index, row in enumerate(ROWS)]
LORA = {"training": {"lora": {"rank": 4, "alpha": 64, "dropout": 0.0}}}
WEIGHTED = {"dpo": {"nll": 0.5, "weight": "margin", "loss": "sigmoid_norm", "beta": 2.0, "label_smoothing": 0.1}}
PRECOMPUTED = {"runtime": {"training": {"precompute_reference": True}}}
PAIRS = [
    {"prompt": row["prompt"], "chosen": row["completion"], "rejected": "maybe 7", "margin": 2.5 + index % 3}
    for index, row in enumerate(VARIED)
]
LONGER = [{**pair, "rejected": "it is hard to say"} for pair in PAIRS]


@pytest.fixture
def prepared(project, tiny_model):
    """A project with a model, SFT rows and pairs where sft@1 and dpo@1 look for them."""
    here = project.folder / "iterations"
    shutil.copytree(tiny_model, here / "0/base")
    shutil.copytree(tiny_model, here / "0/model")
    write(here / "1/sft.jsonl", ROWS)
    write(here / "1/pairs.jsonl", PAIRS)
    return project


def sft_command(model="iterations/0/model", rows="iterations/1/sft.jsonl", out="iterations/1/sft"):
    return ("stages.sft", "--model", model, "--rows", rows, "--out", out)


DPO_COMMAND = (
    "stages.dpo", "--model", "iterations/1/sft", "--parent", "iterations/0/model", "--pairs",
    "iterations/1/pairs.jsonl", "--out", "iterations/1/model",
)  # fmt: skip


def sft(project, out="iterations/1/sft"):
    return project.stage(*sft_command(out=out))


def weights(project, model):
    (path,) = (project.folder / model).glob("*.safetensors")
    return path.read_bytes()


def difference(project, other, model):
    """The largest difference of a weight, between two projects."""
    from safetensors.torch import load

    one, two = (load(weights(side, model)) for side in (project, other))
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def logs(project):
    """The logs of sft@1 and dpo@1, step by step."""
    return [json.loads(project.read(f"results/1/{phase}.json"))["log"] for phase in ("sft", "dpo")]


def curves(project):
    """The losses of sft@1 and dpo@1, step by step."""
    return [[point["loss"] for point in log] for log in logs(project)]


def assert_same_log(log, other, tolerance):
    """Of two trainings: the losses, margins and accuracies of every step."""
    for point, other_point in zip(log, other, strict=True):
        if abs(point.get("margin", 1)) < 1e-4:  # before the first step, rounding decides which reward is the higher
            point, other_point = ({**values, "accuracy": None} for values in (point, other_point))
        assert point == pytest.approx(other_point, abs=tolerance)


def trained(project, changes, warm_start=False):
    """The project after sft@1 and dpo@1 with some changed parameters, and an odd number of rows: the last step of an
    epoch has three. `warm_start`: iteration 0 is trained as well."""
    project.change({"sft": {"epochs": 2, "batch_size": 4}, "dpo": {"epochs": 2, "batch_size": 4}})
    project.change(changes)
    write(project.folder / "iterations/1/sft.jsonl", VARIED[:15])
    write(project.folder / "iterations/1/pairs.jsonl", [*PAIRS[:8], *LONGER[8:15]])
    if warm_start:
        shutil.rmtree(project.folder / "iterations/0/model")  # as dvc does before a stage
        project.run("python", "-m", *sft_command(model="iterations/0/base", out="iterations/0/model"))
    result = sft(project)
    assert result.returncode == 0, result.stderr
    result = project.stage(*DPO_COMMAND)
    assert (result.returncode, result.stderr) == (0, "")
    return project


@pytest.fixture
def twin(prepared, tmp_path):
    """Another project like `prepared`."""
    shutil.copytree(prepared.folder, tmp_path / "twin")
    other = Project.__new__(Project)
    other.folder = tmp_path / "twin"
    return other


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

    result = prepared.stage(*DPO_COMMAND)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert weights(prepared, "iterations/1/model") != weights(prepared, "iterations/1/sft")
    assert json.loads(prepared.read("results/1/dpo.json"))["steps"] == 1


def killed_after(project, command, checkpoint, env=None):
    """Start a stage, and kill -9 it as soon as a checkpoint of its training is whole. `env`: that of fresh interpreters
    to run it in."""
    process = subprocess.Popen(
        command_line("python", "-m", *command, forks=env is None), cwd=project.folder,
        env=env or forking_environment(), stdout=subprocess.PIPE,
    )  # fmt: skip
    whole = f".dvc/checkpoints/*/{checkpoint}/trainer_state.json"
    while not list(project.folder.glob(whole)) and process.poll() is None:
        time.sleep(0.005)
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    process.communicate()  # until none is left that could write to it
    (folder,) = (project.folder / ".dvc/checkpoints").iterdir()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["sft", "dpo"])
@pytest.mark.parametrize(
    "how", [{}, LORA, {"runtime": {"training": {"rows_at_once": 1}}}], ids=["", "lora", "micro-batches"]
)
def test_a_killed_training_resumes_from_its_last_whole_checkpoint_to_the_same_bytes(prepared, phase, how):
    """Killed after a checkpoint, with a torn later one beside it."""
    prepared.change(how)
    prepared.change({"sft": {"epochs": 4, "batch_size": 2}, "dpo": {"epochs": 4, "batch_size": 2}})
    shutil.copytree(prepared.folder / "iterations/0/model", prepared.folder / "iterations/1/sft")
    if phase == "sft":
        out = "iterations/1/trained"
        command = sft_command(out=out)
    else:
        out, command = "iterations/1/model", DPO_COMMAND
    assert "resumes" not in prepared.run("python", "-m", *command).stdout
    unbroken, counts = weights(prepared, out), prepared.read(f"results/1/{phase}.json")
    tokens = json.loads(prepared.read(f"costs/1/{phase}.json"))["tokens"]
    assert list((prepared.folder / ".dvc/checkpoints").iterdir()) == []  # deleted when done
    shutil.rmtree(prepared.folder / out)

    prepared.change({"runtime": {"checkpoint_minutes": 0}})
    folder = killed_after(prepared, command, "checkpoint-5")
    assert not (prepared.folder / out).exists(), "it was killed too late"
    torn = folder / "checkpoint-31"
    shutil.copytree(folder / "checkpoint-5", torn)
    (torn / "trainer_state.json").write_text('{"global_step": 31, ')
    output = prepared.run("python", "-m", *command).stdout
    assert re.search(r"resumes after step \d+ of 32", output)
    assert weights(prepared, out) == unbroken
    assert prepared.read(f"results/1/{phase}.json") == counts
    assert json.loads(prepared.read(f"costs/1/{phase}.json"))["tokens"] == tokens
    assert list((prepared.folder / ".dvc/checkpoints").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_two_processes_whose_stage_was_interrupted_or_killed(prepared, number):
    """accelerate puts each into a session of its own, which no signal to the stage's group reaches."""
    prepared.change({"sft": {"epochs": 40, "batch_size": 2}, "runtime": {"training": {"processes": 2}}})
    prepared.change({"runtime": {"checkpoint_minutes": 0}})
    stage = subprocess.Popen(
        command_line("python", "-m", *sft_command(), forks=False), cwd=prepared.folder, start_new_session=True
    )
    while not list(prepared.folder.glob(".dvc/checkpoints/*/checkpoint-1/trainer_state.json")):
        assert stage.poll() is None
        time.sleep(0.05)
    os.killpg(stage.pid, number)
    assert stage.wait() == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    end = time.monotonic() + 20
    while any(process.info["cwd"] == str(prepared.folder) for process in psutil.process_iter(["cwd"])):
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_a_killed_training_starts_over_if_its_micro_batches_have_another_size(prepared):
    """trl would resume with the rows of the old micro-batches, and so with another batch."""
    command = sft_command()
    prepared.change({"sft": {"epochs": 4, "batch_size": 2}, "runtime": {"training": {"rows_at_once": 1}}})
    prepared.run("python", "-m", *command)
    unbroken = weights(prepared, "iterations/1/sft")
    shutil.rmtree(prepared.folder / "iterations/1/sft")
    prepared.change({"runtime": {"checkpoint_minutes": 0, "training": {"rows_at_once": None}}})
    killed_after(prepared, command, "checkpoint-5")
    prepared.change({"runtime": {"training": {"rows_at_once": 1}}})
    assert "resumes" not in prepared.run("python", "-m", *command).stdout
    assert weights(prepared, "iterations/1/sft") == unbroken


@pytest.mark.slow
def test_another_process_at_the_same_training_leaves_its_checkpoints_alone(prepared):
    with (
        chdir(prepared.folder),
        checkpoints.folder(RUNTIME.training, "sft") as folder,
        checkpoints.folder(RUNTIME.training, "sft") as other,
    ):
        assert folder.parent == prepared.folder / ".dvc/checkpoints"
        assert other.is_dir()
        assert folder != other
    assert not folder.exists()


@pytest.mark.slow
def test_checkpoints_that_nobody_resumes_are_removed_after_a_month(prepared, capsys):
    folder, month = prepared.folder / ".dvc/checkpoints", 30 * 86_400
    ages = {"abandoned": month + 60, "under way": month + 60, "last month's": month - 60}
    for name in ages:
        (folder / name / "checkpoint-5").mkdir(parents=True)
    with chdir(prepared.folder), FileLock(folder / "under way/lock"):
        for name, age in ages.items():
            os.utime(folder / name, (time.time() - age,) * 2)
        with checkpoints.folder(RUNTIME.training, "sft"):
            pass
    assert {path.name for path in folder.iterdir()} == {"under way", "last month's"}
    output = capsys.readouterr().out
    assert output == f"checkpoints: removed {folder}/abandoned, unused for more than 30 days\n"


def test_zero3_does_not_train_an_adapter_in_the_16_bits_of_its_base(prepared):
    from transformers import AutoModelForCausalLM

    base = prepared.folder / "iterations/0/base"
    AutoModelForCausalLM.from_pretrained(base, dtype="bfloat16").save_pretrained(base)
    runtime = RUNTIME.model_copy(update={"training": RUNTIME.training.model_copy(update={"sharding": "zero3"})})
    training, folder = LORA["training"] | {"four_bit": False}, Path("iterations/0/base")
    with chdir(prepared.folder), pytest.raises(UserError, match=r"zero3 gathers weights of one type.*model\.dtype"):
        Phase("sft", "sft", folder, folder, Path("iterations/1/sft"), {}, training, 0, runtime).load()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_that_diverges_saves_nothing_and_says_what_to_lower(prepared, processes):
    prepared.change({"sft": {"learning_rate": 1.0, "epochs": 40, "batch_size": processes}})
    prepared.change({"runtime": {"training": {"processes": processes}}})
    model = prepared.folder / "iterations/0/model/model.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({name: value * 1e18 for name, value in load_file(model).items()}, model, metadata={"format": "pt"})
    line = error_line(sft(prepared))
    assert "sft iterations/1/sft: the loss of step 1 is nan, and nothing is saved; lower sft.learning_rate" in line
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
def test_sft_without_work_copies_its_input_model(prepared, change, rows, reason):
    prepared.change(change)
    write(prepared.folder / "iterations/1/sft.jsonl", rows)
    assert sft(prepared).returncode == 0
    assert weights(prepared, "iterations/1/sft") == weights(prepared, "iterations/0/model")
    assert json.loads(prepared.read("results/1/sft.json")) == {"passed_on": reason}


@pytest.mark.parametrize(
    ("change", "pairs", "reason"),
    [({"dpo": {"enabled": False}}, PAIRS, "dpo.enabled is false"), ({}, [], "no pairs were found")],
)
def test_dpo_without_work_copies_its_input_model(prepared, change, pairs, reason):
    prepared.change(change)
    shutil.copytree(prepared.folder / "iterations/0/model", prepared.folder / "iterations/1/sft")
    write(prepared.folder / "iterations/1/pairs.jsonl", pairs)
    assert prepared.stage(*DPO_COMMAND).returncode == 0
    assert weights(prepared, "iterations/1/model") == weights(prepared, "iterations/0/model")
    assert json.loads(prepared.read("results/1/dpo.json")) == {"passed_on": reason}


# ---- where a training starts, and the average with the parent --------------------------------------------------------


def moved(project, model, distance):
    """Change all weights of a model folder by `distance`."""
    from safetensors.torch import load_file, save_file

    path = project.folder / model / "model.safetensors"
    save_file({name: value + distance for name, value in load_file(path).items()}, path, metadata={"format": "pt"})


@pytest.fixture
def several(prepared):
    """A project whose models all differ: iterations 0/base, 0/model, 1/model (the parent) and 2/sft."""
    for distance, model in enumerate(("0/model", "1/model", "2/sft"), 1):
        shutil.copytree(
            prepared.folder / "iterations/0/base", prepared.folder / "iterations" / model, dirs_exist_ok=True
        )
        moved(prepared, f"iterations/{model}", distance / 100)
    prepared.change({"sft": {"epochs": 1}})
    return prepared


def run_from(project, phase, model, out):
    """Run sft or dpo of iteration 2 with this model for its input; returns what it prints."""
    rows, output = f"iterations/1/{'sft' if phase == 'sft' else 'pairs'}.jsonl", f"iterations/2/{out}"
    command = sft_command(model, rows, output)
    if phase == "dpo":
        command = ("stages.dpo", "--model", model, "--parent", "iterations/1/model", "--pairs", rows, "--out", output)
    return project.run("python", "-m", *command).stdout


def trained_from(project, phase, model, out):
    """The weights that sft or dpo of iteration 2 writes, with this model for its input."""
    run_from(project, phase, model, out)
    return weights(project, f"iterations/2/{out}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "start", "model"),
    [
        ("sft", "base", "0/base"), ("sft", "warm_start", "0/model"), ("sft", "parent", "1/model"),
        ("dpo", "base", "0/base"), ("dpo", "warm_start", "0/model"), ("dpo", "parent", "1/model"),
        ("dpo", "sft", "2/sft"),
    ],
)  # fmt: skip
def test_a_training_starts_from_the_model_that_its_start_names_and_dpos_reference_is_the_same(
    several, phase, start, model
):
    """The same bytes as where that model is the stage's input; the first rewards are 0."""
    mine = "1/model" if phase == "sft" else "2/sft"
    several.change({phase: {"start": start}})
    named = trained_from(several, phase, f"iterations/{mine}", "named")
    log = json.loads(several.read(f"results/2/{phase}.json"))["log"]
    assert log[0].get("margin", 0.0) == log[0].get("chosen", 0.0) == 0.0
    several.change({phase: {"start": "parent" if phase == "sft" else "sft"}})
    assert named == trained_from(several, phase, f"iterations/{model}", "input")


@pytest.mark.slow
def test_an_adapter_may_start_anew_against_the_warm_starts_as_reference(prepared):
    """DPO from the base, which SFT of iteration 0 has moved away from; the base itself is not trained."""
    lora = LORA | {"sft": {"learning_rate": 1e-2, "enabled": True}, "dpo": {"reference": "warm_start"}}
    trained(prepared, lora, warm_start=True)
    prepared.change({"dpo": {"start": "base"}})
    shutil.rmtree(prepared.folder / "iterations/1/model")
    prepared.run("python", "-m", *DPO_COMMAND)
    chosen = logs(prepared)[1][0]["chosen"]
    assert chosen < -0.05  # the warm start has learnt to write the chosen responses, and the base has not
    prepared.change({"dpo": {"reference": "sft"}})
    prepared.run("python", "-m", *DPO_COMMAND)
    assert logs(prepared)[1][0]["chosen"] == 0.0
    assert not (prepared.folder / "iterations/1/model/model.safetensors").exists()


@pytest.mark.parametrize("phase", ["sft", "dpo"])
def test_without_rows_the_input_model_is_copied_and_not_the_base_that_training_would_start_from(several, phase):
    several.change({phase: {"start": "base"}})
    write(several.folder / "iterations/1/sft.jsonl", [])
    write(several.folder / "iterations/1/pairs.jsonl", [])
    model = {"sft": "iterations/1/model", "dpo": "iterations/2/sft"}[phase]
    assert f"; copied the input model, {model}, not the model of {phase}.start" in run_from(
        several, phase, model, "out"
    )
    assert weights(several, "iterations/2/out") == weights(several, model)


def tensors(project, model):
    from safetensors.torch import load

    return load(weights(project, model))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_the_model_is_averaged_with_its_parents_after_dpo_to_the_same_bytes_every_time(several, processes):
    several.change({"runtime": {"training": {"processes": processes}}})
    plain = trained_from(several, "dpo", "iterations/2/sft", "plain")
    several.change({"average": 0.25})
    averaged = trained_from(several, "dpo", "iterations/2/sft", "averaged")
    assert averaged == trained_from(several, "dpo", "iterations/2/sft", "again") != plain
    mine, new, parent = (tensors(several, f"iterations/{model}") for model in ("2/averaged", "2/plain", "1/model"))
    assert mine.keys() == new.keys()
    for name, weight in mine.items():
        assert (weight - (0.75 * new[name] + 0.25 * parent[name])).abs().max() < 1e-7
    folders = [several.folder / "iterations/2" / out for out in ("averaged", "plain")]
    assert len({tuple(sorted(path.name for path in folder.iterdir())) for folder in folders}) == 1


def test_a_model_that_is_its_parents_copy_stays_it_to_the_byte_and_one_after_sft_alone_is_averaged(several):
    several.change({"average": 0.3, "dpo": {"enabled": False}})
    assert trained_from(several, "dpo", "iterations/1/model", "model") == weights(several, "iterations/1/model")
    trained_from(several, "dpo", "iterations/2/sft", "model")
    mine, sft_model, parent = (tensors(several, f"iterations/{model}") for model in ("2/model", "2/sft", "1/model"))
    for name, weight in mine.items():
        assert (weight - (0.7 * sft_model[name] + 0.3 * parent[name])).abs().max() < 1e-7


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_of_several_files_are_averaged_in_32_bits(tiny_model, tmp_path, dtype):
    """Each cut into files of other sizes."""
    import torch
    from transformers import AutoModelForCausalLM

    from stages.training.averaging import average

    one, other = (AutoModelForCausalLM.from_pretrained(tiny_model, dtype=getattr(torch, dtype)) for _ in range(2))
    for number, weight in enumerate(other.parameters()):
        torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(number))
    one.save_pretrained(tmp_path / "one", max_shard_size="20KB")
    other.save_pretrained(tmp_path / "other", max_shard_size="8KB")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert (
        len(list((tmp_path / "other").glob("*.safetensors"))) > len(list((tmp_path / "one").glob("*.safetensors"))) > 1
    )
    average(tmp_path / "one", tmp_path / "other", 0.25)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == files
    mine = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    assert mine.dtype == getattr(torch, dtype)
    for weight, new, parent in zip(mine.parameters(), one.parameters(), other.parameters(), strict=True):
        expected = (0.75 * new.float() + 0.25 * parent.float()).to(new.dtype)
        assert torch.allclose(weight.float(), expected.float(), atol=1e-7, rtol=2**-7 if dtype == "bfloat16" else 1e-6)
        off = (weight != expected).float().mean()
        assert off < 0.01 or dtype == "float32"  # but for halves that round otherwise


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "tolerance"),
    [
        ({"gradient_checkpointing": True}, 0),
        ({"rows_at_once": 2}, 1e-4),
        ({"rows_at_once": 3, "precompute_reference": True}, 1e-4),  # 3 does not divide the batch of 4: 2
    ],
    ids=["checkpointing", "micro-batches", "micro-batches and reference"],
)
def test_less_memory_changes_nothing_but_the_last_bits(prepared, twin, how, tolerance):
    loss = {"dpo": {"nll": 0.5, "weight": "margin"}}
    plain, spared = trained(prepared, loss), trained(twin, loss | {"runtime": {"training": how}})
    for log, other in zip(logs(plain), logs(spared), strict=True):
        assert_same_log(log, other, tolerance)
    for model in ("iterations/1/sft", "iterations/1/model"):
        assert difference(plain, spared, model) <= tolerance


@pytest.mark.slow
def test_autocast_computes_in_16_bits_over_weights_in_32(prepared, twin):
    plain, cast = trained(prepared, {}), trained(twin, {"training": {"autocast": "bfloat16"}})
    assert 0 < difference(plain, cast, "iterations/1/model") < 1e-2
    assert json.loads(cast.read("iterations/1/model/config.json"))["dtype"] == "float32"
    for one, other in zip(curves(plain), curves(cast), strict=True):
        assert one == pytest.approx(other, abs=1e-2)


@pytest.mark.slow
def test_an_adapter_is_trained_further_by_each_phase_to_the_same_bytes_every_time(prepared, twin):
    one, other = (trained(project, LORA, warm_start=True) for project in (prepared, twin))
    models = ["iterations/0/model", "iterations/1/sft", "iterations/1/model"]
    for model in models:
        names = {path.name for path in (one.folder / model).iterdir()}
        assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
        assert not names & {"model.safetensors", "config.json", "README.md", "training_args.bin"}
        for name in names:
            assert (one.folder / model / name).read_bytes() == (other.folder / model / name).read_bytes(), (model, name)
    assert len({weights(one, model) for model in models}) == 3
    sft_curve, dpo_curve = curves(one)
    warm = json.loads(one.read("results/0/sft.json"))["log"][-1]["loss"]
    assert sft_curve[0] < json.loads(one.read("results/0/sft.json"))["log"][0]["loss"] - 0.01  # it did not start anew
    assert sft_curve[0] == pytest.approx(warm, abs=0.3)
    assert dpo_curve[0] == pytest.approx(0.6931, abs=1e-4)  # the reference is the adapter that comes in


@pytest.mark.slow
@pytest.mark.parametrize("lora", [{}, LORA], ids=["whole", "lora"])
@pytest.mark.parametrize("precompute", [False, True], ids=["", "precomputed"])
def test_the_reference_may_be_the_warm_start_in_every_iteration(prepared, lora, precompute):
    """DPO's first loss is ln 2 if the policy is the reference, and differs once SFT has moved the policy."""
    fixed = {"dpo": {"reference": "warm_start"}, "runtime": {"training": {"precompute_reference": precompute}}}
    sure = {"sft": {"learning_rate": 1e-2}}
    trained(prepared, lora | fixed | sure, warm_start=True)
    first = curves(prepared)[1][0]
    assert first == pytest.approx(first_loss(prepared), abs=1e-4)
    assert abs(first - 0.6931) > 1e-3


def first_loss(project):
    """DPO's loss before any step, by its formula, of M_1^S against M_0, over the four pairs that come first."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig

    from stages.models.adapters import full_weights
    from stages.training.preference import dpo_trainer, weighted

    pairs = [json.loads(line) for line in project.read("iterations/1/pairs.jsonl").splitlines()]
    with chdir(project.folder):
        from stages.dpo import chats_of

        tokenizer = AutoTokenizer.from_pretrained("iterations/0/model")
        chats = chats_of(pairs, tokenizer, "", 512, Tally(len(pairs)))
        policy, reference = (
            AutoModelForCausalLM.from_pretrained(full_weights(Path("iterations", model)))
            for model in ("1/sft", "0/model")
        )
        config = DPOConfig(
            "trained",
            per_device_train_batch_size=4,
            beta=0.1,
            bf16=False,
            use_cpu=True,
            seed=0,
            data_seed=0,
            report_to="none",
        )
        data = Dataset.from_list(weighted(chats, "none"))
        trainer = dpo_trainer({})(policy, reference, config, train_dataset=data, processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)[:, 1:]
    sums = []
    for model in (policy, reference):
        with torch.no_grad():
            logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].log_softmax(-1)
        picked = logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        sums.append((picked * (labels != -100)).sum(-1).chunk(2))
    chosen, rejected = sums[0][0] - sums[1][0], sums[0][1] - sums[1][1]
    return float(-torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean())


@pytest.mark.slow
def test_measuring_the_peak_of_memory_changes_nothing(prepared, twin, monkeypatch, capsys):
    """The same bytes as without it, even with dropout in the adapter, whose random numbers it must not use up."""
    from stages import dpo
    from stages import sft as stage
    from stages.training import memory

    changes = {"training": {"lora": {"rank": 4, "alpha": 64, "dropout": 0.3}}, "sft": {"batch_size": 4}}
    for project in (prepared, twin):
        project.change(changes)
        with chdir(project.folder):
            parent, trained = Path("iterations/0/model"), Path("iterations/1/sft")
            stage.main(parent, Path("iterations/1/sft.jsonl"), trained)
            dpo.main(trained, parent, Path("iterations/1/pairs.jsonl"), Path("iterations/1/model"))
        output = capsys.readouterr().out
        if project is prepared:
            assert re.search(r"^sft iterations/1/sft: fits in memory, peak \d+\.\d GB$", output, re.MULTILINE)
            assert re.search(r"^dpo@1: fits in memory, peak \d+\.\d GB$", output, re.MULTILINE)
            monkeypatch.setattr(memory, "peak", lambda _: 0)
    for model in ("iterations/1/sft", "iterations/1/model"):
        assert weights(prepared, model) == weights(twin, model)
    for phase in ("sft", "dpo"):
        assert prepared.read(f"results/1/{phase}.json") == twin.read(f"results/1/{phase}.json")
        costs = [json.loads(project.read(f"costs/1/{phase}.json")) for project in (prepared, twin)]
        assert costs[0]["tokens"] == costs[1]["tokens"]
        assert costs[0]["peak_gb"] > 0.1


@pytest.mark.slow
def test_too_little_memory_is_one_line_before_the_first_step_with_what_to_set(prepared):
    """In a process limited to 200 MB more than it has when trl is loaded."""
    prepared.change({"sft": {"batch_size": 512}})
    write(prepared.folder / "iterations/1/sft.jsonl", [{**ROWS[0], "prompt": "cat, " * 200}] * 512)
    program = (
        "import resource, psutil, torch, trl; from stages import sft; from stages.core.command import run;"
        "from trl import SFTTrainer; most = psutil.Process().memory_info().vms + 200_000_000;"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most)); run(sft.main)"
    )
    result = prepared.attempt("python", "-c", program, *sft_command()[1:])
    assert re.search(
        r"out of memory; lower runtime\.training\.rows_at_once, set runtime\.training\.gradient_checkpointing: true, "
        r"or train less: training\.lora, or model\.dtype: bfloat16 \(",
        error_line(result),
    )
    assert "fits" not in result.stdout
    assert not (prepared.folder / "iterations/1/sft").exists()


# ---- several processes -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "how"),
    [
        (12, LORA | PRECOMPUTED),
        (15, PRECOMPUTED | WEIGHTED),  # of the last batch, one process has two rows and the other one
        (13, {"dpo": {"nll": 0.5}}),  # the other has none
        (9, WEIGHTED | {"runtime": {"training": {"rows_at_once": 1}}}),
    ],
    ids=["whole batches", "uneven", "nothing for one", "micro-batches"],
)
def test_two_processes_train_like_one_at_the_same_batch(prepared, twin, rows, how):
    for project, several in ((prepared, 1), (twin, 2)):
        project.change({"sft": {"batch_size": 4, "epochs": 2}, "dpo": {"batch_size": 4, "epochs": 2}})
        project.change(how)
        project.change({"runtime": {"training": {"processes": several}}})
        write(project.folder / "iterations/1/sft.jsonl", VARIED[:rows])
        write(project.folder / "iterations/1/pairs.jsonl", [*PAIRS[:6], *LONGER[6:rows]])
        for command in (sft_command(), DPO_COMMAND):
            result = project.stage(*command)
            assert (result.returncode, result.stderr) == (0, "")
            lines = result.stdout.splitlines()
            assert len(lines) == len(set(lines)) == 3, lines  # one process prints
    for log, other in zip(logs(prepared), logs(twin), strict=True):
        assert_same_log(log, other, 1e-4)
    for model in ("iterations/1/sft", "iterations/1/model"):
        assert 0 < difference(prepared, twin, model) < 1e-4
        names = [{path.name for path in (project.folder / model).iterdir()} for project in (prepared, twin)]
        assert names[0] == names[1]
    assert list((twin.folder / ".dvc/checkpoints").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sft": {"batch_size": 5}}, "sft.batch_size 5 cannot be shared by 2 processes; make it a multiple"),
        (
            {"runtime": {"training": {"sharding": "fsdp"}}},
            "runtime.training.sharding: fsdp needs GPUs, and this machine has none",
        ),
        ({"runtime": {"training": {"config": "no.yaml"}}}, "runtime.training.config no.yaml does not exist; correct"),
    ],
)
def test_what_several_processes_cannot_do_is_one_line(prepared, changes, message):
    prepared.change({"runtime": {"training": {"processes": 2}}})
    prepared.change(changes)
    assert message in error_line(sft(prepared))
    assert not (prepared.folder / "iterations/1/sft").exists()


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["sft", "dpo"])
def test_two_killed_processes_resume_to_the_same_bytes_through_an_uneven_last_batch(prepared, phase):
    """Of 13 rows, the last batch of an epoch has one, and accelerate fills it with three that are repeated."""
    prepared.change({name: {"epochs": 8, "batch_size": 4} for name in ("sft", "dpo")})
    prepared.change({"dpo": {"nll": 0.5}, "runtime": {"training": {"processes": 2}}})
    write(prepared.folder / "iterations/1/sft.jsonl", VARIED[:13])
    write(prepared.folder / "iterations/1/pairs.jsonl", LONGER[:13])
    shutil.copytree(prepared.folder / "iterations/0/model", prepared.folder / "iterations/1/sft")
    out, command = {
        "sft": ("iterations/1/trained", sft_command(out="iterations/1/trained")),
        "dpo": ("iterations/1/model", DPO_COMMAND),
    }[phase]
    prepared.run("python", "-m", *command)
    unbroken, counts = weights(prepared, out), prepared.read(f"results/1/{phase}.json")
    shutil.rmtree(prepared.folder / out)

    prepared.change({"runtime": {"checkpoint_minutes": 0}})
    killed_after(prepared, command, "checkpoint-5")
    assert not (prepared.folder / out).exists(), "it was killed too late"
    output = prepared.run("python", "-m", *command).stdout
    assert re.search(r"resumes after step \d+ of 32", output)
    assert weights(prepared, out) == unbroken
    assert prepared.read(f"results/1/{phase}.json") == counts


GLOO = """
import os
if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    from accelerate.state import DistributedType, PartialState
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
    start = PartialState.__init__
    PartialState.__init__ = lambda self, cpu=False, **options: start(self, cpu=False, **options)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, LORA | PRECOMPUTED, WEIGHTED], ids=["", "lora", "weighted"])
@pytest.mark.parametrize(
    ("sharding", "shard"),
    [
        pytest.param(
            "zero3", "global_step*/*zero_pp_rank_1*", marks=pytest.mark.skipif(
                not find_spec("deepspeed"), reason="deepspeed is not installed: pip install -e '.[zero3]'"
            ),
        ),
        ("fsdp", "pytorch_model_fsdp.bin"),
    ],
)  # fmt: skip
def test_two_processes_that_share_the_weights_train_like_one_and_resume_when_killed(
    prepared, twin, tmp_path, sharding, shard, how
):
    """On a CPU over gloo. It is DeepSpeed's accelerator then; to FSDP, accelerate knows no way from there, so here it
    takes the processes for those of GPUs. Of 13 rows, the last batch of an epoch has one."""
    (tmp_path / "sitecustomize.py").write_text(GLOO)
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "ACCELERATE_TORCH_DEVICE": "cpu"} if sharding == "fsdp" else None
    config = twin.folder / "accelerate.yaml"
    config.write_text((CONFIGS / f"{sharding}.yaml").read_text() + "num_processes: 2\n")
    for project, several in ((prepared, {}), (twin, {"processes": 2, "config": str(config)})):
        project.change({"sft": {"batch_size": 4, "epochs": 8}, "dpo": {"batch_size": 4, "epochs": 8}})
        project.change(how)
        project.change({"runtime": {"checkpoint_minutes": 0, "training": several}})
        write(project.folder / "iterations/1/sft.jsonl", VARIED[:13])
        write(project.folder / "iterations/1/pairs.jsonl", LONGER[:13])
    for command in (sft_command(), DPO_COMMAND):
        prepared.run("python", "-m", *command)
        folder = killed_after(twin, command, "checkpoint-5", env)
        assert list(folder.glob(f"checkpoint-*/{shard}")), "it was not sharded"
        resumed = twin.run("python", "-m", *command, env=env, fresh=env is not None)
        assert re.search(r"resumes after step \d+ of 32", resumed.stdout)
    for log, other in zip(logs(prepared), logs(twin), strict=True):
        assert_same_log(log, other, 2e-4)  # of numbers with four decimals
    for model in ("iterations/1/sft", "iterations/1/model"):
        assert difference(prepared, twin, model) < 1e-4


@pytest.mark.slow
def test_processes_that_end_in_a_bug_show_its_traceback_and_fail(prepared):
    prepared.change({"runtime": {"training": {"processes": 2}}})
    (prepared.folder / "iterations/1/sft.jsonl").write_text("{}\n")
    result = sft(prepared)
    assert result.returncode != 0
    assert "KeyError: 'kind'" in result.stderr


@pytest.mark.parametrize("name", ["ddp", "fsdp", "zero3"])
def test_the_shipped_configurations_are_accelerates(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.distributed_type == {"ddp": "MULTI_GPU", "fsdp": "FSDP", "zero3": "DEEPSPEED"}[name]
    assert config.mixed_precision == "no"


def test_the_last_step_of_an_epoch_takes_the_rows_that_are_left():
    settings = {"batch_size": 16, "epochs": 2}
    model = Path("iterations/0/model")
    phase = Phase("sft", "sft", model, model, Path("iterations/1/sft"), settings, {}, 0, RUNTIME)
    assert phase.steps(33) == 6


def test_a_log_is_kept_as_means_of_consecutive_steps():
    rewards = {"rewards/margins": 0.5, "rewards/accuracies": 1.0, "rewards/chosen": -0.5, "rewards/rejected": -1.0}
    kept = {"margin": 0.5, "accuracy": 1.0, "chosen": -0.5, "rejected": -1.0}
    log = [{"loss": float(step), **rewards, "epoch": 1} for step in range(250)]
    assert curve(log[:2]) == [{"step": 1, "loss": 0.0, **kept}, {"step": 2, "loss": 1.0, **kept}]
    assert curve(log)[0] == {"step": 3, "loss": 1.0, **kept}
    assert curve(log)[-1]["step"] == 250
    assert len(curve(log)) == 84
