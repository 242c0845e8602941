"""The whole loop through dvc, with small settings: same bytes twice, nothing computed twice, no oracle inside."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import FORKING, IN_GIT, Project, ran
from test_pipeline import HARMLESS, LOOP

from stages.commands.label.rows import drawn
from stages.core.params import Params
from stages.data.drawing import JudgedPair
from stages.data.labels import Label, LabelFile

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def first(looped, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The first run, to experiment with."""
    return looped.copy(tmp_path_factory.mktemp("first") / "project")


def back(project: Project) -> None:
    """To the first run, after an experiment."""
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "checkout", "-q", "--force")


LOOP_STAGES = ("review", "generate", "filter", "assess", "select", "sft", "dpo", "evaluate", "measure")


VARYING = ("costs/", "report/cost.json", "report/report.html")  # what a run cost, and the page that says it


def test_the_first_run_uses_the_shipped_base_model_and_runs_the_whole_loop(looped):
    stages = ran(looped.output)
    assert "pretrain" not in stages
    assert "world" not in stages
    assert {stage.split("@")[0] for stage in stages} >= {"check", "prepare", "base", *LOOP, "measure", "report"}


def test_the_output_is_ours_alone(looped):
    """No other library's bars or warnings, neither when it is imported nor between the stages' lines."""
    if FORKING in os.environ:  # the libraries were imported by its server
        assert Path(os.environ[FORKING], "output").read_text() == ""
    assert "it/s" not in looped.output
    assert "Warning" not in looped.output
    assert "%|" not in looped.output


def test_every_stage_that_computes_tells_its_devices_and_one_that_only_looks_up_the_same(first):
    costs = {path: json.loads(path.read_text(encoding="utf-8")) for path in (first.folder / "costs").rglob("*.json")}
    assert len(costs) == 8
    cores = {"device": "CPU", "devices": len(os.sched_getaffinity(0))}
    assert all(cost.items() >= cores.items() for cost in costs.values())
    review = first.folder / "costs/1/review.json"
    command = yaml.safe_load(first.read("dvc.lock"))["stages"]["review@1"]["cmd"]
    first.run(*command.split())
    assert json.loads(review.read_text(encoding="utf-8")) == costs[review]


def test_the_totals_of_every_stage_add_up(first):
    with_rows = {
        path.stem for path in (first.folder / "results/1").glob("*.json") if tallies(json.loads(path.read_text()))
    }
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
    shown = metrics[""]["data"]["report/metrics.json"]["data"]
    assert shown["last"]["iteration"] == "1"
    assert shown["last"]["low"] <= shown["last"]["gain"] <= shown["last"]["high"]
    table = first.run("dvc", "exp", "show", "--csv").stdout.replace("report/metrics.json:", "")
    assert all(f"{which}.{name}" in table for which in ("best", "last") for name in shown["best"])
    assert "CPU_hours" in table
    plots = first.run("dvc", "plots", "show", "-o", "shown").stdout
    assert "index.html" in plots
    page = first.read("shown/index.html")
    assert all(f"report_plots_{name}_json" in page for name in ("scores", "reviews", "funnel", "diversity", "length"))
    assert all(f"report_plots_{name}_json" in page for name in ("loss", "rewards"))
    assert first.run("dvc", "params", "diff").returncode == 0


def test_a_second_repro_runs_nothing(first):
    assert ran(first.run("dvc", "repro").stdout) == []


def test_a_change_that_changes_no_out_stops_there(first):
    """No mean of two whole scores lies between 7 and 7.01, so the routing stays and nothing follows it but the cards,
    which name the threshold, and measure, which compares people's labels with it."""
    changed = ran(first.run("dvc", "exp", "run", "-S", "threshold=7.01").stdout)
    assert changed[:2] == ["check", "generate@1"]
    assert set(changed[2:]) == {"measure@1", "promote", "dataset"}
    back(first)


def test_an_evaluation_that_stops_nothing_reruns_nothing_but_the_report(first):
    changed = ran(first.run("dvc", "exp", "run", "-S", "evaluate.limit=3").stdout)
    assert changed[:3] == ["check", "evaluate-0", "evaluate@1"]
    assert set(changed[3:]) == {"promote", "dataset", "report"}
    back(first)


def test_the_best_iteration_is_promoted_and_loads(first):
    from transformers import AutoModelForCausalLM

    best = json.loads(first.read("best/iteration.json"))["iteration"]
    assert best == json.loads(first.read("report/metrics.json"))["best"]["iteration"]
    promoted = AutoModelForCausalLM.from_pretrained(first.folder / "best")
    named = AutoModelForCausalLM.from_pretrained(first.folder / "iterations" / best / "model")
    assert all((one == other).all() for one, other in zip(promoted.parameters(), named.parameters(), strict=True))


def test_an_appended_iteration_runs_alone_and_adds_to_the_earlier_ones(first):
    appended = first.run("dvc", "exp", "run", "-S", "+iterations.2={parent: 1, judge: 0, writer: 1}").stdout
    assert set(ran(appended)) == {"check", "promote", "dataset", "report"} | {f"{stage}@2" for stage in LOOP_STAGES}
    rows = {key: first.read(f"iterations/{key}/sft.jsonl").splitlines() for key in "12"}
    taught = {key: {row for row in each if '"kind": "new"' in row} for key, each in rows.items()}
    assert taught["1"] <= taught["2"]  # SFT rows add up
    assert len(first.read("iterations/1/seed.jsonl")) < len(first.read("iterations/2/seed.jsonl"))
    seeds = [json.loads(line) for line in first.read("iterations/1/seed.jsonl").splitlines()]
    unscored = [row for row in seeds if row["score"] is None]
    assert json.loads(first.read("results/2/review.json"))["reviewed"] == len(unscored) < len(seeds)  # the same judge
    back(first)


def test_a_seed_file_that_is_refused_leaves_the_earlier_seed_set(first):
    earlier = first.read("iterations/0/seed.jsonl")
    (first.folder / "bad.jsonl").write_text('{"prompt": "Why?"}\n')
    try:
        first.change({"seed": {"path": "bad.jsonl"}})
        refused = first.attempt("dvc", "repro")
        assert refused.returncode != 0
        assert "seed.path bad.jsonl, line 1: no prompt and response (its fields are prompt)" in refused.stderr
        assert first.read("iterations/0/seed.jsonl") == earlier
        assert (first.folder / "report/summary.md").exists()
    finally:
        back(first)


def test_labels_are_measured_and_shown_and_no_model_runs(first, monkeypatch):
    """Whoever gives the judge's own scores agrees with it, here, in `dvc metrics show` and in the report."""
    monkeypatch.chdir(first.folder)
    rows = drawn(Params("label", list(first.params), first.params), 12, 4)
    labels = LabelFile(Path("labels/ana.jsonl"))
    for row in rows:
        if isinstance(row, JudgedPair):
            labels.add(Label(shown=[row.rejected_id, row.chosen_id], label="second"))
        else:
            labels.add(Label(shown=[row.id], label=round(row.score)))
    try:
        assert set(ran(first.run("dvc", "repro").stdout)) == {"measure@1", "promote", "dataset", "report"}
        people = json.loads(first.read("report/metrics.json"))["people"]
        assert (people["labels"], people["elsewhere"], people["pairs_in_order"]) == (16, 0, 100.0)
        assert people["rank"] > 0.9
        assert "people.rank" in first.run("dvc", "metrics", "show").stdout
        assert "people.rank" in first.run("dvc", "exp", "show", "--csv").stdout
        assert "## The judge and people" in first.read("report/summary.md")
        assert "The judge and people" in first.read("report/report.html")
        assert ran(first.run("dvc", "repro").stdout) == []
    finally:
        labels.path.unlink()
        back(first)


ORACLE = Path("stages/microworld/__init__.py")


def test_a_stage_gives_the_same_bytes_from_what_it_declares_and_without_the_oracle(first, tmp_path):
    """Each stage again, in another folder that holds its declared dependencies only, with an empty completion store:
    the same outs, and so, stage after stage, the same bytes in another clone. An import of the world, the oracle with
    it, raises."""
    locked = yaml.safe_load(first.read("dvc.lock"))["stages"]
    for name, stage in locked.items():
        if name in ("check", *IN_GIT):  # check asks whether the named files exist
            continue
        folder = tmp_path / name
        for path in (*(dep["path"] for dep in stage.get("deps", [])), *HARMLESS, "dvc.yaml", "params.yaml"):
            source, target = first.folder / path, folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copy(source, target)
        (folder / ORACLE).write_text("raise RuntimeError('the loop called the oracle')\n")
        alone = Project.at(folder)
        without_oracle = alone.attempt(*stage["cmd"].split())
        if name.startswith("measure@"):
            assert "the loop called the oracle" in without_oracle.stderr
            shutil.copy(first.folder / ORACLE, folder / ORACLE)
            alone.run(*stage["cmd"].split())
        else:
            assert without_oracle.returncode == 0, (name, without_oracle.stderr)
        for out in stage["outs"]:
            if out["path"].startswith(VARYING):
                assert (folder / out["path"]).exists()
                continue
            assert contents(folder / out["path"]) == contents(first.folder / out["path"]), (name, out["path"])


def contents(path: Path) -> dict[str, bytes]:
    paths = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    return {str(each.relative_to(path)): each.read_bytes() for each in paths}
