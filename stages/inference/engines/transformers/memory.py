"""Memory: how many rows to decode together, before the start and after running out of it."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from stages.core.errors import UserError
from stages.inference.engines.transformers.kv_cache import SPARE_COLUMNS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_ROWS = {"cpu": 384, "cuda": 2048}  # on a CPU, more rows at once are not faster
MEMORY_SHARE = 0.6  # of the free memory, for the rows; the rest is for activations
CGROUP = Path("/sys/fs/cgroup")  # in a container: its memory limit and use
SAMPLING_BYTES = 40  # per token of the vocabulary and row: logits, probabilities, their order and sums


def rows_that_fit(model: "PreTrainedModel", length: int) -> int:
    """How many rows of `length` tokens fit in the free memory, by the size of their keys and values and of what
    sampling works on; at least 1, at most MAX_ROWS."""
    config = model.config.get_text_config()
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size * model.dtype.itemsize
    row_bytes = token_bytes * (length + SPARE_COLUMNS) + SAMPLING_BYTES * config.vocab_size
    rows = int(MEMORY_SHARE * free_memory(model.device) / row_bytes)
    return max(1, min(MAX_ROWS[model.device.type], rows))


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still allocate on the device; in a container, up to its cgroup's limit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    free = int(psutil.virtual_memory().available)
    if (CGROUP / "memory.max").exists() and (limit := (CGROUP / "memory.max").read_text().strip()) != "max":
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        page_cache = int(stat["active_file"]) + int(stat["inactive_file"])  # counted as used, freed on demand
        free = min(free, int(limit) - int((CGROUP / "memory.current").read_text()) + page_cache)
    return free


def fewer_rows(max_rows: int, error: RuntimeError) -> int:
    """Half of `max_rows` after an out-of-memory error. Raises any other error again, and `UserError` if a single row
    does not fit."""
    from accelerate.utils.memory import should_reduce_batch_size

    if not should_reduce_batch_size(error):
        raise error
    if max_rows == 1:
        raise UserError(f"out of memory with one completion at a time ({error}); lower max_tokens or use a larger GPU")
    return max_rows // 2
