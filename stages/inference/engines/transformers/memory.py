"""Memory: how many rows to decode together, before the start and after running out of it."""

from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from stages.core.errors import UserError
from stages.inference.engines import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_ROWS = {"cpu": 384, "cuda": 2048}  # on a CPU, more rows at once are not faster
MEMORY_SHARE = 0.6  # of the free memory, for the rows; the rest is for activations
CGROUP = Path("/sys/fs/cgroup")  # in a container: its memory limit and use
SAMPLING_BYTES = 40  # per token of the vocabulary and row: logits, probabilities, their order and sums


@dataclass(frozen=True)
class Room:
    """How much runs at once: rows, and tokens of keys and values, in which what a row needs for sampling is counted,
    too."""

    rows: int
    capacity: float  # tokens
    per_row: float  # tokens, of a completion and its sampling

    @classmethod
    def for_model(cls, model: "PreTrainedModel", sampling: Sampling, rows: int | None) -> "Room":
        """What fits in the free memory, by the size of keys and values and of what sampling works on; with `rows`, so
        many rows whatever they take."""
        config = model.config.get_text_config()
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        token_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size * model.dtype.itemsize
        capacity = inf if rows else MEMORY_SHARE * free_memory(model.device) / token_bytes
        per_row = sampling.max_tokens + SAMPLING_BYTES * config.vocab_size / token_bytes
        return cls(rows or MAX_ROWS[model.device.type], capacity, per_row)

    def tokens(self, prompts: int, columns: int, rows: int) -> float:
        """The size of so many prompts of `columns` tokens, with `rows` completions in all."""
        return prompts * columns + rows * self.per_row

    def halved(self, waiting: int, error: RuntimeError) -> "Room":
        """Half as much, after memory ran out with so many requests left. Raises any other error again, and `UserError`
        if a single row does not fit."""
        from accelerate.utils.memory import should_reduce_batch_size

        if not should_reduce_batch_size(error):
            raise error
        rows = min(self.rows, waiting)
        if rows == 1:
            raise UserError(
                f"out of memory with one completion at a time ({error}); lower max_tokens or use a larger GPU"
            )
        return replace(self, rows=rows // 2, capacity=self.capacity / 2)


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still allocate on the device; in a container, up to its cgroup's limit."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # for this process alone
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    import psutil

    free = int(psutil.virtual_memory().available)
    if limit := _container_limit():
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        page_cache = int(stat["active_file"]) + int(stat["inactive_file"])  # counted as used, freed on demand
        free = min(free, limit - int((CGROUP / "memory.current").read_text()) + page_cache)
    return free


def total_memory(device: torch.device) -> int:
    """Bytes that the device has, or in a container its cgroup's limit: the same in every run on a machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    import psutil

    total = int(psutil.virtual_memory().total)
    return min(total, _container_limit() or total)


def _container_limit() -> int | None:
    """The memory limit of this process' cgroup in bytes; None without one."""
    path = CGROUP / "memory.max"
    limit = path.read_text().strip() if path.exists() else "max"
    return None if limit == "max" else int(limit)
