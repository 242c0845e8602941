"""benchmark: its measurements on small data, and the copy of the project that it works in."""

import subprocess

import pytest
from conftest import ROOT

from stages.commands.benchmark import filtering, loop, measurement, pipeline


def test_a_target_decides_on_the_ratio_to_the_baseline():
    fast = measurement.speedup("engine", "generate", seconds=2.0, baseline=3.0, least=1.5)
    assert (fast.ratio, fast.target, fast.met) == (1.5, "≥ 1.5", True)
    assert not measurement.speedup("engine", "generate", seconds=2.0, baseline=2.9, least=1.5).met
    calls = measurement.at_most("sweep", "one threshold", measured=16, baseline=10, most=1.5, unit="calls")
    assert (calls.ratio, calls.target, calls.met) == (1.6, "≤ 1.5", False)
    assert not measurement.within("check", seconds=1.1, most=1).met


def test_the_filter_drops_the_copies_among_the_synthetic_records(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert filtering.filter_records(800).dropped == 80


def test_the_copy_of_the_project_has_its_files_as_they_are_now(project, tmp_path, monkeypatch):
    project.change({"threshold": 6.5})
    (project.folder / "untracked.txt").write_text("x")
    monkeypatch.chdir(project.folder)
    pipeline.copy_project(tmp_path / "copy")
    assert (tmp_path / "copy/params.yaml").read_text() == project.read("params.yaml")
    assert not (tmp_path / "copy/untracked.txt").exists()
    names = ["git", "ls-files"]
    copied, tracked = (subprocess.check_output(names, cwd=folder) for folder in (tmp_path / "copy", project.folder))
    assert copied == tracked


@pytest.mark.slow
def test_a_repeated_experiment_makes_no_model_call(base, monkeypatch):
    from stages.commands.benchmark import generation

    monkeypatch.chdir(ROOT)
    rows = loop.seeds(4)
    monkeypatch.setattr(loop, "seeds", lambda: rows)
    with loop.fresh_client(base) as client:
        loop.construct(client)
    assert {call.draws for call in client.calls} == {3, 4}
    sweep, again = generation.sweep(base)
    assert sweep.ratio >= 1
    assert (again.measured, again.met) == (0, True)
