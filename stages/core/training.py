"""What SFT and DPO share: loading, trl's settings, the progress bar, and saving the weights without what varies."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.progress import quiet_transformers, say
from stages.core.records import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

LOSS_POINTS = 20  # of a loss curve that the counts keep


def pass_on(name: str, reason: str, model: Path, out: Path, counts_file: Path) -> None:
    """End a phase that has nothing to do: its model is the one that came in."""
    shutil.copytree(model, out, dirs_exist_ok=True)
    write_json(counts_file, {"passed_on": reason})
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


def train(trainer: "Trainer", advance: Callable[[int], None]) -> list[float]:
    """Run a trl trainer with our progress bar; the training loss of each step."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_bar(advance))
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


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


def curve(losses: list[float]) -> list[float]:
    """At most LOSS_POINTS means of consecutive steps."""
    width = -(-len(losses) // LOSS_POINTS) or 1
    chunks = [losses[start : start + width] for start in range(0, len(losses), width)]
    return [round(sum(chunk) / len(chunk), 4) for chunk in chunks]


def length(tokenizer: "PreTrainedTokenizerBase", conversation: list[dict[str, str]]) -> int:
    """Tokens of a conversation; trl would cut a longer one without a word."""
    return len(
        tokenizer(tokenizer.apply_chat_template(conversation, tokenize=False), add_special_tokens=False)["input_ids"]
    )
