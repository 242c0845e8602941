"""Whether a training fits into the memory, before its first step: one pass forward and backward over the longest rows.

Nothing is changed by it: no weight, no random number, no count of trl's. What it took is told, and kept with the costs.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from stages.core.errors import UserError

if TYPE_CHECKING:
    from transformers import Trainer

STATES = 2  # of AdamW: the mean of the gradients, and of their squares


def peak(trainer: "Trainer") -> int:
    """Bytes at the fullest moment of a step, with the optimiser's state: of the GPU's memory, or resident ones."""
    import torch

    gpu, model = torch.cuda.is_available(), trainer.model_wrapped
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    counted = deepcopy(trainer._metrics), trainer._total_train_tokens
    with torch.random.fork_rng():
        model.train()
        inputs = trainer._prepare_inputs(trainer.data_collator(longest(trainer)))
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, inputs)
        trainer.accelerator.backward(loss)
    model.zero_grad()
    trainer._metrics, trainer._total_train_tokens = counted
    taken = torch.cuda.max_memory_allocated() if gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(taken) + (0 if trainer.optimizer.state else STATES * trained_bytes(model))


def longest(trainer: "Trainer") -> list[dict[str, Any]]:
    """As many rows as are read at once, those with the most tokens."""
    rows = trainer.train_dataset
    sizes = [sum(len(each) for each in row.values() if isinstance(each, list)) for row in rows]
    order = sorted(range(len(sizes)), key=lambda place: -sizes[place])
    return [rows[place] for place in order[: trainer.args.per_device_train_batch_size]]


def trained_bytes(model: Any) -> int:
    return sum(each.numel() * each.element_size() for each in model.parameters() if each.requires_grad)


@contextmanager
def explain_out_of_memory(name: str) -> Iterator[None]:
    """Raise `UserError` where what is done inside takes more memory than there is."""
    from accelerate.utils.memory import should_reduce_batch_size

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not should_reduce_batch_size(error):
            raise
        raise UserError(
            f"{name}: out of memory; lower runtime.training.rows_at_once, set runtime.training.gradient_checkpointing: "
            f"true, or train less: training.lora, or model.dtype: bfloat16 ({str(error).splitlines()[0]})"
        ) from error
