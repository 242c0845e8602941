"""What SFT and DPO share: loading, trl's settings, the progress bar, and saving the weights without what varies."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import cost
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
        "save_strategy": "no",
        "logging_steps": 1,
        "logging_strategy": "steps",
        "report_to": "none",
        "disable_tqdm": True,
    }


def train(trainer: "Trainer", advance: Callable[[int], None], counts_file: Path) -> list[Record]:
    """Run a trl trainer with our progress bar, and write what it cost; trl's log of each step."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_bar(advance))
    started = time.monotonic()
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    write_cost(counts_file, time.monotonic() - started, int(log[-1]["num_tokens"]))
    return log


def write_cost(counts_file: Path, seconds: float, tokens: int) -> None:
    """{"seconds", "tokens" trained on, "device", "devices"}: cpu cores, or all the GPUs that are visible."""
    import torch

    gpus = torch.cuda.device_count()
    device = {"device": "GPU" if gpus else "CPU", "devices": gpus or len(os.sched_getaffinity(0))}
    cost.write(counts_file.stem, counts_file.parent.name, {"seconds": round(seconds, 3), "tokens": tokens, **device})


def _bar(advance: Callable[[int], None]) -> "TrainerCallback":
    from transformers import TrainerCallback

    class Bar(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            advance(1)

    return Bar()


def steps(rows: int, settings: dict[str, Any]) -> int:
    return -(-rows // int(settings["batch_size"])) * int(settings["epochs"])


def save(trainer: "Trainer", tokenizer: "PreTrainedTokenizerBase", out: Path) -> None:
    """Weights, config and tokenizer, nothing else: training_args.bin differs from run to run."""
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
