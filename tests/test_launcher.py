"""A heavy stage runs through the command of `runtime.launch`, whatever it is, and ends with it; a wrong command is one
line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, RUNTIME, Project, command_line, error_line

from stages.core import launcher
from stages.core.errors import UserError
from stages.core.schema import parse_runtime

SKIPPED = {"sft": {"enabled": False}}  # then sft copies its input model, without a heavy import
OUT = "iterations/1/sft"
SFT = ("stages.sft", "--model", "iterations/0/model", "--rows", "iterations/1/sft.jsonl", "--out", OUT)
SPEAK = 'echo "$DVC_STAGE on the other side"; exec "$0"'


@pytest.fixture
def prepared(project: Project) -> Project:
    """A project in which sft is an iteration's, has no rows, and copies its model."""
    (project.folder / "iterations/0/model").mkdir(parents=True)
    (project.folder / "iterations/0/model/weights").write_text("weights")
    (project.folder / "iterations/1").mkdir()
    (project.folder / "iterations/1/sft.jsonl").touch()
    project.change(SKIPPED)
    return project


def launched(project: Project, command: str | None, kind: str = "train", **env: str) -> subprocess.CompletedProcess:
    """sft with this command in `runtime.launch`. It and what it starts are fresh interpreters."""
    project.change({"runtime": {"launch": {kind: command}}})
    return project.attempt("python", "-m", *SFT, env={**os.environ, **env}, fresh=True)


@pytest.mark.parametrize(
    "command", ["bash -c", "nice -n 1", "env -i", "setsid --wait", f"bash -c '{SPEAK}'", "env -C / sh"]
)
def test_a_stage_does_through_any_command_what_it_does_without(prepared, command):
    """In another folder, another session, or without the environment too, as over ssh."""
    plain = launched(prepared, None)
    assert (plain.returncode, plain.stderr) == (0, "")
    counts = prepared.read("results/1/sft.json")
    (prepared.folder / OUT / "weights").unlink()
    result = launched(prepared, command, DVC_STAGE="sft@1")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == ("sft@1 on the other side\n" if SPEAK in command else "") + plain.stdout
    assert prepared.read(f"{OUT}/weights") == "weights"
    assert prepared.read("results/1/sft.json") == counts
    assert list((prepared.folder / ".dvc/tmp/launch").iterdir()) == []


def test_only_stages_of_the_commands_kind_run_through_it(prepared):
    assert launched(prepared, "false", kind="generate").returncode == 0
    prepared.change({"runtime": {"launch": {"generate": "false", "train": "false"}}})
    assert prepared.stage("stages.check").returncode == 0


def test_where_stdin_is_closed_nothing_else_is_taken_for_it(tmp_path):
    """What a stage opens then gets its number, 0. Its end would end the stage."""
    (tmp_path / "rows").write_text("more than a greeting")
    code = (
        "import time; rows = open('rows', 'rb', buffering=0); from stages.core import lifeline; "
        "lifeline.hold(greeted=True); time.sleep(1); print(rows.fileno(), rows.read().decode())"
    )
    command = ["bash", "-c", 'exec "$0" "$@" <&-', sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "0 more than a greeting\n", "")


BEGUN = "and did not run the stage, which is the last word of its command line"
KEPT = "run again: finished completions and checkpoints are kept"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("srunn --gres=gpu:1", "cannot be run: No such file or directory"),
        ("true", f"ended with status 0 {BEGUN}"),
        ("ls --gres=gpu:1", f"ended with status 2 {BEGUN}"),
        ("bash -c 'kill -9 $$'", f"ended by SIGKILL {BEGUN}"),
        ("""bash -c '"$0"; exit 3'""", "ended with status 3, although the stage ended well"),
    ],
)
def test_a_command_that_does_not_run_the_stage_is_one_line(prepared, command, message):
    result = launched(prepared, command)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert result.returncode == 1
    assert len(lines) == 1
    assert lines[0].startswith(f"error: sft: runtime.launch.train '{command}' {message}")


def test_a_stage_that_is_started_several_times_at_once_runs_once_and_says_so(prepared):
    result = launched(prepared, """bash -c '"$0" & "$0"; s=$?; wait $! && exit $s'""")
    assert result.returncode != 0
    assert "error: runtime.launch.train runs the stage several times at once; have it run one process" in result.stderr


def test_the_stages_own_error_is_the_only_line(prepared):
    prepared.change({"runtime": {"training": {"config": "absent.yaml"}}})
    assert "runtime.training.config absent.yaml does not exist" in error_line(launched(prepared, "bash -c"))


def test_a_stage_that_dies_on_the_other_side_is_one_line(prepared):
    """As one of a cancelled job does. It would have waited for the rows, here those of a named pipe."""
    rows = prepared.folder / "iterations/1/sft.jsonl"
    rows.unlink()
    os.mkfifo(rows)
    command = "timeout --signal=KILL 4"
    line = error_line(launched(prepared, command))
    assert line.startswith(f"error: sft: runtime.launch.train '{command}' ended")
    assert line.endswith(KEPT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("command", ["setsid --wait", """bash -c 'trap "" INT TERM; "$0"'"""])
def test_nothing_is_left_of_a_stage_that_was_interrupted_or_killed(prepared, command, number):
    """Nor where the command passes no signal on, as ssh does."""
    rows = prepared.folder / "iterations/1/sft.jsonl"
    rows.unlink()
    os.mkfifo(rows)
    prepared.change({"runtime": {"launch": {"train": command}}})
    stage = subprocess.Popen(
        command_line("python", "-m", *SFT, forks=False), cwd=prepared.folder, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: list(prepared.folder.glob(".dvc/tmp/launch/*/progress")))
    stage.send_signal(number)
    _, stderr = stage.communicate()
    assert stage.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert stderr == (
        "error: interrupted; run again to go on: finished completions and checkpoints are kept\n"
        if number == signal.SIGINT
        else ""
    )
    wait_for(lambda: running_in(prepared.folder) == [])


def running_in(folder: Path) -> list[list[str]]:
    """The commands of the processes whose working directory is this folder."""
    processes = psutil.process_iter(["cwd", "cmdline"])
    return [process.info["cmdline"] for process in processes if process.info["cwd"] == str(folder)]


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_stage_interrupted_without_a_command_fails_so_that_its_old_outs_are_not_its_result(prepared):
    rows = prepared.folder / "iterations/1/sft.jsonl"
    rows.unlink()
    os.mkfifo(rows)
    stage = subprocess.Popen(
        command_line("python", "-m", *SFT, forks=False), cwd=prepared.folder, stderr=subprocess.PIPE, text=True
    )
    pipe = rows.open("w")  # opens when the stage reads
    stage.send_signal(signal.SIGINT)
    _, stderr = stage.communicate()
    pipe.close()
    assert stage.returncode == 130
    assert stderr.startswith("error: interrupted; run again to go on")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("srun '--gres", '"srun \'--gres" is no command line: No closing quotation; correct its quotes'),
        ("", "'' is no command line; set it to null, or to one such as srun --gres=gpu:1"),
        ("  ", "'  ' is no command line"),
        (["srun"], "input should be a valid string or null, not ['srun']"),
    ],
)
def test_a_command_that_is_none_is_refused_before_anything_runs(command, message):
    runtime = RUNTIME.model_dump() | {"launch": {"generate": command, "train": None}}
    with pytest.raises(UserError) as error:
        parse_runtime({"runtime": runtime})
    assert f"params.yaml: runtime.launch.generate: {message}" in str(error.value)


def test_a_program_that_is_not_there_is_refused_before_anything_runs(prepared):
    launcher.check({"generate": "bash -c", "train": f"{sys.executable} -c"})
    prepared.change({"runtime": {"launch": {"train": "srunn --gres=gpu:8"}}})
    line = error_line(prepared.stage("stages.check"))
    assert line.startswith("error: params.yaml: runtime.launch.train: there is no program srunn; correct it")


def test_a_stage_that_was_killed_before_it_could_tell_anything_has_not_ended_well():
    with pytest.raises(UserError, match="ended with status 0 before the stage had"):
        launcher._check("sft: runtime.launch.train 'srun'", 0, "")
