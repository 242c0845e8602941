"""Every command line has its help; a wrong call or a closed stdout ends it without a traceback."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, error_line

from stages.commands.lance import COMMANDS
from stages.core.command import run

STAGES = sorted(path.stem for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__")
LANCE = ("-m", "stages.commands.lance")


def called(*arguments, stdout=subprocess.PIPE, cwd=ROOT):
    """`python ARGUMENTS`, its output buffered until it is flushed."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=env, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


def stage(name, *arguments, **options):
    return called("-m", f"stages.{name}", *arguments, **options)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_says_how_to_call_it_anywhere(name, tmp_path):
    result = stage(name, "--help", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"Usage: python -m stages.{name} [OPTIONS]" in result.stdout
    assert f"{name}" in result.stdout.splitlines()[2]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_a_command_says_how_to_call_it(name, flag):
    result = called(*LANCE, name, flag)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"lance {name} [OPTIONS]" in result.stdout


def test_the_command_lists_its_subcommands():
    listed = called(*LANCE, "--help").stdout
    assert all(f"\n  {name} " in listed for name in COMMANDS)


@pytest.mark.parametrize("name", STAGES)
def test_a_wrong_option_is_one_line_anywhere(name, tmp_path):
    line = error_line(stage(name, "--rowz", "a.jsonl", cwd=tmp_path))
    assert line.startswith(f"error: python -m stages.{name}: No such option: --rowz")
    assert line.endswith(f"; see python -m stages.{name} --help")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("-m", "stages.review"),
            "python -m stages.review: Missing option '--rows'; see python -m stages.review --help",
        ),
        (("-m", "stages.measure", "--iteration", "1", "0"), "stages.measure: Got unexpected extra argument(s) (0)"),
        ((*LANCE, "store", "push", "all"), "lance store: Got unexpected extra argument(s) (all)"),
        ((*LANCE, "push", "model"), "lance push: Missing argument 'name'"),
        ((*LANCE, "plan", "--gpu", "abacus"), "error: --gpu abacus: no such GPU; choose one of"),
        ((*LANCE, "palace"), "No such command 'palace'. Did you mean 'plan'?"),
    ],
)
def test_a_wrong_call_is_one_line(arguments, message):
    assert message in error_line(called(*arguments))


@pytest.mark.parametrize("name", ["check", "filter", "sft", "report"])
def test_a_stage_outside_the_project_is_one_line(name, tmp_path):
    options = {
        "filter": "--rows a.jsonl --seed b.jsonl --out c.jsonl",
        "sft": "--model a --rows b.jsonl --out iterations/1/c",
    }
    line = error_line(stage(name, *options.get(name, "").split(), cwd=tmp_path))
    assert line.endswith(f"yaml is not in {tmp_path}; run this in the project's folder")


@pytest.mark.parametrize("arguments", [(*LANCE, "preset"), (*LANCE, "suite", "--help"), ("-m", "stages.sft", "--help")])
def test_a_reader_that_has_gone_ends_a_command_without_a_word(arguments):
    reads, writes = os.pipe()
    os.close(reads)
    ended = called(*arguments, stdout=writes)
    os.close(writes)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_another_broken_pipe_is_a_bug_with_its_traceback(monkeypatch):
    def main() -> None:
        raise BrokenPipeError

    monkeypatch.setattr(sys, "argv", ["main"])
    with pytest.raises(BrokenPipeError):
        run(main)


def test_a_command_looks_for_garbage_rarely_and_not_at_all_at_its_end():
    """It has imported a million objects, and each look takes a second or two."""
    code = """
import atexit, gc
from stages.core.command import run
gc.collect()
atexit.register(lambda: print(gc.get_freeze_count() > 200_000))
def main():
    before = sum(generation["collections"] for generation in gc.get_stats())
    kept.extend([] for _ in range(200_000))
    print(sum(generation["collections"] for generation in gc.get_stats()) - before)
kept = []
run(main)
"""
    result = called("-c", code)
    assert result.stderr == ""
    looks, frozen = result.stdout.split()
    assert int(looks) <= 5
    assert frozen == "True"


def test_the_store_is_closed_at_the_end_of_a_command_whatever_refers_to_it(tmp_path):
    """Else its journal stays, and a reader takes it for open."""
    code = f"""
from pathlib import Path
from stages.core.command import run
from stages.inference.engines import Completion
from stages.inference.store import Store
def main():
    store = Store(Path("{tmp_path}/store"), 1)
    store.put(b"key", Completion("text", "stop"))
    store.itself = store
run(main)
"""
    assert called("-c", code).stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
