"""Whether a training fits into memory, before its first step: one pass forward and backward over its longest rows.

The pass changes nothing: no weight, no random number, no count of trl's. Its peak is printed, and kept with the costs.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from stages.core.errors import UserError

if TYPE_CHECKING:
    from transformers import Trainer

MOMENTS = 2  # of AdamW for each weight: the running means of its gradient and of the gradient's square


def peak(trainer: "Trainer") -> int:
    """Peak bytes of a step with the optimiser's state, of GPU memory or, without a GPU, resident in RAM. Raises what
    torch raises when out of memory."""
    import torch

    gpu, model = torch.cuda.is_available(), trainer.model_wrapped
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    counters = deepcopy(trainer._metrics), trainer._total_train_tokens
    with torch.random.fork_rng():
        model.train()
        inputs = trainer._prepare_inputs(trainer.data_collator(longest_rows(trainer)))
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, inputs)
        trainer.accelerator.backward(loss)
    model.zero_grad()
    trainer._metrics, trainer._total_train_tokens = counters
    used = torch.cuda.max_memory_allocated() if gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(used) + (0 if trainer.optimizer.state else MOMENTS * trainable_bytes(model))


def longest_rows(trainer: "Trainer") -> list[dict[str, Any]]:
    """As many rows as a micro-batch has, those with the most tokens."""
    rows = trainer.train_dataset
    sizes = [sum(len(value) for value in row.values() if isinstance(value, list)) for row in rows]
    order = sorted(range(len(sizes)), key=lambda index: -sizes[index])
    return [rows[index] for index in order[: trainer.args.per_device_train_batch_size]]


def trainable_bytes(model: Any) -> int:
    """Bytes of the weights that are trained, all of them or the adapter's."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)


@contextmanager
def explain_out_of_memory(name: str) -> Iterator[None]:
    """Raise `UserError` where the code inside runs out of memory; other errors pass."""
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
