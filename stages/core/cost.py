"""What went into a stage's outs: seconds of computing, on which devices, and tokens, in costs/ITERATION/STAGE.json.

The seconds of a model call are those that it took when it was made: a stage that finds all of its calls in the
completion store has the same cost again, and names the devices that it would have used now. They differ from run to run
and from machine to machine, so nothing but the report depends on these files.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from stages.core.records import Record, write_json


class Call(Protocol):
    """What a completion tells of its cost."""

    @property
    def seconds(self) -> float: ...
    @property
    def tokens(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...


def device(gpus: int) -> Record:
    """{"device", "devices"}: so many GPUs, or without one the CPU cores of this process."""
    return {"device": "GPU" if gpus else "CPU", "devices": gpus or len(os.sched_getaffinity(0))}


def of_completions(completions: Iterable[Call], gpus: int | None) -> Record:
    """{"seconds", "tokens" written, "prompt_tokens" read, "device", "devices"} of model calls; no devices where those
    of their engine are not known."""
    made = list(completions)
    return {
        "seconds": round(sum(each.seconds for each in made), 3),
        "tokens": sum(each.tokens for each in made),
        "prompt_tokens": sum(each.prompt_tokens for each in made),
        **({} if gpus is None else device(gpus)),
    }


def write(stage: str, iteration: str, cost: Record) -> None:
    write_json(Path("costs", iteration, f"{stage}.json"), cost)
