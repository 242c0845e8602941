"""A user's mistake ends a stage with one readable line (what, where, what to do) and a non-zero exit; a bug, with a
traceback."""

import atexit
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """Something that the user can mend; its text is the whole message."""


def run(main: Callable[..., None], *arguments: str) -> None:
    """Call a module's main; print a `UserError` as one line instead of a traceback, and for --help what the module
    says of itself."""
    try:
        if _fits(main, arguments):
            main(*arguments)
        else:
            print(sys.modules["__main__"].__doc__, flush=True)
    except UserError as error:
        sys.stdout.flush()
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        if not _stdout_closed():
            raise
        sys.exit(1)
    if "vllm" in sys.modules:
        _leave()


def _fits(main: Callable[..., None], arguments: tuple[str, ...]) -> bool:
    """Whether main takes the arguments; False where they ask for help. Raises `UserError` where they are others."""
    if arguments in (("--help",), ("-h",)):
        return False
    signature = inspect.signature(main)
    try:
        signature.bind(*arguments)
    except TypeError:
        names = ((each.name.upper(), each.default is each.empty) for each in signature.parameters.values())
        takes = " ".join(name if needed else f"[{name}]" for name, needed in names) or "no arguments"
        given = " ".join(arguments) or "none"
        raise UserError(f"{Path(sys.argv[0]).stem} takes {takes}, not {given}; --help says more") from None
    return True


def _stdout_closed() -> bool:
    """Whether nobody reads the output any more, as behind `| head`; what is left of it then goes nowhere."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at its end
        return True
    return False


def _leave() -> None:
    """End the process here: a thread of vLLM that still runs when Python takes itself apart aborts it now and then,
    with all of its work done."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
