"""trl's trainers, with the same weight for every row of a step, in however many processes and micro-batches it runs.

A step's loss, over the T label tokens of its rows (SFT), or over its P pairs and the T tokens of their chosen responses
(DPO, where m_i is the difference of pair i's log-ratios):

    SFT:  1/T Σ_t -log π(t)
    DPO:  1/P Σ_i -log σ(β m_i)  +  nll/T Σ_t -log π(t)

In one process and one micro-batch that is trl's own loss. Otherwise two things have to be put right.

1. Where an epoch's rows do not fill the last micro-batch of every process, accelerate (BatchSamplerShard) repeats rows
   from the epoch's beginning. `without_repeats` blanks them: no label token is left, so they have no gradient. SFT
   needs no more, since transformers counts T over the whole step (num_items_in_batch).
2. trl's DPO ignores num_items_in_batch: it takes the mean over the n pairs of a micro-batch, and accelerate the mean
   over d processes. Of n pairs, b blank ones add ln 2 each; t tokens of chosen responses are left. So

    loss  =  (trl's mean - b/n ln 2) · n d / P,  with nll · t P / (n T) in the place of nll

   is what a micro-batch adds to the step. trl's means of the rewards count blank pairs as 0, and get the same factor.

What trl 1.16, transformers 5.17 and accelerate 1.15 offer does not do this:

- even_batches=False: a process without rows in the last step ends before it, and the step fails in the others (tried).
  accelerate's join_uneven_inputs has an effect with DDP on GPUs alone, not FSDP or DeepSpeed, and would not answer the
  gathers of trl's metrics.
- dataloader_drop_last: fewer rows in an epoch than in one process, and other steps.
- split_batches, dispatch_batches: these fill the last batch with repeated rows, too.
- gather_for_metrics: it leaves the repeated rows out of a metric; the loss has them. trl's rewards do not use it.
- average_tokens_across_devices (on by default): for losses over labels, which is SFT's alone.
- blank rows at the end of the data set: the sampler would shuffle them in. A sampler that does not is as much code as
  `without_repeats`, and P and T would still have to be counted.
"""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Trainer
    from trl import DPOTrainer, SFTTrainer

LOSS_OF_BLANK_PAIR = math.log(2)  # -log σ(0)


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
    """Leave no completion token in the pairs from `start` on of a DPO micro-batch, whose rows are the chosen responses
    and then the rejected ones; policy and reference then agree on log-probabilities of 0."""
    for side in inputs["completion_mask"].chunk(2):
        side[start:] = 0
    for log_probs in ("ref_chosen_logps", "ref_rejected_logps"):  # where they are precomputed
        if log_probs in inputs:
            inputs[log_probs][start:] = 0


def unblanked_pairs(inputs: Any) -> int:
    """Pairs of a DPO micro-batch that are not blank."""
    return int(inputs["completion_mask"].any(dim=1).sum()) // 2


def chosen_tokens(inputs: Any) -> int:
    """Tokens of a DPO micro-batch's chosen responses."""
    chosen, _ = inputs["completion_mask"][:, 1:].chunk(2)
    return int(chosen.sum())


def sft_trainer() -> "type[SFTTrainer]":
    """trl's SFTTrainer, in which repeated rows have no weight."""
    from trl import SFTTrainer

    class Trainer(SFTTrainer):  # type: ignore[misc]
        def get_batch_samples(self, micro_batches: Any, *args: Any) -> Any:
            return super().get_batch_samples(without_repeats(self, micro_batches, blank_rows), *args)

    return Trainer


def dpo_trainer() -> "type[DPOTrainer]":
    """trl's DPOTrainer for pairs of tokens, in which every pair of a step has the same weight, and every token of
    `dpo.nll`."""
    import torch
    from trl import DPOTrainer

    class Trainer(DPOTrainer):  # type: ignore[misc]
        loss_is_scaled_for_ga = True  # or transformers would divide the loss by the number of micro-batches

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            """The pairs as they are, since they are tokens already; SFTTrainer sees that by itself."""
            return dataset

        def get_batch_samples(self, micro_batches: Any, count: int, device: Any) -> Any:
            """A step's micro-batches, and what transformers hands to `compute_loss` with each of them: the step's pairs
            and chosen tokens over all processes, as a tensor of the two."""
            step, _ = super().get_batch_samples(without_repeats(self, micro_batches, blank_pairs), count, device)
            totals = [sum(map(unblanked_pairs, step)), sum(map(chosen_tokens, step))]
            return step, self.accelerator.reduce(torch.tensor(totals, device=device))

        def compute_loss(self, model: Any, inputs: Any, _: bool = False, num_items_in_batch: Any = None) -> Any:
            """What a micro-batch adds to the step's loss; without the step's totals, trl's own loss."""
            if num_items_in_batch is None:  # memory.peak
                return super().compute_loss(model, inputs)
            pairs, tokens = num_items_in_batch.tolist()
            size = len(inputs["input_ids"]) // 2
            preference, *nll = self.args.loss_weights or [1.0]
            token_share = pairs * chosen_tokens(inputs) / (size * tokens)
            self.loss_weights = [preference, *(weight * token_share for weight in nll)]
            loss = super().compute_loss(model, inputs)
            weight = size * self.args.world_size / pairs
            self._weigh_rewards(weight)
            blank = size - unblanked_pairs(inputs)
            if blank == size:
                return loss.nan_to_num() * 0  # the mean NLL of no token is no number
            return (loss - blank / size * LOSS_OF_BLANK_PAIR) * weight

        def _weigh_rewards(self, weight: float) -> None:
            """Put the micro-batch's means of the rewards right; trl logs the mean over the step's micro-batches."""
            for metric in ("rewards/margins", "rewards/accuracies"):
                self._metrics["train"][metric][-1] *= weight * self.current_gradient_accumulation_steps

    return Trainer
