"""dpo: preference learning on the pairs, M^S → the next M (paper, section 3.4, "PLR").

`python -m stages.dpo 1`   iteration

The reference is the model that comes in, or by `dpo.reference: warm_start` that of iteration 0 in every iteration, so
that the drift over all of them is bounded (arXiv 2405.07863). `dpo.nll` adds an NLL term on the chosen responses.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.errors import run
from stages.core.params import declared, runtime
from stages.core.progress import progress
from stages.core.prompts import system
from stages.core.records import Record, Tally, read
from stages.models.chat import answer, context_length, messages
from stages.models.fingerprint import digest
from stages.training import checkpoints, launch, memory, phase, preference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def chats_of(
    pairs: list[Record], tokenizer: "PreTrainedTokenizerBase", asked: str, context: int, tally: Tally
) -> list[Record]:
    """The pairs in the chat format; one of which a side does not fit is dropped: trl would cut it without a word."""
    chats: list[Record] = []
    for pair in pairs:
        prompt = messages(tokenizer, pair["prompt"], asked)
        sides = {side: answer(tokenizer, pair[side]) for side in ("chosen", "rejected")}
        if max(phase.length(tokenizer, prompt + side) for side in sides.values()) > context:
            tally.drop("does not fit the context")
        else:
            chats.append({"prompt": prompt, **sides})
    return chats


def main(iteration: str) -> None:
    params = declared("dpo")
    settings, name = params["dpo"], f"dpo@{iteration}"
    model, out = Path("iterations", iteration, "sft"), Path("iterations", iteration, "model")
    counts_file = Path("results", iteration, "dpo.json")
    pairs = read(Path("iterations", iteration, "pairs.jsonl"))
    reason = "dpo.enabled is false" if not settings["enabled"] else "no pairs were found" if not pairs else None
    if reason:
        phase.pass_on(name, reason, model, out, counts_file)
        return

    from trl import DPOConfig

    policy, tokenizer = phase.load(name, model, params["training"], params["random_state"])
    context = context_length(policy.config)
    tally = Tally(len(pairs))
    chats = chats_of(pairs, tokenizer, system(params["prompts"]), context, tally)
    if not chats:
        phase.pass_on(name, "no pair fits the context", model, out, counts_file)
        return
    reference = digest(model if settings["reference"] == "sft" else preference.WARM_START)
    decides = ("dpo", digest(model), reference, chats, settings, params["training"], params["random_state"])
    steps = phase.steps(len(chats), settings)
    with checkpoints.folder(*decides) as folder, progress(name, steps) as advance, memory.explain_out_of_memory(name):
        common = phase.arguments(
            "dpo", settings, params["training"], params["random_state"], folder, context, len(chats)
        )
        precompute = runtime()["training"]["precompute_reference"]
        config = DPOConfig(
            **common, **preference.loss_of(settings["nll"]), beta=settings["beta"], precompute_ref_log_probs=precompute
        )
        rows = preference.dataset_of(chats, folder, precompute)
        trainer = preference.trainer_of(
            policy,
            settings["reference"],
            model,
            precompute,
            args=config,
            train_dataset=rows,
            processing_class=tokenizer,
        )
        log = phase.train(trainer, name, "dpo", advance, counts_file)
        phase.save(trainer, tokenizer, name, "dpo", out)
    phase.finish(name, "pairs", tally, log, counts_file)


if __name__ == "__main__":
    import sys

    run(launch.launched(main, "stages.dpo"), *sys.argv[1:])
