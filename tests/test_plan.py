"""The plan: every reason is told, what it finds in the store is what the stage finds, and it leaves no trace."""

import json
import re
import shutil
import sqlite3
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace

import conftest
import pytest
import yaml
from conftest import ROOT, SMALL, Project, error_line, merged
from test_pipeline import END, TABLE, done, iterations  # noqa: F401

from stages.commands import plan
from stages.core.errors import UserError
from stages.core.params import PARAMS_FILE, load
from stages.planning.changes import Planned, changes
from stages.planning.forecast import SHARES, Forecast, LastRun, Texts
from stages.planning.pricing import EFFICIENCY, GPUS, START, Pricing, Shape, gpu_named, this_machine
from stages.planning.probe import Speed, measure

# ---- what reruns and why ---------------------------------------------------------------------------------------------


def changes_of(project: Project) -> dict[str, Planned]:
    with chdir(project.folder):
        return changes()


@pytest.fixture(scope="module")
def committed(done):  # noqa: F811
    """A project that DVC takes for completely run, in git."""
    done.run("git", "add", "-A", "-f", "params.yaml", "dvc.lock", "prompts", "stages", "evaluation", "another.jsonl")
    done.run("git", "commit", "-qm", "ran", "--allow-empty")
    assert changes_of(done) == {}
    yield done
    assert changes_of(done) == {}


@pytest.fixture
def at(committed):
    """The changes of that project, and back to it afterwards."""

    def found() -> dict:
        return changes_of(committed)

    found.project, outs = committed, set((committed.folder / "iterations").rglob("*"))
    yield found
    committed.run("git", "checkout", "-q", ".")
    if not all(path.exists() for path in outs):
        committed.run("dvc", "checkout", "-q", "--force")


def why(stage: Planned) -> list[str]:
    return [str(reason) for reason in stage.reasons]


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameter", ["threshold", "review.temperature", "select.min_margin", "dpo.beta", "alarms.slow", "seed.limit"]
)
def test_the_stages_are_those_that_the_change_reruns(at, parameter):
    value, expected = TABLE[parameter]
    section, _, name = parameter.rpartition(".")
    at.project.change({section: {name: value}} if section else {name: value})
    assert set(at()) - {"check"} == expected


def test_a_changed_parameter_is_told_with_both_values(at):
    at.project.change({"threshold": 6.5, "review": {"shuffled": True}})
    found = at()
    assert why(found["generate@1"])[0] == "threshold: 7.0 → 6.5"
    assert why(found["review@1"]) == ["review.shuffled: false → true"]


def test_an_edited_prompt_or_code_is_told_by_its_kind(at):
    with (at.project.folder / "prompts/micro/generate/flawed.md").open("a") as prompt:
        prompt.write("Be brief.\n")
    assert why(at()["generate@1"]) == ["prompt prompts/micro/generate changed"]
    for path in ("stages/data/similarity.py", "stages/filter.py"):
        with (at.project.folder / path).open("a") as code:
            code.write("# edited\n")
    reasons = ["prompt prompts/micro/generate changed", "code stages/filter.py changed", "code stages/data changed"]
    assert why(at()["filter@1"])[:3] == reasons


def test_an_edit_of_what_a_stage_makes_is_undone_by_it_and_nothing_follows(at):
    with (at.project.folder / "stages/microworld/data/seeds.jsonl").open("a") as seeds:
        seeds.write('{"prompt": "Why?", "response": "Because."}\n')
    assert {name: why(stage) for name, stage in at().items()} == {"world": ["out stages/microworld/data is modified"]}


def test_a_stage_may_only_follow_others(at):
    at.project.change({"threshold": 6.5})
    found = at()
    assert why(found["filter@1"]) == ["follows generate@1"]
    assert found["filter@1"].only_follows
    assert not found["generate@1"].only_follows
    assert not found["generate@2"].only_follows  # it has the parameter itself
    assert "review@1" not in found


def test_a_stage_is_ready_where_nothing_before_it_changes(at):
    at.project.change({"threshold": 6.5, "sft": {"epochs": 1}})
    found = at()
    assert found["sft-0"].ready
    assert not found["generate@1"].ready  # its model is made anew
    at.project.change({"sft": {"epochs": 2}})
    assert at()["generate@1"].ready
    (at.project.folder / "iterations/1/review.jsonl").unlink()
    assert not at()["generate@1"].ready  # dvc brings it back, but it is not here


def test_an_appended_iteration_never_ran_and_the_others_stay(at):
    tree = at.project.params["iterations"]
    at.project.change({"iterations": tree | {"4": {"parent": 3, "judge": 0, "writer": 3}}})
    found = at()
    assert set(found) == {"check"} | END | iterations("4")
    assert {reason for name in iterations("4") for reason in why(found[name])} == {"never ran"}
    assert "iterations.4: (not there) → {parent: 3, judge: 0, writer: 3}" in why(found["report"])


def test_a_branch_never_ran_and_shares_its_ancestors(at):
    tree = at.project.params["iterations"]
    at.project.change({"iterations": tree | {"b2": {"parent": "1", "judge": "1", "writer": "1"}}})
    assert set(at()) == {"check"} | END | iterations("b2")


def test_another_judge_is_told_as_the_iterations_parameter(at):
    tree = at.project.params["iterations"]
    at.project.change({"iterations": tree | {"3": {"parent": "2", "judge": "2", "writer": "2"}}})
    found = at()
    assert why(found["review@3"]) == ["iterations.3.judge: 0 → 2"]
    assert not {name for name in found if name.endswith(("@1", "@2"))}


def test_a_deleted_out_comes_from_dvcs_cache_and_nothing_follows(at):
    (at.project.folder / "iterations/1/review.jsonl").unlink()
    assert at() == {}
    assert "'review@1' is cached - skipping run" in at.project.run("dvc", "repro", "--dry", "review@1").stdout


def test_an_out_that_is_nowhere_is_made_again(at):
    out = at.project.folder / "iterations/2/filtered.jsonl"
    content = out.read_bytes()
    locked = re.search(r"path: iterations/2/filtered.jsonl\n *hash: md5\n *md5: (\w+)", at.project.read("dvc.lock"))[1]
    kept = at.project.folder / ".dvc/cache/files/md5" / locked[:2] / locked[2:]
    out.unlink()
    kept.chmod(0o644)
    kept.unlink()
    try:
        found = at()
        assert set(found) == {"filter@2"}  # the same bytes again, so nothing follows
        assert why(found["filter@2"]) == ["out iterations/2/filtered.jsonl is not in cache"]
    finally:
        out.write_bytes(content)
        shutil.copy(out, kept)


def test_a_fresh_clone_has_never_run_but_has_its_base_model(project):
    with chdir(project.folder):
        found = changes()
    assert {reason for stage in found.values() for reason in why(stage)} == {"never ran"}
    assert {"check", "prepare", "sft-0", "report"} | iterations("1", "2", "3") <= set(found)
    assert not {"world", "pretrain"} & set(found)


def test_outside_a_repository_the_error_says_where_to_run(tmp_path):
    with chdir(tmp_path), pytest.raises(UserError, match="run this in the project's folder"):
        changes()


# ---- the command -----------------------------------------------------------------------------------------------------


def planned(project: Project) -> dict[str, Planned]:
    with chdir(project.folder):
        stages, _ = plan.plan(load(PARAMS_FILE))
    return {stage.stage: stage for stage in stages}


def as_json(project: Project, *arguments: str) -> dict:
    return json.loads(project.run("lance", "plan", "--json", *arguments).stdout)


@pytest.mark.parametrize("change", [{"threshold": 11}, {"seed": {"path": "nowhere.jsonl"}}, {"iterations": {}}])
def test_an_invalid_parameter_is_the_same_line_as_in_check(project, change):
    project.change(change)
    assert error_line(project.attempt("lance", "plan")) == error_line(project.stage("stages.check"))


def test_a_fresh_clones_plan_rests_on_the_parameters(project):
    found = as_json(project)
    review = next(stage for stage in found["stages"] if stage["stage"] == "review@1")
    settings = project.params["review"]
    assert review["calls"] == project.params["seed"]["limit"] * settings["samples"]
    assert review["stored"] is None  # its prompts are not known
    assert review["reasons"] == [{"kind": "never ran", "what": "", "old": None, "new": None}]
    assert found["total"]["made"] == found["total"]["calls"] == sum(stage["calls"] for stage in found["stages"])
    assert all(stage["calls"] for stage in found["stages"] if stage["stage"].startswith("evaluate"))
    assert not (project.folder / ".dvc/completions.sqlite").exists()
    text = project.run("lance", "plan").stdout
    assert "never ran" in text
    assert f"{len(found['stages'])} stages" in text


def test_a_suite_whose_items_are_not_here_is_said_to_be_uncounted(project):
    project.change({"evaluate": {"suite": "leaderboard"}})
    assert (
        "evaluate: its model calls are counted once the stage benchmark has split the suite"
        in (as_json(project)["notes"])
    )


def test_a_foreign_model_needs_only_its_config_and_a_gpu_that_is_too_small_is_told(project):
    (project.folder / "qwen").mkdir()
    (project.folder / "qwen/config.json").write_text(json.dumps(QWEN2_7B))
    project.change({"model": {"name": "qwen", "dtype": "bfloat16"}, "prompts": "lance"})
    found = as_json(project, "--gpu", "a100-40")
    assert found["total"]["device"]["name"] == "a100-40"
    (base,) = (stage for stage in found["stages"] if stage["stage"] == "base")
    assert base["disk"] == 2 * 7_615_616_512
    assert found["total"]["memory"] > 4 * 2 * 7_615_616_512  # weights, gradients and AdamW's two numbers
    assert any("a100-40 has 40.0 GB" in note for note in found["notes"])
    faster = as_json(project, "--gpu", "h100")
    assert faster["total"]["seconds"] < found["total"]["seconds"]


def test_an_unknown_gpu_is_one_line_that_names_the_others(project):
    line = error_line(project.attempt("lance", "plan", "--gpu", "h1000"))
    assert line == f"error: --gpu h1000: no such GPU; choose one of {', '.join(GPUS)}"


def test_a_config_that_is_no_such_decoder_is_one_line(project):
    (project.folder / "other").mkdir()
    (project.folder / "other/config.json").write_text('{"model_type": "gpt2", "n_layer": 12}')
    project.change({"model": {"name": "other"}})
    assert "other/config.json: 'num_attention_heads' cannot be read" in error_line(project.attempt("lance", "plan"))


# ---- the store -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with its own seed file that ran until generate@1, its results in git."""
    project = Project(
        tmp_path_factory.mktemp("begun") / "project", SMALL | {"seed": {"limit": 24, "path": "mine.jsonl"}}
    )
    shutil.copy(project.folder / "stages/microworld/data/seeds.jsonl", project.folder / "mine.jsonl")
    project.run("dvc", "repro", "generate@1")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "ran")
    return project


@pytest.fixture
def after(begun):
    yield begun
    begun.run("git", "checkout", "-q", ".")
    begun.run("dvc", "checkout", "-q", "--force", "generate@1", "review@1", "evaluate-0")


def served(output: str) -> tuple[int, int]:
    """How many completions a stage says that it found in the store, and how many it asked for."""
    found = re.findall(r"([\d,]+) of ([\d,]+) completions were in the store", output)
    made = re.findall(r": ([\d,]+) of [\d,]+ in \d+ s", output)
    stored = sum(int(each.replace(",", "")) for each, _ in found)
    return stored, stored + sum(int(each.replace(",", "")) for each in made)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("review@1", {"review": {"samples": 3}}),
        ("review@1", {"review": {"temperature": 0.5}}),
        ("review@1", {"review": {"max_unparsed": 0.9}}),
        ("review@1", {"review": {"estimator": "expected"}}),
        ("generate@1", {"threshold": 5.0}),
        ("generate@1", {"threshold": 7.01}),
        ("generate@1", {"generate": {"max_high": 3}}),
        ("generate@1", {"generate": {"max_own": 5, "own_samples": 2}}),
        ("generate@1", {"generate": {"shots": 3}}),
    ],
)
def test_what_the_plan_finds_in_the_store_is_what_the_stage_finds(after, name, change):
    after.change(change)
    stage = planned(after)[name]
    stored, asked = served(after.run("dvc", "repro", "--no-run-cache", "--single-item", name).stdout)
    assert stage.stored == stored
    if stage.unwritten:
        assert stage.calls == pytest.approx(asked, rel=0.1)
    elif "estimator" not in change.get("review", {}):  # `expected` asks for more where a verdict may go on
        assert stage.calls == asked


@pytest.mark.slow
def test_an_evaluations_questions_are_found_in_the_store(after):
    after.change({"evaluate": {"limit": 3}})
    first = planned(after)["evaluate-0"]
    assert 0 < first.calls == first.stored
    assert first.read == 0
    after.change({"evaluate": {"limit": 6}})
    more = planned(after)["evaluate-0"]
    assert more.calls > more.stored == 4 / 3 * first.stored  # it ran with a limit of 4
    assert more.read > more.made


@pytest.mark.slow
def test_an_edited_seed_file_is_told_as_data(after):
    with (after.folder / "mine.jsonl").open("a") as seeds:
        seeds.write('{"prompt": "Why?", "response": "Because."}\n')
    assert why(planned(after)["prepare"]) == ["data mine.jsonl changed"]


@pytest.mark.slow
def test_a_change_that_changes_no_route_makes_no_call(after):
    after.change({"threshold": 7.02})
    stage = planned(after)["generate@1"]
    assert stage.calls == stage.stored > 0
    assert stage.made == stage.read == stage.written == 0


@pytest.mark.slow
def test_the_plan_leaves_no_trace(after):
    after.change({"review": {"samples": 3}, "threshold": 5.0})
    before = traces(after)
    after.run("lance", "plan")
    assert traces(after) == before


def traces(project: Project) -> dict:
    """Every file outside dvc's own temporary ones, and how often and when stored completions were used."""
    paths = (path for path in project.folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    files = {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in paths
        if not path.is_relative_to(project.folder / ".dvc/tmp") and ".git" not in path.parts
    }
    db = sqlite3.connect(f"file:{project.folder}/.dvc/completions.sqlite?immutable=1", uri=True)
    used = [db.execute(f"SELECT * FROM {table}").fetchall() for table in ("served", "uses")]
    db.close()
    return {"files": files, "used": used}


# ---- rows and tokens -------------------------------------------------------------------------------------------------

TEXTS = SimpleNamespace(
    prompt=10, response=5, review=20, to_review=40, to_write=30, to_answer=15, seeds=100, judge_rows=20, computed={}
)
ONE = {"1": {"parent": "0", "judge": "0", "writer": "0"}}
STAGES = ("review", "generate", "filter", "assess", "select", "sft", "dpo", "evaluate")
ALL = ("prepare", "sft-0", "evaluate-0", *(f"{stage}@1" for stage in STAGES))


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """The folder of a project with fifty items to evaluate on, before any run."""
    monkeypatch.chdir(tmp_path)
    write("iterations/0/benchmark.jsonl", *({"benchmark": "all", "part": "test"} for _ in range(50)))
    return tmp_path


def write(path: str, *rows: dict) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def walked(plan: dict[str, Planned] | None = None, **params) -> dict[str, Planned]:
    values = merged(yaml.safe_load((ROOT / "params.yaml").read_text()), {"iterations": ONE, **params})
    stages = plan or {name: Planned(name, []) for name in ALL}
    Forecast(values, stages, LastRun.read(), TEXTS).walk()
    return stages


def test_rows_are_followed_through_the_loop_by_the_parameters(empty):
    found = walked()
    assert found["review@1"].calls == 100 * 3
    low, high, draws = 50, 50, 4
    assert found["generate@1"].calls == low * draws + low * draws * draws + high * draws
    kept = SHARES["kept"] * (low * draws * draws + high * draws)
    assert found["filter@1"].read == (100 + low * draws) * 10
    assert found["assess@1"].calls == pytest.approx(kept * 3)
    assert found["sft@1"].trained == pytest.approx((SHARES["sft"] * kept * (15 + 5) + 20 * (40 + 20)) * 2)
    assert found["dpo@1"].trained == pytest.approx(SHARES["pairs"] * kept * 2 * (15 + 5))
    assert found["sft-0"].trained == (100 * (15 + 5) + 20 * (40 + 20)) * 2  # epochs
    assert found["evaluate@1"].calls == 50


def test_bounds_hold(empty):
    found = walked(generate={"max_low": 3, "max_high": 2}, select={"max_pairs": 1})
    assert found["generate@1"].calls == 3 * 4 + 3 * 4 * 4 + 2 * 4
    assert found["dpo@1"].trained == 2 * (15 + 5)


def test_own_responses_are_counted_and_never_more_than_people_wrote_prompts(empty):
    found = walked(generate={"max_low": 3, "max_high": 2, "max_own": 40, "own_samples": 3})
    others = 3 * 4 + 3 * 4 * 4 + 2 * 4
    assert found["generate@1"].calls == others + 40 * 3
    assert found["assess@1"].calls == pytest.approx(SHARES["kept"] * (3 * 16 + 40 * 3 + 2 * 4) * 3, abs=1)
    found = walked(generate={"max_low": 3, "max_high": 2, "max_own": 400, "own_samples": 3})
    assert found["generate@1"].calls == others + 100 * 3  # texts.seeds


def test_a_training_that_is_off_costs_nothing(empty):
    found = walked(sft={"enabled": False}, dpo={"enabled": False})
    assert found["sft@1"].trained == found["dpo@1"].trained == 0
    assert found["sft-0"].trained > 0


def test_what_was_looked_up_stays_and_unwritten_instructions_will_be_answered(empty):
    generate = Planned("generate@1", [], calls=100, stored=90, unwritten=5, read=300)
    walked({"generate@1": generate})
    assert (generate.calls, generate.stored, generate.made) == (100 + 5 * 4, 90, 10 + 5 * 4)
    assert generate.read == 300 + 5 * 4 * 15
    assert generate.written > 0


def test_an_assessment_that_only_follows_makes_as_large_a_share_of_its_calls_as_generate(empty):
    def share(*others: str, only_follows: bool = True) -> float:
        generate = Planned("generate@1", [], calls=100, stored=75)
        assess = Planned("assess@1", [], only_follows=only_follows)
        walked({"generate@1": generate, "assess@1": assess} | {name: Planned(name, []) for name in others})
        assert assess.stored is None  # it was not looked up
        return assess.made / assess.calls

    assert share() == pytest.approx(0.25, rel=0.01)
    assert share("sft-0") == 1  # the judge is made anew
    assert share(only_follows=False) == 1  # its own parameters changed


def test_the_last_runs_counts_come_before_the_assumed_ones(empty):
    assert LastRun.read().shares(7.0) == SHARES
    assert LastRun.read().per_call("review") is None
    write(
        "results/1/review.json", {"scores": {"nearest": [1, 0, 0, 0, 0, 0, 2, 0, 0, 6, 0]}, "verdicts": {"asked": 27}}
    )
    answers = {"responses": {"in": 20}, "own_responses": {"in": 10}, "flawed_responses": {"in": 20}}
    write("results/1/generate.json", answers)
    write("results/1/assess.json", {"rows": {"in": 40}})
    write("results/1/select.json", {name: {"new": new} for name, new in (("seed", 4), ("sft", 8), ("pairs", 16))})
    write("results/2/review.json", {"scores": None, "verdicts": {"asked": 0}})  # the chain was stopped
    write("costs/1/review.json", {"prompt_tokens": 270, "tokens": 54, "seconds": 1.0})
    assert LastRun.read().shares(7.0) == {"low": 1 / 3, "kept": 0.8, "seed": 0.1, "sft": 0.2, "pairs": 0.4}
    assert LastRun.read().shares(5.0)["low"] == 1 / 9
    assert LastRun.read().per_call("review") == (10, 2)
    review = walked()["review@1"]
    assert (review.read, review.written) == (10 * review.calls, 2 * review.calls)


# ---- what a model costs by its shape ---------------------------------------------------------------------------------

QWEN2_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
}  # fmt: skip
PARAMETERS = 7_615_616_512  # of Qwen2-7B, as its weights have them
MICRO = 931_712  # of the embedded default's model


@pytest.fixture
def qwen(tmp_path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(QWEN2_7B))
    return tmp_path


def pricing(settings: dict, folder: Path = ROOT / "stages/microworld/base", gpu: str = "l4", **texts) -> Pricing:
    values = merged(yaml.safe_load((ROOT / "params.yaml").read_text()), settings)
    values["model"]["name"] = str(folder)
    return Pricing(values, SimpleNamespace(**(vars(TEXTS) | texts)), GPUS[gpu], None)


def cost(settings: dict, stage: str, **work: int) -> Planned:
    found = Planned(stage, [], **work)
    pricing(settings).price(found)
    return found


def computing(stage: Planned) -> float:
    return stage.seconds - START[stage.stage.partition("@")[0]]


def test_qwen2_7b_has_its_published_parameters_and_bytes(qwen):
    shape = Shape(qwen)
    assert shape.parameters == PARAMETERS
    assert shape.parameters * 2 == pytest.approx(15.2e9, rel=0.01)
    assert shape.adapters * 16 == 40_370_176  # peft's of rank 16, on all linear layers
    prices = pricing({"model": {"dtype": "bfloat16"}}, qwen)
    assert prices.cache / prices.length == 2 * 28 * 4 * 128 * 2  # keys and values: 57 kB a token


def test_parameters_are_those_of_the_models_themselves(tiny_model, base):
    from safetensors import safe_open

    for folder in (tiny_model, base):
        with safe_open(folder / "model.safetensors", "pt") as weights:
            counted = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
        assert Shape(folder).parameters == counted


def test_adapters_are_those_of_peft(tiny_model):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), settings)
    trained = sum(each.numel() for each in adapted.parameters() if each.requires_grad)
    assert Shape(tiny_model).adapters * 4 == trained


def test_a_shape_without_its_optional_fields_has_the_usual_ones(qwen):
    optional = ("num_key_value_heads", "tie_word_embeddings")
    config = {name: value for name, value in QWEN2_7B.items() if name not in optional}
    (qwen / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    shape = Shape(qwen)
    assert shape.keys == 28 * 128  # a key for every head
    more_keys, biases = 2 * 3584 * 24 * 128, (28 + 2 * 4) * 128
    assert shape.parameters == PARAMETERS + 28 * (more_keys - biases)  # an output layer of its own


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_steps_gradients_and_optimiser_are_torchs(tiny_model, dtype):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=getattr(torch, dtype))
    optimiser = torch.optim.AdamW(model.parameters())
    tokens = torch.ones(1, 8, dtype=torch.long)
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimiser.step()
    parts = pricing({"model": {"dtype": dtype}}, tiny_model).training_memory("sft")
    assert parts["weights"] == sum(each.nbytes for each in model.parameters())
    assert parts["gradients"] == sum(each.grad.nbytes for each in model.parameters())
    states = (state[name] for state in optimiser.state.values() for name in ("exp_avg", "exp_avg_sq"))
    assert parts["optimiser"] == sum(each.nbytes for each in states)


def step(folder: Path, dtype: str, stage: str = "sft", rows: int = 1, **training) -> dict[str, float]:
    """Memory of a step over rows of 1,024 tokens."""
    runtime = {"rows_at_once": rows} | {name: training.pop(name) for name in list(training) if name in RUNTIME}
    settings = {"model": {"dtype": dtype}, "training": training, "runtime": {"training": runtime}}
    return pricing(settings, folder, to_review=500, review=12, to_answer=250, response=6).training_memory(stage)


RUNTIME = ("gradient_checkpointing", "precompute_reference")


def trained(parts: dict[str, float]) -> float:
    return parts["gradients"] + parts["optimiser"]


def test_the_memory_of_qwen2_7b_by_hand(qwen):
    full = step(qwen, "float32")
    assert full["weights"] + trained(full) == 16 * PARAMETERS  # 122 GB
    mixed = step(qwen, "float32", autocast="bfloat16")
    assert mixed["autocast copy"] == 2 * PARAMETERS
    assert mixed["activations"] == full["activations"] / 2
    half = step(qwen, "bfloat16")
    assert half["weights"] + trained(half) == 8 * PARAMETERS
    adapters = step(qwen, "bfloat16", lora={"rank": 16})
    assert trained(adapters) == 12 * 40_370_176
    assert sum(adapters.values()) < GPUS["a100-40"].memory < sum(half.values())


def test_gradient_checkpointing_and_fewer_rows_cost_less_memory_and_a_reference_more(qwen):
    whole = step(qwen, "bfloat16", rows=8)
    assert step(qwen, "bfloat16", rows=8, gradient_checkpointing=True)["activations"] < whole["activations"] / 5
    assert step(qwen, "bfloat16")["activations"] == whole["activations"] / 8
    pairs = step(qwen, "bfloat16", "dpo", rows=8)
    assert pairs["activations"] == whole["activations"]  # a pair of 512 tokens each
    assert pairs["reference"] == 2 * PARAMETERS
    assert step(qwen, "bfloat16", "dpo", precompute_reference=True)["reference"] == whole["reference"] == 0


@pytest.mark.parametrize(
    ("settings", "held"),
    [
        ({}, True),
        ({"training": {"lora": {"rank": 16}}}, False),  # the model without its adapters is the reference
        ({"training": {"lora": {"rank": 16}}, "dpo": {"reference": "warm_start"}}, False),  # a second adapter
        ({"dpo": {"reference": "warm_start"}, "runtime": {"training": {"precompute_reference": True}}}, False),
        ({"dpo": {"start": "base"}, "sft": {"enabled": False}, "average": 0.5}, True),  # no third model
    ],
)
def test_dpos_reference_is_counted_where_there_is_one(settings, held):
    computed_before = {**settings, "runtime": {"training": {"precompute_reference": True}}}
    beside, without = (cost(each, "dpo@1", trained=24_000).memory for each in (settings, computed_before))
    assert beside - without == pytest.approx(1.1 * 4 * MICRO if held else 0, abs=1)


def test_a_training_on_fewer_rows_at_once_and_with_checkpointing_takes_less_memory():
    def memory(**how) -> float:
        return cost({"runtime": {"training": how}}, "sft@1", trained=24_000).memory

    assert memory(rows_at_once=4) < memory(gradient_checkpointing=True) < memory()


def test_gpus_that_share_a_training_divide_its_time_and_by_sharding_its_weights():
    def training(**how) -> Planned:
        return cost({"sft": {"batch_size": 16}, "runtime": {"training": how}}, "sft@1", trained=24_000)

    alone, four = training(), training(processes=4)
    assert computing(four) == pytest.approx(computing(alone) / 4)
    assert four.memory < alone.memory  # fewer rows on each
    weights, gradients, optimiser = 4 * MICRO, 4 * MICRO, 8 * MICRO
    held = 0.75 * 1.1 * (weights + gradients + optimiser)
    assert four.memory - training(processes=4, sharding="fsdp").memory == pytest.approx(held, rel=1e-6)


def test_vllms_parallel_sizes_divide_the_time_and_a_models_weights():
    def reviews(engine: str = "auto", **sizes) -> Planned:
        settings = {"runtime": {"engine": engine, "vllm": sizes}}
        return cost(settings, "review@1", calls=1000, made=1000, read=40_000, written=20_000)

    one, cut, copies = reviews(), reviews(tensor_parallel_size=4), reviews(data_parallel_size=4)
    assert computing(cut) == pytest.approx(computing(copies))
    assert computing(cut) == pytest.approx(computing(one) / 4)
    assert cut.memory < copies.memory == one.memory
    assert reviews("transformers", data_parallel_size=4).seconds == reviews("transformers").seconds


def test_the_filter_costs_what_the_base_model_reads():
    much, little = cost({}, "filter@1", read=10**9), cost({}, "filter@1", read=10**8)
    assert computing(much) == pytest.approx(10 * computing(little))
    assert computing(much) > 2 * MICRO * 0.8 * 1e9 / (60e12 * 0.4)
    assert much.memory > 4 * MICRO


def test_the_time_of_qwen2_7b_by_hand(qwen):
    def price(stage: str, settings: dict, **work: int) -> float:
        planned = Planned(f"{stage}@1", [], **work)
        pricing({"model": {"dtype": "bfloat16"}, **settings}, qwen, "h100").price(planned)
        return computing(planned)

    # one completion alone reads all the weights for each token
    alone = price("review", {"runtime": {"batch_rows": 1}}, read=1, written=1000)
    least = 1000 * 2 * PARAMETERS / (GPUS["h100"].bandwidth * EFFICIENCY["decode"])
    assert alone == pytest.approx(least, rel=0.5)
    assert alone > least
    # 64 at once cost little more than one
    assert price("review", {"runtime": {"batch_rows": 64}}, read=64, written=64_000) < 2 * alone
    # 6 operations for each weight and token that is trained on
    full = price("sft", {}, trained=10**6)
    assert full == pytest.approx(6 * PARAMETERS * 1e6 / (989e12 * EFFICIENCY["train"]))
    frozen = price("sft", {"training": {"lora": {"rank": 16}}}, trained=10**6)
    assert frozen == pytest.approx(full * 2 / 3)
    again = price("sft", {"runtime": {"training": {"gradient_checkpointing": True}}}, trained=10**6)
    assert again == pytest.approx(full * 4 / 3)
    assert price("dpo", {}, trained=10**6) == pytest.approx(full * 4 / 3)


def test_the_last_runs_rate_comes_before_the_shape_unless_other_gpus_trained(empty):
    def seconds(processes: int, device: str = "GPU") -> float:
        write("costs/1/sft.json", {"seconds": 50.0, "tokens": 1000, "device": device, "devices": 2})
        prices = pricing({"runtime": {"training": {"processes": processes}}})
        prices.last = LastRun.read()
        planned = Planned("sft@1", [], trained=2000)
        prices.price(planned)
        return computing(planned)

    assert seconds(2) == seconds(1, "CPU") == pytest.approx(100)
    assert seconds(1) < 1  # by the shape of a small model on a GPU


def test_a_probe_of_the_model_comes_before_the_data_sheet():
    prices = pricing({"runtime": {"batch_rows": 10}}, computed={"review": 0.25})
    prices.speed = Speed(prefill=0.001, step=0.1, row=0.01, train=0.003)
    review = Planned("review@1", [], read=4000, written=500)
    prices.price(review)
    assert computing(review) == pytest.approx(4000 * 0.25 * 0.001 + 500 * (0.1 / 10 + 0.01))
    sft, dpo = Planned("sft@1", [], trained=1000), Planned("dpo@1", [], trained=1000)
    prices.price(sft)
    prices.price(dpo)
    assert computing(sft) == pytest.approx(1000 * 0.003)
    assert computing(dpo) == pytest.approx(1000 * 0.003 * 4 / 3)  # the reference reads forward once more


def test_a_probe_measures_reading_writing_and_training(base):
    speed = measure(base, conftest.RUNTIME)
    assert 0 < speed.prefill < speed.train < 0.1
    assert speed.row >= 0
    assert 0 < speed.step + speed.row < 1


def test_what_prompts_begin_with_in_common_is_computed_once_and_a_prompt_once_for_all_its_completions(monkeypatch):
    monkeypatch.chdir(ROOT)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params = merged(params, {"prompts": "lance", "samples": 4, "review": {"samples": 3}})
    texts = Texts(params)
    rubric = texts.to_review * (1 - 3 * texts.computed["review"])
    assert 500 < rubric < 700
    assert texts.computed["assess"] == texts.computed["review"]
    once = Texts(merged(params, {"review": {"samples": 1}, "samples": 1})).computed
    assert once["review"] == pytest.approx(3 * texts.computed["review"])
    assert once["generate"] == pytest.approx(4 * texts.computed["generate"])


def test_several_shots_make_the_prompt_of_a_new_instruction_longer(monkeypatch):
    monkeypatch.chdir(ROOT)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    one, three = (Texts(merged(params, {"generate": {"shots": shots}})).to_write for shots in (1, 3))
    assert three > 1.5 * one


def test_on_a_gpu_a_step_of_the_transformers_engine_waits_for_its_launches():
    def seconds(engine: str) -> float:
        prices, generate = pricing({"runtime": {"engine": engine}}), Planned("generate@1", [], read=1, written=10_000)
        prices.price(generate)
        return computing(generate)

    assert seconds("transformers") > 3 * seconds("auto")
    assert seconds("vllm") == seconds("auto")


@pytest.mark.parametrize(
    ("name", "gigabytes", "key"),
    [
        ("NVIDIA H200", 150, "h200"),
        ("NVIDIA H100 80GB HBM3", 85, "h100"),
        ("NVIDIA A100-SXM4-80GB", 85, "a100-80"),
        ("NVIDIA A100-PCIE-40GB", 42, "a100-40"),
        ("NVIDIA L4", 24, "l4"),
        ("NVIDIA L40S", 48, "l40s"),
        ("NVIDIA GeForce RTX 4090", 25, "rtx4090"),
        ("Tesla T4", 16, None),
    ],
)
def test_a_gpu_is_known_by_its_drivers_name(name, gigabytes, key):
    assert gpu_named(name, gigabytes * 1e9) == GPUS.get(key)


def test_this_machine_is_its_processor():
    device = this_machine()
    assert 1e9 < device.float32 == device.bfloat16 < 1e14
    assert device.memory > 1e9
