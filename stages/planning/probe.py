"""How fast a model is on this machine: a few seconds of reading, writing and training with its own weights."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stages.core.progress import prepare_transformers
from stages.core.schema import Runtime

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from stages.inference.engines.transformers import TransformersEngine

OPERATIONS = 3e11  # floating-point operations of a measurement: a second or two on two cores
PROMPT, TRAINED = (64, 1024), (64, 512)  # tokens, at least and at most
ROWS, STEPS = (4, 64), 8  # rows that are decoded together, few and many, and for how many steps


class Speed(NamedTuple):
    """Seconds of a model on a machine."""

    prefill: float  # of a prompt's token
    step: float  # of a decoding step without rows: reading the weights, and Python
    row: float  # of a decoding step, for each row
    train: float  # of a token, forward and backward


def measure(folder: Path, runtime: Runtime) -> Speed:
    """The speed of the model in `folder`, with the transformers engine and torch."""
    prepare_transformers()
    from stages.inference.engines.transformers import TransformersEngine

    engine = TransformersEngine(folder, runtime.batch_rows)
    engine.ends = set()
    weights = sum(parameter.numel() for parameter in engine.model.parameters())
    prompt = _tokens(weights, PROMPT)
    _complete(engine, prompt, 1, 1)  # the first pass allocates
    reading = _complete(engine, prompt, 1, 1)
    few, many = (_decode_step(engine, rows) for rows in ROWS)
    row = max(0.0, (many - few) / (ROWS[1] - ROWS[0]))
    return Speed(
        reading / prompt, max(0.0, few - ROWS[0] * row), row, _train_seconds(folder, _tokens(weights, TRAINED))
    )


def _tokens(weights: int, bounds: tuple[int, int]) -> int:
    """As many tokens as OPERATIONS pay for, within bounds."""
    return max(bounds[0], min(bounds[1], int(OPERATIONS / (2 * weights))))


def _complete(engine: "TransformersEngine", prompt: int, rows: int, max_tokens: int) -> float:
    """Seconds of that many completions of a prompt of so many tokens."""
    from stages.inference.engines import Request, Sampling

    tokens = tuple(index % engine.config.vocab_size for index in range(prompt))
    requests = [Request("probe", tokens, draw) for draw in range(rows)]
    sampling = Sampling(temperature=1.0, top_p=0.9, max_tokens=max_tokens, random_state=0)
    return _timed(lambda: list(engine.complete(requests, sampling)))


def _decode_step(engine: "TransformersEngine", rows: int) -> float:
    """Seconds of a decoding step."""
    return (_complete(engine, PROMPT[0], rows, STEPS + 1) - _complete(engine, PROMPT[0], rows, 1)) / STEPS


def _train_seconds(folder: Path, tokens: int) -> float:
    """Seconds per token of a forward and a backward pass."""
    import torch
    from transformers import AutoModelForCausalLM

    from stages.models.fingerprint import has_custom_code

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=has_custom_code(folder))
    model.to(device).train()
    batch = (torch.arange(tokens, device=device) % model.config.get_text_config().vocab_size)[None]

    def step() -> None:
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()

    step()  # allocates the gradients
    return _timed(step) / tokens


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
