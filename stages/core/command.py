"""Command lines: typed options come from a module's `main`, `--help` from its docstring; a user's error is one line."""

import atexit
import gc
import os
import re
import signal
import sys
from collections.abc import Callable

import typer

from stages.core.errors import UserError
from stages.core.launcher import Kind, launchable

SETTINGS = {"help_option_names": ["-h", "--help"]}
NEW_OBJECTS = 50_000  # between two collections of garbage; by default 700
INTERRUPTED = 130  # what typer returns after ctrl-C
SPINS = "1000"  # rounds that a thread of torch waits busily for the others; by default millions


def application() -> typer.Typer:
    """A typer application that prints plain text and leaves tracebacks to Python."""
    return typer.Typer(
        add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, context_settings=SETTINGS
    )


def run(main: Callable[..., None], launch: Kind | None = None) -> None:
    """Call a module's `main` with the options of the command line; `--help` prints the module's docstring. `launch`:
    what kind of stage it is for `runtime.launch`; None: a light one, which always runs here."""
    app = application()
    app.command(help=documentation(main))(launchable(main, launch) if launch else main)
    execute(app)


def documentation(main: Callable[..., None]) -> str:
    """The docstring of `main`'s module, marked up for typer: indented paragraphs keep their line breaks."""
    return re.sub(r"\n\n(?=    )", "\n\n\b\n", sys.modules[main.__module__].__doc__ or "")


def execute(app: typer.Typer, name: str | None = None) -> None:
    """Run an application. A `UserError` or a wrong option ends the process with one line on stderr and status 1.

    `name`: what the usage line calls the application; by default, the name it was called by.
    """
    _collect_less_garbage()
    signal.signal(signal.SIGTERM, _exit_when_terminated)
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # or a stage takes twice as long beside one other busy process
    try:
        status = app(prog_name=name, standalone_mode=False)
    except UserError as error:
        _exit_with(str(error))
    except typer.TyperException as error:
        _exit_with(_usage_error(error))
    except BrokenPipeError:
        if not _is_stdout_closed():
            raise
        sys.exit(1)
    if status == INTERRUPTED:  # typer would end well, and DVC take what is there for the result
        _exit_with("interrupted; run again to go on: finished completions and checkpoints are kept", INTERRUPTED)
    if "vllm" in sys.modules:
        _exit_now()


def _collect_less_garbage() -> None:
    """torch, transformers and trl are a million objects, none of them garbage. By default Python would look through
    them again and again during their import, and twice at the end: a third of the time of a short stage."""
    gc.set_threshold(NEW_OBJECTS)
    atexit.register(gc.freeze)


def _exit_when_terminated(*_: object) -> None:
    """End as by ctrl-C, in order: what a stage has started ends with it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal.SIGTERM)


def _exit_with(message: str, status: int = 1) -> None:
    """Print an error in one line, and exit with a status."""
    sys.stdout.flush()
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(status)


def _usage_error(error: typer.TyperException) -> str:
    """What is wrong with a call, and where to look it up, after the command's name."""
    context = getattr(error, "ctx", None)
    name = context.command_path if context else os.path.basename(sys.argv[0])  # noqa: PTH119
    return f"{name}: {error.format_message().rstrip('.')}; see {name} --help"


def _is_stdout_closed() -> bool:
    """Whether the reader of stdout is gone, as in `| head`. If so, further output is discarded."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return True
    return False


def _exit_now() -> None:
    """Exit without shutting the interpreter down: a vLLM thread that still runs then sometimes aborts the process,
    although all work is done."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
