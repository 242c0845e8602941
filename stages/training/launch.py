"""Training in several processes with accelerate: if `runtime.training.processes` is above 1, or `config` names an
`accelerate config` file, a stage runs its own command again under `accelerate launch`, one process per GPU, or on the
CPU.

The processes train one model together. Only the main process prints and writes. A `UserError` in any of them ends the
stage with its one line; another failure, with the messages of all processes.
"""

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from stages.core import lifeline
from stages.core.errors import UserError
from stages.core.schema import TrainingRuntime

CONFIGS = Path(__file__).parent / "accelerate"
LAUNCHED = "LANCE_LAUNCHED"  # set in the environment of the processes that `accelerate launch` starts
ERROR_LINE = re.compile(r"^(?:\[\w+\]:)?error: (.*)$", re.MULTILINE)  # core.command's; torchrun may prefix "[rank1]:"


def process_count() -> int:
    """How many processes train together; 1 outside `accelerate launch`."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the process that prints and writes; the only one always is."""
    return os.environ.get("RANK", "0") == "0"


def devices() -> dict[str, Any]:
    """{"use_cpu", "ddp_backend"}, what trl is told about the devices of the processes. DeepSpeed puts the weights on a
    CPU by itself, where accelerate may not know that it is one."""
    import torch

    if torch.cuda.is_available():
        return {"use_cpu": False, "ddp_backend": None}
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    return {"use_cpu": not deepspeed, "ddp_backend": "gloo" if process_count() > 1 else None}


def broadcast_from_main(value: Any) -> Any:
    """The main process's `value`, in every process; all must call it. `value` is anything that pickles."""
    if process_count() == 1:
        return value
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    place = devices()
    PartialState(cpu=place["use_cpu"], backend=place["ddp_backend"])
    values = [value]
    broadcast_object_list(values)
    return values[0]


def relaunch_if_distributed(module: str, settings: TrainingRuntime) -> bool:
    """Run this command again in several processes if `settings` say so. True: that is done, and with it the stage.

    False: train in this process, the only one, which then sees one GPU, since trl refuses to spread one process over
    several; or one of those launched, which prints nothing unless it is the main one. Raises `UserError` with the line
    of a launched process that ended in one."""
    if LAUNCHED in os.environ:
        lifeline.hold()
        if not is_main_process():
            sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 – until the process ends
        return False
    if settings.processes == 1 and not settings.config:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        return False
    _launch(module, _launch_options(settings))
    return True


def _launch(module: str, options: list[str]) -> None:
    """Run this command under `accelerate launch`. Its standard error, where libraries write, is shown if it fails."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, "--module", module, *sys.argv[1:]]
    with TemporaryFile("w+", encoding="utf-8") as stderr:
        if lifeline.run(command, {**os.environ, LAUNCHED: "1"}, stderr) == 0:
            return
        stderr.seek(0)
        messages = stderr.read()
    if error := ERROR_LINE.search(messages):
        raise UserError(error[1])  # what other processes wrote is about losing this one
    sys.stderr.write(messages)
    sys.exit(1)


def _launch_options(settings: TrainingRuntime) -> list[str]:
    """The options of `accelerate launch`. Raises `UserError` if this machine cannot run them."""
    if settings.config:
        if not Path(settings.config).is_file():
            raise UserError(f"runtime.training.config {settings.config} does not exist; correct the path, or set null")
        return ["--config_file", settings.config]
    import torch

    processes, sharding, gpus = settings.processes, settings.sharding, torch.cuda.device_count()
    if gpus and processes > gpus:
        raise UserError(
            f"runtime.training.processes: {processes} processes need a GPU each, and this machine has {gpus}; lower it"
        )
    if sharding == "fsdp" and not gpus:
        raise UserError("runtime.training.sharding: fsdp needs GPUs, and this machine has none; set zero3 or null")
    if sharding == "zero3" and not find_spec("deepspeed"):
        raise UserError(
            "runtime.training.sharding: zero3 needs deepspeed, which is not installed; pip install -e '.[zero3]', or "
            "set fsdp"
        )
    config = CONFIGS / f"{sharding or 'ddp'}.yaml"
    return ["--config_file", str(config), "--num_processes", str(processes), "--main_process_port", "0"]
