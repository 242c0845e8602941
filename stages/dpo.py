"""dpo: preference learning on the pairs, M^S → the next M (paper, section 3.4, "PLR").

    python -m stages.dpo --model iterations/1/sft --pairs iterations/1/pairs.jsonl --out iterations/1/model

The reference is the model that DPO starts from or, with `dpo.reference: warm_start`, iteration 0's in every iteration,
which bounds the total drift (arXiv 2405.07863). `dpo.nll` adds an NLL term on the chosen responses.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from stages.core.command import run
from stages.core.params import read_params, read_runtime
from stages.core.prompts import read_system_prompt
from stages.core.records import Tally, read
from stages.core.rows import PreferencePair
from stages.models.chat import trained_tokens
from stages.models.fingerprint import digest
from stages.training import launch, memory, preference
from stages.training.phase import TOO_LONG, Chat, ModelIn, ModelOut, Phase

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def reason_to_skip(enabled: bool, pairs: list[PreferencePair]) -> str | None:
    """Why there is nothing to train on; None if there is."""
    if not enabled:
        return "dpo.enabled is false"
    return None if pairs else "no pairs were found"


def chats_of(
    pairs: list[PreferencePair], tokenizer: "PreTrainedTokenizerBase", system_prompt: str, context: int, tally: Tally
) -> list[Chat]:
    """The pairs as trl's {"prompt_ids", "chosen_ids", "rejected_ids"}; those with a side longer than `context` tokens
    are dropped."""
    chats = []
    for pair in pairs:
        prompt, chosen = trained_tokens(tokenizer, pair["prompt"], pair["chosen"], system_prompt)
        _, rejected = trained_tokens(tokenizer, pair["prompt"], pair["rejected"], system_prompt)
        if len(prompt) + max(len(chosen), len(rejected)) > context:
            tally.drop(TOO_LONG)
        else:
            chats.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    return chats


def main(model: ModelIn, pairs: Annotated[Path, Option(help="preference pairs")], out: ModelOut) -> None:
    """Train a model on preference pairs."""
    runtime = read_runtime()
    if launch.relaunch_if_distributed("stages.dpo", runtime.training):
        return
    params, selected = read_params("dpo"), read(pairs, PreferencePair)
    name, settings = f"dpo@{out.parent.name}", params["dpo"]
    phase = Phase("dpo", name, model, out, settings, params["training"], params["random_state"], runtime)
    reason, system_prompt = reason_to_skip(settings["enabled"], selected), read_system_prompt(params["prompts"])
    loaded = phase.begin(reason, selected, chats_of, system_prompt, "pair")
    if not loaded:
        return
    policy, tokenizer, context, chats, tally = loaded
    from trl import DPOConfig

    reference = model if settings["reference"] == "sft" else preference.WARM_START
    precompute = runtime.training.precompute_reference
    with phase.checkpoint_folder(digest(reference), chats) as folder, memory.explain_out_of_memory(phase.name):
        config = DPOConfig(
            **phase.trainer_settings(folder, context, len(chats)),
            **preference.loss_options(settings["nll"]),
            beta=settings["beta"],
            precompute_ref_log_probs=precompute,
        )
        trainer = preference.trainer_of(
            policy,
            settings["reference"],
            model,
            precompute,
            args=config,
            train_dataset=preference.dataset_of(chats, folder, precompute),
            processing_class=tokenizer,
        )
        phase.run(trainer, tokenizer, tally, "pairs")


if __name__ == "__main__":
    run(main)
