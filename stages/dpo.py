"""dpo: preference learning on the pairs, M^S → the next M (paper, section 3.4, "PLR").

`python -m stages.dpo 1`   iteration

The reference is the model that comes in. `dpo.nll` adds an NLL term on the chosen responses.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import checkpoints, training
from stages.core.chat import answer, messages
from stages.core.digest import digest
from stages.core.errors import run
from stages.core.params import declared
from stages.core.progress import progress, say
from stages.core.prompts import system
from stages.core.records import Record, Tally, read, write_json

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
        if max(training.length(tokenizer, prompt + side) for side in sides.values()) > context:
            tally.drop("does not fit the context")
        else:
            chats.append({"prompt": prompt, **sides})
    return chats


def loss_of(nll: float) -> dict[str, Any]:
    """trl's loss: plain DPO, or with an NLL term of this weight."""
    return {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, nll]} if nll else {"loss_type": ["sigmoid"]}


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

    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    policy, tokenizer = training.load(model)
    context = policy.config.max_position_embeddings
    tally = Tally(len(pairs))
    chats = chats_of(pairs, tokenizer, system(params["prompts"]), context, tally)
    if not chats:
        training.pass_on(name, "no pair fits the context", model, out, counts_file)
        return
    decides = ("dpo", digest(model), chats, settings, params["random_state"])
    with checkpoints.folder(*decides) as folder, progress(name, training.steps(len(chats), settings)) as advance:
        common = training.arguments(settings, params["random_state"], str(folder), context, len(chats))
        trainer = DPOTrainer(
            model=policy,
            args=DPOConfig(**common, **loss_of(settings["nll"]), beta=settings["beta"]),
            train_dataset=Dataset.from_list(chats),
            processing_class=tokenizer,
        )
        log = training.train(trainer, name, "dpo", advance, counts_file)
        training.save(trainer, tokenizer, name, "dpo", out)
    write_json(counts_file, {"rows": tally.counts(len(chats)), "steps": len(log), "log": training.curve(log)})
    say(f"{name}: {len(chats):,} pairs, {len(log):,} steps, loss {log[0]['loss']:.3f} → {log[-1]['loss']:.3f}")


if __name__ == "__main__":
    import sys

    run(main, *sys.argv[1:])
