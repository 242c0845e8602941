"""DPO's trainer: trl's, with the reference and the loss that `dpo` names, and pairs that all weigh the same."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.records import Record
from stages.models import adapters
from stages.models.fingerprint import has_custom_code
from stages.training import launch

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedModel
    from trl import DPOTrainer

WARM_START = Path("iterations/0/model")


def loss_of(nll: float) -> dict[str, Any]:
    """trl's loss: plain DPO, or with an NLL term of this weight."""
    return {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, nll]} if nll else {"loss_type": ["sigmoid"]}


def dataset_of(chats: list[Record], folder: Path, precompute: bool) -> "Dataset":
    """The pairs for trl; where several processes share what it precomputes, from files that they share."""
    from datasets import Dataset, load_from_disk

    if not precompute or launch.count() == 1:
        return Dataset.from_list(chats)
    if launch.is_main():
        Dataset.from_list(chats).save_to_disk(folder / "pairs")
    return load_from_disk(launch.agreed(str(folder / "pairs")))


def blank(inputs: Any, pairs: list[int]) -> None:
    """Take the completions out of some pairs of a pass: no gradient comes from them. trl has the chosen ones first."""
    for side in inputs["completion_mask"].chunk(2):
        side[pairs] = 0
    for reference in ("ref_chosen_logps", "ref_rejected_logps"):
        if reference in inputs:
            inputs[reference][pairs] = 0


def weighed(inputs: Any) -> int:
    """The pairs of a pass that have a weight."""
    return int(inputs["completion_mask"].any(dim=1).sum()) // 2


def chosen_tokens(inputs: Any) -> int:
    return int(inputs["completion_mask"].chunk(2)[0][:, 1:].sum())


def _weighing() -> "type[DPOTrainer]":
    """trl's trainer, in which each pair has the same weight in its step, however many share its pass, and so has each
    token of `dpo.nll`: trl takes the mean over passes."""
    import torch
    from trl import DPOTrainer

    class Trainer(DPOTrainer):  # type: ignore[misc]
        pairs, tokens = 0, 0  # of this step, in all passes and processes: those that have a weight, and of the chosen

        def get_batch_samples(self, passes: Any, *args: Any) -> Any:
            step, items = super().get_batch_samples(launch.without_repeats(self, passes, blank), *args)
            self.pairs = self._in_all(sum(weighed(each) for each in step))
            self.tokens = self._in_all(sum(chosen_tokens(each) for each in step))
            return step, items

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.pairs:  # of no step: whether a step would fit
                return super().compute_loss(model, inputs, *args, **kwargs)
            here, width = weighed(inputs), len(inputs["input_ids"]) // 2
            preference, *nll = self.args.loss_weights or [1.0]
            share = self.pairs * chosen_tokens(inputs) / (width * self.tokens)
            self.loss_weights = [preference, *(weight * share for weight in nll)]
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            if here < width:  # a blank pair's loss is ln 2 without a gradient; a pass of nothing else has no mean NLL
                loss = (loss * width - (width - here) * math.log(2)) / here if here else loss.nan_to_num()
            if launch.count() > 1:
                diluted = self._in_all(width) / self._in_all(here)
                for measure in ("rewards/margins", "rewards/accuracies"):
                    self._metrics["train"][measure][-1] *= diluted
            passes = self.current_gradient_accumulation_steps * self.accelerator.num_processes
            return loss * (passes * here / self.pairs)

        def _in_all(self, number: int) -> Any:
            return self.accelerator.reduce(torch.tensor(number, device=self.args.device)).item()

    return Trainer


def trainer_of(
    policy: "PreTrainedModel | PeftModel", reference: str, model: Path, precompute: bool, **parts: Any
) -> "DPOTrainer":
    """trl's trainer with our reference. trl takes the weights that the policy has at this moment: of an adapter as a
    second, frozen one, and of whole weights from the folder that they came from."""
    from accelerate.utils import is_peft_model
    from transformers import AutoModelForCausalLM

    weighing = _weighing()
    if reference == "sft":
        return weighing(model=policy, **parts)
    if is_peft_model(policy) and adapters.is_adapter(WARM_START):
        adapters.load_weights(policy, WARM_START)
        trainer = weighing(model=policy, **parts)
        adapters.load_weights(policy, model)
        return trainer
    whole = adapters.full_weights(WARM_START)
    fixed = AutoModelForCausalLM.from_pretrained(whole, trust_remote_code=has_custom_code(whole))
    trainer = weighing(model=policy, ref_model=fixed, **parts)
    if precompute:
        trainer.ref_model = None  # it has said all that it is asked
    return trainer
