"""DPO's trainer, with the loss and the reference that params.yaml's `dpo` names."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.models import adapters
from stages.models.fingerprint import has_custom_code
from stages.training import launch, weighting
from stages.training.phase import Chat

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedModel
    from trl import DPOTrainer

WARM_START = Path("iterations/0/model")


def loss_options(nll: float) -> dict[str, Any]:
    """trl's options for the loss: plain DPO (arXiv 2305.18290), or DPO plus `nll` times the mean negative
    log-likelihood of the chosen responses' tokens, as in RPO (arXiv 2404.19733)."""
    return {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, nll]} if nll else {"loss_type": ["sigmoid"]}


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
    policy: "PreTrainedModel | PeftModel", reference: str, model: Path, precompute: bool, **options: Any
) -> "DPOTrainer":
    """A DPO trainer of `policy`, loaded from the folder `model`, against `dpo.reference`; `options` are the trainer's.

    By default trl's reference is the policy as it is now: of an adapter a frozen copy beside it, of whole weights the
    model in the folder they were loaded from."""
    from accelerate.utils import is_peft_model
    from transformers import AutoModelForCausalLM

    trainer_class = weighting.dpo_trainer()
    if reference == "sft":
        return trainer_class(model=policy, **options)
    if is_peft_model(policy) and adapters.is_adapter(WARM_START):
        adapters.load_weights(policy, WARM_START)  # for trl to copy
        trainer = trainer_class(model=policy, **options)
        adapters.load_weights(policy, model)
        return trainer
    folder = adapters.full_weights(WARM_START)
    warm_start = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=has_custom_code(folder))
    trainer = trainer_class(model=policy, ref_model=warm_start, **options)
    if precompute:
        trainer.ref_model = None  # its log-probabilities are columns of the data set now; free its memory
    return trainer
