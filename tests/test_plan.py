"""The plan: every reason is told, what it finds in the store is what the stage finds, and it leaves no trace."""

import json
import re
import shutil
import sqlite3
from contextlib import chdir

import pytest
import yaml
from conftest import ROOT, SMALL, Project, error_line, merged, ran
from test_pipeline import END, TABLE, done, iterations  # noqa: F401

from stages.planning import estimate
from stages.planning.changes import changes
from stages.planning.estimate import GPUS, Shape
from stages.planning.forecast import SHARES, Forecast, Work
from stages.planning.last_run import Last, shares
from stages.planning.pricing import Pricing
from stages.planning.texts import Texts

# ---- what reruns and why ---------------------------------------------------------------------------------------------


@pytest.fixture
def at(done):  # noqa: F811
    """The changes of a project that DVC takes for completely run, and back to that afterwards."""
    done.run("git", "add", "-A", "-f", "params.yaml", "dvc.lock", "prompts", "stages", "evaluation", "another.jsonl")
    done.run("git", "commit", "-qm", "ran", "--allow-empty")

    def found() -> dict:
        with chdir(done.folder):
            return changes()

    found.project = done
    assert found() == {}
    yield found
    done.run("git", "checkout", "-q", ".")
    done.run("dvc", "checkout", "-q", "--force")


def told(change) -> list[str]:
    return [str(reason) for reason in change.reasons]


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
    assert told(found["generate@1"])[0] == "threshold: 7.0 → 6.5"
    assert told(found["review@1"]) == ["review.shuffled: false → true"]


def test_an_edited_prompt_or_code_is_told_by_its_kind(at):
    with (at.project.folder / "prompts/micro/generate/flawed.md").open("a") as prompt:
        prompt.write("Be brief.\n")
    assert told(at()["generate@1"]) == ["prompt prompts/micro/generate changed"]
    with (at.project.folder / "stages/data/similarity.py").open("a") as code:
        code.write("# edited\n")
    assert "code stages/data/similarity.py changed" in told(at()["filter@1"])


def test_an_edit_of_what_a_stage_makes_is_undone_by_it_and_nothing_follows(at):
    with (at.project.folder / "stages/microworld/data/seeds.jsonl").open("a") as seeds:
        seeds.write('{"prompt": "Why?", "response": "Because."}\n')
    found = at()
    assert {name: told(change) for name, change in found.items()} == {
        "world": ["out stages/microworld/data is modified"]
    }


def test_what_only_follows_is_at_most(at):
    at.project.change({"threshold": 6.5})
    found = at()
    assert told(found["filter@1"]) == ["follows generate@1"]
    assert found["filter@1"].at_most
    assert not found["generate@1"].at_most
    assert not found["generate@2"].at_most  # it has the parameter itself
    assert "review@1" not in found


def test_an_appended_iteration_never_ran_and_the_others_stay(at):
    tree = at.project.params["iterations"]
    at.project.change({"iterations": tree | {"4": {"parent": 3, "judge": 0}}})
    found = at()
    assert set(found) == {"check"} | END | iterations("4")
    assert {str(reason) for name in iterations("4") for reason in found[name].reasons} == {"never ran"}
    assert "iterations.4: (not there) → {parent: 3, judge: 0}" in told(found["report"])


def test_a_branch_never_ran_and_shares_its_ancestors(at):
    tree = at.project.params["iterations"]
    at.project.change({"iterations": tree | {"b2": {"parent": "1", "judge": "1"}}})
    assert set(at()) == {"check"} | END | iterations("b2")


def test_another_judge_is_told_as_the_iterations_parameter(at):
    tree = at.project.params["iterations"]
    at.project.change({"iterations": tree | {"3": {"parent": "2", "judge": "2"}}})
    found = at()
    assert told(found["review@3"]) == ["iterations.3.judge: 0 → 2"]
    assert not {name for name in found if name.endswith(("@1", "@2"))}


def test_a_deleted_out_comes_from_dvcs_cache_and_nothing_follows(at):
    (at.project.folder / "iterations/1/review.jsonl").unlink()
    found = at()
    assert told(found["review@1"]) == ["out iterations/1/review.jsonl is deleted"]
    assert found["review@1"].restored
    assert set(found) == {"review@1"}


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
        assert not found["filter@2"].restored
    finally:
        out.write_bytes(content)
        shutil.copy(out, kept)


def test_a_fresh_clone_has_never_run_but_has_its_base_model(project):
    with chdir(project.folder):
        found = changes()
    assert {str(reason) for change in found.values() for reason in change.reasons} == {"never ran"}
    assert {"check", "prepare", "sft-0", "report"} | iterations("1", "2", "3") <= set(found)
    assert not {"world", "pretrain"} & set(found)


# ---- the command -----------------------------------------------------------------------------------------------------


def plan(project: Project, *arguments: str) -> dict:
    return json.loads(project.run("lance", "plan", "--json", *arguments).stdout)


def stage(found: dict, name: str) -> dict:
    return next(each for each in found["stages"] if each["stage"] == name)


@pytest.mark.parametrize("change", [{"threshold": 11}, {"seed": {"path": "nowhere.jsonl"}}, {"iterations": {}}])
def test_an_invalid_parameter_is_the_same_line_as_in_check(project, change):
    project.change(change)
    assert error_line(project.attempt("lance", "plan")) == error_line(project.stage("stages.check"))


def test_a_fresh_clones_plan_rests_on_the_parameters(project):
    found = plan(project)
    review = stage(found, "review@1")
    settings = project.params["review"]
    assert review["calls"] == project.params["seed"]["limit"] * settings["samples"]
    assert review["stored"] == 0
    assert review["basis"] == {"work": "estimate: parameters", "seconds": "shape"}
    assert found["total"] == found["least"]
    assert found["total"]["made"] == sum(each["calls"] for each in found["stages"])
    assert not (project.folder / ".dvc/completions.sqlite").exists()
    text = project.run("lance", "plan").stdout
    assert "never ran" in text
    assert f"{len(found['stages'])} stages" in text


def test_a_foreign_model_needs_only_its_config_and_a_gpu_that_is_too_small_is_told(project):
    (project.folder / "qwen").mkdir()
    (project.folder / "qwen/config.json").write_text(json.dumps(QWEN2_7B))
    project.change({"model": {"name": "qwen", "dtype": "bfloat16"}, "prompts": "lance"})
    found = plan(project, "--gpu", "a100-40")
    assert found["device"] == "a100-40"
    assert stage(found, "base")["disk"] == 2 * 7_615_616_512
    assert found["total"]["memory"]["peak"] > 4 * 2 * 7_615_616_512  # weights, gradients and AdamW's two numbers
    assert any("a100-40 has 40.0 GB" in note for note in found["notes"])
    faster = plan(project, "--gpu", "h100")
    assert faster["total"]["hours"] < found["total"]["hours"]


def test_a_config_that_is_no_such_decoder_is_one_line(project):
    (project.folder / "other").mkdir()
    (project.folder / "other/config.json").write_text('{"model_type": "gpt2", "n_layer": 12}')
    project.change({"model": {"name": "other"}})
    assert "other/config.json: 'num_attention_heads' cannot be read" in error_line(project.attempt("lance", "plan"))


@pytest.mark.parametrize(
    ("settings", "held"),
    [
        ({}, True),
        ({"training": {"lora": {"rank": 16}}}, False),  # the model without its adapters is the reference
        ({"training": {"lora": {"rank": 16}}, "dpo": {"reference": "warm_start"}}, False),  # a second adapter
        ({"dpo": {"reference": "warm_start"}, "runtime": {"training": {"precompute_reference": True}}}, False),
    ],
)
def test_dpos_reference_is_counted_where_there_is_one(settings, held):
    work = Work(rows=400, trained=24_000)
    price = pricing(settings).price("dpo@1", work)
    without = pricing(settings | {"runtime": {"training": {"precompute_reference": True}}}).price("dpo@1", work)
    assert price.memory - without.memory == pytest.approx(1.1 * 4 * 931_712 if held else 0, abs=1)


def test_a_training_on_fewer_rows_at_once_and_with_checkpointing_takes_less_memory():
    work = Work(rows=400, trained=24_000)

    def memory(**how) -> float:
        return pricing({"runtime": {"training": how}}).price("sft@1", work).memory

    assert memory(rows_at_once=4) < memory(gradient_checkpointing=True) < memory()


def test_gpus_that_share_a_training_divide_its_time_and_by_sharding_its_weights():
    work = Work(rows=400, trained=24_000)

    def price(**how):
        return pricing({"sft": {"batch_size": 16}, "runtime": {"training": how}}).price("sft@1", work)

    alone, four = price(), price(processes=4)
    assert four.seconds == pytest.approx(alone.seconds / 4)
    assert four.memory < alone.memory  # fewer rows on each
    weights, gradients, optimiser = 4 * 931_712, 4 * 931_712, 8 * 931_712
    held = 0.75 * 1.1 * (weights + gradients + optimiser)
    assert four.memory - price(processes=4, sharding="fsdp").memory == pytest.approx(held, rel=1e-6)


def test_vllms_parallel_sizes_divide_the_time_and_a_models_weights():
    work = Work(calls=1000, read=40_000, written=20_000)
    one, cut = (
        pricing({"runtime": {"vllm": {"tensor_parallel_size": size}}}).price("review@1", work) for size in (1, 4)
    )
    copies = pricing({"runtime": {"vllm": {"data_parallel_size": 4}}}).price("review@1", work)
    other = pricing({"runtime": {"engine": "transformers", "vllm": {"data_parallel_size": 4}}})
    assert cut.seconds == copies.seconds == pytest.approx(one.seconds / 4)
    assert cut.memory < copies.memory == one.memory
    assert other.price("review@1", work).seconds == one.seconds


def test_the_filter_costs_what_the_base_model_reads():
    price = pricing({}).price("filter@1", Work(embedded=1e9))
    assert price.seconds == pytest.approx(pricing({}).price("filter@1", Work(embedded=1e8)).seconds * 10)
    assert price.seconds > 2 * 931_712 * 0.8 * 1e9 / (60e12 * 0.4)
    assert price.memory > 4 * 931_712


def pricing(settings: dict) -> Pricing:
    values = merged(yaml.safe_load((ROOT / "params.yaml").read_text()), settings)
    values["model"]["name"] = str(ROOT / "stages/microworld/base")
    return Pricing(values, TEXTS, Last({}, {}), GPUS["l4"], measured=False, pretrained=False)


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
    ],
)
def test_what_the_plan_finds_in_the_store_is_what_the_stage_finds(after, name, change):
    after.change(change)
    planned = stage(plan(after), name)
    stored, asked = served(after.run("dvc", "repro", "--no-run-cache", "--single-item", name).stdout)
    assert planned["basis"]["work"].startswith("looked up")
    assert planned["stored"] == stored
    if name == "generate@1" and planned["basis"]["work"] != "looked up":
        assert planned["calls"] == pytest.approx(asked, rel=0.1)
    elif "estimator" not in change.get("review", {}):  # `expected` asks for more where a verdict may go on
        assert planned["calls"] == asked


@pytest.mark.slow
def test_an_evaluations_questions_are_found_in_the_store(after):
    after.change({"evaluate": {"limit": 3}})
    first = stage(plan(after), "evaluate-0")
    assert first["basis"]["work"] == "looked up"
    assert 0 < first["calls"] == first["stored"]
    after.change({"evaluate": {"limit": 6}})
    more = stage(plan(after), "evaluate-0")
    assert more["calls"] > more["stored"] == 4 / 3 * first["stored"]  # it ran with a limit of 4


@pytest.mark.slow
def test_an_edited_seed_file_is_told_as_data(after):
    with (after.folder / "mine.jsonl").open("a") as seeds:
        seeds.write('{"prompt": "Why?", "response": "Because."}\n')
    reasons = stage(plan(after), "prepare")["reasons"]
    assert reasons == [{"kind": "data", "what": "mine.jsonl changed", "old": None, "new": None}]


@pytest.mark.slow
def test_a_change_that_changes_no_route_makes_no_call(after):
    after.change({"threshold": 7.02})
    found = stage(plan(after), "generate@1")
    assert found["calls"] == found["stored"] > 0


@pytest.mark.slow
def test_back_to_what_ran_before_comes_from_dvcs_cache(after):
    after.change({"threshold": 7.03})
    after.run("dvc", "repro", "generate@1")
    after.change({"threshold": 7.0})
    assert stage(plan(after), "generate@1")["restored"]
    assert "'generate@1' is cached - skipping run" in after.run("dvc", "repro", "generate@1").stdout


@pytest.mark.slow
def test_what_follows_a_restored_stage_whose_outs_differ_is_listed(after):
    """assess@1 has not judged what a threshold of 3 lets through, although filter@1 has seen it."""
    for threshold, last in ((3.0, "filter@1"), (7.0, "assess@1")):
        after.change({"threshold": threshold})
        after.run("dvc", "repro", last)
    after.change({"threshold": 3.0})
    found = plan(after)
    assert stage(found, "generate@1")["restored"]
    assert stage(found, "filter@1")["restored"]
    assert not stage(found, "assess@1")["restored"]
    assert stage(found, "assess@1")["reasons"][0]["what"] == "iterations/1/filtered.jsonl changed"
    assert ran(after.run("dvc", "repro", "assess@1").stdout) == ["assess@1"]


@pytest.mark.slow
def test_the_plan_leaves_no_trace(after):
    after.change({"review": {"samples": 3}, "threshold": 5.0})
    before = traces(after)
    plan(after)
    after.run("lance", "plan")
    assert traces(after) == before


def traces(project: Project) -> dict:
    """Every file outside dvc's own temporary ones, and how often and when the stored completions were used."""
    paths = (path for path in project.folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    files = {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in paths
        if not path.is_relative_to(project.folder / ".dvc/tmp") and ".git" not in path.parts
    }
    db = sqlite3.connect(f"file:{project.folder}/.dvc/completions.sqlite?immutable=1", uri=True)
    used = db.execute("SELECT key, served, used FROM completions ORDER BY key").fetchall()
    db.close()
    return {"files": files, "used": used}


# ---- rows and tokens -------------------------------------------------------------------------------------------------

TEXTS = Texts(10, 5, 20, 40, 30, 30, 15, seeds=100, judge=20)


def walked(last: Last, changed: dict, **params) -> dict[str, Work]:
    values = yaml.safe_load((ROOT / "params.yaml").read_text()) | params
    return Forecast(values, changed, {}, last, TEXTS, 50).walk()


class Ran:
    """A change of which only the forecast's questions matter."""

    restored, ready, at_most = False, False, False


ONE = {"1": {"parent": "0", "judge": "0"}}
STAGES = ("review", "generate", "filter", "assess", "select", "sft", "dpo", "evaluate")
ALL = {name: Ran() for name in ("prepare", "sft-0", "evaluate-0", *(f"{each}@1" for each in STAGES))}


def test_rows_are_followed_through_the_loop_by_the_parameters():
    work = walked(Last({"0": {}, "1": {}}, {"0": {}, "1": {}}), ALL, iterations=ONE)
    assert work["review@1"].calls == 100 * 3
    low, high, draws = 50, 50, 4
    assert work["generate@1"].calls == low * draws + low * draws * draws + high * draws
    kept = SHARES["kept"] * (low * draws * draws + high * draws)
    assert work["filter@1"].embedded == (100 + low * draws) * 10
    assert work["assess@1"].calls == pytest.approx(kept * 3)
    assert work["sft@1"].rows == pytest.approx(SHARES["sft"] * kept + 20)
    assert work["sft-0"].trained == (100 * (15 + 5) + 20 * (40 + 20)) * 2  # epochs
    assert work["evaluate@1"].calls == 50


def test_bounds_hold():
    settings = {"max_low": 3, "max_high": 2, "temperature": 1.0, "top_p": 1.0, "max_tokens": 48}
    work = walked(Last({"0": {}, "1": {}}, {"0": {}, "1": {}}), ALL, iterations=ONE, generate=settings)
    assert work["generate@1"].calls == 3 * 4 + 3 * 4 * 4 + 2 * 4


def test_the_last_runs_shares_come_before_the_assumed_ones():
    tally = {"in": 10, "out": 9, "dropped": {"unreadable": 1}}
    results = {
        "review": {"rows": tally, "scores": {"nearest": [1, 0, 0, 0, 0, 0, 2, 0, 0, 6, 0]}},
        "generate": {"new_instructions": tally, "responses": tally, "flawed_responses": {**tally, "out": 5}},
    }
    assert shares(results, 7.0) == {
        "unscored": 0.1, "low": 1 / 3, "instructions": 0.9, "responses": 0.9, "flawed": 0.5,
    }  # fmt: skip
    assert shares(results, 5.0)["low"] == 1 / 9
    assert shares({}, 7.0) == {}


# ---- the shape of a model --------------------------------------------------------------------------------------------

QWEN2_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
}  # fmt: skip
QWEN = estimate.shape(QWEN2_7B)
PARAMETERS = 7_615_616_512  # of Qwen2-7B, as its weights have them


def test_qwen2_7b_has_its_published_parameters_and_bytes():
    assert estimate.parameters(QWEN) == PARAMETERS
    assert estimate.parameters(QWEN) * 2 == pytest.approx(15.2e9, rel=0.01)
    assert estimate.cache_bytes(QWEN, 2) == 2 * 28 * 4 * 128 * 2  # 57 kB a token
    assert estimate.lora_parameters(QWEN, 16) == 40_370_176  # peft's, on all linear layers


def test_parameters_are_those_of_the_models_themselves(tiny_model, base):
    from safetensors import safe_open

    for folder in (tiny_model, base):
        shape = estimate.shape(json.loads((folder / "config.json").read_text()))
        with safe_open(folder / "model.safetensors", "pt") as weights:
            counted = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
        assert estimate.parameters(shape) == counted


def test_adapters_are_those_of_peft(tiny_model):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    shape = estimate.shape(json.loads((tiny_model / "config.json").read_text()))
    settings = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), settings)
    trained = sum(each.numel() for each in adapted.parameters() if each.requires_grad)
    assert estimate.lora_parameters(shape, 4) == trained


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_steps_gradients_and_optimiser_are_torchs(tiny_model, dtype):
    import torch
    from transformers import AutoModelForCausalLM

    shape = estimate.shape(json.loads((tiny_model / "config.json").read_text()))
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=getattr(torch, dtype))
    optimiser = torch.optim.AdamW(model.parameters())
    tokens = torch.ones(1, 8, dtype=torch.long)
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimiser.step()
    parts = estimate.training_memory(shape, dtype, 1, 8)
    assert parts["weights"] == sum(each.nbytes for each in model.parameters())
    assert parts["gradients"] == sum(each.grad.nbytes for each in model.parameters())
    states = (state[name] for state in optimiser.state.values() for name in ("exp_avg", "exp_avg_sq"))
    assert parts["optimiser"] == sum(each.nbytes for each in states)


def test_the_memory_of_qwen2_7b_by_hand():
    full = estimate.training_memory(QWEN, "float32", 1, 1024)
    assert full["weights"] + full["gradients"] + full["optimiser"] == 16 * PARAMETERS  # 122 GB
    mixed = estimate.training_memory(QWEN, "float32", 1, 1024, autocast="bfloat16")
    assert mixed["autocast copy"] == 2 * PARAMETERS
    assert mixed["activations"] == full["activations"] / 2
    half = estimate.training_memory(QWEN, "bfloat16", 1, 1024)
    assert half["weights"] + half["gradients"] + half["optimiser"] == 8 * PARAMETERS
    adapters = estimate.training_memory(QWEN, "bfloat16", 1, 1024, lora_rank=16)
    assert adapters["gradients"] + adapters["optimiser"] == 12 * 40_370_176
    assert estimate.total(adapters) < GPUS["a100-40"].memory < estimate.total(half)


def test_gradient_checkpointing_and_fewer_rows_cost_less_memory_and_a_reference_more():
    def step(rows=8, **how):
        return estimate.training_memory(QWEN, "bfloat16", rows, 1024, **how)

    assert step(gradient_checkpointing=True)["activations"] < step()["activations"] / 5
    assert step(rows=1)["activations"] == step()["activations"] / 8
    assert step(preference=True)["activations"] == 2 * step()["activations"]
    assert step(preference=True, reference=True)["reference"] == 2 * PARAMETERS
    assert step(preference=True)["reference"] == 0


def test_the_time_of_qwen2_7b_by_hand():
    h100 = GPUS["h100"]
    # one completion alone reads all the weights for each token
    alone = estimate.completion_seconds(QWEN, "bfloat16", h100, read=1, written=1000, calls=1, rows=1)
    least = 1000 * 2 * PARAMETERS / (h100.bandwidth * estimate.EFFICIENCY["write"])
    assert alone == pytest.approx(least, rel=0.5)
    assert alone > least
    # 64 at once cost little more than one
    many = estimate.completion_seconds(QWEN, "bfloat16", h100, read=64, written=64_000, calls=64, rows=64)
    assert many < 2 * alone
    # 6 operations for each weight and token that is trained on
    trained = estimate.training_seconds(QWEN, "bfloat16", h100, tokens=1e6, length=1)
    embedding = 152064 * 3584
    by_hand = 6 * (PARAMETERS - embedding) * 1e6 / (989e12 * estimate.EFFICIENCY["train"])
    assert trained == pytest.approx(by_hand, rel=0.01)
    frozen = estimate.training_seconds(QWEN, "bfloat16", h100, tokens=1e6, length=1, lora_rank=16)
    assert frozen == pytest.approx(trained * 2 / 3)
    again = estimate.training_seconds(QWEN, "bfloat16", h100, tokens=1e6, length=1, gradient_checkpointing=True)
    assert again == pytest.approx(trained * 10 / 9)
    referred = estimate.training_seconds(QWEN, "bfloat16", h100, tokens=1e6, length=1, reference_tokens=1e6)
    assert referred == pytest.approx(trained * 4 / 3)


def test_a_shape_without_its_optional_fields_has_the_usual_ones():
    config = {
        name: value for name, value in QWEN2_7B.items() if name not in ("num_key_value_heads", "tie_word_embeddings")
    }
    assert estimate.shape(config | {"model_type": "llama"}) == Shape(
        28, 3584, 18944, 28, 28, 128, 152064, False, False, 131072
    )


def test_this_machine_is_measured():
    device = estimate.this_machine()
    assert 1e9 < device.flops["float32"] < 1e14
    assert 1e9 < device.bandwidth < 1e13
