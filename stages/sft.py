"""sft: NLL on the completions, M → M^S (paper, section 3.4); in iteration 0 the warm start, base → M_0.

python -m stages.sft --model iterations/0/model --rows iterations/1/sft.jsonl --out iterations/1/sft
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from stages.core.command import run
from stages.core.params import Params, read_params, read_runtime
from stages.core.progress import progress
from stages.core.prompts import read_system_prompt
from stages.core.records import Record, Tally, counts_file, read
from stages.core.rows import SftRow
from stages.models.chat import assistant_turn, context_length, prompt_messages
from stages.models.fingerprint import digest
from stages.training import checkpoints, launch, memory, phase

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from trl import SFTTrainer

WARM_START = "sft-0"  # the baseline of every gain, so it trains even if the iterations' SFT is switched off
TEACHING = ("seed", "new")  # without a row of these kinds there is nothing to learn, only to replay


def reason_to_skip(stage: str, params: Params, rows: list[SftRow]) -> str | None:
    """Why there is nothing to train on; None if there is."""
    if stage != WARM_START and not params["sft.enabled"]:
        return "sft.enabled is false"
    return None if any(row["kind"] in TEACHING for row in rows) else "no SFT rows were selected"


def chats_of(
    rows: list[SftRow], tokenizer: "PreTrainedTokenizerBase", system_prompt: str, context: int, tally: Tally
) -> list[Record]:
    """The rows as {"prompt", "completion"} messages; one longer than `context` tokens is dropped, since trl would
    truncate it silently."""
    chats: list[Record] = []
    for row in rows:
        prompt = prompt_messages(tokenizer, row["prompt"], system_prompt)
        chat = {"prompt": prompt, "completion": assistant_turn(tokenizer, row["completion"])}
        if phase.length(tokenizer, chat["prompt"] + chat["completion"]) > context:
            tally.drop("does not fit the context")
        else:
            chats.append(chat)
    return chats


def trainer_of(**parts: Any) -> "SFTTrainer":
    """trl's trainer, except that rows repeated to fill several processes have no weight."""
    from trl import SFTTrainer

    class Trainer(SFTTrainer):  # type: ignore[misc]
        def get_batch_samples(self, passes: Any, *args: Any) -> Any:
            return super().get_batch_samples(launch.without_repeats(self, passes, blank), *args)

    return Trainer(**parts)


def blank(inputs: Any, rows: list[int]) -> None:
    """Take some rows of a pass out of the loss."""
    inputs["labels"][rows] = -100  # torch's label of no token


def main(
    model: Annotated[Path, Option(help="model folder to train")],
    rows: Annotated[Path, Option(help="SFT rows")],
    out: Annotated[Path, Option(help="model folder to write, iterations/ITERATION/NAME")],
) -> None:
    """Train a model on SFT rows."""
    runtime = read_runtime()
    if launch.handed_over("stages.sft", runtime.training):
        return
    iteration = out.parent.name
    stage = WARM_START if iteration == "0" else "sft"
    params, name, counts = read_params(stage), f"{stage} {out}", counts_file("sft", iteration)
    settings = {name: params[f"sft.{name}"] for name in ("learning_rate", "epochs", "batch_size")}
    selected = read(rows, SftRow)
    if reason := reason_to_skip(stage, params, selected):
        phase.skip(name, reason, model, out, counts)
        return

    launch.use_one_gpu()
    from datasets import Dataset
    from trl import SFTConfig

    policy, tokenizer = phase.load(name, model, params["training"], params["random_state"], runtime.training.sharding)
    context = context_length(policy.config)
    tally = Tally(len(selected))
    chats = chats_of(selected, tokenizer, read_system_prompt(params["prompts"]), context, tally)
    if not chats:
        phase.skip(name, "no SFT row fits the context", model, out, counts)
        return
    decides = ("sft", digest(model), chats, settings, params["training"], params["random_state"])
    steps = phase.steps(len(chats), settings)
    with (
        checkpoints.folder(runtime.training, *decides) as folder,
        progress(name, steps) as advance,
        memory.explain_out_of_memory(name),
    ):
        common = phase.arguments(
            "sft", settings, params["training"], params["random_state"], folder, context, len(chats), runtime.training
        )
        trainer = trainer_of(
            model=policy,
            args=SFTConfig(**common, completion_only_loss=True),
            train_dataset=Dataset.from_list(chats),
            processing_class=tokenizer,
        )
        log = phase.train(trainer, name, "sft", advance, counts, runtime.checkpoint_minutes)
        phase.save(trainer, tokenizer, name, "sft", out)
    phase.finish(name, "rows", tally, log, counts)


if __name__ == "__main__":
    run(main)
