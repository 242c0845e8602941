"""What SFT and DPO share: loading, trl's settings, the progress bar, and saving the weights without what varies."""

import os
import shutil
import time
from collections.abc import Callable
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import checkpoints, cost
from stages.core.errors import UserError
from stages.core.progress import quiet_transformers, say
from stages.core.records import Record, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

LOG_POINTS = 100  # of a run's log that the counts keep
LOGGED = {"loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "accuracy"}  # trl's names, and ours


def pass_on(name: str, reason: str, model: Path, out: Path, counts_file: Path) -> None:
    """End a phase that has nothing to do: its model is the one that came in."""
    shutil.copytree(model, out, dirs_exist_ok=True)
    write_json(counts_file, {"passed_on": reason})
    write_cost(counts_file, 0.0, 0)
    say(f"{name}: the model is passed on, {reason}")


def load(model: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    quiet_transformers()
    from datasets import disable_progress_bars
    from transformers import AutoModelForCausalLM, AutoTokenizer

    disable_progress_bars()
    return AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)


def arguments(settings: dict[str, Any], random_state: int, folder: str, context: int, rows: int) -> dict[str, Any]:
    """The settings that both phases use; trl would switch bf16 and gradient checkpointing on by itself. In a run
    of a few steps there is no warm-up: its first step has a learning rate of 0, which would be all of it."""
    import torch

    return {
        "output_dir": folder,
        "learning_rate": settings["learning_rate"],
        "num_train_epochs": settings["epochs"],
        "per_device_train_batch_size": settings["batch_size"],
        "max_length": context,
        "warmup_steps": 0.1 if steps(rows, settings) >= 10 else 0,  # below 1: a share of all steps
        "seed": random_state,
        "data_seed": random_state,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",  # core/checkpoints.py says when
        "save_total_limit": 2,  # the one before is whole when a kill tears the last
        "logging_nan_inf_filter": False,  # or a loss that is no number would not be seen
        "logging_steps": 1,
        "logging_strategy": "steps",
        "report_to": "none",
        "disable_tqdm": True,
    }


def train(trainer: "Trainer", name: str, phase: str, advance: Callable[[int], None], counts_file: Path) -> list[Record]:
    """Run a trl trainer with our progress bar, from its last checkpoint if it was killed, and write what it cost; trl's
    log of each step. Raises `UserError` where the memory is too small or the loss is no number."""
    from accelerate.utils.memory import should_reduce_batch_size
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_watch(name, phase, advance))
    trainer.add_callback(checkpoints.saver())
    started = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=checkpoints.last(Path(trainer.args.output_dir)))
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not should_reduce_batch_size(error):
            raise
        raise UserError(
            f"{name}: out of memory; lower {phase}.batch_size, bound the rows by filter.max_response_words, or set "
            f"model.dtype: bfloat16 ({str(error).splitlines()[0]})"
        ) from error
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    write_cost(counts_file, time.monotonic() - started, trained_tokens(log))
    return log


def trained_tokens(log: list[Record]) -> int:
    """Tokens of a training; trl counts them from 0 again where it goes on from a checkpoint."""
    counted = [0, *(int(entry["num_tokens"]) for entry in log)]
    return sum(here - before if here >= before else here for before, here in pairwise(counted))


def write_cost(counts_file: Path, seconds: float, tokens: int) -> None:
    """{"seconds", "tokens" trained on, "device", "devices"}: cpu cores, or all the GPUs that are visible."""
    import torch

    gpus = torch.cuda.device_count()
    device = {"device": "GPU" if gpus else "CPU", "devices": gpus or len(os.sched_getaffinity(0))}
    cost.write(counts_file.stem, counts_file.parent.name, {"seconds": round(seconds, 3), "tokens": tokens, **device})


def _watch(name: str, phase: str, advance: Callable[[int], None]) -> "TrainerCallback":
    from transformers import TrainerCallback, TrainerState

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, _: Any, state: TrainerState, *__: Any, **___: Any) -> None:
            if state.global_step:
                say(f"{name}: goes on from a checkpoint after step {state.global_step:,} of {state.max_steps:,}")
                advance(state.global_step)

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
    """Weights, config and tokenizer, nothing else: training_args.bin differs from run to run. Raises `UserError` where
    the last step broke them."""
    broken = [weight for weight, values in trainer.model.named_parameters() if not values.isfinite().all()]
    if broken:
        raise UserError(
            f"{name}: {broken[0]} is no longer finite, and nothing is saved; lower {phase}.learning_rate, or set "
            "model.dtype: float32"
        )
    trainer.model.save_pretrained(out)
    tokenizer.save_pretrained(out)


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
