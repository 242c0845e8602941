"""forking.py: a forked command is a process of its own, and ends with its client."""

import os
import subprocess
import sys

import pytest
from conftest import FORKING, command_line, forking_environment

pytestmark = pytest.mark.skipif(FORKING not in os.environ, reason="commands are not forked on a machine with a GPU")

REPORT = """
import os, sys
print(os.getcwd(), sys.argv[1:], os.environ["SHADE"], sys.stdin.read(), "torch" in sys.modules, os.getpid(), flush=True)
print("to stderr", file=sys.stderr)
os.environ["SHADE"] = "green"
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "report.py").write_text(REPORT)
    (tmp_path / "fail.py").write_text("raise ValueError('as it is')")
    (tmp_path / "wait.py").write_text("import time; print('waits', flush=True); time.sleep(600)")
    return tmp_path


def call(folder, *arguments, option="-m", **environment):
    return subprocess.run(
        command_line("python", option, *arguments), cwd=folder, env=forking_environment() | environment,
        input="a line", capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_command_has_its_own_folder_arguments_environment_streams_and_status(folder):
    processes = set()
    for status, shade in ((0, "red"), (3, "blue")):
        result = call(folder, "report", "x y", str(status), SHADE=shade)
        *words, process = result.stdout.split()
        assert " ".join(words) == f"{folder} ['x y', '{status}'] {shade} a line True"
        assert (result.stderr, result.returncode) == ("to stderr\n", status)
        processes.add(process)
    assert len(processes) == 2


def test_an_exception_ends_it_with_a_traceback(folder):
    result = call(folder, "fail")
    assert result.returncode == 1
    assert result.stderr.endswith("ValueError: as it is\n")


def test_the_projects_modules_are_those_of_its_folder(folder):
    (folder / "stages").mkdir()
    (folder / "stages/__init__.py").write_text("print('here')")
    (folder / "stages/review.py").write_text("")
    assert call(folder, "stages.review").stdout == "here\n"


def test_a_command_is_killed_with_its_client(folder):
    command = command_line("python", "-m", "wait")
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout.readline() == "waits\n"
        client.kill()
        assert client.stdout.read() == ""  # the end of a pipe that the command held open


def test_it_starts_others_that_fork_too_and_are_killed_with_it(folder):
    program = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'wait'], start_new_session=True)"
    command = command_line("python", "-c", program)
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout.readline() == "waits\n"
        client.kill()
        assert client.stdout.read() == ""


def test_a_program_has_its_own_main_module_and_arguments(folder):
    program = (
        "import sys, __main__; half = int(sys.argv[1]) / 2; print(sys.argv, __main__.half, 'torch' in sys.modules)"
    )
    assert call(folder, program, "3", option="-c").stdout == "['-c', '3'] 1.5 True\n"


def test_a_script_is_run_by_an_ordinary_interpreter(folder):
    (folder / "script.py").write_text("import sys; print('torch' in sys.modules, sys.executable)")
    result = subprocess.run(
        command_line("python", str(folder / "script.py")), capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["False", sys.executable]
