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
from stages.core.progress import progress
from stages.core.prompts import read_system_prompt
from stages.core.records import Record, Tally, counts_file, read
from stages.core.rows import PreferencePair
from stages.models.chat import assistant_turn, context_length, prompt_messages
from stages.models.fingerprint import digest
from stages.training import checkpoints, launch, memory, phase, preference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def chats_of(
    pairs: list[PreferencePair], tokenizer: "PreTrainedTokenizerBase", system_prompt: str, context: int, tally: Tally
) -> list[Record]:
    """The pairs as {"prompt", "chosen", "rejected"} messages; one with a side longer than `context` tokens is dropped,
    since trl would truncate it silently."""
    chats: list[Record] = []
    for pair in pairs:
        prompt = prompt_messages(tokenizer, pair["prompt"], system_prompt)
        sides = {
            "chosen": assistant_turn(tokenizer, pair["chosen"]),
            "rejected": assistant_turn(tokenizer, pair["rejected"]),
        }
        if max(phase.length(tokenizer, prompt + side) for side in sides.values()) > context:
            tally.drop("does not fit the context")
        else:
            chats.append({"prompt": prompt, **sides})
    return chats


def main(
    model: Annotated[Path, Option(help="model folder to train, and by default the reference")],
    pairs: Annotated[Path, Option(help="preference pairs")],
    out: Annotated[Path, Option(help="model folder to write, iterations/ITERATION/NAME")],
) -> None:
    """Train a model on preference pairs."""
    runtime = read_runtime()
    if launch.handed_over("stages.dpo", runtime.training):
        return
    iteration = out.parent.name
    params, name, counts = read_params("dpo"), f"dpo@{iteration}", counts_file("dpo", iteration)
    settings, selected = params["dpo"], read(pairs, PreferencePair)
    reason = "dpo.enabled is false" if not settings["enabled"] else "no pairs were found" if not selected else None
    if reason:
        phase.skip(name, reason, model, out, counts)
        return

    launch.use_one_gpu()
    from trl import DPOConfig

    policy, tokenizer = phase.load(name, model, params["training"], params["random_state"], runtime.training.sharding)
    context = context_length(policy.config)
    tally = Tally(len(selected))
    chats = chats_of(selected, tokenizer, read_system_prompt(params["prompts"]), context, tally)
    if not chats:
        phase.skip(name, "no pair fits the context", model, out, counts)
        return
    reference = digest(model if settings["reference"] == "sft" else preference.WARM_START)
    decides = ("dpo", digest(model), reference, chats, settings, params["training"], params["random_state"])
    steps = phase.steps(len(chats), settings)
    with (
        checkpoints.folder(runtime.training, *decides) as folder,
        progress(name, steps) as advance,
        memory.explain_out_of_memory(name),
    ):
        common = phase.arguments(
            "dpo", settings, params["training"], params["random_state"], folder, context, len(chats), runtime.training
        )
        precompute = runtime.training.precompute_reference
        config = DPOConfig(
            **common, **preference.loss_of(settings["nll"]), beta=settings["beta"], precompute_ref_log_probs=precompute
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
        log = phase.train(trainer, name, "dpo", advance, counts, runtime.checkpoint_minutes)
        phase.save(trainer, tokenizer, name, "dpo", out)
    phase.finish(name, "pairs", tally, log, counts)


if __name__ == "__main__":
    run(main)
