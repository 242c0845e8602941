"""dpo: preference learning on the pairs, M^S → the next M (paper, section 3.4, "PLR").

`python -m stages.dpo 1`   iteration

The reference is the model that comes in. `dpo.nll` adds an NLL term on the chosen responses.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from stages.core import training
from stages.core.chat import answer, messages
from stages.core.errors import run
from stages.core.params import declared
from stages.core.progress import progress, say
from stages.core.prompts import system
from stages.core.records import Record, Tally, copy_folder, read, write_json


def main(iteration: str) -> None:
    params = declared("dpo")
    settings = params["dpo"]
    here, out = Path("iterations", iteration), Path("iterations", iteration, "model")
    counts_file = Path("results", iteration, "dpo.json")
    rows = read(here / "pairs.jsonl")
    passed_on = "dpo.enabled is false" if not settings["enabled"] else "no pairs were found" if not rows else None
    if passed_on:
        copy_folder(here / "sft", out)
        write_json(counts_file, {"passed_on": passed_on})
        say(f"dpo@{iteration}: the model is passed on, {passed_on}")
        return

    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    policy, tokenizer = training.load(here / "sft")
    context = policy.config.max_position_embeddings
    asked = system(params["prompts"])
    tally = Tally(len(rows))
    chats: list[Record] = []
    for row in rows:
        prompt = messages(tokenizer, row["prompt"], asked)
        sides = {side: answer(tokenizer, row[side]) for side in ("chosen", "rejected")}
        if max(training.length(tokenizer, prompt + side) for side in sides.values()) > context:
            tally.drop("does not fit the context")
        else:
            chats.append({"prompt": prompt, **sides})
    counts = tally.counts(len(chats))
    nll = settings["nll"]
    loss = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, nll]} if nll else {"loss_type": ["sigmoid"]}
    with TemporaryDirectory() as folder, progress(f"dpo@{iteration}", training.steps(len(chats), settings)) as advance:
        common = training.arguments(settings, params["random_state"], folder, context)
        trainer = DPOTrainer(
            model=policy,
            args=DPOConfig(**common, **loss, beta=settings["beta"]),
            train_dataset=Dataset.from_list(chats),
            processing_class=tokenizer,
        )
        losses = training.train(trainer, advance)
    training.save(trainer, tokenizer, out)
    write_json(counts_file, {"rows": counts, "steps": len(losses), "loss": training.curve(losses)})
    say(f"dpo@{iteration}: {len(chats):,} pairs, {len(losses):,} steps, loss {losses[0]:.3f} → {losses[-1]:.3f}")


if __name__ == "__main__":
    import sys

    run(main, *sys.argv[1:])
