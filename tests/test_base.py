"""base: a model gets what it lacks for conversations, keeps what it has, and is refused in one line if unusable."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT, RUNTIME, Project, error_line
from safetensors.torch import load_file, save_file
from test_engines import GREEDY, PROMPTS, requests
from test_families import CHATML, FAMILIES, build
from test_training import ROWS, sft
from transformers import AutoTokenizer, GenerationConfig

from stages.base import materialise
from stages.core.errors import UserError
from stages.core.records import write
from stages.data.similarity import embed
from stages.evaluation import harness
from stages.inference.client import Client
from stages.inference.engines import Sampling
from stages.inference.engines.transformers import TransformersEngine
from stages.models import chat, chat_setup
from stages.models.fingerprint import has_custom_code
from stages.training.phase import Phase

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A family's folder as its maker published it."""
    folder = tmp_path_factory.mktemp("published")
    return lambda family: folder / family if (folder / family).is_dir() else build(family, folder / family)


def ends(folder: Path) -> list[str]:
    end_ids = GenerationConfig.from_pretrained(folder).eos_token_id
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer.convert_ids_to_tokens(end_ids if isinstance(end_ids, list) else [end_ids])


# ---- what a model lacks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "begin"), [("qwen3", ""), ("mistral", "<s>")])
def test_a_model_without_a_template_gets_chatml_behind_the_token_that_its_texts_begin_with(
    published, tmp_path, family, begin
):
    tokenizer = AutoTokenizer.from_pretrained(materialise(published(family), "float32", tmp_path / "base"))
    expected = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert chat.render(tokenizer, "Why?", "Be kind.") == begin + expected
    assert tokenizer.tokenize("a<|im_start|>b<|im_end|>")[1::2] == ["<|im_start|>", "<|im_end|>"]
    assert ends(tmp_path / "base") == ["<|im_end|>", *FAMILIES[family]["ends"]]
    assert tokenizer.eos_token == "<|im_end|>"


def test_the_markers_embeddings_are_near_the_mean_of_the_others_and_the_same_each_time(published, tmp_path):
    folders = [materialise(published("mistral"), "float32", tmp_path / name) for name in ("first", "second")]
    first, second = (folder / "model.safetensors" for folder in folders)
    assert first.read_bytes() == second.read_bytes()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = load_file(first)[name]
        old, new = rows[:-2], rows[-2:]
        assert torch.equal(old, load_file(published("mistral") / "model.safetensors")[name])
        spread = (old - old.mean(0)).norm(dim=1).mean()
        assert ((new - old.mean(0)).norm(dim=1) < 0.1 * spread).all()
    assert json.loads((first.parent / "config.json").read_text())["vocab_size"] == len(old) + 2


def test_more_rows_than_tokens_are_left_as_they_are(published, tmp_path):
    """Qwen's embeddings have spare rows."""
    source = tmp_path / "source"
    shutil.copytree(published("qwen2"), source)
    weights = load_file(source / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], torch.ones(8, 32)])
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 8}))
    written = load_file(materialise(source, "float32", tmp_path / "base") / "model.safetensors")
    assert all(torch.equal(values, written[name]) for name, values in weights.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_is_not_the_end(published, tmp_path, family):
    tokenizer = AutoTokenizer.from_pretrained(materialise(published(family), "float32", tmp_path / "base"))
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    config = json.loads((tmp_path / "base/config.json").read_text())
    assert tokenizer.pad_token_id == config["pad_token_id"] < config["vocab_size"]


@pytest.mark.parametrize("family", ["llama3", "gemma2", "phi3"])
def test_an_instruct_model_keeps_its_template_and_its_ends(published, tmp_path, family):
    tokenizer = AutoTokenizer.from_pretrained(materialise(published(family), "float32", tmp_path / "base"))
    assert tokenizer.chat_template.endswith(FAMILIES[family]["template"])
    assert (tokenizer.chat_template == FAMILIES[family]["template"]) == (family != "gemma2")
    assert tokenizer.eos_token == FAMILIES[family]["named"]["eos_token"]
    assert ends(tmp_path / "base") == FAMILIES[family]["ends"]


def test_a_template_that_leaves_the_system_prompt_out_gets_it_into_the_first_turn(published, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(published("qwen2"), source)
    quiet = CHATML.replace("{{ '<|im_start|>' +", "{% if message['role'] != 'system' %}{{ '<|im_start|>' +")
    quiet = quiet.replace("'<|im_end|>\n' }}", "'<|im_end|>\n' }}{% endif %}")
    (source / "chat_template.jinja").write_text(quiet)
    tokenizer = AutoTokenizer.from_pretrained(materialise(source, "float32", tmp_path / "base"))
    assert chat.render(tokenizer, "Why?", "Be kind.").startswith("<|im_start|>user\nBe kind.\n\nWhy?<|im_end|>")
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}] * 2
    conversation = [{"role": "system", "content": "Be kind."}, *messages]
    assert tokenizer.apply_chat_template(conversation, tokenize=False).count("Be kind.") == 1


def test_a_base_model_learns_to_end_its_turn_and_its_completions_are_not_cut(published, project):
    """Qwen2's base model has a template, and ends its texts with another token than its turn."""
    materialise(published("qwen2"), "float32", project.folder / "iterations/0/model")
    project.change({"sft": {"learning_rate": 0.01, "epochs": 80, "batch_size": 2}})
    write(project.folder / "iterations/1/sft.jsonl", ROWS[:2])
    assert sft(project).returncode == 0
    trained, base = project.folder / "iterations/1/sft", project.folder / "iterations/0/model"
    assert ends(trained) == ends(base) == ["<|im_end|>", "<|endoftext|>"]
    pads = {AutoTokenizer.from_pretrained(folder).pad_token for folder in (trained, base)}
    assert pads == {"<|endoftext|>"}, "as published: it is no end that is learnt"
    engine = TransformersEngine(trained, 8)
    pending = requests(engine, [row["prompt"] for row in ROWS[:2]], 1)
    completions = dict(engine.complete(pending, GREEDY))
    assert [completions[request].text for request in pending] == [row["completion"] for row in ROWS[:2]]
    assert {completion.finish for completion in completions.values()} == {"stop"}
    engine.ends = {engine.tokenizer.convert_tokens_to_ids("<|endoftext|>")}  # as it was published
    assert {completion.finish for completion in dict(engine.complete(pending, GREEDY)).values()} == {"length"}


def test_a_temperature_without_sampling_which_transformers_reads_but_does_not_write_is_no_obstacle(source, tmp_path):
    path = source / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_sample": False, "temperature": 0.6}))
    config = GenerationConfig.from_pretrained(materialise(source, "float32", tmp_path / "base"))
    assert (config.do_sample, config.temperature) == (True, 0.6)


def test_evaluation_generates_what_the_engine_does_whatever_penalty_the_model_brings(published, tmp_path):
    """As Qwen2's instruct model has one: vLLM and our engine ask without."""
    from lm_eval.api.instance import Instance

    base = materialise(published("gemma3"), "float32", tmp_path / "base")
    path = base / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "repetition_penalty": 9.0}))
    engine, (lm, _) = TransformersEngine(base, 8), harness._transformers(base, None)
    for request, completion in engine.complete(requests(engine, PROMPTS[:4], 1), GREEDY):
        arguments = (request.prompt, {"until": [], "do_sample": False, "max_gen_toks": GREEDY.max_tokens})
        instance = Instance(request_type="generate_until", doc={}, arguments=arguments, idx=0)
        assert lm.generate_until([instance], disable_tqdm=True) == [completion.text]


# ---- what cannot be used ---------------------------------------------------------------------------------------------


def refusal(source: Path, tmp_path: Path) -> str:
    with pytest.raises(UserError) as error:
        materialise(source, "float32", tmp_path / "base")
    assert str(source) in str(error.value)
    assert not (tmp_path / "base").exists()
    return str(error.value)


def edited(source: Path, **changes: object) -> None:
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.fixture
def source(published, tmp_path) -> Path:
    shutil.copytree(published("qwen2"), tmp_path / "source")
    return tmp_path / "source"


def test_an_unknown_architecture_is_refused(source, tmp_path):
    edited(source, model_type="abacus", architectures=["AbacusForCausalLM"])
    assert "abacus" in refusal(source, tmp_path)


def test_weights_that_are_not_there_are_not_made_up(source, tmp_path):
    """transformers would draw them at random."""
    weights = load_file(source / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    assert "its weights lack model.layers.1.mlp.up_proj.weight" in refusal(source, tmp_path)


def test_weights_that_are_not_finite_are_refused(source, tmp_path):
    weights = load_file(source / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    assert "model.norm.weight are not finite in float32" in refusal(source, tmp_path)


def test_pickled_weights_are_not_loaded(source, tmp_path):
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    assert "model.safetensors" in refusal(source, tmp_path)


def test_a_model_without_a_tokenizer_is_refused(source, tmp_path):
    for path in source.glob("*token*"):
        path.unlink()
    assert "tokenizer" in refusal(source, tmp_path)


def test_a_template_without_an_end_of_the_turn_is_refused(source, tmp_path):
    (source / "chat_template.jinja").write_text(CHATML.replace("<|im_end|>", ""))
    assert "no special token, so no completion would end; add one to the template" in refusal(source, tmp_path)


# ---- code of its own -------------------------------------------------------------------------------------------------

CODE = {
    "configuration_own.py": "from transformers import Qwen2Config\n\n\n"
    "class OwnConfig(Qwen2Config):\n    model_type = 'own'\n",
    "modeling_own.py": "from transformers import Qwen2ForCausalLM, Qwen2Model\n\n"
    "from .configuration_own import OwnConfig\n\n\n"
    "class OwnModel(Qwen2Model):\n    config_class = OwnConfig\n\n\n"
    "class OwnForCausalLM(Qwen2ForCausalLM):\n    config_class = OwnConfig\n",
}


@pytest.fixture
def with_code(source) -> Path:
    for name, text in CODE.items():
        (source / name).write_text(text)
    classes = {"AutoModel": "modeling_own.OwnModel", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    edited(source, model_type="own", auto_map={"AutoConfig": "configuration_own.OwnConfig", **classes})
    return source


def test_code_of_the_models_own_is_not_run_unasked(with_code, tmp_path):
    (with_code / "modeling_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "read that code and set model.trust_remote_code: true" in refusal(with_code, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_trusted_code_travels_with_the_model(with_code, tmp_path, monkeypatch):
    base = materialise(with_code, "float32", tmp_path / "base", trust=True)
    assert {path.name for path in base.glob("*.py")} >= set(CODE)
    training = {"lora": None, "autocast": None, "four_bit": False}
    policy, tokenizer = Phase("sft", "sft", base, base, tmp_path / "next", {}, training, 0, RUNTIME).load()
    assert type(policy).__name__ == "OwnForCausalLM"
    assert embed(["Why?"], base).shape == (1, policy.config.hidden_size)
    policy.save_pretrained(tmp_path / "next")  # as SFT and DPO save it
    tokenizer.save_pretrained(tmp_path / "next")
    assert has_custom_code(tmp_path / "next")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    client = Client(tmp_path / "next", "review@1", 0.0, RUNTIME)
    assert client.complete("review@1", ["Why?"], "", 1, Sampling(0, 1.0, 4, 0))[0][0].tokens


def test_a_model_that_cannot_be_used_ends_the_stage_with_one_line(project: Project, source):
    (source / "config.json").unlink()
    project.change({"model": {"name": str(source)}})
    assert "is not a model folder (it has no config.json)" in error_line(project.stage("stages.base"))
    (source / "config.json").write_text("{}")
    assert f"model {source}: it cannot be loaded" in error_line(project.stage("stages.base"))


def test_a_context_without_a_length_says_where_to_write_it():
    from transformers import MambaConfig, Qwen2Config

    assert chat.context_length(Qwen2Config(max_position_embeddings=64)) == 64
    with pytest.raises(UserError, match=r"config\.json has no max_position_embeddings"):
        chat.context_length(MambaConfig())


def test_a_model_of_several_parts_has_its_texts_context():
    from transformers import Gemma3Config, Gemma3TextConfig

    assert chat.context_length(Gemma3Config(text_config=Gemma3TextConfig(max_position_embeddings=77))) == 77


def test_a_template_that_does_not_know_the_system_role_is_found():
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "stages/microworld/base")
    assert chat_setup.accepts_system_prompt(tokenizer)
    tokenizer.chat_template = FAMILIES["gemma2"]["template"]
    assert not chat_setup.accepts_system_prompt(tokenizer)
