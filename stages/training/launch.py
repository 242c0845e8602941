"""Training in several processes, by accelerate: with `runtime.training.processes` above 1, or with a configuration file
of one's own, a stage starts `accelerate launch` of itself, one process for each GPU (or, without one, on the CPU).

They train one model together; the main process alone speaks and writes. A user's mistake in any of them ends the stage
with its one line.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stages.core.errors import UserError
from stages.core.params import runtime

if TYPE_CHECKING:
    from transformers import Trainer

CONFIGS = Path(__file__).parent / "accelerate"
MISTAKE = "LANCE_MISTAKE"  # in the environment of a launched process: the file for its `UserError`


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


def launched(main: Callable[..., None], module: str) -> Callable[..., None]:
    """A stage's `main`, in as many processes as `runtime.training` says."""
    settings = runtime()["training"]
    if MISTAKE in os.environ:
        return partial(_one_of_them, main)
    if settings["processes"] > 1 or settings["config"]:
        return partial(_all_of_them, module, settings)
    # one process has one GPU: trl refuses the way in which transformers would use the others
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return main


def _one_of_them(main: Callable[..., None], *arguments: str) -> None:
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        try:
            with redirect_stdout(sys.stdout if is_main() else nowhere):
                main(*arguments)
        except UserError as error:
            Path(os.environ[MISTAKE]).write_text(str(error), encoding="utf-8")
            sys.exit(1)


def _all_of_them(module: str, settings: dict[str, Any], *arguments: str) -> None:
    """Their libraries' messages are shown if they fail; otherwise they have nothing to tell."""
    asked = _asked(settings)
    command = [sys.executable, "-m", "accelerate.commands.launch", *asked, "--module", module, *arguments]
    with TemporaryDirectory() as place, Path(place, "messages").open("w+", encoding="utf-8") as messages:
        mistake = Path(place, "mistake")
        done = subprocess.run(command, env={**os.environ, MISTAKE: str(mistake)}, stderr=messages, check=False)
        if mistake.exists():
            raise UserError(mistake.read_text(encoding="utf-8"))
        if done.returncode:
            messages.seek(0)
            sys.stderr.write(messages.read())
            sys.exit(1)


def _asked(settings: dict[str, Any]) -> list[str]:
    """accelerate's options. Raises `UserError` where this machine cannot do what was asked for."""
    if settings["config"]:
        if not Path(settings["config"]).is_file():
            raise UserError(f"runtime.training.config {settings['config']} does not exist; correct the path, or null")
        return ["--config_file", settings["config"]]
    import torch

    processes, sharding, gpus = settings["processes"], settings["sharding"], torch.cuda.device_count()
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
