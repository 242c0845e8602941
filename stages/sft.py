"""sft: NLL on the completions, M → M^S (paper, section 3.4); and the warm start, base → M_0.

`python -m stages.sft sft iterations/0/model iterations/1/sft.jsonl iterations/1/sft results/1/sft.json`
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.errors import run
from stages.core.params import Params, declared
from stages.core.progress import progress
from stages.core.prompts import system
from stages.core.records import Record, Tally, read
from stages.models.chat import answer, context_length, messages
from stages.models.fingerprint import digest
from stages.training import checkpoints, launch, memory, phase

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from trl import SFTTrainer

WARM_START = "sft-0"  # the baseline of every gain, so it trains even where the iterations' SFT is switched off
TEACHING = ("seed", "new")  # without a row of these kinds there is nothing to learn, only to replay


def reason_to_pass_on(stage: str, params: Params, rows: list[Record]) -> str | None:
    if stage != WARM_START and not params["sft.enabled"]:
        return "sft.enabled is false"
    return None if any(row["kind"] in TEACHING for row in rows) else "no SFT rows were selected"


def chats_of(
    rows: list[Record], tokenizer: "PreTrainedTokenizerBase", asked: str, context: int, tally: Tally
) -> list[Record]:
    """The rows in the chat format; one that does not fit is dropped: trl would cut it without a word."""
    chats: list[Record] = []
    for row in rows:
        chat = {"prompt": messages(tokenizer, row["prompt"], asked), "completion": answer(tokenizer, row["completion"])}
        if phase.length(tokenizer, chat["prompt"] + chat["completion"]) > context:
            tally.drop("does not fit the context")
        else:
            chats.append(chat)
    return chats


def trainer_of(**parts: Any) -> "SFTTrainer":
    """trl's trainer; in several processes, each row has its weight once."""
    from trl import SFTTrainer

    class Trainer(SFTTrainer):  # type: ignore[misc]
        def get_batch_samples(self, passes: Any, *args: Any) -> Any:
            return super().get_batch_samples(launch.without_repeats(self, passes, blank), *args)

    return Trainer(**parts)


def blank(inputs: Any, rows: list[int]) -> None:
    inputs["labels"][rows] = -100  # of no token, as torch has it


def main(stage: str, model: str, rows_file: str, out: str, counts_file: str) -> None:
    params = declared(stage)
    settings = {name: params[f"sft.{name}"] for name in ("learning_rate", "epochs", "batch_size")}
    rows = read(Path(rows_file))
    name = f"{stage} {out}"
    if reason := reason_to_pass_on(stage, params, rows):
        phase.pass_on(name, reason, Path(model), Path(out), Path(counts_file))
        return

    from datasets import Dataset
    from trl import SFTConfig

    policy, tokenizer = phase.load(name, Path(model), params["training"], params["random_state"])
    context = context_length(policy.config)
    tally = Tally(len(rows))
    chats = chats_of(rows, tokenizer, system(params["prompts"]), context, tally)
    if not chats:
        phase.pass_on(name, "no SFT row fits the context", Path(model), Path(out), Path(counts_file))
        return
    decides = ("sft", digest(Path(model)), chats, settings, params["training"], params["random_state"])
    steps = phase.steps(len(chats), settings)
    with checkpoints.folder(*decides) as folder, progress(name, steps) as advance, memory.explain_out_of_memory(name):
        common = phase.arguments(
            "sft", settings, params["training"], params["random_state"], folder, context, len(chats)
        )
        trainer = trainer_of(
            model=policy,
            args=SFTConfig(**common, completion_only_loss=True),
            train_dataset=Dataset.from_list(chats),
            processing_class=tokenizer,
        )
        log = phase.train(trainer, name, "sft", advance, Path(counts_file))
        phase.save(trainer, tokenizer, name, "sft", Path(out))
    phase.finish(name, "rows", tally, log, Path(counts_file))


if __name__ == "__main__":
    import sys

    run(launch.launched(main, "stages.sft"), *sys.argv[1:])
