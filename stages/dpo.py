"""dpo: preference learning on the pairs, M^S → the next M (paper, section 3.4, "PLR").

`python -m stages.dpo 1`   iteration

The reference is the model that comes in, or by `dpo.reference: warm_start` that of iteration 0 in every iteration, so
that the drift over all of them is bounded (arXiv 2405.07863). `dpo.nll` adds an NLL term on the chosen responses.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import adapters, checkpoints, processes, training
from stages.core.chat import answer, context_length, messages
from stages.core.digest import digest, own_code
from stages.core.errors import run
from stages.core.params import declared, runtime
from stages.core.progress import progress
from stages.core.prompts import system
from stages.core.records import Record, Tally, read

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import DPOTrainer

WARM_START = Path("iterations/0/model")


def chats_of(
    pairs: list[Record], tokenizer: "PreTrainedTokenizerBase", asked: str, context: int, tally: Tally
) -> list[Record]:
    """The pairs in the chat format; one of which a side does not fit is dropped: trl would cut it without a word."""
    chats: list[Record] = []
    for pair in pairs:
        prompt = messages(tokenizer, pair["prompt"], asked)
        sides = {side: answer(tokenizer, pair[side]) for side in ("chosen", "rejected")}
        if max(training.length(tokenizer, prompt + side) for side in sides.values()) > context:
            tally.drop("does not fit the context")
        else:
            chats.append({"prompt": prompt, **sides})
    return chats


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
        """Each pair has the same weight in its step, however many share its pass: trl takes the mean over passes."""

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


def main(iteration: str) -> None:
    params = declared("dpo")
    settings, name = params["dpo"], f"dpo@{iteration}"
    model, out = Path("iterations", iteration, "sft"), Path("iterations", iteration, "model")
    counts_file = Path("results", iteration, "dpo.json")
    pairs = read(Path("iterations", iteration, "pairs.jsonl"))
    reason = "dpo.enabled is false" if not settings["enabled"] else "no pairs were found" if not pairs else None
    if reason:
        training.pass_on(name, reason, model, out, counts_file)
        return

    from trl import DPOConfig

    policy, tokenizer = training.load(name, model, params["training"], params["random_state"])
    context = context_length(policy.config)
    tally = Tally(len(pairs))
    chats = chats_of(pairs, tokenizer, system(params["prompts"]), context, tally)
    if not chats:
        training.pass_on(name, "no pair fits the context", model, out, counts_file)
        return
    reference = digest(model if settings["reference"] == "sft" else WARM_START)
    decides = ("dpo", digest(model), reference, chats, settings, params["training"], params["random_state"])
    with checkpoints.folder(*decides) as folder, progress(name, training.steps(len(chats), settings)) as advance:
        common = training.arguments(
            "dpo", settings, params["training"], params["random_state"], folder, context, len(chats)
        )
        precompute = runtime()["training"]["precompute_reference"]
        config = DPOConfig(
            **common, **loss_of(settings["nll"]), beta=settings["beta"], precompute_ref_log_probs=precompute
        )
        rows = dataset_of(chats, folder, precompute)
        trainer = trainer_of(
            policy,
            settings["reference"],
            model,
            precompute,
            args=config,
            train_dataset=rows,
            processing_class=tokenizer,
        )
        log = training.train(trainer, name, "dpo", advance, counts_file)
        training.save(trainer, tokenizer, name, "dpo", out)
    training.finish(name, "pairs", tally, log, counts_file)


if __name__ == "__main__":
    import sys

    run(processes.launched(main, "stages.dpo"), *sys.argv[1:])
