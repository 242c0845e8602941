"""DPO's trainer: trl's, with the reference and the loss that `dpo` names, and pairs that all weigh the same."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import adapters, processes
from stages.core.digest import own_code
from stages.core.records import Record

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

    if not precompute or processes.count() == 1:
        return Dataset.from_list(chats)
    if processes.is_main():
        Dataset.from_list(chats).save_to_disk(folder / "pairs")
    return load_from_disk(processes.agreed(str(folder / "pairs")))


def trainer_of(
    policy: "PreTrainedModel | PeftModel", reference: str, model: Path, precompute: bool, **parts: Any
) -> "DPOTrainer":
    """trl's trainer with our reference. trl takes the weights that the policy has at this moment: of an adapter as a
    second, frozen one, and of whole weights from the folder that they came from."""
    import torch
    from accelerate.utils import is_peft_model
    from transformers import AutoModelForCausalLM
    from trl import DPOTrainer

    class Trainer(DPOTrainer):  # type: ignore[misc]
        """Each pair has the same weight in its step, however many share its pass: trl takes the mean over passes. (The
        tokens of `dpo.nll` weigh the same within a pass only.)"""

        pairs = 0  # of this step, in all passes and processes

        def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
            passes, items = super().get_batch_samples(*args, **kwargs)
            here = sum(len(each["input_ids"]) for each in passes)
            self.pairs = self.accelerator.reduce(torch.tensor(here, device=self.args.device)).item()
            return passes, items

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            if not self.pairs:  # of no step: whether a step would fit
                return loss
            passes = self.current_gradient_accumulation_steps * self.accelerator.num_processes
            return loss * (passes * len(inputs["input_ids"]) / self.pairs)

    if reference == "sft":
        return Trainer(model=policy, **parts)
    if is_peft_model(policy) and adapters.is_adapter(WARM_START):
        adapters.replace(policy, WARM_START)
        trainer = Trainer(model=policy, **parts)
        adapters.replace(policy, model)
        return trainer
    whole = adapters.whole(WARM_START)
    fixed = AutoModelForCausalLM.from_pretrained(whole, trust_remote_code=own_code(whole))
    trainer = Trainer(model=policy, ref_model=fixed, **parts)
    if precompute:
        trainer.ref_model = None  # it has said all that it is asked
    return trainer
