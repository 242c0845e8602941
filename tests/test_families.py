"""The families that people use, as tiny random models: each passes the whole loop, and its chat format is the same in
generation, training and evaluation. tests/families.yaml describes the families."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import trl
import yaml
from conftest import ROOT, RUNTIME, SMALL, Project, merged
from test_engines import GREEDY, PROMPTS, SAMPLED, reference, requests, running_rows
from test_training import PAIRS, ROWS, weights
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from stages.base import materialise
from stages.core.records import Tally
from stages.evaluation import harness
from stages.inference.engines.transformers import TransformersEngine
from stages.models import chat

pytestmark = pytest.mark.slow

PUBLISHED = yaml.safe_load((ROOT / "tests/families.yaml").read_text(encoding="utf-8"))
FAMILIES: dict[str, dict[str, Any]] = PUBLISHED["families"]
TRL_TEMPLATES = Path(trl.__file__).parent / "chat_templates"
CHATML: str = PUBLISHED["templates"]["chatml"]
SLIDING = [name for name, family in FAMILIES.items() if "sliding_window" in family.get("config", {})]
SYSTEM = "Be kind."


# ---- the models ------------------------------------------------------------------------------------------------------


def build(name: str, folder: Path, layers: int = 2) -> Path:
    """Write a family's tiny random model into `folder`, as its maker would have published it."""
    family = FAMILIES[name]
    tokenizer = build_tokenizer(family)
    model = build_model(family, tokenizer, layers)
    ends = tokenizer.convert_tokens_to_ids(family["ends"])
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends if len(ends) > 1 else ends[0]
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_model(family: dict[str, Any], tokenizer: Any, layers: int) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    suffix = "TextConfig" if family["model"] == "Gemma3" else "Config"
    config = getattr(transformers, f"{family['model']}{suffix}")(**{
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id, **family.get("config", {}),
    })  # fmt: skip
    model = getattr(transformers, f"{family['model']}ForCausalLM")(config)
    for parameter, values in model.named_parameters():  # the layers outweigh the last token: greedy texts differ
        if values.ndim == 2:
            torch.nn.init.normal_(values, std=0.05 if "embed_tokens" in parameter else 0.5)
    digits = [number for token, number in tokenizer.get_vocab().items() if token.isdigit()]
    with torch.no_grad():
        model.get_output_embeddings().weight[digits] *= 2  # it writes many numbers, so its reviews have verdicts
    return model


def build_tokenizer(family: dict[str, Any]) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE of the microworld's texts, with a family's special tokens and chat template."""
    special = list(dict.fromkeys([*family["named"].values(), *family.get("others", [])]))
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    rows = [json.loads(line) for line in (ROOT / "stages/microworld/data/seeds.jsonl").read_text().splitlines()]
    bpe.train_from_iterator((f"{row['prompt']}\n{row['response']}" for row in rows), trainer)
    if bos := family["named"].get("bos_token"):
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, bpe.token_to_id(bos))]
        )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, **family["named"])
    tokenizer.add_tokens(family.get("plain", []))
    tokenizer.chat_template = template_of(family)
    return tokenizer


def template_of(family: dict[str, Any]) -> str | None:
    """A family's chat template, which may be a file of trl's."""
    template = family.get("template")
    return (TRL_TEMPLATES / template["trl"]).read_text(encoding="utf-8") if isinstance(template, dict) else template


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(family, tmp_path_factory) -> Path:
    """A family's model as its maker published it, after the stage `base`."""
    folder = tmp_path_factory.mktemp(family)
    return materialise(build(family, folder / "published"), "float32", folder / "base")


@pytest.fixture(scope="module")
def engine(model) -> TransformersEngine:
    return TransformersEngine(model, 64)


# ---- generation ------------------------------------------------------------------------------------------------------


def generated(engine: TransformersEngine, tokens: tuple[int, ...]) -> list[int]:
    out = reference(engine).generate(torch.tensor([tokens]), max_new_tokens=GREEDY.max_tokens, do_sample=False)
    return out[0, len(tokens) :].tolist()


@torch.inference_mode()
def written_without_a_cache(engine: TransformersEngine, tokens: tuple[int, ...]) -> list[int]:
    """The likeliest token each time that the model has read everything again."""
    found: list[int] = []
    while len(found) < GREEDY.max_tokens and not set(found) & engine.ends:
        found.append(int(reference(engine)(torch.tensor([[*tokens, *found]]), use_cache=False).logits[0, -1].argmax()))
    return found


def test_greedy_completions_are_those_of_the_model_itself(family, engine):
    """Of `generate`, but where longrope changes to its long factors: there transformers 5.17 loses what it has read."""
    expected = written_without_a_cache if family == "phi3-longrope" else generated
    found = dict(engine.complete(requests(engine, draws=1), GREEDY))
    assert len({completion.text for completion in found.values()}) > len(found) / 4
    for asked, completion in found.items():
        text = engine.tokenizer.decode(expected(engine, asked.tokens), skip_special_tokens=True)
        assert completion.text == text


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_neither_the_batch_nor_the_order_changes_a_completion(engine, sampling):
    asked = requests(engine)
    found = []
    for engine.batch_rows in (1, 5, 64):
        shuffled = random.Random(engine.batch_rows).sample(asked, len(asked))
        found.append(dict(engine.complete(shuffled, sampling)))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("family", ["phi3-longrope"], indirect=True, scope="module")
def test_rows_run_together_below_the_length_at_which_they_would_matter_to_each_other(family, engine, monkeypatch):
    rows = running_rows(engine, monkeypatch)
    asked = requests(engine)
    short = [request for request in asked if len(request.tokens) + GREEDY.max_tokens <= 32]
    assert 10 <= len(short) < len(asked)
    engine.batch_rows = 64
    together = dict(engine.complete(short, GREEDY))
    assert max(rows) == len(short)
    rows.clear()
    alone = dict(engine.complete(asked, GREEDY))
    assert max(rows) == 1
    assert together.items() <= alone.items()


@pytest.mark.parametrize("family", SLIDING, indirect=True, scope="module")
def test_the_prompts_above_are_longer_than_the_window(family, model):
    """With a window as long as the context, the completions are others."""
    engine, full = (TransformersEngine(model, 64) for _ in range(2))
    full.config.sliding_window = None
    for layer in full.model.model.layers:
        layer.self_attn.sliding_window = None
    asked = requests(engine, draws=1)
    assert dict(engine.complete(asked, GREEDY)) != dict(full.complete(asked, GREEDY))


# ---- the chat format -------------------------------------------------------------------------------------------------


def test_the_system_prompt_reaches_the_model_alike_in_generation_training_and_evaluation(engine, model, tmp_path):
    prompt = PROMPTS[0]
    text = chat.render(engine.tokenizer, prompt, SYSTEM)
    tokens = engine.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert SYSTEM in text
    assert text.index(SYSTEM) < text.index(prompt)

    lm, _ = harness._transformers(model, None)
    asked = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]
    assert lm.tok_encode(lm.apply_chat_template(asked)) == tokens
    assert lm.tok_batch_encode([text])[0].tolist() == [tokens]

    trained = trained_rows(model, prompt, tmp_path)
    for name, completion in (("sft", ROWS[0]["completion"]), ("dpo", PAIRS[0]["chosen"])):
        assert trained[name]["prompt_ids"] == tokens
        learnt = trained[name]["completion_ids"]
        until_end = learnt[: next(index for index, token in enumerate(learnt) if token in engine.ends)]
        assert engine.tokenizer.decode(until_end) == completion


def trained_rows(model: Path, prompt: str, folder: Path) -> dict[str, dict]:
    """What trl reads of one row: its prompt's and its completion's tokens."""
    from datasets import Dataset
    from trl import DPOConfig, SFTConfig, SFTTrainer

    from stages import dpo, sft
    from stages.training import preference
    from stages.training.phase import Phase

    whole = {"lora": None, "autocast": None, "four_bit": False}
    settings = {"learning_rate": 1e-4, "epochs": 1, "batch_size": 1}
    phase = Phase("sft", "sft", model, model, folder, settings, whole, 0, RUNTIME)
    policy, tokenizer = phase.load()
    row, pair = {**ROWS[0], "prompt": prompt}, {**PAIRS[0], "prompt": prompt}
    tally = Tally(1)
    common = phase.trainer_settings(folder, 512, 1)
    chats = Dataset.from_list(sft.chats_of([row], tokenizer, SYSTEM, 512, tally))
    args = SFTConfig(**common, completion_only_loss=True)
    (read,) = SFTTrainer(policy, args, train_dataset=chats, processing_class=tokenizer).train_dataset
    ids = read["input_ids"]
    start = read["labels"].count(-100)
    assert read["labels"] == [-100] * start + ids[start:]
    pairs = Dataset.from_list(preference.weighted(dpo.chats_of([pair], tokenizer, SYSTEM, 512, tally), "none"))
    (other,) = preference.dpo_trainer({})(
        policy, args=DPOConfig(**common), train_dataset=pairs, processing_class=tokenizer
    ).train_dataset
    return {
        "sft": {"prompt_ids": ids[:start], "completion_ids": ids[start:]},
        "dpo": {"prompt_ids": other["prompt_ids"], "completion_ids": other["chosen_ids"]},
    }


def test_no_token_of_the_chat_format_comes_from_the_data(engine):
    """Not even one that the tokenizer does not name among its special tokens, as Llama 3 does."""
    structure = {number: str(token) for number, token in engine.tokenizer.added_tokens_decoder.items() if token.special}
    (said,) = chat.prompt_messages(engine.tokenizer, "".join(structure.values()))
    assert not structure.keys() & set(engine.tokenizer(said["content"], add_special_tokens=False)["input_ids"])


# ---- the whole loop --------------------------------------------------------------------------------------------------

# A random model's answer is whatever it writes.
READ = {
    "generate/answers.yaml": "".join(f"{kind}: ''\n" for kind in ("instruction", "flawed", "response")),
    "system.md": f"{SYSTEM}\n",
}
TINY = {
    "prompts": "any",
    "model": {"name": "published"},
    "threshold": 4.0,
    "samples": 3,
    "seed": {"limit": 24},
    "review": {"samples": 1, "temperature": 4.0, "top_p": 1.0, "max_tokens": 24, "max_unparsed": 1.0},
    "generate": {"max_low": 12, "max_high": 12, "temperature": 4.0, "max_tokens": 24},
    "filter": {
        "min_instruction_words": 0,
        "max_instruction_rouge_l": 1.0,
        "max_response_rouge_l": 1.0,
        "max_cosine": 1.0,
    },
    "select": {"min_sft_score": 1.0, "min_margin": 0.0, "max_sft": 8, "max_pairs": 8, "max_judge": 0},
    "evaluate": {"limit": 2},
}
LOOP = ["qwen2", "qwen3", "qwen3-instruct", "llama3", "mistral", "gemma3", "phi3"]


# Every stage of dvc.yaml in its order; a process for each would spend nearly all of its time on imports.
LOOP_IN_ONE_PROCESS = """
import re
import sys
from importlib import import_module
from dvc.repo import Repo
from networkx import topological_sort
from stages.core.command import run
from stages.core.verdict import Verdict

# A random model's verdict is the last digit that it writes.
Verdict.total = lambda rule, review: next((float(digit) for digit in re.findall(r"\\d", review)[::-1]), None)

with Repo() as repo:
    commands = [stage.cmd for stage in topological_sort(repo.index.graph.reverse())]
for command in commands:
    _, _, module, *arguments = command.split()
    if module not in ("stages.world", "stages.pretrain"):
        sys.argv = [module, *arguments]
        run(import_module(module).main)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    project = Project(tmp_path_factory.mktemp("loop") / "project", merged(SMALL, TINY))
    shutil.copytree(project.folder / "prompts/micro", project.folder / "prompts/any")
    for name, text in READ.items():
        (project.folder / "prompts/any" / name).write_text(text)
    return project


@pytest.mark.parametrize("family", LOOP)
def test_a_family_passes_the_whole_loop(family, project):
    shutil.rmtree(project.folder / "published", ignore_errors=True)
    build(family, project.folder / "published")
    every_eighth_token_ends_a_completion(project.folder / "published/generation_config.json")
    shutil.rmtree(project.folder / "iterations", ignore_errors=True)
    project.run("python", "-c", LOOP_IN_ONE_PROCESS)
    results = {stage: json.loads(project.read(f"results/1/{stage}.json")) for stage in ("generate", "sft", "dpo")}
    assert results["generate"]["seed"]["low"]
    assert results["generate"]["seed"]["high"]
    assert results["sft"]["steps"]
    assert results["dpo"]["steps"]
    made = [weights(project, f"iterations/{model}") for model in ("0/base", "0/model", "1/sft", "1/model")]
    assert len(set(made)) == len(made)
    assert (project.folder / "best/model.safetensors").is_file()


def every_eighth_token_ends_a_completion(path: Path) -> None:
    """A random model would not end its texts by itself."""
    config = json.loads(path.read_text())
    ends = config["eos_token_id"] if isinstance(config["eos_token_id"], list) else [config["eos_token_id"]]
    path.write_text(json.dumps({**config, "eos_token_id": [*ends, *range(300, 600, 8)]}))
