"""A module's command line: typed options taken from its `main`, `--help`, and one line for a user's mistake."""

import atexit
import os
import re
import sys
from collections.abc import Callable

import typer

from stages.core.errors import UserError

SETTINGS = {"help_option_names": ["-h", "--help"]}


def application() -> typer.Typer:
    """A typer application in plain text, without tracebacks of its own."""
    return typer.Typer(
        add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, context_settings=SETTINGS
    )


def run(main: Callable[..., None]) -> None:
    """Call a module's `main` with the options on the command line; `--help` shows the module's docstring."""
    app = application()
    app.command(help=documentation(main))(main)
    execute(app)


def documentation(main: Callable[..., None]) -> str:
    """The docstring of the module that `main` is in, as typer shows it: only indented paragraphs keep their lines."""
    return re.sub(r"\n\n(?=    )", "\n\n\b\n", sys.modules[main.__module__].__doc__ or "")


def execute(app: typer.Typer, name: str | None = None) -> None:
    """Run an application, called `name` (by default as it was called). A `UserError` or a wrong call ends the process
    with one line and status 1."""
    try:
        app(prog_name=name, standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except typer.TyperException as error:
        _fail(_wrong_call(error))
    except BrokenPipeError:
        if not _stdout_closed():
            raise
        sys.exit(1)
    if "vllm" in sys.modules:
        _leave()


def _fail(message: str) -> None:
    sys.stdout.flush()
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(1)


def _wrong_call(error: typer.TyperException) -> str:
    """What was wrong with a call, after the command's name."""
    context = getattr(error, "ctx", None)
    name = context.command_path if context else os.path.basename(sys.argv[0])  # noqa: PTH119
    return f"{name}: {error.format_message().rstrip('.')}; see {name} --help"


def _stdout_closed() -> bool:
    """Whether nobody reads the output any more, as in `| head`; the rest of it is then discarded."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes on exit
        return True
    return False


def _leave() -> None:
    """End the process here: a vLLM thread that is still running when the interpreter shuts down sometimes aborts it,
    with all of its work done."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
