"""Training in several processes with accelerate: if `runtime.training.processes` is above 1, or `config` names a
configuration file, a stage hands its command over to `accelerate launch`: one process per GPU, or on the CPU.

The processes train one model together; only the main process prints and writes. A user's mistake in any of them ends
the stage with one line.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from stages.core.errors import UserError
from stages.core.schema import TrainingRuntime

if TYPE_CHECKING:
    from transformers import Trainer

CONFIGS = Path(__file__).parent / "accelerate"
LAUNCHED = "LANCE_LAUNCHED"  # set in the environment of a launched process


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def without_repeats(
    trainer: "Trainer", passes: Iterator[Any], blank: Callable[[Any, list[int]], None]
) -> Iterator[Any]:
    """The passes of a step in this process. Where an epoch's rows are no multiple of all shares, accelerate fills the
    last ones with rows from the epoch's beginning; `blank(pass, rows)` takes their weight from them."""
    settings, rows = trainer.args, len(trainer.train_dataset)
    width, several = settings.per_device_train_batch_size, count()
    steps = trainer.state.max_steps // settings.num_train_epochs
    first = trainer.state.global_step % steps * settings.gradient_accumulation_steps
    for place, each in enumerate(passes, first):
        position = (place * several + settings.process_index) * width  # in the epoch, of this pass's first row
        if repeated := [row for row in range(width) if several > 1 and position + row >= rows]:
            blank(each, repeated)
        yield each


def agreed(value: Any) -> Any:
    """The main process's value, in all of them."""
    if count() == 1:
        return value
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=not torch.cuda.is_available())
    told = [value]
    broadcast_object_list(told)
    return told[0]


def handed_over(module: str, settings: TrainingRuntime) -> bool:
    """Whether `accelerate launch` has run this stage's command in several processes, so that nothing is left to do."""
    if LAUNCHED in os.environ:
        if not is_main():
            sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 – until the process ends
        return False
    if settings.processes == 1 and not settings.config:
        return False
    _launch(module, settings)
    return True


def use_one_gpu() -> None:
    """One process trains on one GPU: trl refuses the way in which transformers would use the others."""
    if LAUNCHED not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def _launch(module: str, settings: TrainingRuntime) -> None:
    """Run this command again under accelerate. The libraries' messages are shown only if it fails."""
    options = _options(settings)
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, "--module", module, *sys.argv[1:]]
    with TemporaryFile("w+", encoding="utf-8") as messages:
        done = subprocess.run(command, env={**os.environ, LAUNCHED: "1"}, stderr=messages, check=False)
        if done.returncode == 0:
            return
        messages.seek(0)
        text = messages.read()
    if mistake := re.search(r"^(?:\[\w+\]:)?error: (.*)$", text, re.MULTILINE):
        raise UserError(mistake[1])
    sys.stderr.write(text)
    sys.exit(1)


def _options(settings: TrainingRuntime) -> list[str]:
    """The options of `accelerate launch`. Raises `UserError` if this machine cannot run them."""
    if settings.config:
        if not Path(settings.config).is_file():
            raise UserError(f"runtime.training.config {settings.config} does not exist; correct the path, or null")
        return ["--config_file", settings.config]
    import torch

    processes, sharding, gpus = settings.processes, settings.sharding, torch.cuda.device_count()
    if gpus and processes > gpus:
        raise UserError(f"runtime.training.processes: {processes} need as many GPUs, and there are {gpus}; lower it")
    if sharding and not gpus:
        raise UserError(f"runtime.training.sharding: {sharding} needs GPUs, and there are none; set it to null")
    if sharding == "zero3" and not find_spec("deepspeed"):
        raise UserError(
            "runtime.training.sharding: 'deepspeed' is not installed; pip install -e '.[zero3]', or use fsdp"
        )
    config = CONFIGS / f"{sharding or 'ddp'}.yaml"
    return ["--config_file", str(config), "--num_processes", str(processes), "--main_process_port", "0"]
