"""dpo: preference learning on the pairs, M^S → the next M (paper, section 3.4, "PLR").

    python -m stages.dpo --model iterations/1/sft --parent iterations/0/model --pairs iterations/1/pairs.jsonl \
        --out iterations/1/model

DPO starts from the model that SFT made, or from another one (`dpo.start`); training/preference.py has its loss. The
reference is the model that DPO starts from or, with `dpo.reference: warm_start`, iteration 0's in every iteration,
which bounds the total drift (arXiv 2405.07863). At the end the model may be averaged with its parent's (`average`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from stages.core.command import run
from stages.core.params import Params, read_params, read_runtime
from stages.core.progress import say
from stages.core.prompts import read_system_prompt
from stages.core.records import Tally, read
from stages.core.rows import PreferencePair
from stages.models.chat import trained_tokens
from stages.models.fingerprint import digest
from stages.training import averaging, launch, memory, preference
from stages.training.phase import STARTS, TOO_LONG, WARM_START, Chat, ModelIn, ModelOut, Phase

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
    """The pairs as trl's {"prompt_ids", "chosen_ids", "rejected_ids"} with the judge's "margin"; those with a side
    longer than `context` tokens are dropped."""
    chats = []
    for pair in pairs:
        prompt, chosen = trained_tokens(tokenizer, pair["prompt"], pair["chosen"], system_prompt)
        _, rejected = trained_tokens(tokenizer, pair["prompt"], pair["rejected"], system_prompt)
        if len(prompt) + max(len(chosen), len(rejected)) > context:
            tally.drop(TOO_LONG)
        else:
            tokens = {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
            chats.append({**tokens, "margin": pair["margin"]})
    return chats


def optimise(phase: Phase, selected: list[PreferencePair], params: Params) -> None:
    """Train the model on the pairs and save it, or copy the input model."""
    settings, runtime = params["dpo"], phase.runtime.training
    reason, system_prompt = reason_to_skip(settings["enabled"], selected), read_system_prompt(params["prompts"])
    loaded = phase.begin(reason, selected, chats_of, system_prompt, "pair")
    if not loaded:
        return
    policy, tokenizer, context, chats, tally = loaded
    from trl import DPOConfig

    reference = phase.start if settings["reference"] == "sft" else WARM_START
    precompute = runtime.precompute_reference
    with phase.checkpoint_folder(digest(reference), chats) as folder, memory.explain_out_of_memory(phase.name):
        config = DPOConfig(**phase.trainer_settings(folder, context, len(chats)), precompute_ref_log_probs=precompute)
        weighted = preference.weighted(chats, settings["weight"])
        trainer = preference.trainer_of(
            policy,
            settings,
            precompute,
            args=config,
            train_dataset=preference.dataset_of(weighted, folder, precompute),
            processing_class=tokenizer,
        )
        phase.run(trainer, tokenizer, tally, "pairs")


def main(
    model: ModelIn,
    parent: Annotated[Path, Option(help="model folder of the parent iteration")],
    pairs: Annotated[Path, Option(help="preference pairs")],
    out: ModelOut,
) -> None:
    """Train a model on preference pairs."""
    runtime = read_runtime()
    if launch.relaunch_if_distributed("stages.dpo", runtime.training):
        return
    params, name = read_params("dpo"), f"dpo@{out.parent.name}"
    start = {"sft": model, "parent": parent, **STARTS}[params["dpo.start"]]
    training, random_state = params["training"], params["random_state"]
    phase = Phase("dpo", name, model, start, out, params["dpo"], training, random_state, runtime)
    optimise(phase, read(pairs, PreferencePair), params)
    if params["average"] and launch.is_main_process():
        averaging.average(out, parent, params["average"])
        say(f"{name}: averaged with {params['average']:g} of {parent}")


if __name__ == "__main__":
    run(main, launch="train")
