"""Train the embedded default's base model from scratch: a byte-level BPE tokenizer and a Qwen2 of 0.93 M parameters.

Muon optimizes the matrices and AdamW the rest; AdamW alone did not get as far in 3,500 steps. The words of the verdict
weigh more in the loss than others; without that, the judge stayed at chance.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from stages.microworld.corpus import MARKERS, Segments, draw_example
from stages.microworld.muon import Muon

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

CHAT_TEMPLATE = (  # ChatML without a line break after the last message: no token after the end token is trained
    "{% for message in messages %}{{ '' if loop.first else '\n' }}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n<|im_start|>assistant\n' }}{% endif %}"
)
CONTEXT = 512  # tokens
THREADS = 2  # fixed: the number of threads decides the order of sums, and so the last bits of the weights


class Example(NamedTuple):
    """A prompt with its completion, as tokens."""

    tokens: list[int]
    weights: list[float]  # of each token in the loss; 0 in the prompt


def render_chat(prompt: str) -> str:
    """The prompt in the chat format, up to where the completion begins."""
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


def train_tokenizer(random: Random, examples: int = 20_000) -> "PreTrainedTokenizerBase":
    """A byte-level BPE tokenizer of about 600 tokens, with one for each digit. It is a `Qwen2Tokenizer`, since for a
    Qwen2 model `AutoTokenizer` (and so lm-eval and vLLM) splits words as that class does, whatever the folder says."""
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    drawn = (draw_example(random) for _ in range(examples))
    texts = (render_chat(prompt) + "".join(text for text, _ in segments) for prompt, segments in drawn)
    empty = Qwen2Tokenizer(unk_token=None, pad_token="<|pad|>", eos_token="<|im_end|>")
    tokenizer = empty.train_new_from_iterator(texts, 768, new_special_tokens=["<|im_start|>"], show_progress=False)
    tokenizer.add_tokens([AddedToken(marker, normalized=False) for marker in MARKERS])
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = CONTEXT
    return tokenizer


def tokenize(tokenizer: "PreTrainedTokenizerBase", prompt: str, segments: Segments) -> Example:
    """A prompt and its completion, ended by the end token, which weighs as much as the last segment."""
    tokens = tokenizer(render_chat(prompt), add_special_tokens=False)["input_ids"]
    weights = [0.0] * len(tokens)
    for text, weight in [*segments, ("<|im_end|>", segments[-1][1])]:
        segment = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens = tokens + segment
        weights += [weight] * len(segment)
    return Example(tokens, weights)


def batches(examples: list[Example], size: int, random: Random, window: int = 40) -> Iterator[list[Example]]:
    """Batches of `size` examples of similar length: the examples of every `window` batches are sorted by length and
    cut into batches, which are then shuffled."""
    for start in range(0, len(examples), size * window):
        by_length = sorted(examples[start : start + size * window], key=lambda example: len(example.tokens))
        window_batches = [by_length[first : first + size] for first in range(0, len(by_length), size)]
        random.shuffle(window_batches)
        yield from window_batches


def new_model(tokenizer: "PreTrainedTokenizerBase", hidden: int, layers: int, heads: int) -> "Qwen2ForCausalLM":
    """A Qwen2 model with random weights. `hidden`: its hidden size; `heads`: attention heads per layer."""
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
    """The weighted mean cross-entropy of the completions' tokens, a scalar. No other logits are computed."""
    import torch

    longest = max(len(example.tokens) for example in batch)
    tokens = torch.zeros(len(batch), longest, dtype=torch.long)
    weights = torch.zeros(len(batch), longest)
    for row, example in enumerate(batch):
        tokens[row, : len(example.tokens)] = torch.tensor(example.tokens)
        weights[row, : len(example.tokens)] = torch.tensor(example.weights)
    weights = weights[:, 1:]
    counted = weights > 0
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
    losses = torch.nn.functional.cross_entropy(model.lm_head(hidden[counted]), tokens[:, 1:][counted], reduction="none")
    return (losses * weights[counted]).sum() / weights.sum()


def learning_rate_factor(step: int, steps: int, warmup: int = 100) -> float:
    """What the learning rate is multiplied by at a step: linear warm-up, then cosine decay to 3 %."""
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
    """Train the tokenizer and the model, and write both to `out`; the weights in bfloat16, which halves their size and
    leaves the accuracy as it is. `hidden`, `layers` and `heads` are the model's; `on_step` gets each step's loss.

    The same arguments give the same bytes on the same kind of CPU.
    """
    import torch

    torch.set_num_threads(THREADS)
    torch.manual_seed(random_state)
    random = Random(random_state)
    tokenizer = train_tokenizer(random)
    model = new_model(tokenizer, hidden, layers, heads)
    examples = [tokenize(tokenizer, *draw_example(random)) for _ in range(steps * batch_size)]
    parameters = list(model.named_parameters())
    matrices = [parameter for name, parameter in parameters if parameter.ndim == 2 and "embed" not in name]
    others = [parameter for name, parameter in parameters if parameter.ndim != 2 or "embed" in name]
    muon = Muon(matrices)
    adamw = torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    for step, batch in enumerate(batches(examples, batch_size, random)):
        loss = weighted_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        step_learning_rate = learning_rate * learning_rate_factor(step, steps)
        adamw.param_groups[0]["lr"] = step_learning_rate
        muon.step(step_learning_rate)
        adamw.step()
        model.zero_grad(set_to_none=True)
        on_step(loss.item())
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
