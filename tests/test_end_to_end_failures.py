"""The whole loop through dvc on what can go wrong: a model that cannot judge, texts that do not fit, broken trees."""

import json
import re
import shutil

import pytest
from conftest import SMALL, Project, merged, ran

pytestmark = pytest.mark.slow


def test_an_untrained_model_on_peoples_texts_ends_well_and_the_report_says_so(tmp_path, tiny_model):
    """Some texts are too long for the model's context and no verdict can be read, so nothing is generated, no pair is
    found, and both phases pass their model on."""
    short = [{"prompt": f"Name {number} cafés in Malmö.", "response": "Fika & Co."} for number in range(8)]
    long = [{"prompt": f"Sum up {number}: " + "it rained again. " * 80, "response": "Rain."} for number in range(4)]
    project = Project(tmp_path / "project", merged(SMALL, {"model": {"name": "tiny"}, "seed": {"path": "text.jsonl"}}))
    rows = "".join(json.dumps(row) + "\n" for row in short + long)
    (project.folder / "text.jsonl").write_text(rows, encoding="utf-8")
    shutil.copytree(tiny_model, project.folder / "tiny")
    refused = project.attempt("dvc", "repro")
    assert refused.returncode != 0
    assert (
        "error: review@1: 100% of the verdicts are unreadable (0 of 16 can be read, 4 rows do not fit" in refused.stderr
    )
    assert "Traceback" not in refused.stderr

    project.change({"review": {"max_unparsed": 1.0}})
    project.run("dvc", "repro")
    review = json.loads(project.read("results/1/review.json"))["rows"]
    assert review == {"in": 12, "out": 0, "dropped": {"does not fit the context": 4, "no readable verdict": 8}}
    warnings = json.loads(project.read("report/summary.json"))["warnings"]
    assert "iteration 0: 4 rows of sft did not fit the context" in warnings
    assert "iteration 1: sft copied its input model: no SFT rows were selected" in warnings
    assert "iteration 1: dpo copied its input model: no pairs were found" in warnings
    assert "iteration 1: the filter kept no rows" in warnings
    assert "does not fit the context 4" in project.read("report/summary.md")


def test_a_chain_that_declines_is_stopped_and_the_rest_passes_through(tmp_path):
    """A learning rate that destroys the model: iteration 1 declines, iteration 2 has nothing to do."""
    tree = {"1": {"parent": "0", "judge": "0", "writer": "0"}, "2": {"parent": "1", "judge": "1", "writer": "1"}}
    chain = {"iterations": tree}
    ruinous = {"dpo": {"learning_rate": 0.05}, "evaluate": {"stop_on": "decline", "limit": 20}}
    project = Project(tmp_path / "project", merged(SMALL, chain | ruinous))
    ended = project.run("dvc", "repro")
    assert "worse than the best iteration before it; the chain is stopped" in ended.stdout
    assert json.loads(project.read("iterations/1/stop.json")) == {"stopped": True}
    assert json.loads(project.read("iterations/2/stop.json")) == {"stopped": True}
    assert project.read("iterations/2/review.jsonl") == project.read("iterations/2/sft.jsonl") == ""
    assert project.read("iterations/2/seed.jsonl") == project.read("iterations/1/seed.jsonl")
    models = [project.folder / f"iterations/{key}/model/model.safetensors" for key in "12"]
    assert models[0].read_bytes() == models[1].read_bytes()
    summary = json.loads(project.read("report/summary.json"))
    assert summary["verdict"] == (
        "No iteration beats the warm start on validation; iteration 1 declined; the chain was stopped before 2."
    )
    assert json.loads(project.read("best/iteration.json"))["iteration"] == "0"


def test_a_broken_tree_of_iterations_stops_the_run_before_any_work(tmp_path):
    project = Project(tmp_path / "project", SMALL)
    text = (project.folder / "params.yaml").read_text()
    for iterations, said in (
        ("iterations:\n  1: {parent: '0', judge: '0', writer: '0'}\n", 'the key 1 must be quoted, "1"'),
        (
            "iterations:\n  '1': {parent: '7', judge: '0', writer: '0'}\n",
            "iterations.1.parent: there is no iteration '7'; there are 0, 1",
        ),
    ):
        changed = re.sub(r"iterations:\n(?:  .*\n)+", iterations, text)
        assert changed != text
        (project.folder / "params.yaml").write_text(changed)
        result = project.attempt("dvc", "repro")
        assert result.returncode != 0
        assert f"error: params.yaml: {'iterations: ' if 'key' in said else ''}{said}" in result.stderr
        assert ran(result.stdout) == ["check"]


def test_a_cycle_of_parents_is_refused_by_name(tmp_path):
    tree = {"1": {"parent": "2", "judge": "0", "writer": "2"}, "2": {"parent": "1", "judge": "0", "writer": "1"}}
    project = Project(tmp_path / "project", merged(SMALL, {"iterations": tree}))
    result = project.attempt("dvc", "repro")
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert "both a dependency and an output in stages" in result.stderr  # dvc's own words
    assert all(iteration in result.stderr for iteration in ("@1", "@2"))  # through which stages, it does not fix
    assert "iterations: a cycle of parents, judges or writers, 1 → 2 → 1" in project.stage("stages.check").stderr
