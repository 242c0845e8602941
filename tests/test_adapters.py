"""Adapters: small outs that belong to the base, merged where full weights are needed, by content and never twice."""

import json
import shutil
import subprocess
from contextlib import chdir

import pytest
import torch
from conftest import ROOT, RUNTIME, command_line

from stages.core.errors import UserError
from stages.models import adapters
from stages.models.fingerprint import BASE, digest

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}
TRAINING = {"lora": LORA, "autocast": None, "four_bit": False}


def folder_with_adapter(tmp_path, tiny_model, name="here"):
    """A folder with a base model, and an adapter in `model` that changes its predictions."""
    folder = tmp_path / name
    shutil.copytree(tiny_model, folder / BASE)
    with chdir(folder):
        adapter(folder / "model", state=1)
    return folder


def adapter(out, state):
    """A new adapter of the base model, whose weights depend on `state`."""
    from transformers import AutoTokenizer

    model = adapters.load_trainable(BASE, TRAINING, 0)
    torch.manual_seed(state)
    for name, values in model.named_parameters():
        if "lora_B" in name:
            values.data.normal_(std=0.3)
    adapters.save(model, out, None)
    AutoTokenizer.from_pretrained(BASE).save_pretrained(out)


@pytest.fixture
def here(tmp_path, tiny_model):
    folder = folder_with_adapter(tmp_path, tiny_model)
    with chdir(folder):
        yield folder


def test_a_folder_with_whole_weights_is_taken_as_it_is(here):
    assert adapters.full_weights(BASE) == BASE
    assert not (here / ".dvc").exists()


def test_an_adapter_is_small_and_says_nothing_of_where_it_was_made(here, tmp_path, tiny_model):
    assert {path.name for path in (here / "model").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    other = folder_with_adapter(tmp_path, tiny_model, "there")
    for path in (here / "model").iterdir():
        assert path.read_bytes() == (other / "model" / path.name).read_bytes(), path.name
        assert str(tmp_path) not in path.read_text(encoding="latin-1")


def test_merged_weights_compute_what_the_base_with_the_adapter_does(here):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tokens = torch.tensor([[5, 6, 7, 8]])
    base = AutoModelForCausalLM.from_pretrained(BASE)
    alone = base(tokens).logits
    both = PeftModel.from_pretrained(base, here / "model")(tokens).logits
    merged = AutoModelForCausalLM.from_pretrained(adapters.full_weights(here / "model"))(tokens).logits
    torch.testing.assert_close(merged, both)
    assert not torch.allclose(merged, alone, atol=1e-3)


def test_a_merged_model_is_found_by_the_content_of_base_and_adapter(here, tmp_path, tiny_model):
    merged = adapters.full_weights(here / "model")
    assert merged == here / ".dvc/merged" / digest(here / "model")
    made = (merged / "model.safetensors").stat().st_mtime_ns
    shutil.copytree(here / "model", here / "same")
    assert adapters.full_weights(here / "same") == merged
    assert (merged / "model.safetensors").stat().st_mtime_ns == made

    other = folder_with_adapter(tmp_path, tiny_model, "there")
    with chdir(other):
        assert digest(other / "model") == merged.name  # the same in another place
        config = other / BASE / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 256}))
        assert digest(other / "model") != merged.name  # over another base, another model


def test_what_a_killed_merge_left_is_made_anew(here):
    half = here / ".dvc/merged/half"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_text("torn")
    merged = adapters.full_weights(here / "model")
    assert {path.name for path in merged.iterdir()} == {path.name for path in (here / BASE).iterdir()}
    assert not half.exists()


PRINT_FULL_WEIGHTS = (
    "import sys; from pathlib import Path; from stages.models.adapters import full_weights; "
    "print(full_weights(Path(sys.argv[1])))"
)


def process(here, program, *arguments, **pipes):
    command = command_line("python", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}", *arguments)
    return subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **pipes)


@pytest.mark.slow
def test_two_processes_merge_once(here):
    both = [process(here, PRINT_FULL_WEIGHTS, "model") for _ in range(2)]
    outputs = [merging.communicate() for merging in both]
    assert [merging.returncode for merging in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0] == f"{here / '.dvc/merged' / digest(here / 'model')}\n"
    assert [path.name for path in (here / ".dvc/merged").iterdir() if path.is_dir()] == [digest(here / "model")]


@pytest.mark.slow
def test_only_the_last_merged_models_stay_and_those_that_a_process_reads(here):
    """The first one is read by another process, the second by none."""
    reader = process(
        here, f"{PRINT_FULL_WEIGHTS}; sys.stdout.flush(); sys.stdin.read()", "model", stdin=subprocess.PIPE
    )
    read = reader.stdout.readline().strip()
    keys = []
    for state in range(2, 3 + adapters.KEPT):
        adapter(here / f"model{state}", state)
        done = process(here, PRINT_FULL_WEIGHTS, f"model{state}")
        assert done.wait() == 0, done.stderr.read()
        keys.append(digest(here / f"model{state}"))
    kept = {path.name for path in (here / ".dvc/merged").iterdir() if path.is_dir()}
    reader.communicate("")
    assert kept == {read.rsplit("/", 1)[-1], *keys[-adapters.KEPT :]}
    assert len(keys) == adapters.KEPT + 1


def test_an_adapter_that_does_not_fit_the_base_is_named(here):
    path = here / "model/adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"model folder .*model cannot be merged with iterations/0/base"):
        adapters.full_weights(here / "model")


def test_whole_weights_that_are_not_the_base_have_no_adapter_to_go_on_from(here):
    shutil.copytree(BASE, here / "trained")
    (here / "trained/generation_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"trained has full weights, but with training\.lora it must hold an adapter"):
        adapters.load_trainable(here / "trained", TRAINING, 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the message is that of a machine without a GPU")
def test_four_bits_need_a_gpu(here):
    with pytest.raises(UserError, match=r"training\.four_bit needs a GPU, and this machine has none; set it to false"):
        adapters.load_trainable(BASE, TRAINING | {"four_bit": True}, 0)


def test_completions_of_an_adapter_are_those_of_the_merged_model_under_the_adapters_key(here):
    from stages.inference.client import Client
    from stages.inference.engines import Sampling

    shutil.copy(ROOT / "params.yaml", here)
    call = (["Which is larger, 3 or 5?"], "", 2, Sampling(1.0, 1.0, 8, 0))
    shutil.copytree(adapters.full_weights(here / "model"), here / "merged")
    one, other = (Client(here / name, "review@1", 0.5, RUNTIME) for name in ("model", "merged"))
    texts = [[draw.text for draw in draws] for draws in one.complete("review@1", *call)]
    assert texts == [[draw.text for draw in draws] for draws in other.complete("review@1", *call)]
    assert set(one.completions).isdisjoint(other.completions)
    shutil.rmtree(here / ".dvc/merged")
    again = Client(here / "model", "review@1", 0.5, RUNTIME)
    again.complete("review@1", *call)
    assert not (here / ".dvc/merged").exists()  # all was in the store, so nothing was merged
