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

STEPS = 8  # of decoding


class Sizes(NamedTuple):
    """What a measurement computes: enough to outweigh what it takes to start, in seconds."""

    operations: float  # floating-point operations of a pass: a second or two on two cores
    prompt: tuple[int, int]  # tokens, at least and at most
    trained: tuple[int, int]
    rows: tuple[int, int]  # decoded together, few and many


SIZES = {
    "cpu": Sizes(3e11, (64, 1024), (64, 512), (4, 64)),
    "cuda": Sizes(1e14, (64, 8192), (64, 2048), (16, 256)),
}


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
    sizes = SIZES[engine.device.type]
    tokens = sizes.operations / (2 * sum(parameter.numel() for parameter in engine.model.parameters()))
    prompt, trained = (int(max(least, min(most, tokens))) for least, most in (sizes.prompt, sizes.trained))
    _complete(engine, prompt, 1, 1)  # the first pass allocates
    reading = _complete(engine, prompt, 1, 1)
    few, many = (_decode_step(engine, sizes.prompt[0], rows) for rows in sizes.rows)
    row = max(0.0, (many - few) / (sizes.rows[1] - sizes.rows[0]))
    return Speed(reading / prompt, max(0.0, few - sizes.rows[0] * row), row, _train_seconds(folder, trained))


def _complete(engine: "TransformersEngine", prompt: int, rows: int, max_tokens: int) -> float:
    """Seconds of that many completions of a prompt of so many tokens."""
    from stages.inference.engines import Request, Sampling

    tokens = tuple(index % engine.config.vocab_size for index in range(prompt))
    requests = [Request("probe", tokens, draw) for draw in range(rows)]
    sampling = Sampling(temperature=1.0, top_p=0.9, max_tokens=max_tokens, random_state=0)
    return _timed(lambda: list(engine.complete(requests, sampling)))


def _decode_step(engine: "TransformersEngine", prompt: int, rows: int) -> float:
    """Seconds of a decoding step."""
    return (_complete(engine, prompt, rows, STEPS + 1) - _complete(engine, prompt, rows, 1)) / STEPS


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
        if device == "cuda":
            torch.cuda.synchronize()  # the GPU is still computing when the call returns

    step()  # allocates the gradients
    return _timed(step) / tokens


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
