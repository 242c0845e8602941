"""The whole loop through dvc, with small settings: same bytes twice, nothing computed twice, no oracle inside."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import SMALL, Project, merged
from test_pipeline import HARMLESS, LOOP

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("first") / "project", SMALL)
    project.output = project.run("dvc", "repro")
    return project


LOOP_STAGES = ("review", "generate", "filter", "assess", "select", "sft", "dpo", "evaluate", "measure")


def ran(output: str) -> list[str]:
    return re.findall(r"^Running stage '([^']+)'", output, re.MULTILINE)


def outs(project: Project) -> dict[str, str]:
    """Every out of the lock file with its hash."""
    locked = yaml.safe_load(project.read("dvc.lock"))["stages"]
    return {out["path"]: out["md5"] for stage in locked.values() for out in stage.get("outs", [])}


def test_the_first_run_uses_the_shipped_base_model_and_runs_the_whole_loop(first):
    stages = ran(first.output.stdout)
    assert "pretrain" not in stages
    assert "world" not in stages
    assert {stage.split("@")[0] for stage in stages} >= {"check", "prepare", "base", *LOOP, "measure", "report"}


def test_the_output_is_ours_alone(first):
    """No other library's bars or warnings between the stages' lines."""
    assert "it/s" not in first.output.stdout + first.output.stderr
    assert "Warning" not in first.output.stdout + first.output.stderr
    assert "%|" not in first.output.stdout + first.output.stderr


def test_the_totals_of_every_stage_add_up(first):
    with_rows = {path.stem for path in (first.folder / "results/1").iterdir() if tallies(json.loads(path.read_text()))}
    assert with_rows == {"review", "generate", "filter", "assess", "select", "sft", "dpo"}
    for path in sorted((first.folder / "results").rglob("*.json")):
        for tally in tallies(json.loads(path.read_text(encoding="utf-8"))):
            assert tally["in"] == tally["out"] + sum(tally["dropped"].values()), path


def tallies(value: object) -> list[dict]:
    if not isinstance(value, dict):
        return []
    here = [value] if {"in", "out", "dropped"} <= set(value) else []
    return here + [tally for each in value.values() for tally in tallies(each)]


def test_every_generated_row_is_kept_or_dropped_with_a_reason(first):
    rows = {
        name: [json.loads(line) for line in first.read(f"iterations/1/{name}.jsonl").splitlines()]
        for name in ("generated", "filtered", "dropped")
    }
    assert len(rows["generated"]) == len(rows["filtered"]) + len(rows["dropped"])
    assert all(row["reason"] for row in rows["dropped"])


def test_every_selected_row_leads_back_to_its_seed(first):
    seeds = {json.loads(line)["id"] for line in first.read("iterations/0/seed.jsonl").splitlines()}
    for name in ("sft", "pairs"):
        for line in first.read(f"iterations/1/{name}.jsonl").splitlines():
            row = json.loads(line)
            if name == "pairs":
                assert {side["seed"] for side in row["lineage"].values()} <= seeds
                assert all(side["verdicts"] for side in row["lineage"].values())
            elif row["kind"] == "new":
                assert row["lineage"]["seed"] in seeds
                assert row["lineage"]["verdicts"]


def test_the_users_commands_work(first):
    assert "sft-0" in first.run("dvc", "dag").stdout
    metrics = json.loads(first.run("dvc", "metrics", "show", "--json").stdout)
    (shown,) = (each["data"] for each in metrics[""]["data"].values())
    assert set(shown["test"]) == {"0", "1"}
    assert set(shown["gain"]) == {"1"}
    table = first.run("dvc", "exp", "show", "--csv").stdout
    assert "test.1" in table.replace("report/metrics.json:", "")
    assert "gain.1" in table.replace("report/metrics.json:", "")
    assert first.run("dvc", "params", "diff").returncode == 0


def test_a_second_repro_runs_nothing(first):
    assert ran(first.run("dvc", "repro").stdout) == []


def test_a_change_that_changes_no_out_stops_there(first):
    """No mean of two whole scores lies between 7 and 7.01, so the routing stays and nothing follows it."""
    before = (first.folder / "params.yaml").read_bytes()
    try:
        first.change({"threshold": 7.01})
        assert ran(first.run("dvc", "repro", "--no-run-cache").stdout) == ["check", "generate@1"]
    finally:
        (first.folder / "params.yaml").write_bytes(before)
        first.run("dvc", "repro")


def test_an_appended_iteration_runs_alone_and_a_changed_threshold_reruns_generate_and_what_follows(first):
    """The two commands of the README, as written there."""
    appended = first.run("dvc", "exp", "run", "-S", "+iterations.2.parent=1").stdout
    assert set(ran(appended)) == {"check", "report"} | {f"{stage}@2" for stage in LOOP_STAGES}
    rows = {key: first.read(f"iterations/{key}/sft.jsonl").splitlines() for key in "12"}
    taught = {key: {row for row in each if '"kind": "new"' in row} for key, each in rows.items()}
    assert taught["1"] <= taught["2"]  # SFT rows add up
    assert len(first.read("iterations/1/seed.jsonl")) < len(first.read("iterations/2/seed.jsonl"))

    changed = first.run("dvc", "exp", "run", "-S", "threshold=9.5").stdout
    assert "review@1" not in ran(changed)
    assert "generate@1" in ran(changed)
    first.run("git", "checkout", "-q", ".")
    first.run("dvc", "repro")


def test_a_seed_file_that_is_refused_leaves_the_earlier_seed_set(first):
    before = (first.folder / "params.yaml").read_bytes()
    earlier = first.read("iterations/0/seed.jsonl")
    (first.folder / "bad.jsonl").write_text('{"prompt": "Why?"}\n')
    try:
        first.change({"seed": {"path": "bad.jsonl"}})
        refused = first.attempt("dvc", "repro")
        assert refused.returncode != 0
        assert "error: seed.path bad.jsonl, line 1: no text in the field 'response'" in refused.stderr
        assert first.read("iterations/0/seed.jsonl") == earlier
        assert (first.folder / "report/summary.md").exists()
    finally:
        (first.folder / "params.yaml").write_bytes(before)
        first.run("dvc", "repro")


def test_another_clone_gives_the_same_bytes_without_ever_calling_the_oracle(first, tmp_path):
    """The oracle's module is made to raise on import; the loop, up to the evaluated model, runs all the same."""
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch/sitecustomize.py").write_text(
        "import sys\n"
        "class Forbid:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith('stages.microworld'):\n"
        "            raise RuntimeError(f'the loop called the oracle: {name}')\n"
        "sys.meta_path.insert(0, Forbid())\n"
    )
    second = Project(tmp_path / "second", SMALL)
    forbidden = os.environ | {"PYTHONPATH": str(tmp_path / "patch")}
    second.run("dvc", "repro", "evaluate@1", env=forbidden)
    assert second.attempt("dvc", "repro", "measure@1", env=forbidden).returncode != 0  # the patch does forbid it
    second.run("dvc", "repro")
    assert outs(second) == outs(first)


def test_a_stage_runs_with_what_it_declares_and_nothing_else(first, tmp_path):
    """Each stage again, in a folder that holds its declared dependencies only: the same outs."""
    locked = yaml.safe_load(first.read("dvc.lock"))["stages"]
    for name, stage in locked.items():
        if name in ("pretrain", "world"):
            continue
        folder = tmp_path / name
        for path in (*(dep["path"] for dep in stage.get("deps", [])), *HARMLESS, "dvc.yaml", "params.yaml"):
            source, target = first.folder / path, folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copy(source, target)
        alone = Project.__new__(Project)
        alone.folder = folder
        alone.run(*stage["cmd"].split())
        for out in stage["outs"]:
            assert contents(folder / out["path"]) == contents(first.folder / out["path"]), (name, out["path"])


def contents(path: Path) -> dict[str, bytes]:
    paths = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    return {str(each.relative_to(path)): each.read_bytes() for each in paths}


def test_an_untrained_model_ends_well_and_the_report_says_so(tmp_path, tiny_model):
    """No verdict can be read, so nothing is generated, no pair is found, and both phases pass their model on."""
    changes = merged(SMALL, {"model": {"name": "tiny"}, "review": {"samples": 1, "max_tokens": 8}})
    project = Project(tmp_path / "project")
    shutil.copytree(tiny_model, project.folder / "tiny")
    project.change(changes)
    refused = project.attempt("dvc", "repro")
    assert refused.returncode != 0
    assert "error: review@1: 100% of the 24 verdicts are unreadable, review.max_unparsed allows 10%" in refused.stderr
    assert "Traceback" not in refused.stderr

    project.change({"review": {"max_unparsed": 1.0}})
    project.run("dvc", "repro")
    warnings = json.loads(project.read("report/summary.json"))["warnings"]
    assert "iteration 1: sft passed its model on, no SFT rows were selected" in warnings
    assert "iteration 1: dpo passed its model on, no pairs were found" in warnings
    assert "iteration 1: nothing was left after the filter" in warnings


def test_real_text_passes_every_stage_and_the_report_says_what_did_not_fit(tmp_path):
    """People's texts, some of them too long for the small model's context: it is bad at them, and the funnel says so."""
    short = [
        {"prompt": f"Suggest {number} names for a café in Malmö.", "response": "Fika & Co."} for number in range(8)
    ]
    long = [
        {"prompt": f"Summarise part {number}: " + "it rained again. " * 80, "response": "Rain."} for number in range(4)
    ]
    project = Project(
        tmp_path / "project", merged(SMALL, {"seed": {"path": "text.jsonl"}, "review": {"max_unparsed": 1.0}})
    )
    rows = "".join(json.dumps(row) + "\n" for row in short + long)
    (project.folder / "text.jsonl").write_text(rows, encoding="utf-8")
    project.run("dvc", "repro")
    review = json.loads(project.read("results/1/review.json"))["rows"]
    assert review["in"] == 12
    assert review["dropped"]["does not fit the context"] == 4
    assert "does not fit the context 4" in project.read("report/summary.md")
    warnings = json.loads(project.read("report/summary.json"))["warnings"]
    assert "iteration 0: 4 rows of sft did not fit the context" in warnings


def test_a_broken_tree_of_iterations_stops_the_run_before_any_work(tmp_path):
    project = Project(tmp_path / "project", SMALL)
    text = (project.folder / "params.yaml").read_text()
    for iterations, said in (
        ("iterations:\n  1:\n    parent: '0'\n", 'the key 1 must be quoted, "1"'),
        ("iterations:\n  '1':\n    parent: '7'\n", "iterations.1.parent: there is no iteration '7'; there are 0, 1"),
    ):
        changed = re.sub(r"iterations:\n(?:  .*\n)+", iterations, text)
        assert changed != text
        (project.folder / "params.yaml").write_text(changed)
        result = project.attempt("dvc", "repro")
        assert result.returncode != 0
        assert f"error: params.yaml: {'iterations: ' if 'key' in said else ''}{said}" in result.stderr
        assert ran(result.stdout) == ["check"]


def test_a_cycle_of_parents_is_refused_by_name(tmp_path):
    cyclic = {"iterations": {"1": {"parent": "2"}, "2": {"parent": "1"}}}
    project = Project(tmp_path / "project", merged(SMALL, cyclic))
    result = project.attempt("dvc", "repro")
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert "cycle" in result.stderr
    assert "iterations: a cycle of parents, 1 → 2 → 1" in project.stage("stages.check").stderr
