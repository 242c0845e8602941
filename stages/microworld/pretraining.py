"""Train the embedded default's base model from scratch: a byte-level BPE tokenizer and a Qwen2 of 0.93 M parameters.

Muon for the matrices and AdamW for the rest reached in 3,500 steps what AdamW alone did not; the verdict's words weigh
more in the loss than the others, without which the judge stayed at chance.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from stages.microworld.corpus import MARKERS, Segments, example
from stages.microworld.muon import Muon

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

CHAT_TEMPLATE = (  # ChatML, without the line break after the last message: nothing is trained behind the end token
    "{% for message in messages %}{{ '' if loop.first else '\n' }}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n<|im_start|>assistant\n' }}{% endif %}"
)
CONTEXT = 512  # tokens
THREADS = 2  # fixed: the number of threads decides the order of the sums, and so the last bits of the weights


class Example(NamedTuple):
    tokens: list[int]
    weights: list[float]  # in the loss, 0 for the prompt's tokens


def chat(prompt: str) -> str:
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


def train_tokenizer(random: Random, examples: int = 20_000) -> "PreTrainedTokenizerBase":
    """A byte-level BPE of about 600 tokens, every digit a token of its own. It is a `Qwen2Tokenizer`, since for a Qwen2
    model `AutoTokenizer` (and so lm-eval and vLLM) splits words by that class's rules, whatever the folder says."""
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    drawn = (example(random) for _ in range(examples))
    texts = (chat(prompt) + "".join(text for text, _ in segments) for prompt, segments in drawn)
    empty = Qwen2Tokenizer(unk_token=None, pad_token="<|pad|>", eos_token="<|im_end|>")
    tokenizer = empty.train_new_from_iterator(texts, 768, new_special_tokens=["<|im_start|>"], show_progress=False)
    tokenizer.add_tokens([AddedToken(marker, normalized=False) for marker in MARKERS])
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = CONTEXT
    return tokenizer


def tokenized(tokenizer: "PreTrainedTokenizerBase", prompt: str, segments: Segments) -> Example:
    tokens = tokenizer(chat(prompt), add_special_tokens=False)["input_ids"]
    weights = [0.0] * len(tokens)
    for text, weight in [*segments, ("<|im_end|>", segments[-1][1])]:
        pieces = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens = tokens + pieces
        weights += [weight] * len(pieces)
    return Example(tokens, weights)


def batches(examples: list[Example], size: int, random: Random, window: int = 40) -> Iterator[list[Example]]:
    """Batches of like length: each window of 40 batches is sorted, cut and shuffled."""
    for start in range(0, len(examples), size * window):
        by_length = sorted(examples[start : start + size * window], key=lambda each: len(each.tokens))
        cut = [by_length[first : first + size] for first in range(0, len(by_length), size)]
        random.shuffle(cut)
        yield from cut


def new_model(tokenizer: "PreTrainedTokenizerBase", hidden: int, layers: int, heads: int) -> "Qwen2ForCausalLM":
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def weighted_loss(model: "Qwen2ForCausalLM", batch: list[Example]) -> "torch.Tensor":
    """Cross-entropy over the completions' tokens, by their weights; the logits of no other token are computed."""
    import torch

    longest = max(len(each.tokens) for each in batch)
    tokens = torch.zeros(len(batch), longest, dtype=torch.long)
    weights = torch.zeros(len(batch), longest)
    for row, each in enumerate(batch):
        tokens[row, : len(each.tokens)] = torch.tensor(each.tokens)
        weights[row, : len(each.tokens)] = torch.tensor(each.weights)
    weights = weights[:, 1:]
    counted = weights > 0
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
    losses = torch.nn.functional.cross_entropy(model.lm_head(hidden[counted]), tokens[:, 1:][counted], reduction="none")
    return (losses * weights[counted]).sum() / weights.sum()


def schedule(step: int, steps: int, warmup: int = 100) -> float:
    """Share of the learning rate at a step: linear warm-up, then a cosine down to 3 %."""
    return min(1.0, (step + 1) / warmup) * (0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)) + 0.03)


def train(
    out: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    hidden: int,
    layers: int,
    heads: int,
    random_state: int,
    on_step: Callable[[float], None],
) -> None:
    """Train tokenizer and model and write both to `out` (weights in bf16: half the size at the same accuracy)."""
    import torch

    torch.set_num_threads(THREADS)
    torch.manual_seed(random_state)
    random = Random(random_state)
    tokenizer = train_tokenizer(random)
    model = new_model(tokenizer, hidden, layers, heads)
    examples = [tokenized(tokenizer, *example(random)) for _ in range(steps * batch_size)]
    named = list(model.named_parameters())
    matrices = [parameter for name, parameter in named if parameter.ndim == 2 and "embed" not in name]
    others = [parameter for name, parameter in named if parameter.ndim != 2 or "embed" in name]
    muon = Muon(matrices)
    adamw = torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    for step, batch in enumerate(batches(examples, batch_size, random)):
        loss = weighted_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.param_groups[0]["lr"] = learning_rate * schedule(step, steps)
        muon.step(learning_rate * schedule(step, steps))
        adamw.step()
        model.zero_grad(set_to_none=True)
        on_step(loss.item())
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
