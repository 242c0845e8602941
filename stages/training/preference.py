"""DPO's trainer, with the loss and the reference that params.yaml's `dpo` names.

A step's loss over its P pairs, the T tokens of their chosen responses, with β, ε and λ of `dpo.beta`, `label_smoothing`
and `nll`:

    1/P Σ_i w_i [-(1 - ε) log σ(β m_i) - ε log σ(-β m_i)]  +  λ/T Σ_i w_i Σ_t -log π(t of the chosen response i)

m_i is the difference of pair i's log-ratios log π/π_ref, of sums over the tokens (`dpo.loss: sigmoid`, arXiv
2305.18290) or of means (`sigmoid_norm`). ε is the share of pairs assumed to be in the wrong order (cDPO); λ as in RPO
(arXiv 2404.19733). w_i is 1 or, by `dpo.weight: margin`, the judge's margin over the mean margin of the training's
pairs, so that the mean weight is 1 and the learning rate keeps its meaning (ScPO, arXiv 2411.04109, weighs both terms
so, by vote shares).

trl 1.16 has these losses but neither the weights (`use_weighting` is WPO's, by the policy's probabilities) nor ε for
them, and takes the mean over a micro-batch's pairs, so that those of one that is not full would count for more. So the
loss is ours, and models, reference and log-probabilities are trl's.
"""

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from stages.core.records import Record
from stages.models import adapters
from stages.models.fingerprint import has_custom_code
from stages.training import launch, weighting
from stages.training.phase import WARM_START, Chat

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel
    from trl import DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")  # as trl names them


def weighted(chats: list[Chat], weight: str) -> list[Chat]:
    """The pairs with their weight w_i in the loss, by `dpo.weight`, in place of the margin."""
    mean = fmean(chat["margin"] for chat in chats)
    weights = [chat["margin"] / mean if weight == "margin" else 1.0 for chat in chats]
    tokens = [{name: value for name, value in chat.items() if name != "margin"} for chat in chats]
    return [{**chat, "weight": weight} for chat, weight in zip(tokens, weights, strict=True)]


def dataset_of(chats: list[Chat], folder: Path, precompute: bool) -> "Dataset":
    """The pairs as a data set. To precompute the reference in several processes, trl has the main process write the
    log-probabilities beside the data set's files and the others read them, so the pairs are saved to `folder` first."""
    from datasets import Dataset, load_from_disk

    if not precompute or launch.process_count() == 1:
        return Dataset.from_list(chats)
    if launch.is_main_process():
        Dataset.from_list(chats).save_to_disk(folder / "pairs")
    return load_from_disk(launch.broadcast_from_main(str(folder / "pairs")))


def trainer_of(
    policy: "PreTrainedModel | PeftModel", settings: Record, precompute: bool, **options: Any
) -> "DPOTrainer":
    """A DPO trainer of `policy`, with the loss and the reference of params.yaml's `dpo`; `options` are the trainer's.

    By default trl's reference is the policy as it is now: of an adapter a frozen copy beside it, of whole weights the
    model in the folder they were loaded from."""
    from accelerate.utils import is_peft_model
    from transformers import AutoModelForCausalLM

    trainer_class = dpo_trainer(settings)
    if settings["reference"] == "sft":
        return trainer_class(model=policy, **options)
    if is_peft_model(policy) and adapters.is_adapter(WARM_START):
        with adapters.other_weights(policy, WARM_START):  # for trl to copy
            return trainer_class(model=policy, **options)
    folder = adapters.full_weights(WARM_START)
    warm_start = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=has_custom_code(folder))
    trainer = trainer_class(model=policy, ref_model=warm_start, **options)
    if precompute:
        trainer.ref_model = None  # its log-probabilities are columns of the data set now; free its memory
    return trainer


def collator(pad_token_id: int) -> "DataCollatorForPreference":
    """trl's collator, which also makes a tensor of the pairs' weights."""
    import torch
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    class Collator(DataCollatorForPreference):  # type: ignore[misc]
        def torch_call(self, examples: list[Chat]) -> dict[str, Any]:
            weights = torch.tensor([example["weight"] for example in examples])
            return {**super().torch_call(examples), "weights": weights}

    return Collator(pad_token_id)


def loss_of(
    settings: Record, log_ratios: "list[Tensor]", chosen: "Tensor", weights: "Tensor", pairs: int, tokens: int
) -> "Tensor":
    """What the n pairs of a micro-batch add to the loss of a step with `pairs` pairs and `tokens` tokens of chosen
    responses (see above). All tensors are of shape (n): the log-ratios of the chosen and of the rejected responses, the
    log-probabilities of the `chosen` ones, and the weights."""
    from torch.nn.functional import logsigmoid

    margins, smoothing = settings["beta"] * (log_ratios[0] - log_ratios[1]), settings["label_smoothing"]
    losses = -logsigmoid(margins)
    if smoothing:
        losses = (1 - smoothing) * losses - smoothing * logsigmoid(-margins)
    loss = (weights * losses).sum() / pairs
    return loss - settings["nll"] * (weights * chosen).sum() / tokens if settings["nll"] else loss


def dpo_trainer(settings: Record) -> "type[DPOTrainer]":
    """trl's DPOTrainer for pairs of tokens with weights, with the loss of params.yaml's `dpo` (see above), in which
    every pair of a step counts as in one micro-batch."""
    import torch
    from trl import DPOTrainer

    class Trainer(DPOTrainer):  # type: ignore[misc]
        loss_is_scaled_for_ga = True  # or transformers would divide the loss by the number of micro-batches

        def __init__(self, *args: Any, processing_class: Any, **options: Any) -> None:
            pairs_of = collator(processing_class.pad_token_id)
            super().__init__(*args, processing_class=processing_class, data_collator=pairs_of, **options)

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            """The pairs as they are, since they are tokens already; SFTTrainer sees that by itself."""
            return dataset

        def _set_signature_columns_if_needed(self) -> None:
            """The columns that reach the collator."""
            super()._set_signature_columns_if_needed()
            self._signature_columns: list[str] = [*self._signature_columns, "weight"]

        def get_batch_samples(self, micro_batches: Any, count: int, device: Any) -> Any:
            """A step's micro-batches, and what transformers hands to `compute_loss` with each of them: the step's pairs
            and chosen tokens over all processes, as a tensor of the two."""
            micro_batches = weighting.without_repeats(self, micro_batches, weighting.blank_pairs)
            step, _ = super().get_batch_samples(micro_batches, count, device)
            totals = [sum(map(weighting.pairs, step)), sum(map(weighting.chosen_tokens, step))]
            return step, self.accelerator.reduce(torch.tensor(totals, device=device))

        def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
            """trl's, of what a model takes."""
            return super().compute_ref_log_probs(model, {key: inputs[key] for key in inputs if key != "weights"})

        def compute_loss(self, model: Any, inputs: Any, _: bool = False, num_items_in_batch: Any = None) -> Any:
            """What a micro-batch adds to the step's loss; without the step's totals, its own loss."""
            if num_items_in_batch is None:  # memory.peak
                return _loss(self, settings, model, inputs, weighting.pairs(inputs), weighting.chosen_tokens(inputs))[0]
            pairs, tokens = num_items_in_batch.tolist()
            loss, rewards = _loss(self, settings, model, inputs, pairs, tokens)
            _log(self, rewards, inputs, pairs)
            return loss * self.args.world_size  # accelerate takes the mean over processes

    return Trainer


def _loss(
    trainer: "DPOTrainer", settings: Record, model: Any, inputs: Any, pairs: int, tokens: int
) -> "tuple[Tensor, list[Tensor]]":
    """What a micro-batch adds to the loss of a step with so many pairs and chosen tokens; and the rewards, β times the
    log-ratios, of its chosen and of its rejected responses."""
    outputs = model(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        labels=inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100),
        use_cache=False,
        fused_lm_head=True,
        **({"output_router_logits": True} if trainer.aux_loss_enabled else {}),
    )
    log_probs = outputs.log_probs.sum(dim=1).chunk(2)  # of the chosen and of the rejected responses
    if trainer.precompute_ref_logps:
        reference = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
    else:
        reference = trainer.compute_ref_log_probs(trainer.ref_model or trainer.model, inputs)
    log_ratios = [policy - other for policy, other in zip(log_probs, reference, strict=True)]
    if settings["loss"] == "sigmoid_norm":
        lengths = inputs["completion_mask"].sum(dim=1).chunk(2)
        log_ratios = [ratio / length for ratio, length in zip(log_ratios, lengths, strict=True)]
    loss = loss_of(settings, log_ratios, log_probs[0], inputs["weights"], pairs, tokens)
    if trainer.aux_loss_enabled:  # the balance of a mixture of experts, as trl adds it
        loss = loss + trainer.router_aux_loss_coef * outputs.aux_loss * weighting.pairs(inputs) / pairs
    return loss, [settings["beta"] * ratio.detach() for ratio in log_ratios]


def _log(trainer: "DPOTrainer", rewards: "list[Tensor]", inputs: Any, pairs: int) -> None:
    """Log the rewards' means over the step's pairs, of which trl takes the mean over micro-batches; and the tokens."""
    import torch

    chosen, rejected = rewards
    values = torch.stack([chosen, rejected, chosen - rejected, (chosen > rejected).to(chosen.dtype)])
    sums = trainer.accelerator.reduce((values * (inputs["weights"] > 0)).sum(dim=1))
    for name, mean in zip(REWARDS, (sums / pairs).tolist(), strict=True):
        trainer._metrics["train"][name].append(mean * trainer.current_gradient_accumulation_steps)
    trainer._total_train_tokens += int(trainer.accelerator.reduce(inputs["attention_mask"].sum()))
    trainer._metrics["train"]["num_tokens"] = [trainer._total_train_tokens]
