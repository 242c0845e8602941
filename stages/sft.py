"""sft: NLL on the completions, M → M^S (paper, section 3.4); in iteration 0 the warm start, base → M_0.

    python -m stages.sft --model iterations/0/model --rows iterations/1/sft.jsonl --out iterations/1/sft

The loss is on the completion alone. Judge-training rows are replayed among the others. By `sft.start`, an iteration's
SFT starts from its parent's model, from the warm start or from the base; without rows, the parent's model is copied.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from stages.core.command import run
from stages.core.params import Params, read_params, read_runtime
from stages.core.prompts import read_system_prompt
from stages.core.records import Tally, read
from stages.core.rows import SftRow
from stages.models.chat import trained_tokens
from stages.training import launch, memory, weighting
from stages.training.phase import STARTS, TOO_LONG, Chat, ModelIn, ModelOut, Phase

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WARM_START = "sft-0"  # the baseline of every gain, so it trains even if the iterations' SFT is switched off
TEACHING = ("seed", "new", "own")  # without a row of these kinds there is nothing to learn, only to replay


def reason_to_skip(stage: str, params: Params, rows: list[SftRow]) -> str | None:
    """Why there is nothing to train on; None if there is."""
    if stage != WARM_START and not params["sft.enabled"]:
        return "sft.enabled is false"
    return None if any(row["kind"] in TEACHING for row in rows) else "no SFT rows were selected"


def chats_of(
    rows: list[SftRow], tokenizer: "PreTrainedTokenizerBase", system_prompt: str, context: int, tally: Tally
) -> list[Chat]:
    """The rows as trl's {"input_ids", "completion_mask"}; those longer than `context` tokens are dropped."""
    chats = []
    for row in rows:
        prompt, completion = trained_tokens(tokenizer, row["prompt"], row["completion"], system_prompt)
        if len(prompt) + len(completion) > context:
            tally.drop(TOO_LONG)
        else:
            mask = [0] * len(prompt) + [1] * len(completion)
            chats.append({"input_ids": prompt + completion, "completion_mask": mask})
    return chats


def main(model: ModelIn, rows: Annotated[Path, Option(help="SFT rows")], out: ModelOut) -> None:
    """Train a model on SFT rows."""
    runtime = read_runtime()
    if launch.relaunch_if_distributed("stages.sft", runtime.training):
        return
    stage = WARM_START if out.parent.name == "0" else "sft"
    params, selected = read_params(stage), read(rows, SftRow)
    settings = {key: params[f"sft.{key}"] for key in ("learning_rate", "epochs", "batch_size")}
    start = model if stage == WARM_START else {"parent": model, **STARTS}[params["sft.start"]]
    phase = Phase(
        "sft", f"{stage} {out}", model, start, out, settings, params["training"], params["random_state"], runtime
    )
    reason, system_prompt = reason_to_skip(stage, params, selected), read_system_prompt(params["prompts"])
    loaded = phase.begin(reason, selected, chats_of, system_prompt, "SFT row")
    if not loaded:
        return
    policy, tokenizer, context, chats, tally = loaded
    from datasets import Dataset
    from trl import SFTConfig

    with phase.checkpoint_folder(chats) as folder, memory.explain_out_of_memory(phase.name):
        trainer = weighting.sft_trainer()(
            model=policy,
            args=SFTConfig(**phase.trainer_settings(folder, context, len(chats)), completion_only_loss=True),
            train_dataset=Dataset.from_list(chats),
            processing_class=tokenizer,
        )
        phase.run(trainer, tokenizer, tally, "rows")


if __name__ == "__main__":
    run(main, launch="train")
