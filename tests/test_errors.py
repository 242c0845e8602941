"""A command that is called wrongly, or whose reader has gone, ends without a traceback."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, error_line

from stages.core.errors import run

COMMANDS = ["plan", "review", "core.preset", "core.push", "core.store", "core.suite"]


def called(*arguments, stdout=subprocess.PIPE):
    """`python -m stages.ARGUMENTS`, with the output in Python's buffer until it is flushed."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", f"stages.{arguments[0]}", *arguments[1:]]
    return subprocess.run(command, cwd=ROOT, env=env, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_a_command_says_how_to_call_it(command, flag):
    asked = called(command, flag)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert f"python -m stages.{command}" in asked.stdout


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("core.store", "all"), "error: store takes no arguments, not all; --help says more"),
        (("core.suite", "micro", "math"), "error: suite takes [NAME], not micro math; --help says more"),
        (("core.preset", "a", "b"), "error: preset takes [NAME], not a b; --help says more"),
        (("review",), "error: review takes STAGE ITERATION SOURCE JUDGE [STOP], not none; --help says more"),
        (
            ("core.push", "model"),
            "error: python -m stages.commands.push: the following arguments are required: name; usage:",
        ),
    ],
)
def test_a_wrong_number_of_arguments_is_one_line(command, said):
    assert error_line(called(*command)).startswith(said)


@pytest.mark.parametrize("command", [("core.preset",), ("core.store",), ("plan", "--json"), ("core.suite", "--help")])
def test_a_reader_that_has_gone_ends_a_command_without_a_word(command):
    reads, writes = os.pipe()
    os.close(reads)
    ended = called(*command, stdout=writes)
    os.close(writes)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_another_broken_pipe_is_a_bug_with_its_traceback():
    def main() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(main)
