"""Model calls: prompts in, completions out; one file per engine behind this one interface.

What a request samples depends on the request alone: its uniform random numbers are seeded by the rendered prompt, the
sampling parameters and the draw's number, never by its batch or its place in the queue.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

from stages.core.errors import UserError
from stages.core.params import runtime


@dataclass(frozen=True)
class Sampling:
    temperature: float  # 0: greedy
    top_p: float  # the nucleus' mass
    max_tokens: int
    random_state: int


@dataclass(frozen=True)
class Completion:
    """A completion that was cut ("length") or that never ran ("too long": the prompt does not fit the model's
    context) has its text, but no stage uses it."""

    text: str
    finish: Literal["stop", "length", "too long"]


class Engine(Protocol):
    def render(self, prompt: str, system: str) -> str:
        """The text that the model continues, in the model's chat format."""
        ...

    def complete(
        self, rendered: Sequence[str], draws: int, sampling: Sampling, advance: Callable[[int], None]
    ) -> list[list[Completion]]:
        """`draws` completions of each rendered prompt, in the prompts' order; `advance(prompts)` as they finish."""
        ...


def seed_of(rendered: str, sampling: Sampling, draw: int) -> int:
    """63 bits from what decides a draw."""
    decides = f"{rendered}\0{sorted(asdict(sampling).items())}\0{draw}"
    return int.from_bytes(hashlib.sha256(decides.encode()).digest()[:8], "big") >> 1


def load(model: Path) -> Engine:
    """The engine that `runtime.engine` names, with the model loaded."""
    settings = runtime()
    if settings["engine"] in ("auto", "transformers"):
        from stages.core.engines.transformers import TransformersEngine

        return TransformersEngine(model, settings["batch_rows"])
    raise UserError(f"params.yaml: runtime.engine: unknown engine '{settings['engine']}'; use auto or transformers")


def complete(
    engine: Engine,
    prompts: Sequence[str],
    system: str,
    draws: int,
    sampling: Sampling,
    advance: Callable[[int], None],
) -> list[list[Completion]]:
    """Complete each prompt; a prompt that occurs several times is computed once (it would sample the same)."""
    rendered = [engine.render(prompt, system) for prompt in prompts]
    distinct = list(dict.fromkeys(rendered))
    advance(len(rendered) - len(distinct))
    found = dict(zip(distinct, engine.complete(distinct, draws, sampling, advance), strict=True))
    return [found[each] for each in rendered]
