"""A training that was killed goes on from its last checkpoint, and ends in the weights of an unbroken one.

Checkpoints lie outside DVC's outs, in .dvc/checkpoints/KEY, where KEY is the hash of what decides the training's
result: the same training finds them in any experiment or worktree, another one never does. They are deleted when it has
ended, or was left alone for KEPT_DAYS, and may be deleted at any time at the price of training again from the start.
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

PLACE = Path(".dvc/checkpoints")
KEPT_DAYS = 30  # of a training that was killed and not gone on with
LIBRARIES = ("torch", "transformers", "trl", "peft")  # what they save, another version may not read


@contextmanager
def folder(settings: TrainingRuntime, *decides: Any) -> Iterator[Path]:
    """A training's checkpoints, by what decides its result, the same in all of its processes. While another process is
    at the same training, which a killed stage may have left alive, it is a folder that begins and ends empty."""
    how = [settings.rows_at_once, settings.sharding, settings.config, launch.count()]
    told = json.dumps([*decides, how, [version(library) for library in LIBRARIES]], sort_keys=True, default=str)
    place = repository.root() / PLACE / hashlib.sha256(told.encode()).hexdigest()
    if not launch.is_main():
        yield Path(launch.agreed(None))
        return
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with TemporaryDirectory() as alone:
            yield Path(launch.agreed(alone))
        return
    with lock:
        _remove_abandoned(place.parent)
        yield Path(launch.agreed(str(place)))
        shutil.rmtree(place)  # not after an error: what was trained is kept


def _remove_abandoned(place: Path) -> None:
    """Remove what trainings left that nobody went on with, such as those of other parameters."""
    for old in place.iterdir():
        with suppress(Timeout, FileNotFoundError):  # another process is at it, or has removed it
            if time.time() - old.stat().st_mtime > 86_400 * KEPT_DAYS:
                with FileLock(old / "lock", timeout=0):
                    shutil.rmtree(old.rename(f"{old}-abandoned"))  # whoever comes back finds nothing half removed
                say(f"checkpoints: {old} was left more than {KEPT_DAYS} days ago, and is removed")


def last(place: Path) -> str | None:
    """The last whole checkpoint; a torn one is removed. trl writes a checkpoint's state after everything else."""
    whole: str | None = launch.agreed(_last_whole(place) if launch.is_main() else None)
    return whole


def _last_whole(place: Path) -> str | None:
    found = sorted(place.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    while found:
        try:
            json.loads((found[-1] / "trainer_state.json").read_text(encoding="utf-8"))
            return str(found[-1])
        except (FileNotFoundError, ValueError):
            shutil.rmtree(found.pop())
    return None


def saver(minutes: float | None) -> "TrainerCallback":
    """Has trl save a checkpoint every `minutes`; None: never."""
    from transformers import TrainerCallback, TrainerControl, TrainerState

    class Saver(TrainerCallback):  # type: ignore[misc]
        saved = time.monotonic()

        def on_step_end(self, _: Any, state: TrainerState, control: TrainerControl, **__: Any) -> None:
            due = minutes is not None and time.monotonic() - self.saved >= 60 * minutes
            if launch.agreed(due) and state.global_step < state.max_steps:
                control.should_save = True
                self.saved = time.monotonic()

    return Saver()
