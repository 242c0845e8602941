"""dataset and promote: other libraries read the files as they are, and the cards state where everything comes from."""

import json
import math
import shutil

import pytest
import yaml
from conftest import ROOT, Project, error_line
from test_report import iteration, score, warm_start

from stages.core.params import Params
from stages.core.prompts import read_system_prompt
from stages.core.records import read, write, write_json
from stages.reporting.card import base_name

TREE = {
    "1": {"parent": "0", "judge": "0", "writer": "0"},
    "2": {"parent": "1", "judge": "0", "writer": "1"},
    "b": {"parent": "1", "judge": "1", "writer": "1"},
}
RIGHT = {"0": 2, "1": 4, "2": 7, "b": 5}  # of ten items of each part
ASK, NEW = "Name a colour.", "Name a dark colour."
UNDECISIVE = {"runtime", "alarms", "report"}  # sections of params.yaml that affect no result
DRAW = {"prompt_hash": "f00", "draw": 1}
LINEAGE = {"seed": "s1", "instruction": DRAW, "response": DRAW, "score": 9.0, "verdicts": [9.0, None]}

ORIGIN = {"iteration": "0", "lineage": {"seed": "s1"}}
PEOPLE = [{"id": "s1", "kind": "seed", "prompt": ASK, "completion": "is red", **ORIGIN}]
REVIEWED = {"iteration": "0", "lineage": {"reviewed": "r"}}
JUDGE = [{"id": "j1", "kind": "judge", "prompt": "Rate it.", "completion": "score: 9", **REVIEWED}]


def new(name, made_in):
    return {"id": name, "kind": "new", "prompt": NEW, "completion": name, "iteration": made_in, "lineage": LINEAGE}


def pair(name, made_in, chosen=LINEAGE):
    flawed = {"seed": "s1", "response": DRAW, "score": 2.0, "verdicts": []}  # the seed's own instruction
    sides = {"prompt": ASK, "chosen": "is red", "rejected": name}
    return {"id": name, **sides, "margin": 7.0, "iteration": made_in, "lineage": {"chosen": chosen, "rejected": flawed}}


SFT = {
    "0": PEOPLE + JUDGE,
    "1": [new("n1", "1"), *JUDGE],
    "2": [new("n1", "1"), new("n2", "2"), *JUDGE],  # as with select.accumulate
    "b": [new("elsewhere", "b")],
}
PAIRS = {
    "0": [],
    "1": [pair("p1", "1", chosen={"seed": "s1", "score": 9.0, "verdicts": [9.0]})],
    "2": [pair("p2", "2")],
    "b": [pair("elsewhere", "b")],
}
SEED = [
    {"id": "s1", "prompt": ASK, "response": "is red", "iteration": "0", "score": None},
    {
        "id": "n2", "prompt": NEW, "response": "n2", "iteration": "2", "score": 9.0, "judge": "0", "verdicts": [9.0],
        "lineage": {"seed": "s1", "instruction": DRAW, "response": DRAW},
    },
]  # fmt: skip


def results(project: Project, key: str, right: int) -> None:
    """Write what the stages of an iteration write to results/."""
    here, row = project.folder / "results" / key, warm_start() if key == "0" else iteration()
    parts = ("validation", "test")
    items = [
        {"id": f"{part}{n}", "group": f"{part}{n}", "benchmark": "colours", "part": part, "score": float(n < right)}
        for part in parts
        for n in range(10)
    ]
    write(here / "scores.jsonl", items)
    percent = score(10.0 * right) | {"items": 10}
    suite = {**percent, "benchmarks": {"colours": percent}}
    write_json(here / "evaluate.json", {**dict.fromkeys(parts, suite), "judging": score(90.0)})
    for stage in ("prepare", "review", "generate", "filter", "assess", "select", "sft", "dpo", "measure"):
        write_json(here / f"{stage}.json", row.get(stage, {}))


def made(project: Project, tree: dict = TREE, right: dict = RIGHT) -> Project:
    """A project whose loop has ended; `promote`, `dataset` and `report` have not run."""
    project.change({"iterations": tree, "prompts": "lance"})
    for key in ("0", *tree):
        results(project, key, right[key])
        here = project.folder / "iterations" / key
        for name, rows in (("sft", SFT[key]), ("pairs", PAIRS[key]), ("seed", SEED if key != "0" else SEED[:1])):
            write(here / f"{name}.jsonl", rows)
        shutil.copytree(ROOT / "stages/microworld/base", here / "model")
    return project


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Project:
    project = made(Project(tmp_path_factory.mktemp("run") / "project"))
    for stage in ("stages.promote", "stages.dataset"):
        result = project.stage(stage)
        assert result.returncode == 0, result.stderr
    return project


def rows(project, name):
    return read(project.folder / "dataset" / f"{name}.jsonl", dict)


# ---- the rows --------------------------------------------------------------------------------------------------------


def test_the_rows_are_those_of_the_best_iteration_and_its_ancestors_each_once(run):
    assert json.loads(run.read("best/iteration.json"))["iteration"] == "2"
    assert {row["id"]: row["iterations"] for row in rows(run, "sft")} == {
        "n2": ["2"], "n1": ["1", "2"], "s1": ["0"], "j1": ["0", "1", "2"],
    }  # fmt: skip
    assert {row["id"]: row["iterations"] for row in rows(run, "preference")} == {"p2": ["2"], "p1": ["1"]}
    assert {row["id"] for row in rows(run, "seed")} == {"s1", "n2"}


def test_every_row_leads_back_to_its_seed(run):
    seeds = {row["id"] for row in rows(run, "seed") if row["iteration"] == "0"}
    taught = [row["lineage"] for row in rows(run, "sft") if row["kind"] != "judge"]
    preferred = [side for row in rows(run, "preference") for side in row["lineage"].values()]
    assert {lineage["seed"] for lineage in (*taught, *preferred)} == seeds
    (n2,) = (row for row in rows(run, "sft") if row["id"] == "n2")
    assert n2["lineage"] == LINEAGE


def test_messages_and_text_are_the_same_and_the_system_prompt_is_that_of_training(run):

    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(ROOT)
        system_prompt = read_system_prompt("lance")
    assert system_prompt
    for row in rows(run, "preference"):
        assert row["prompt"] == [
            {"role": "system", "content": system_prompt},
            {"role": "user", "content": row["instruction"]},
        ]
        for side in ("chosen", "rejected"):
            assert row[side] == [{"role": "assistant", "content": row[f"{side}_response"]}]


# ---- the readers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded(run, tmp_path_factory):
    """Loads a set with Hugging Face datasets."""
    from datasets import load_dataset

    cache = str(tmp_path_factory.mktemp("cache"))

    def load(name):
        return load_dataset(str(run.folder / "dataset"), name, split="train", cache_dir=cache)

    return load


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "preference", "seed"])
def test_datasets_reads_every_set_with_null_for_what_its_rows_lack(run, loaded, name):
    assert loaded(name).to_list() == rows(run, name)


@pytest.mark.slow
def test_trl_trains_on_the_sets_as_they_are(loaded, tiny_model, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for trainer_class, config_class, name in ((SFTTrainer, SFTConfig, "sft"), (DPOTrainer, DPOConfig, "preference")):
        settings = {"max_steps": 1, "bf16": False, "use_cpu": True, "report_to": "none", "save_strategy": "no"}
        trainer = trainer_class(
            model=AutoModelForCausalLM.from_pretrained(tiny_model),
            args=config_class(output_dir=str(tmp_path / name), logging_steps=1, **settings),
            train_dataset=loaded(name),
            processing_class=tokenizer,
        )
        trainer.train()
        assert math.isfinite(trainer.state.log_history[0]["loss"])
        if name == "sft":  # the chat format, with the loss on the completion
            first = trainer.train_dataset[0]
            assert tokenizer.decode(first["input_ids"]).count("n2") == 1
            assert tokenizer.decode([label for label in first["labels"] if label != -100]).startswith("n2")


# What LLaMA-Factory's data/README.md documents for its default format, `alpaca`.
DOCUMENTED = {"prompt", "query", "response", "history", "system", "tools", "chosen", "rejected", "kto_tag"}


def test_every_column_described_for_llama_factory_holds_text(run):
    described = json.loads(run.read("dataset/dataset_info.json"))
    assert {name: entry["file_name"] for name, entry in described.items()} == {
        name: f"{name}.jsonl" for name in ("sft", "preference", "seed")
    }
    for name, entry in described.items():
        columns = entry["columns"]
        assert set(columns) <= DOCUMENTED
        answers = {"chosen", "rejected"} if entry.get("ranking") else {"response"}
        assert {"prompt"} | answers <= set(columns)
        for row in rows(run, name):
            assert all(isinstance(row[column], str) for column in columns.values())


def test_a_set_without_rows_is_left_out_and_the_others_load(project, tmp_path):
    from datasets import load_dataset

    made(project, {"1": TREE["1"]}, right={"0": 2, "1": 2})  # the warm start itself is best
    result = project.stage("stages.dataset")
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (project.folder / "dataset").iterdir()} == {
        "README.md", "dataset_info.json", "seed.jsonl", "sft.jsonl",
    }  # fmt: skip
    read_back = load_dataset(str(project.folder / "dataset"), "seed", split="train", cache_dir=str(tmp_path / "cache"))
    assert read_back["score"] == [None]


# ---- the cards -------------------------------------------------------------------------------------------------------


def test_the_model_card_states_base_data_scores_gain_and_choice(run):
    from huggingface_hub import ModelCard

    card = ModelCard.load(run.folder / "best/README.md")
    assert card.data.library_name == "transformers"
    assert card.data.model_name == "microworld-lance-2"
    assert [result.metric_value for result in card.data.eval_results] == [
        70.0,
        70.0,
    ]  # numbers, as the hub's schema has it
    assert card.data.eval_results[0].metric_name == "percent, with a standard error of 3.0 on 10 items"
    text = card.text
    assert "Iteration 2 is best on validation: test +50.0 [" in text
    assert "- Gain over iteration 0, the warm start, on the test items: +50.0 [" in text
    assert "- Base model: `stages/microworld/base`, in float32." in text
    assert "- Seed set: `stages/microworld/data/seeds.jsonl`, 9 rows" in text
    assert "the best of all iterations on the 10 validation items of the suite `micro`" in text
    assert "| 2 | 1 | 0 | 70.0 ± 3.0 | +50.0 [" in text
    written = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert written == {name: value for name, value in run.params.items() if name not in UNDECISIVE}


def test_the_data_sets_card_documents_every_column(run):
    from datasets import get_dataset_config_names
    from huggingface_hub import DatasetCard

    assert get_dataset_config_names(str(run.folder / "dataset")) == ["sft", "preference", "seed"]
    text = DatasetCard.load(run.folder / "dataset/README.md").text
    assert "| `sft` | 4 |" in text
    columns, lineage = text.split("## Columns")[1].split("The fields of the lineage")
    for name in ("sft", "preference", "seed"):
        row = rows(run, name)[0]
        assert all(f"`{column}`" in columns for column in row)
        fields = row["lineage"] if name != "preference" else row["lineage"]["chosen"]
        assert all(f"`{field}`" in lineage for field in fields)


def test_the_same_results_give_the_same_bytes(run):
    def contents():
        files = [path for folder in ("best", "dataset") for path in (run.folder / folder).iterdir()]
        return {path: path.read_bytes() for path in files}

    before = contents()
    for stage in ("promote", "dataset"):
        shutil.rmtree(run.folder / {"promote": "best"}.get(stage, stage))
        assert run.stage(f"stages.{stage}").returncode == 0
    assert contents() == before


def test_folders_of_a_removed_iteration_are_reported(tmp_path):
    """Other clones lack them, and promote, dataset and report depend on the folders around them."""
    project = made(Project(tmp_path / "project"))
    assert "has no iteration for" not in project.run("python", "-m", "stages.promote").stdout
    shutil.copytree(project.folder / "iterations/1", project.folder / "iterations/b3")
    line = project.run("python", "-m", "stages.promote").stdout.splitlines()[0]
    assert line == ("promote: params.yaml has no iteration for iterations/b3; remove them, or clones rerun this stage")


def test_the_cards_stages_declare_every_parameter_that_affects_a_result():
    sections = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert set(stages["promote"]["params"]) == set(sections) - UNDECISIVE
    assert stages["dataset"]["params"] == stages["promote"]["params"]


def test_the_front_matter_names_a_base_model_only_if_it_is_on_the_hub(run, tmp_path):
    """The hub refuses a card whose base_model is a folder."""
    assert "base_model:" not in run.read("best/README.md")
    project = made(Project(tmp_path / "project"))
    project.change({"model": {"hub": {"id": "Qwen/Qwen2-7B", "revision": "0" * 40}}})
    project.run("python", "-m", "stages.promote")
    assert "base_model: Qwen/Qwen2-7B\n" in project.read("best/README.md")
    assert f"Base model: `Qwen/Qwen2-7B@{'0' * 40}`" in project.read("best/README.md")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("stages/microworld/base", "microworld"), ("/models/Qwen2-7B", "Qwen2-7B"), ("base", "base"),
        ("runs/tuned/model/", "tuned"),
    ],
)  # fmt: skip
def test_the_base_models_name_is_its_folders_or_the_parents_if_that_is_generic(folder, name):
    assert base_name(Params("promote", ["model"], {"model": {"hub": None, "name": folder}})) == name


def test_without_results_the_missing_file_is_named(project):
    for stage in ("stages.promote", "stages.dataset"):
        assert "results/0/evaluate.json is missing; run dvc repro" in error_line(project.stage(stage))


def test_a_lineage_has_the_seeds_that_were_shown_where_several_are(tmp_path):
    from datasets import load_dataset

    project = made(Project(tmp_path / "project"))
    project.change({"generate": {"shots": 3}})
    path = project.folder / "iterations/2/sft.jsonl"
    several = {"id": "n9", "lineage": LINEAGE | {"shots": ["s7", "s8"]}}
    own = {"id": "n8", "kind": "own", "lineage": {"seed": "s1", "response": DRAW}}
    rows = read(path, dict)
    new = next(row for row in rows if row["kind"] == "new")
    write(path, [*rows, new | several, new | own])
    result = project.stage("stages.dataset")
    assert result.returncode == 0, result.stderr
    folder = str(project.folder / "dataset")
    found = {row["id"]: row for row in load_dataset(folder, "sft", split="train", cache_dir=str(tmp_path / "cache"))}
    assert {key: row["lineage"]["shots"] for key, row in found.items() if key in ("n8", "n9")} == {
        "n8": None, "n9": ["s7", "s8"],
    }  # fmt: skip
    assert found["n8"]["kind"] == "own"
    assert "| `shots` | `id`s of the other seeds" in (project.folder / "dataset/README.md").read_text()
