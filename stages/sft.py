"""sft: NLL on the completions, M → M^S (paper, section 3.4); and the warm start, base → M_0.

`python -m stages.sft sft iterations/0/model iterations/1/sft.jsonl iterations/1/sft results/1/sft.json`
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

WARM_START = "sft-0"  # the baseline of every gain, so it trains even where the iterations' SFT is switched off
TEACHING = ("seed", "new")  # without a row of these kinds there is nothing to learn, only to replay


def main(stage: str, model: str, rows_file: str, out: str, counts_file: str) -> None:
    params = declared(stage)
    settings = {name: params[f"sft.{name}"] for name in ("learning_rate", "epochs", "batch_size")}
    rows = read(Path(rows_file))
    name = f"{stage} {out}"
    passed_on = None
    if stage != WARM_START and not params["sft.enabled"]:
        passed_on = "sft.enabled is false"
    elif not any(row["kind"] in TEACHING for row in rows):
        passed_on = "no SFT rows were selected"
    if passed_on:
        copy_folder(Path(model), Path(out))
        write_json(Path(counts_file), {"passed_on": passed_on})
        say(f"{name}: the model is passed on, {passed_on}")
        return

    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    policy, tokenizer = training.load(Path(model))
    context = policy.config.max_position_embeddings
    asked = system(params["prompts"])
    tally = Tally(len(rows))
    chats: list[Record] = []
    for row in rows:
        chat = {"prompt": messages(tokenizer, row["prompt"], asked), "completion": answer(tokenizer, row["completion"])}
        if training.length(tokenizer, chat["prompt"] + chat["completion"]) > context:
            tally.drop("does not fit the context")
        else:
            chats.append(chat)
    counts = tally.counts(len(chats))
    with TemporaryDirectory() as folder, progress(name, training.steps(len(chats), settings)) as advance:
        common = training.arguments(settings, params["random_state"], folder, context)
        trainer = SFTTrainer(
            model=policy,
            args=SFTConfig(**common, completion_only_loss=True),
            train_dataset=Dataset.from_list(chats),
            processing_class=tokenizer,
        )
        losses = training.train(trainer, advance)
    training.save(trainer, tokenizer, Path(out))
    write_json(Path(counts_file), {"rows": counts, "steps": len(losses), "loss": training.curve(losses)})
    say(f"{name}: {len(chats):,} rows, {len(losses):,} steps, loss {losses[0]:.3f} → {losses[-1]:.3f}")


if __name__ == "__main__":
    import sys

    run(main, *sys.argv[1:])
