"""The same weight for every row of a step, in however many processes and micro-batches it runs.

A step's loss is a mean over all of its label tokens (SFT) or pairs (DPO, preference.py). Where an epoch's rows do not
fill the last micro-batch of every process, accelerate (BatchSamplerShard) repeats rows from the epoch's beginning.
`without_repeats` blanks them: they have no label token left (SFT) or a weight of 0 (DPO), and so no gradient. SFT needs
no more, since transformers counts the step's label tokens (num_items_in_batch); trl's DPO ignores that count.

What trl 1.16, transformers 5.17 and accelerate 1.15 offer does not do this:

- even_batches=False: a process without rows in the last step ends before it, and the step fails in the others (tried).
  accelerate's join_uneven_inputs has an effect with DDP on GPUs alone, not FSDP or DeepSpeed, and would not answer the
  gathers of trl's metrics.
- dataloader_drop_last: fewer rows in an epoch than in one process, and other steps.
- split_batches, dispatch_batches: these fill the last batch with repeated rows, too.
- gather_for_metrics: it leaves the repeated rows out of a metric; the loss has them. trl's rewards do not use it.
- average_tokens_across_devices (on by default): for losses over labels, which is SFT's alone.
- blank rows at the end of the data set: the sampler would shuffle them in. A sampler that does not is as much code as
  `without_repeats`, and a step's pairs would still have to be counted.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Trainer
    from trl import SFTTrainer


def without_repeats(
    trainer: "Trainer", micro_batches: Iterator[Any], blank: Callable[[Any, int], None]
) -> Iterator[Any]:
    """This process's micro-batches; in the last one of an epoch, `blank(micro_batch, start)` is called for the rows
    from `start` on, which are repeated. accelerate tells which one is the last, of a resumed epoch too."""
    args = trainer.args
    size = args.per_device_train_batch_size
    in_all = size * args.world_size
    rows_left = len(trainer.train_dataset) % in_all or in_all  # for the last micro-batches of all processes
    for micro_batch in micro_batches:
        if trainer.accelerator.gradient_state.end_of_dataloader:
            blank(micro_batch, max(rows_left - args.process_index * size, 0))
        yield micro_batch


def blank_rows(inputs: Any, start: int) -> None:
    """Leave no label token in the rows from `start` on of an SFT micro-batch."""
    inputs["labels"][start:] = -100


def blank_pairs(inputs: Any, start: int) -> None:
    """Leave no weight to the pairs from `start` on of a DPO micro-batch; the others have more than 0."""
    inputs["weights"][start:] = 0


def pairs(inputs: Any) -> int:
    """Pairs of a DPO micro-batch that are not blank."""
    return int((inputs["weights"] > 0).sum())


def chosen_tokens(inputs: Any) -> int:
    """Tokens of a DPO micro-batch's chosen responses, without blank pairs; its rows are the chosen responses and then
    the rejected ones."""
    chosen, _ = inputs["completion_mask"].sum(dim=1).chunk(2)
    return int((chosen * (inputs["weights"] > 0)).sum())


def sft_trainer() -> "type[SFTTrainer]":
    """trl's SFTTrainer, in which repeated rows have no weight."""
    from trl import SFTTrainer

    class Trainer(SFTTrainer):  # type: ignore[misc]
        def get_batch_samples(self, micro_batches: Any, *args: Any) -> Any:
            return super().get_batch_samples(without_repeats(self, micro_batches, blank_rows), *args)

    return Trainer
