"""Engines: requests in, completions out as they finish; one file per engine behind this one interface.

What a request samples depends on the request alone: its random numbers are seeded by the rendered prompt, the sampling
parameters and the draw's number, never by its batch or its place in the queue.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import exp, inf, log1p, prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from stages.core.errors import UserError

if TYPE_CHECKING:
    from stages.core.schema import Runtime, Vllm

ALTERNATIVES = 20  # tokens whose probability is told at a number; what servers allow


@dataclass(frozen=True)
class Sampling:
    temperature: float  # 0: greedy
    top_p: float  # the nucleus' mass
    max_tokens: int
    random_state: int
    numbers: bool = False  # also tell the probabilities of the tokens at each number


@dataclass(frozen=True)
class Request:
    prompt: str  # rendered: the text that the model continues
    tokens: tuple[int, ...]  # the same, as the model reads it
    draw: int


@dataclass(frozen=True)
class Number:
    """A token that holds a digit, or follows such a one: where it starts in the completion's text, and the most likely
    tokens there with the logarithm of their probability (at temperature 1)."""

    start: int
    logprobs: dict[str, float]


@dataclass(frozen=True)
class Completion:
    """A completion that was cut ("length") or that never ran ("too long": the prompt does not fit the model's
    context) has its text, but no stage uses it."""

    text: str
    finish: Literal["stop", "length", "too long"]
    prompt_tokens: int = 0
    tokens: int = 0
    numbers: tuple[Number, ...] = field(default=(), compare=False)  # only where they were asked for
    seconds: float = field(default=0.0, compare=False)  # of computing: since the completion before


class Engine(Protocol):
    def complete(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """Each request's completion, in the order in which they finish."""
        ...


def seed_of(prompt: str, sampling: Sampling, draw: int) -> int:
    """63 bits from what decides a draw. A temperature of 1 is one of 1.0, as to DVC."""
    parts = [
        ("max_tokens", sampling.max_tokens),
        ("random_state", sampling.random_state),
        ("temperature", float(sampling.temperature)),
        ("top_p", float(sampling.top_p)),
    ]
    decides = f"{prompt}\0{parts}\0{draw}"
    return int.from_bytes(hashlib.sha256(decides.encode()).digest()[:8], "big") >> 1


def dtype(model: Path) -> str:
    """The type of a model's weights. vLLM must be told: by itself it would run 32-bit weights in 16 bits."""
    return str(json.loads((model / "config.json").read_text(encoding="utf-8"))["dtype"])


def by_text(likely: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Log-probabilities by the token's text; tokens of the same text, such as 5 and the byte 0x35, add up."""
    found: dict[str, float] = {}
    for text, logprob in likely:
        other = found.get(text, -inf)
        found[text] = max(other, logprob) + log1p(exp(-abs(other - logprob)))
    return {text: round(logprob, 6) for text, logprob in found.items()}


def holds_digit(text: str) -> bool:
    return any(character.isdigit() for character in text)


def resolve(engine: str) -> str:
    """`auto`: vllm where it is installed and there is a GPU, else transformers. Raises `UserError` where the engine
    that was asked for is not installed."""
    if engine == "auto":
        return "vllm" if find_spec("vllm") and _gpu() else "transformers"
    needed = {"vllm": "vllm", "server": "openai"}.get(engine)
    if needed and not find_spec(needed):
        raise UserError(
            f"runtime.engine: '{engine}' is not installed; pip install -e '.[{engine}]', or use another engine"
        )
    return engine


def gpus(engine: str, vllm: "Vllm") -> int | None:
    """How many an engine computes on, with the settings `runtime.vllm`; None: an endpoint does not say."""
    if engine == "server":
        return None
    several = prod((vllm.tensor_parallel_size, vllm.pipeline_parallel_size, vllm.data_parallel_size))
    return _gpu() * (several if engine == "vllm" else 1)


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def load(engine: str, model: Path, digest: str, runtime: "Runtime") -> Engine:
    """The engine of that name with a model folder, whose content has that digest."""
    if engine == "vllm":
        from stages.inference.engines.vllm import VllmEngine

        vllm: Engine = VllmEngine(model, runtime.vllm)
        return vllm
    if engine == "server":
        from stages.inference.engines.server import ServerEngine

        return ServerEngine(model, digest, runtime.server)
    from stages.inference.engines.transformers import TransformersEngine

    return TransformersEngine(model, runtime.batch_rows)
