"""A user's mistake ends a stage with one readable line (what, where, what to do) and a non-zero exit; a bug, with a
traceback."""

import atexit
import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something that the user can mend; its text is the whole message."""


def run(main: Callable[..., None], *arguments: str) -> None:
    """Call a stage's main; print a `UserError` as one line instead of a traceback."""
    try:
        main(*arguments)
    except UserError as error:
        sys.stdout.flush()
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(1)
    if "vllm" in sys.modules:
        _leave()


def _leave() -> None:
    """End the process here: a thread of vLLM that still runs when Python takes itself apart aborts it now and then,
    with all of its work done."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
