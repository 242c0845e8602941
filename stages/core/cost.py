"""What a stage's outs cost: seconds of computing, the devices used, and tokens, in costs/ITERATION/STAGE.json.

A model call from the completion store counts with the seconds that it took when it was made. So a stage that finds all
of its calls in the store costs the same again; its devices are those that it would use now. Costs differ from run to
run and from machine to machine, so only the report depends on these files.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from stages.core.records import Record, write_json


class Call(Protocol):
    """A model call that has a cost; implemented by `inference.engines.Completion`."""

    @property
    def seconds(self) -> float:
        """Its share of the engine's time."""

    @property
    def tokens(self) -> int:
        """Tokens generated."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, as far as this call had to process them."""


def device(gpus: int) -> Record:
    """{"device": "GPU" or "CPU", "devices": their number}; without a GPU, the CPU cores that this process may use."""
    return {"device": "GPU" if gpus else "CPU", "devices": gpus or len(os.sched_getaffinity(0))}


def of_completions(completions: Iterable[Call], gpus: int | None) -> Record:
    """The total cost of model calls: {"seconds", "tokens" generated, "prompt_tokens", "device", "devices"}. `gpus`: the
    engine's; None if they are not known, and then there is no device."""
    calls = list(completions)
    return {
        "seconds": round(sum(call.seconds for call in calls), 3),
        "tokens": sum(call.tokens for call in calls),
        "prompt_tokens": sum(call.prompt_tokens for call in calls),
        **({} if gpus is None else device(gpus)),
    }


def write(stage: str, iteration: str, cost: Record) -> None:
    """Write a stage's cost in an iteration to its file."""
    write_json(Path("costs", iteration, f"{stage}.json"), cost)
