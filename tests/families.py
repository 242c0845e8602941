"""Tiny random models of common families, with special tokens and chat templates like the real ones."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from conftest import ROOT
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (  # refuses a system prompt
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<start_of_turn>' + message['role'] | replace('assistant', 'model') + '\n' + message['content'] | trim "
    "+ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
WINDOW = 16  # tokens: less than a prompt, so that sliding attention slides
GEMMA_TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}

# by family: the class, what differs in its config, named special tokens, other ones, chat template, stop tokens
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {  # a base model with a template, whose text ends otherwise than its turn
        "model": "Qwen2",
        "named": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        "others": ["<|im_start|>", "<|im_end|>"],
        "template": CHATML,
        "ends": ["<|endoftext|>"],
    },
    "qwen2-sliding": {
        "model": "Qwen2",
        "config": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
        "named": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        "others": ["<|im_start|>"],
        "template": CHATML,
        "ends": ["<|im_end|>", "<|endoftext|>"],
    },
    "qwen3": {  # a base model without a template
        "model": "Qwen3",
        "config": {"head_dim": 16},
        "named": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        "ends": ["<|endoftext|>"],
    },
    "llama3": {  # no padding token
        "model": "Llama",
        "config": {"rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 256,
        }},
        "named": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        "others": ["<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"],
        "template": LLAMA3,
        "ends": ["<|end_of_text|>", "<|eot_id|>"],
    },
    "mistral": {  # a base model without a template, that begins each text with a token
        "model": "Mistral",
        "config": {"sliding_window": WINDOW},
        "named": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        "ends": ["</s>"],
    },
    "gemma2": {
        "model": "Gemma2",
        "config": {"sliding_window": WINDOW, "head_dim": 16, "query_pre_attn_scalar": 16},
        "named": GEMMA_TOKENS,
        "others": ["<start_of_turn>", "<end_of_turn>"],
        "template": GEMMA,
        "ends": ["<eos>", "<end_of_turn>"],
    },
    "gemma3": {
        "model": "Gemma3",
        "config": {"sliding_window": WINDOW, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window_pattern": 2},
        "named": GEMMA_TOKENS,
        "others": ["<start_of_turn>", "<end_of_turn>"],
        "template": GEMMA,
        "ends": ["<eos>", "<end_of_turn>"],
    },
    "phi3": {
        "model": "Phi3",
        "config": {"sliding_window": WINDOW},
        "named": {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"},
        "others": ["<|assistant|>", "<|system|>", "<|user|>", "<|end|>"],
        "template": PHI3,
        "ends": ["<|endoftext|>", "<|end|>"],
    },
    "phi3-longrope": {  # other position embeddings above 32 tokens, which some completions reach
        "model": "Phi3",
        "config": {"original_max_position_embeddings": 32, "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 32,
            "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
        }},
        "named": {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"},
        "others": ["<|assistant|>", "<|system|>", "<|user|>", "<|end|>"],
        "template": PHI3,
        "ends": ["<|endoftext|>", "<|end|>"],
    },
}  # fmt: skip


def build(family: str, folder: Path, layers: int = 2) -> Path:
    """Write a family's model to a folder, as its maker would have published it."""
    description = FAMILIES[family]
    tokenizer = tokenizer_of(description)
    torch.manual_seed(0)
    suffix = "TextConfig" if description["model"] == "Gemma3" else "Config"
    config = getattr(transformers, f"{description['model']}{suffix}")(**{
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id, **description.get("config", {}),
    })  # fmt: skip
    model = getattr(transformers, f"{description['model']}ForCausalLM")(config)
    for name, weights in model.named_parameters():  # the layers speak louder than the last token: greedy texts differ
        if weights.ndim == 2:
            torch.nn.init.normal_(weights, std=0.05 if "embed_tokens" in name else 0.5)
    digits = [number for token, number in tokenizer.get_vocab().items() if token.isdigit()]
    with torch.no_grad():
        model.get_output_embeddings().weight[digits] *= 2  # it writes many numbers, and so has verdicts
    ends = tokenizer.convert_tokens_to_ids(description["ends"])
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends if len(ends) > 1 else ends[0]
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tokenizer_of(description: dict[str, Any]) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE of the world's texts, with a family's special tokens."""
    special = list(dict.fromkeys([*description["named"].values(), *description.get("others", [])]))
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    rows = [json.loads(line) for line in (ROOT / "stages/microworld/data/seeds.jsonl").read_text().splitlines()]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((f"{row['prompt']}\n{row['response']}" for row in rows), trainer)
    if bos := description["named"].get("bos_token"):
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, bpe.token_to_id(bos))]
        )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, **description["named"])
    tokenizer.chat_template = description.get("template")
    return tokenizer
