"""What SFT and DPO share: loading, trl's settings, the progress bar, and saving the weights without what varies."""

import shutil
import time
from collections.abc import Callable
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import cost
from stages.core.errors import UserError
from stages.core.progress import prepare_transformers, say
from stages.core.records import Record, Tally, write_json
from stages.core.schema import TrainingRuntime
from stages.models import adapters
from stages.models.fingerprint import has_custom_code
from stages.training import checkpoints, launch, memory

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

LOG_POINTS = 100  # of a run's log that the counts keep
LOGGED = {"loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "accuracy"}  # trl's names, and ours


def skip(name: str, reason: str, model: Path, out: Path, counts_file: Path) -> None:
    """End a phase with nothing to do: copy the input model."""
    if not launch.is_main():
        return
    shutil.copytree(model, out, dirs_exist_ok=True)
    write_json(counts_file, {"passed_on": reason})
    write_cost(counts_file, 0.0, 0)
    say(f"{name}: the model is passed on, {reason}")


def load(
    name: str, model: Path, training: dict[str, Any], random_state: int, sharding: str | None = None
) -> "tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]":
    """The model to train, and its tokenizer; with `training.lora`, the base with the adapter to train."""
    prepare_transformers()
    from datasets import disable_progress_bars
    from transformers import AutoModelForCausalLM, AutoTokenizer

    disable_progress_bars()
    trust = {"trust_remote_code": has_custom_code(adapters.config_folder(model))}
    try:
        if training["lora"]:
            policy = adapters.load_trainable(model, training, random_state)
            _need_one_type(policy, sharding)
        else:
            policy = AutoModelForCausalLM.from_pretrained(adapters.full_weights(model), **trust)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    return policy, AutoTokenizer.from_pretrained(model, **trust)


def _need_one_type(policy: "PeftModel", sharding: str | None) -> None:
    types = {weight.dtype for weight in policy.parameters()}
    if sharding == "zero3" and len(types) > 1:
        raise UserError(
            "runtime.training.sharding: zero3 gathers weights of one type, and the adapter has 32 bits over a base of "
            "fewer; set it to fsdp or null, or have the base in 32 bits too (model.dtype, training.four_bit)"
        )


def rows_at_once(phase: str, batch_size: int, most: int | None) -> int:
    """Rows of one pass of one process: at most `most` (`runtime.training.rows_at_once`), so that some number of whole
    passes makes the batch. Raises `UserError` where the processes cannot share it."""
    several = launch.count()
    share, left = divmod(batch_size, several)
    if left:
        raise UserError(f"{phase}.batch_size {batch_size} cannot be shared by {several} processes; make it a multiple")
    return max(rows for rows in range(1, min(share, most or share) + 1) if share % rows == 0)


def arguments(
    phase: str, settings: dict[str, Any], training: dict[str, Any], random_state: int, folder: Path, context: int,
    rows: int, runtime: TrainingRuntime,
) -> dict[str, Any]:  # fmt: skip
    """The settings that both phases use; trl would switch bf16 and gradient checkpointing on by itself. In a run
    of a few steps there is no warm-up: its first step has a learning rate of 0, which would be all of it."""
    import torch

    at_once = rows_at_once(phase, settings["batch_size"], runtime.rows_at_once)
    return {
        "output_dir": str(folder),
        "learning_rate": settings["learning_rate"],
        "num_train_epochs": settings["epochs"],
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": settings["batch_size"] // (at_once * launch.count()),
        "max_length": context,
        "warmup_steps": 0.1 if steps(rows, settings) >= 10 else 0,  # below 1: a share of all steps
        "seed": random_state,
        "data_seed": random_state,
        "bf16": training["autocast"] == "bfloat16",
        "gradient_checkpointing": runtime.gradient_checkpointing,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",  # core/checkpoints.py says when
        "save_total_limit": 2,  # the one before is whole when a kill tears the last
        "logging_nan_inf_filter": False,  # or a loss that is no number would not be seen
        "logging_steps": 1,
        "logging_strategy": "steps",
        "report_to": "none",
        "disable_tqdm": True,
    }


def train(
    trainer: "Trainer",
    name: str,
    phase: str,
    advance: Callable[[int], None],
    counts_file: Path,
    checkpoint_minutes: float | None,
) -> list[Record]:
    """Run a trl trainer with our progress bar, from its last checkpoint if it was killed, and write what it cost; trl's
    log of each step. Raises `UserError` where the loss is no number, or processes have no rows of their own."""
    from transformers import PrinterCallback

    layout = trainer.accelerator.parallelism_config
    if layout and layout.non_data_parallel_size > 1:
        raise UserError(
            "runtime.training.config: tensor, context and sequence parallelism are not known here; set their sizes to 1"
        )
    trainer.remove_callback(PrinterCallback)
    resumed = checkpoints.last(Path(trainer.args.output_dir))
    watch = _watch(trainer, name, phase, advance, resumed)
    trainer.add_callback(watch)
    trainer.add_callback(checkpoints.saver(checkpoint_minutes))
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=resumed)
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    write_cost(counts_file, time.monotonic() - started, trained_tokens(log), watch.peak)
    return log


def trained_tokens(log: list[Record]) -> int:
    """Tokens of a training; trl counts them from 0 again where it goes on from a checkpoint."""
    counted = [0, *(int(entry["num_tokens"]) for entry in log)]
    return sum(here - before if here >= before else here for before, here in pairwise(counted))


def write_cost(counts_file: Path, seconds: float, tokens: int, peak: int | None = None) -> None:
    """{"seconds", "tokens" trained on, "device", "devices"}: cpu cores, or a GPU for each process; and of a training
    "peak_gb", of memory, in the main process."""
    import torch

    if not launch.is_main():
        return
    gpus = launch.count() if torch.cuda.is_available() else 0
    known: Record = {"seconds": round(seconds, 3), "tokens": tokens, **cost.device(gpus)}
    known |= {} if peak is None else {"peak_gb": round(peak / 1e9, 3)}
    cost.write(counts_file.stem, counts_file.parent.name, known)


def _watch(
    trainer: "Trainer", name: str, phase: str, advance: Callable[[int], None], resumed: str | None
) -> "TrainerCallback":
    from accelerate.utils import is_peft_model
    from transformers import TrainerCallback, TrainerState

    class Watch(TrainerCallback):  # type: ignore[misc]
        peak: int | None = None  # bytes of a step

        def on_train_begin(self, _: Any, state: TrainerState, *__: Any, **___: Any) -> None:
            if state.global_step:
                say(f"{name}: goes on from a checkpoint after step {state.global_step:,} of {state.max_steps:,}")
                advance(state.global_step)
            sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
            if resumed and is_peft_model(trainer.model) and not sharded:
                # of two adapters, transformers restores the reference
                adapters.load_weights(trainer.model, Path(resumed))
            if not trainer.is_deepspeed_enabled:  # its engine takes every pass for a part of a step
                self.peak = memory.peak(trainer)
                say(f"{name}: fits, peak {self.peak / 1e9:,.1f} GB")

        def on_step_end(self, *_: Any, **__: Any) -> None:
            advance(1)

        def on_log(self, _: Any, state: TrainerState, *__: Any, logs: Record, **___: Any) -> None:
            if not isfinite(logs.get("loss", 0.0)):
                raise UserError(
                    f"{name}: the loss of step {state.global_step:,} is {logs['loss']}, and nothing is saved; lower "
                    f"{phase}.learning_rate, or set model.dtype: float32"
                )

    return Watch()


def steps(rows: int, settings: dict[str, Any]) -> int:
    return -(-rows // int(settings["batch_size"])) * int(settings["epochs"])


def save(trainer: "Trainer", tokenizer: "PreTrainedTokenizerBase", name: str, phase: str, out: Path) -> None:
    """Weights or adapter, config and tokenizer, nothing else: training_args.bin differs from run to run. Raises
    `UserError` where the last step broke them."""
    from accelerate.utils import is_peft_model

    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    several = launch.count() > 1
    gathered = trainer.accelerator.get_state_dict(trainer.model_wrapped) if several else None
    if not launch.is_main():
        return
    weights = gathered or dict(model.named_parameters())
    broken = [weight for weight, values in weights.items() if not values.isfinite().all()]
    if broken:
        raise UserError(
            f"{name}: {broken[0]} is no longer finite, and nothing is saved; lower {phase}.learning_rate, or set "
            "model.dtype: float32"
        )
    if is_peft_model(model):
        adapters.save(model, out, gathered)
    else:
        model.save_pretrained(out, state_dict=gathered)
    tokenizer.save_pretrained(out)


def finish(name: str, rows: str, tally: Tally, log: list[Record], counts_file: Path) -> None:
    """Write a training's counts, and say how it went; `rows`: what the rows are called."""
    if not launch.is_main():
        return
    out = tally.rows - tally.dropped.total()
    write_json(counts_file, {"rows": tally.counts(out), "steps": len(log), "log": curve(log)})
    say(f"{name}: {out:,} {rows}, {len(log):,} steps, loss {log[0]['loss']:.3f} → {log[-1]['loss']:.3f}")


def curve(log: list[Record]) -> list[Record]:
    """At most LOG_POINTS means of consecutive steps, each with its last step: {"step", "loss"}, and of DPO also the
    rewards' "margin" and "accuracy"."""
    width = -(-len(log) // LOG_POINTS)
    points = []
    for start in range(0, len(log), width):
        chunk = log[start : start + width]
        means = {
            ours: round(sum(entry[name] for entry in chunk) / len(chunk), 4)
            for name, ours in LOGGED.items()
            if name in chunk[0]
        }
        points.append({"step": start + len(chunk), **means})
    return points


def length(tokenizer: "PreTrainedTokenizerBase", conversation: list[dict[str, str]]) -> int:
    """Tokens of a conversation; trl would cut a longer one without a word."""
    return len(
        tokenizer(tokenizer.apply_chat_template(conversation, tokenize=False), add_special_tokens=False)["input_ids"]
    )
