"""Engines: requests in, completions out as they finish. Each engine is a module behind the one interface `Engine`.

What a request samples depends on the request alone: its random numbers are seeded with the rendered prompt, the
sampling parameters and the number of the draw, whatever its batch and its position in the queue.
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
from stages.models.reasoning import Fault

if TYPE_CHECKING:
    from stages.core.schema import Runtime, Vllm

ALTERNATIVES = 20  # most likely tokens that are kept at a number; vLLM's servers allow no more by default


@dataclass(frozen=True)
class Sampling:
    """How to decode. The fields in this order are part of a completion's key in the store."""

    temperature: float  # 0: greedy
    top_p: float  # probability mass of the nucleus; 1: the whole vocabulary
    max_tokens: int  # of a completion
    random_state: int
    # also return the log-probabilities of the most likely tokens at each number, or whatever was sampled
    numbers: bool | Literal["everywhere"] = False

    def __post_init__(self) -> None:
        """1 is 1.0, here as in params.yaml, where DVC does not tell them apart: equal parameters give equal keys."""
        object.__setattr__(self, "temperature", float(self.temperature))
        object.__setattr__(self, "top_p", float(self.top_p))


@dataclass(frozen=True)
class Request:
    """One completion to generate."""

    prompt: str  # rendered: the text that the model continues
    tokens: tuple[int, ...]  # the same text as token ids
    draw: int  # 0, 1, …: which of the prompt's completions


@dataclass(frozen=True)
class Number:
    """A token that holds a digit, or the token after one; with `Sampling.numbers` "everywhere", any token: where it
    starts in the completion's text, and the most likely tokens at that position."""

    start: int  # in characters
    logprobs: dict[str, float]  # {token's text: natural log of its probability at temperature 1}


Finish = Literal["stop", "length", "too long"] | Fault


@dataclass(frozen=True)
class Completion:
    """What the model wrote. Stages use a completion only if it finished with "stop": "length" means that `max_tokens`
    cut it, "too long" that the prompt does not fit the model's context and was not run, and "unfinished reasoning" and
    "reasoning within the answer" that no answer can be told from it (models/reasoning.py)."""

    text: str  # the answer; of an engine and in the store, the reasoning too
    finish: Finish
    prompt_tokens: int = 0
    tokens: int = 0  # generated, with the end token
    numbers: tuple[Number, ...] = field(default=(), compare=False)  # empty without Sampling.numbers
    seconds: float = field(default=0.0, compare=False)  # of computing: since the previous completion finished
    reasoning: str = ""  # what stood before the answer; the client keeps it apart


class Engine(Protocol):
    """A model that completes requests."""

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """Each request's completion, in the order in which they finish. Raises `UserError` if the engine fails."""
        ...


def seed_of(prompt: str, sampling: Sampling, draw: int) -> int:
    """The seed of a draw, 63 bits of the SHA-256 of the prompt, the sampling parameters but `numbers`, and the draw's
    number."""
    parts = [
        ("max_tokens", sampling.max_tokens),
        ("random_state", sampling.random_state),
        ("temperature", sampling.temperature),
        ("top_p", sampling.top_p),
    ]
    decides = f"{prompt}\0{parts}\0{draw}"
    return int.from_bytes(hashlib.sha256(decides.encode()).digest()[:8], "big") >> 1


def dtype(model: Path) -> str:
    """The dtype of a model folder's weights, by its config.json. vLLM needs it: by default it runs 32-bit weights in 16
    bits."""
    return str(json.loads((model / "config.json").read_text(encoding="utf-8"))["dtype"])


def by_text(likely: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Log-probabilities by the token's text, from pairs of (text, log-probability), rounded to 6 digits. Tokens with
    the same text, such as 5 and the byte 0x35, count as one: their probabilities are added."""
    logprobs: dict[str, float] = {}
    for text, logprob in likely:
        other = logprobs.get(text, -inf)
        logprobs[text] = max(other, logprob) + log1p(exp(-abs(other - logprob)))
    return {text: round(logprob, 6) for text, logprob in logprobs.items()}


def holds_digit(text: str) -> bool:
    """Whether the text of a token contains a digit of any script."""
    return any(character.isdigit() for character in text)


def is_number(sampling: Sampling, token: str, before: str) -> bool:
    """Whether the most likely tokens at a token are kept, by the texts of the token and of what stands before it."""
    return sampling.numbers == "everywhere" or holds_digit(token) or holds_digit(before)


def resolve(engine: str) -> str:
    """The engine that `runtime.engine` names; for `auto`, vllm if it is installed and there is a GPU, else
    transformers. Raises `UserError` if the engine's package is not installed."""
    if engine == "auto":
        return "vllm" if find_spec("vllm") and has_gpu() else "transformers"
    package = {"vllm": "vllm", "server": "openai"}.get(engine)
    if package and not find_spec(package):
        raise UserError(
            f"runtime.engine: '{engine}' is not installed; pip install -e '.[{engine}]', or use another engine"
        )
    return engine


def gpus(engine: str, vllm: "Vllm") -> int | None:
    """How many GPUs the engine uses, with the settings `runtime.vllm`; None for a server, which does not say."""
    if engine == "server":
        return None
    parallel = prod((vllm.tensor_parallel_size, vllm.pipeline_parallel_size, vllm.data_parallel_size))
    return has_gpu() * (parallel if engine == "vllm" else 1)


def has_gpu() -> bool:
    """Whether torch sees one."""
    import torch

    return torch.cuda.is_available()


def load(engine: str, model: Path, digest: str, runtime: "Runtime") -> Engine:
    """The engine of that name, with the weights of the folder `model`, whose content has the hash `digest`. Raises
    `UserError` if it cannot start with this model."""
    if engine == "vllm":
        from stages.inference.engines.vllm import VllmEngine

        vllm: Engine = VllmEngine(model, runtime.vllm)
        return vllm
    if engine == "server":
        from stages.inference.engines.server import ServerEngine

        return ServerEngine(model, digest, runtime.server)
    from stages.inference.engines.transformers import TransformersEngine

    return TransformersEngine(model, runtime.batch_rows)
