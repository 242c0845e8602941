"""Every method of stages/presets/methods/ through an iteration, with small settings: what it makes is what it says."""

import json

import pytest
from conftest import Project, merged, ran
from test_preset import METHODS

from stages.commands import preset
from stages.core.params import load

pytestmark = pytest.mark.slow

FEW = {  # of what methods take all of
    "iterations": {"1": {"parent": "0", "judge": "0", "writer": "0"}},
    "samples": 2,
    "generate": {"max_low": 12, "max_high": 8, "max_own": 12, "own_samples": 4, "shots": 3},
}


ROUTES = {"lance": {"new", "flawed"}, "spin": {"own"}, "scpo": {"own"}, "iterative-rpo": {"own"}}


def settings(method: str) -> dict:
    """A method's values with few rows, where it makes any."""
    own = load(preset.METHODS / f"{method}.yaml")
    few = {name: min(value, own.get("generate", {}).get(name, value)) for name, value in FEW["generate"].items()}
    generate = own.get("generate", {})
    few["max_own"] = few["max_own"] if generate.get("max_own") else 0
    few["shots"] = few["shots"] if generate.get("shots", 1) > 1 else 1
    return merged(own, {**FEW, "generate": few})


def rows(project: Project, name: str) -> list[dict]:
    return [json.loads(line) for line in project.read(f"iterations/1/{name}.jsonl").splitlines()]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_runs_and_makes_what_it_says(method, looped, tmp_path):
    project = looped.copy(tmp_path / "project")
    if method == "iterative-rpo":
        project.change({"seed": {"path": "stages/microworld/data/checked.jsonl"}})
    project.change(settings(method))
    stages = ran(project.run("dvc", "repro").stdout)
    assert "report" in stages
    params, generated, pairs = project.params, rows(project, "generated"), rows(project, "pairs")
    trained = {"sft": len([row for row in rows(project, "sft") if row["kind"] != "judge"]), "dpo": len(pairs)}
    assert all(trained[phase] > 2 for phase in trained if params[phase]["enabled"])
    assert {row["route"] for row in generated} == ROUTES.get(method, {"new"})
    seeds = {seed["prompt"]: seed["response"] for seed in rows(project, "review")}
    if method == "spin":
        assert all(pair["chosen"] == seeds[pair["prompt"]] != pair["rejected"] for pair in pairs)
    if method == "scpo":
        votes = {row["id"]: row["score"] for row in rows(project, "assess")}
        assert all(pair["lineage"]["chosen"]["score"] > pair["lineage"]["rejected"]["score"] for pair in pairs)
        assert max(votes.values()) > min(votes.values())
    if method == "iterative-rpo":
        checks = {seed["prompt"]: seed["check"]["expected"] for seed in rows(project, "review")}
        assert all(checks[pair["prompt"]] in pair["chosen"].casefold() for pair in pairs)
        assert all(pair["margin"] == 10 for pair in pairs)
