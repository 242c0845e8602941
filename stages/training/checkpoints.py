"""Checkpoints: a training that was killed resumes from its last one, and ends in the weights of an unbroken one.

They lie outside DVC's outs, in .dvc/checkpoints/KEY, where KEY is the hash of what decides the training's result: the
same training finds them in any experiment or worktree, and another one never does. They are deleted when the training
ends, or nobody resumed it for KEPT_DAYS, and may be deleted at any time at the price of training from the start.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from stages.core import repository
from stages.core.progress import say
from stages.core.schema import TrainingRuntime
from stages.training import launch

if TYPE_CHECKING:
    from transformers import TrainerCallback

FOLDER = Path(".dvc/checkpoints")
KEPT_DAYS = 30  # of a killed training that nobody resumed
LIBRARIES = ("torch", "transformers", "trl", "peft")  # another version may not read what one has saved


@contextmanager
def folder(settings: TrainingRuntime, *decides: Any) -> Iterator[Path]:
    """The folder of a training's checkpoints, the same in all of its processes; `decides`: all that decides the
    training's result. It is deleted at the end, but not after an error. If another process has the same training under
    way, such as one that a killed dvc left alive, a temporary folder."""
    if not launch.is_main_process():
        yield Path(launch.broadcast_from_main(None))
        return
    path = repository.root() / FOLDER / _key(settings, decides)
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with TemporaryDirectory() as temporary:
            yield Path(launch.broadcast_from_main(temporary))
        return
    with lock:
        _remove_abandoned(path.parent)
        yield Path(launch.broadcast_from_main(str(path)))
        shutil.rmtree(path)


def _key(settings: TrainingRuntime, decides: tuple[Any, ...]) -> str:
    """The hash of what decides a training's result, of how its batches are divided, and of the libraries' versions."""
    division = [settings.rows_at_once, settings.sharding, settings.config, launch.process_count()]
    values = [*decides, division, [version(library) for library in LIBRARIES]]
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _remove_abandoned(folder: Path) -> None:
    """Remove the checkpoints of trainings that nobody resumes, such as those of other parameters."""
    for path in folder.iterdir():
        with suppress(Timeout, FileNotFoundError):  # another process is training there, or has removed it
            if time.time() - path.stat().st_mtime > 86_400 * KEPT_DAYS:
                with FileLock(path / "lock", timeout=0):
                    shutil.rmtree(path.rename(f"{path}-abandoned"))  # a resumed training finds nothing half removed
                say(f"checkpoints: removed {path}, unused for more than {KEPT_DAYS} days")


def last(folder: Path) -> str | None:
    """The last whole checkpoint in a folder, in every process; None: there is none."""
    if launch.process_count() > 1:
        _teach_torch_numbered_cpus()
    checkpoint: str | None = launch.broadcast_from_main(_last_whole(folder) if launch.is_main_process() else None)
    return checkpoint


def steps(checkpoint: str) -> int:
    """The steps done before a checkpoint, by its name."""
    return int(checkpoint.rpartition("-")[2])


def _last_whole(folder: Path) -> str | None:
    """The last checkpoint whose state is readable, which trl writes after everything else; later ones are removed."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: steps(path.name))
    while checkpoints:
        try:
            json.loads((checkpoints[-1] / "trainer_state.json").read_text(encoding="utf-8"))
            return str(checkpoints[-1])
        except (FileNotFoundError, ValueError):
            shutil.rmtree(checkpoints.pop())
    return None


def _teach_torch_numbered_cpus() -> None:
    """accelerate numbers the CPU by process (cpu:1), and torch.load, which restores the optimiser's state, knows cpu
    alone."""
    import torch

    torch.serialization.register_package(
        11, lambda _: None, lambda storage, device: storage if device.startswith("cpu:") else None
    )  # 10 is torch's own for cpu


def saver(minutes: float | None) -> "TrainerCallback":
    """A callback that has trl save a checkpoint every `minutes`; None: never."""
    from transformers import TrainerCallback, TrainerControl, TrainerState

    class Saver(TrainerCallback):  # type: ignore[misc]
        last_saved = time.monotonic()

        def on_step_end(self, _: Any, state: TrainerState, control: TrainerControl, **__: Any) -> None:
            due = minutes is not None and time.monotonic() - self.last_saved >= 60 * minutes
            if launch.broadcast_from_main(due) and state.global_step < state.max_steps:
                control.should_save = True
                self.last_saved = time.monotonic()

    return Saver()
