"""What SFT and DPO share: loading the model, trl's settings, training from the last checkpoint, saving the weights
without what varies from run to run, and writing counts and costs."""

import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

from typer import Option

from stages.core import cost, records
from stages.core.errors import UserError
from stages.core.progress import prepare_transformers, progress, say
from stages.core.records import Record, Tally, write_json
from stages.core.schema import Runtime
from stages.models import adapters
from stages.models.chat import context_length
from stages.models.fingerprint import BASE, digest, has_custom_code
from stages.training import checkpoints, launch, memory

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

Chat = dict[str, Any]  # a prompt and what is learnt behind it, as trl takes tokens; of a pair also its margin
Row = TypeVar("Row")
ChatsOf = Callable[[list[Row], "PreTrainedTokenizerBase", str, int, Tally], list[Chat]]  # those of rows that fit

ModelIn = Annotated[Path, Option(help="model folder to train, or to copy where there is nothing to train on")]
ModelOut = Annotated[Path, Option(help="model folder to write, iterations/ITERATION/NAME")]

WARM_START = Path("iterations/0/model")
STARTS = {"warm_start": WARM_START, "base": BASE}  # what sft.start and dpo.start name in every iteration alike
TOO_LONG = "does not fit the context"  # why a row is dropped, which trl would truncate silently
LOG_POINTS = 100  # of a training's log that the counts keep
METRICS = {  # trl's names, and ours
    "loss": "loss",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "rewards/chosen": "chosen",
    "rewards/rejected": "rejected",
}
WARM_UP = 0.1  # of a training's steps; trl reads a number below 1 as a share
FEWEST_STEPS_TO_WARM_UP = 10  # of fewer, a first step with a learning rate of 0 would be a large part


class Loaded(NamedTuple):
    """What a phase trains, and on what."""

    policy: "PreTrainedModel | PeftModel"
    tokenizer: "PreTrainedTokenizerBase"
    context: int  # tokens
    chats: list[Chat]
    tally: Tally  # of the rows that became chats


@dataclass(frozen=True)
class Phase:
    """SFT or DPO of one iteration: what is trained, how, and where the result goes."""

    section: str  # of params.yaml: sft or dpo
    name: str  # on the terminal
    model: Path  # folder of the model to hand on where there is nothing to train on
    start: Path  # folder of the model to train, mostly the same
    out: Path  # folder to write, iterations/ITERATION/NAME
    settings: Record  # learning_rate, epochs, batch_size; of DPO its whole section
    training: Record  # params.yaml's `training`: lora, autocast, four_bit
    random_state: int
    runtime: Runtime

    @property
    def counts_file(self) -> Path:
        """Where this phase's counts are written."""
        return records.counts_file(self.section, self.out.parent.name)

    def steps(self, rows: int) -> int:
        """Optimiser steps of a training on so many rows; an epoch's last step has the rows that are left."""
        return -(-rows // int(self.settings["batch_size"])) * int(self.settings["epochs"])

    def skip(self, reason: str) -> None:
        """Copy the input model, wherever the training would have started, since there is nothing to train on; the
        counts say why."""
        if not launch.is_main_process():
            return
        shutil.copytree(self.model, self.out, dirs_exist_ok=True)
        write_json(self.counts_file, {"passed_on": reason})
        self._write_cost(0.0, 0)
        aside = "" if self.start == self.model else f", {self.model}, not the model of {self.section}.start"
        say(f"{self.name}: {reason}; copied the input model{aside}")

    def load(self) -> "tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]":
        """The model to train, with `training.lora` the base with the adapter to train, and its tokenizer. Raises
        `UserError` where the folder and the settings do not go together."""
        prepare_transformers()
        from datasets import disable_progress_bars
        from transformers import AutoModelForCausalLM, AutoTokenizer

        disable_progress_bars()
        trust = {"trust_remote_code": has_custom_code(adapters.config_folder(self.start))}
        try:
            if self.training["lora"]:
                policy = adapters.load_trainable(self.start, self.training, self.random_state)
                _need_one_dtype(policy, self.runtime.training.sharding)
            else:
                policy = AutoModelForCausalLM.from_pretrained(adapters.full_weights(self.start), **trust)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error
        return policy, AutoTokenizer.from_pretrained(self.start, **trust)

    def begin(
        self, reason_to_skip: str | None, rows: list[Row], chats_of: ChatsOf[Row], system_prompt: str, unit: str
    ) -> Loaded | None:
        """The model, its tokenizer, and the rows as chats; None if the phase is skipped, for the reason given or since
        no row (`unit`: what it is called) fits the context."""
        if reason_to_skip:
            self.skip(reason_to_skip)
            return None
        policy, tokenizer = self.load()
        context, tally = context_length(policy.config), Tally(len(rows))
        chats = chats_of(rows, tokenizer, system_prompt, context, tally)
        if chats:
            return Loaded(policy, tokenizer, context, chats, tally)
        self.skip(f"no {unit} fits the context")
        return None

    def checkpoint_folder(self, *decides: Any) -> AbstractContextManager[Path]:
        """The folder of the checkpoints of this training; `decides`: what decides its result beside this phase."""
        return checkpoints.folder(
            self.runtime.training, self.section, digest(self.start), *decides, self.settings, self.training,
            self.random_state,
        )  # fmt: skip

    def trainer_settings(self, folder: Path, context: int, rows: int) -> dict[str, Any]:
        """What trl's SFTConfig and DPOConfig are given alike, for `rows` rows of at most `context` tokens; bf16 and
        gradient checkpointing are on in trl unless set. Raises `UserError` where the processes cannot share a batch."""
        runtime, batch_size = self.runtime.training, self.settings["batch_size"]
        size = micro_batch_size(self.section, batch_size, runtime.rows_at_once)
        return {
            "output_dir": str(folder),
            "learning_rate": self.settings["learning_rate"],
            "num_train_epochs": self.settings["epochs"],
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": batch_size // (size * launch.process_count()),
            "max_length": context,
            "warmup_steps": WARM_UP if self.steps(rows) >= FEWEST_STEPS_TO_WARM_UP else 0,
            "seed": self.random_state,
            "data_seed": self.random_state,
            "bf16": self.training["autocast"] == "bfloat16",
            "gradient_checkpointing": runtime.gradient_checkpointing,
            **launch.devices(),
            "save_strategy": "no",  # checkpoints.saver says when
            "save_total_limit": 2,  # if a kill tears the last one, the one before is whole
            "logging_nan_inf_filter": False,  # or a loss that is not finite would not be logged
            "logging_steps": 1,
            "logging_strategy": "steps",
            "report_to": "none",
            "disable_tqdm": True,
        }

    def run(self, trainer: "Trainer", tokenizer: "PreTrainedTokenizerBase", tally: Tally, unit: str) -> None:
        """Train, save the model, and write and print the counts; `unit`: "rows" or "pairs"."""
        log = self.train(trainer)
        self.save(trainer, tokenizer)
        self.finish(tally, log, unit)

    def train(self, trainer: "Trainer") -> list[Record]:
        """Train, from the last checkpoint if there is one, under our progress bar, and write the cost. Returns trl's
        log, a record per step. Raises `UserError` where the loss is not finite."""
        from transformers import PrinterCallback

        layout = trainer.accelerator.parallelism_config
        if layout and layout.non_data_parallel_size > 1:
            raise UserError(
                "runtime.training.config: tensor, context and sequence parallelism are not supported; set their sizes "
                "to 1"
            )
        trainer.remove_callback(PrinterCallback)
        checkpoint = checkpoints.last(Path(trainer.args.output_dir))
        started = time.monotonic()
        before = checkpoints.steps(checkpoint) if checkpoint else 0
        with progress(self.name, self.steps(len(trainer.train_dataset)), before) as advance:
            monitor = _monitor(self, trainer, advance, checkpoint)
            trainer.add_callback(monitor)
            trainer.add_callback(checkpoints.saver(self.runtime.checkpoint_minutes))
            trainer.train(resume_from_checkpoint=checkpoint)
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
        self._write_cost(time.monotonic() - started, trained_tokens(log), monitor.peak)
        return log

    def save(self, trainer: "Trainer", tokenizer: "PreTrainedTokenizerBase") -> None:
        """Write weights or adapter, config and tokenizer, gathered from all processes, and nothing else:
        training_args.bin differs from run to run. Raises `UserError` where a weight is not finite."""
        from accelerate.utils import is_peft_model

        model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        distributed = launch.process_count() > 1
        gathered = trainer.accelerator.get_state_dict(trainer.model_wrapped) if distributed else None
        if not launch.is_main_process():
            return
        weights = gathered or dict(model.named_parameters())
        if broken := [name for name, weight in weights.items() if not weight.isfinite().all()]:
            raise _diverged(self, f"the weight {broken[0]} is not finite")
        if is_peft_model(model):
            adapters.save(model, self.out, gathered)
        else:
            tied = model.all_tied_weights_keys  # FSDP gathers a weight of two names twice
            whole = gathered and {name: weight for name, weight in gathered.items() if name not in tied}
            model.save_pretrained(self.out, state_dict=whole)
        tokenizer.save_pretrained(self.out)

    def finish(self, tally: Tally, log: list[Record], unit: str) -> None:
        """Write the counts, and print the closing line; `unit`: "rows" or "pairs"."""
        if not launch.is_main_process():
            return
        out = tally.rows - tally.dropped.total()
        write_json(self.counts_file, {"rows": tally.counts(out), "steps": len(log), "log": curve(log)})
        say(f"{self.name}: {out:,} {unit}, {len(log):,} steps, loss {log[0]['loss']:.3f} → {log[-1]['loss']:.3f}")

    def _write_cost(self, seconds: float, tokens: int, peak: int | None = None) -> None:
        """{"seconds", "tokens" trained on, "device", "devices"}: CPU cores, or a GPU for each process; and if measured,
        "peak_gb" of memory in the main process."""
        import torch

        if not launch.is_main_process():
            return
        gpus = launch.process_count() if torch.cuda.is_available() else 0
        spent: Record = {"seconds": round(seconds, 3), "tokens": tokens, **cost.device(gpus)}
        spent |= {} if peak is None else {"peak_gb": round(peak / 1e9, 3)}
        cost.write(self.section, self.out.parent.name, spent)


def _monitor(
    phase: Phase, trainer: "Trainer", advance: Callable[[int], None], checkpoint: str | None
) -> "TrainerCallback":
    """A callback that tries the memory first, moves the progress bar, and stops at a loss that is not finite."""
    from accelerate.utils import is_peft_model
    from transformers import TrainerCallback, TrainerState

    class Monitor(TrainerCallback):  # type: ignore[misc]
        peak: int | None = None  # bytes of a step; None: not measured

        def on_train_begin(self, _: Any, state: TrainerState, *__: Any, **___: Any) -> None:
            if state.global_step:
                say(f"{phase.name}: resumes after step {state.global_step:,} of {state.max_steps:,}")
            sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
            if checkpoint and is_peft_model(trainer.model) and not sharded:
                # of two adapters, the trained one and its reference, transformers restores the reference
                adapters.load_weights(trainer.model, Path(checkpoint))
            if not trainer.is_deepspeed_enabled:  # its engine would count the pass as part of a step
                self.peak = memory.peak(trainer)
                say(f"{phase.name}: fits in memory, peak {self.peak / 1e9:,.1f} GB")

        def on_step_end(self, *_: Any, **__: Any) -> None:
            advance(1)

        def on_log(self, _: Any, state: TrainerState, *__: Any, logs: Record, **___: Any) -> None:
            if not isfinite(logs.get("loss", 0.0)):
                raise _diverged(phase, f"the loss of step {state.global_step:,} is {logs['loss']}")

    return Monitor()


def _diverged(phase: Phase, what: str) -> UserError:
    return UserError(
        f"{phase.name}: {what}, and nothing is saved; lower {phase.section}.learning_rate, or set model.dtype: float32"
    )


def _need_one_dtype(policy: "PeftModel", sharding: str | None) -> None:
    dtypes = {weight.dtype for weight in policy.parameters()}
    if sharding == "zero3" and len(dtypes) > 1:
        raise UserError(
            "runtime.training.sharding: zero3 gathers weights of one type, and the adapter has 32 bits over a base of "
            "fewer; set it to fsdp or null, or have the base in 32 bits too (model.dtype, training.four_bit)"
        )


def micro_batch_size(section: str, batch_size: int, limit: int | None) -> int:
    """Rows of a micro-batch: the most up to `limit` (`runtime.training.rows_at_once`) of which a whole number makes
    this process's share of the batch. Raises `UserError` where the processes' shares are not whole."""
    processes = launch.process_count()
    share, remainder = divmod(batch_size, processes)
    if remainder:
        raise UserError(
            f"{section}.batch_size {batch_size} cannot be shared by {processes} processes; make it a multiple"
        )
    return max(rows for rows in range(1, min(share, limit or share) + 1) if share % rows == 0)


def trained_tokens(log: list[Record]) -> int:
    """Tokens trained on; trl's own count starts from 0 again where a training is resumed."""
    counts = [0, *(int(entry["num_tokens"]) for entry in log)]
    return sum(after - before if after >= before else after for before, after in pairwise(counts))


def curve(log: list[Record]) -> list[Record]:
    """A training's log as at most LOG_POINTS means of consecutive steps, each with its last step: {"step", "loss"}, and
    for DPO also of the rewards β·(log-ratio) "margin", "accuracy", and their means "chosen" and "rejected"."""
    width = -(-len(log) // LOG_POINTS)
    points = []
    for start in range(0, len(log), width):
        chunk = log[start : start + width]
        means = {
            name: round(sum(entry[metric] for entry in chunk) / len(chunk), 4)
            for metric, name in METRICS.items()
            if metric in chunk[0]
        }
        points.append({"step": start + len(chunk), **means})
    return points
