"""Run a stage through a command of the user, such as `srun --gres=gpu:1` or `ssh host`: params.yaml's `runtime.launch`.

The command gets one more word, the path of a script that runs the stage; so it may be any that runs a program, on any
machine that has the project's folder and its Python at the same paths. The stage that DVC started waits for it. The
launched one tells by a file how far it got, since a command may end well without having run anything.
"""

import functools
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from filelock import FileLock, Timeout

from stages.core import lifeline
from stages.core.errors import UserError
from stages.core.params import read_runtime

Kind = Literal["generate", "train"]  # of a heavy stage: the model reads and writes, or it learns

FOLDER = Path(".dvc/tmp/launch")
LAUNCHED = "LANCE_LAUNCHER"  # of a launched stage: the folder of its launch; of the processes that it starts: empty
STARTED, DONE, FAILED = "started", "done", "failed"  # failed: it has said why


def launchable(main: Callable[..., None], kind: Kind) -> Callable[..., None]:
    """A stage's `main` that runs through the command of `runtime.launch`, if there is one for its kind."""

    @functools.wraps(main)
    def launched(*args: Any, **options: Any) -> None:
        if LAUNCHED in os.environ:
            with _reported(kind):
                main(*args, **options)
        elif command := getattr(read_runtime().launch, kind):
            _launch(kind, command)
        else:
            main(*args, **options)

    return launched


def check(commands: dict[str, str | None]) -> None:
    """Raise `UserError` if a program of `runtime.launch` is not there."""
    for kind, command in commands.items():
        if command and not shutil.which(program := shlex.split(command)[0]):
            raise UserError(
                f"params.yaml: runtime.launch.{kind}: there is no program {program}; correct it, run where it is "
                "installed, or set null to run without it"
            )


def _launch(kind: Kind, command: str) -> None:
    """Run this stage through a command. Raises `UserError` if it did not run to its end."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=FOLDER.resolve(), ignore_cleanup_errors=True) as name:
        script, folder = Path(name, f"{Path(sys.argv[0]).stem}.sh"), Path(name)
        script.write_text(_script(folder), encoding="utf-8")
        script.chmod(0o755)
        try:
            status = lifeline.run([*shlex.split(command), str(script)], os.environ)
        except OSError as error:
            raise UserError(f"{_name(kind, command)} cannot be run: {error.strerror}; correct it") from None
        progress = folder / "progress"
        _check(_name(kind, command), status, progress.read_text(encoding="utf-8") if progress.exists() else None)


def _script(folder: Path) -> str:
    """A shell script that runs this command again. It sets what launchers that pass no environment on would lose."""
    values = {name: os.environ[name] for name in ("DVC_ROOT", "DVC_STAGE") if name in os.environ}
    exports = [f"{name}={shlex.quote(value)}" for name, value in {**values, LAUNCHED: str(folder)}.items()]
    lines = [
        "#!/bin/sh",
        f"cd {shlex.quote(str(Path.cwd()))} || exit",
        f"export {' '.join(exports)}",
        f"exec {shlex.join([sys.executable, *sys.orig_argv[1:]])}",
    ]
    return "\n".join(lines) + "\n"


def _name(kind: Kind, command: str) -> str:
    return f"{Path(sys.argv[0]).stem}: runtime.launch.{kind} '{command}'"


def _check(name: str, status: int, progress: str | None) -> None:
    """Raise `UserError`, or exit, unless the command and the stage that it ran both ended well."""
    ended = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    if progress is None:
        raise UserError(
            f"{name} {ended} and did not run the stage, which is the last word of its command line; see its messages "
            "above, correct it in params.yaml, and run again"
        )
    if progress == FAILED:
        sys.exit(1)
    if progress != DONE:
        raise UserError(
            f"{name} {ended} before the stage had: a fault above, or it was cancelled, preempted or out of time or "
            "memory; run again: finished completions and checkpoints are kept"
        )
    if status:
        raise UserError(f"{name} {ended}, although the stage ended well; see its messages above")


@contextmanager
def _reported(kind: Kind) -> Iterator[None]:
    """Tell the stage that launched this one how it goes, and end with it. A process that the stage starts in turn, such
    as those of `accelerate launch`, has nothing to tell."""
    if not (name := os.environ[LAUNCHED]):
        yield
        return
    os.environ[LAUNCHED] = ""
    lifeline.hold(greeted=True)
    progress, lock = Path(name, "progress"), FileLock(Path(name, "lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"runtime.launch.{kind} runs the stage several times at once; have it run one process, as srun --ntasks=1 "
            "does: runtime.training and runtime.vllm say how many GPUs it uses"
        ) from None
    with lock:
        progress.write_text(STARTED, encoding="utf-8")
        try:
            yield
        except UserError:
            progress.write_text(FAILED, encoding="utf-8")
            raise
        progress.write_text(DONE, encoding="utf-8")
