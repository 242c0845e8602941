"""Results are shared: a fresh clone pulls a run from a DVC remote and reruns nothing, experiments run side by side."""

import json
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from conftest import Project, command_line, forking_environment, ran
from test_end_to_end import contents

from stages.inference.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def first(looped, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A run that was committed and pushed to a remote, a folder of this machine."""
    project = looped.copy(tmp_path_factory.mktemp("shared") / "project")
    project.run("dvc", "remote", "add", "-q", "-d", "storage", str(project.folder.parent / "remote"))
    project.run("git", "commit", "-qam", "a remote")
    project.run("dvc", "push", "-q")
    return project


def cloned(first: Project, folder: Path) -> Project:
    """A colleague's clone: what is in git, and the remote."""
    first.run("git", "clone", "-q", ".", str(folder))
    colleague = Project.at(folder)
    for name, value in (("name", "colleague"), ("email", "colleague@localhost")):
        colleague.run("git", "config", f"user.{name}", value)
    return colleague


@pytest.fixture
def clone(first, tmp_path) -> Project:
    return cloned(first, tmp_path / "clone")


def outs(project: Project) -> dict[str, dict[str, bytes]]:
    """Everything that the pipeline made, byte by byte."""
    locked = yaml.safe_load(project.read("dvc.lock"))["stages"]
    paths = {out["path"] for stage in locked.values() for out in stage["outs"]}
    return {path: contents(project.folder / path) for path in paths}


def test_a_fresh_clone_pulls_the_run_and_reruns_nothing(first, clone):
    clone.run("dvc", "pull", "-q")
    assert outs(clone) == outs(first)
    assert ran(clone.run("dvc", "repro").stdout) == []
    assert clone.run("git", "status", "--porcelain").stdout == ""
    assert "in sync" in clone.run("dvc", "status", "-c").stdout


def test_a_clone_without_the_remotes_data_says_what_is_missing(first, clone):
    """The test above rests on what was pushed, and on nothing else of this machine."""
    clone.run("dvc", "remote", "modify", "storage", "url", str(clone.folder.parent / "nothing"))
    refused = clone.attempt("dvc", "pull")
    assert refused.returncode != 0
    assert "iterations/1/model" in refused.stderr


def made(project: Project, threshold: float) -> int:
    """How many model calls the first iteration's construction makes at a threshold."""
    store = Store(project.folder / ".dvc/completions.sqlite", 1)
    before = store.totals()["completions"]
    project.change({"threshold": threshold})
    assert "generate@1" in ran(project.run("dvc", "repro", "generate@1").stdout)
    return store.totals()["completions"] - before


def test_a_colleague_who_changes_the_threshold_makes_only_the_calls_that_nobody_made(first, clone, tmp_path):
    """One works without the team's store; one pulls it and pushes; to the last one nothing is left."""
    first.run("lance", "store", "push")
    alone, last = (cloned(first, tmp_path / name) for name in ("alone", "last"))
    for project in (alone, clone, last):
        project.run("dvc", "pull", "-q")
    clone.run("lance", "store", "pull")
    assert 0 < made(clone, 5.0) < made(alone, 5.0)
    clone.run("lance", "store", "push")
    last.run("lance", "store", "pull")
    assert made(last, 5.0) == 0


def test_an_experiment_goes_from_one_colleague_to_another(first, clone, tmp_path):
    clone.run("dvc", "pull", "-q")
    assert ran(clone.run("dvc", "exp", "run", "-n", "stricter", "-S", "alarms.min_pairs=60").stdout) == [
        "check",
        "report",
    ]
    clone.run("dvc", "exp", "push", "-q", "origin", "stricter")
    other = cloned(first, tmp_path / "other")
    other.run("dvc", "exp", "pull", "-q", "origin", "stricter")
    other.run("dvc", "exp", "apply", "-q", "stricter")
    assert other.params["alarms"]["min_pairs"] == 60
    assert other.read("report/report.html") == clone.read("report/report.html") != first.read("report/report.html")


def together(project: Project, experiments: dict[str, list[str]]) -> None:
    """As docs/sharing.md says: one process per experiment, with a GPU of its own, all at once."""
    processes = []
    for device, (name, changes) in enumerate(experiments.items()):
        command = command_line("dvc", "--wait-for-lock", "exp", "run", "--temp", "-q", "-n", name, *changes)
        env = forking_environment() | {"CUDA_VISIBLE_DEVICES": str(device)}
        processes.append(subprocess.Popen(command, cwd=project.folder, env=env))
    assert [process.wait() for process in processes] == [0] * len(processes)


def shown(project: Project) -> dict[str, dict]:
    """{experiment: what `dvc exp show` knows of it}"""
    (_, *_, baseline) = json.loads(project.run("dvc", "exp", "show", "--json").stdout)
    return {each["name"]: each["revs"][0]["data"] for each in baseline["experiments"] or []}


def test_experiments_that_run_at_once_all_arrive_and_leave_the_workspace_alone(first):
    before = outs(first)
    together(first, {"beta": ["-S", "dpo.beta=0.2"], "margin": ["-S", "select.min_margin=1.0"]})
    found = shown(first)
    assert found["beta"]["params"]["params.yaml"]["data"]["dpo"]["beta"] == 0.2
    assert found["margin"]["params"]["params.yaml"]["data"]["select"]["min_margin"] == 1.0
    pairs = {name: each["metrics"]["report/metrics.json"]["data"]["last"]["pairs"] for name, each in found.items()}
    assert pairs["margin"] >= pairs["beta"] > 0
    assert outs(first) == before
    assert first.run("git", "status", "--porcelain").stdout == ""


def test_many_experiments_that_start_at_the_same_moment_all_arrive(first):
    names = [f"alarm{number}" for number in range(4)]
    together(first, {name: ["-S", f"alarms.min_pairs={number}"] for number, name in enumerate(names, 1)})
    assert set(names) <= set(shown(first))


def test_queued_experiments_run_one_after_another(first):
    names = ["queued1", "queued2"]
    for number, name in enumerate(names, 70):
        first.run("dvc", "exp", "run", "--queue", "-n", name, "-S", f"alarms.min_pairs={number}")
    first.run("dvc", "queue", "start")  # the worker ends by itself when nothing is left
    for _ in range(100):
        told = first.run("dvc", "queue", "status").stdout
        if "Queued" not in told and "Running" not in told:
            break
        time.sleep(1)
    assert told.count("Success") == len(names)
    assert set(names) <= set(shown(first))
