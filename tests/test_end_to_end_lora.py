"""The whole loop through dvc with LoRA: only adapters in the outs, whole weights in best/, the same bytes again."""

import json
import shutil

import pytest
from conftest import SMALL, Project, merged, ran

pytestmark = pytest.mark.slow

LORA = {
    "training": {"lora": {"rank": 4, "alpha": 64, "dropout": 0.0}},
    "dpo": {"reference": "warm_start"},
    "review": {"max_unparsed": 1.0},
}


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("adapted") / "project", merged(SMALL, LORA))
    project.output = project.run("dvc", "repro")
    return project


def size(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_models_of_the_iterations_are_small_adapters(adapted):
    iterations = adapted.folder / "iterations"
    for model in ("0/model", "1/sft", "1/model"):
        assert (iterations / model / "adapter_model.safetensors").exists()
        assert not (iterations / model / "model.safetensors").exists()
        assert size(iterations / model) < 0.1 * size(iterations / "0/base")


def test_the_best_model_has_whole_weights_that_are_the_base_and_its_adapter(adapted):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    best = json.loads(adapted.read("best/iteration.json"))["iteration"]
    promoted = AutoModelForCausalLM.from_pretrained(adapted.folder / "best")
    base = AutoModelForCausalLM.from_pretrained(adapted.folder / "iterations/0/base")
    both = PeftModel.from_pretrained(base, adapted.folder / "iterations" / best / "model").merge_and_unload()
    for one, other in zip(promoted.parameters(), both.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_second_run_does_nothing_and_the_same_training_gives_the_same_bytes(adapted):
    assert ran(adapted.run("dvc", "repro").stdout) == []
    before = (adapted.folder / "iterations/1/model/adapter_model.safetensors").read_bytes()
    shutil.rmtree(adapted.folder / ".dvc/merged")  # which may be deleted at any time
    again = adapted.run("dvc", "repro", "-f", "-s", "--no-run-cache", "sft@1", "dpo@1", "evaluate@1")
    assert set(ran(again.stdout)) >= {"sft@1", "dpo@1", "evaluate@1"}
    assert (adapted.folder / "iterations/1/model/adapter_model.safetensors").read_bytes() == before
    assert set(ran(adapted.run("dvc", "repro").stdout)) <= {"report"}  # since the costs differ
