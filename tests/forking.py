"""`python -m MODULE …` without the seconds that its imports take: a server with the heavy libraries imported forks a
process for each command.

    python tests/forking.py SOCKET                    the server; it ends when its stdin does
    python tests/forking.py SOCKET -m MODULE ARG …    a command that the server runs

The command is a process of its own: with its own folder, environment, arguments and streams, and with modules of the
project imported from its folder. Kill the client, and the command is killed.
"""

import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

LIBRARIES = (
    "accelerate", "datasets", "dvc.repo", "lm_eval.evaluator", "lm_eval.models.huggingface", "peft", "scipy.stats",
    "sentence_transformers", "torch", "transformers", "trl",
)  # fmt: skip
CLASSES = {  # imported when they are first asked for
    "transformers": ("AutoModelForCausalLM", "AutoTokenizer", "Qwen2ForCausalLM", "Qwen2Tokenizer", "Trainer"),
    "trl": ("DPOTrainer", "SFTTrainer"),
}


def serve(address: str) -> None:
    """Fork for each command until stdin ends. The libraries are imported at the first one."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        while server in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            with connection:
                import_libraries()
                if os.fork() == 0:
                    supervise(connection)
            with suppress(ChildProcessError):  # none is left
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def import_libraries() -> None:
    """As a stage imports them: after `stages` has set their environment."""
    if "torch" in sys.modules:
        return
    import gc
    from importlib import import_module

    sys.path.insert(0, str(Path(__file__).parent.parent))
    import_module("stages")
    for name in LIBRARIES:
        module = import_module(name)
        for attribute in CLASSES.get(name, ()):
            getattr(module, attribute)
    del sys.modules["stages"]  # the command's own is that of its folder
    gc.freeze()  # else the first collection would write to, and so copy, every page


def supervise(connection: socket.socket) -> NoReturn:
    """Run one command in a child; send its exit status, or kill it when its client has gone."""
    message, streams, *_ = socket.recv_fds(connection, 1 << 16, 3)
    while more := connection.recv(1 << 16):
        message += more
    child = os.fork()
    if child == 0:
        connection.close()
        execute(**json.loads(message), streams=streams)
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(child)
    events = select.poll()
    events.register(ended, select.POLLIN)
    events.register(connection, 0)  # only that the client has gone
    if ended in dict(events.poll()):
        _, status = os.waitpid(child, 0)
        connection.send(bytes([os.waitstatus_to_exitcode(status) % 256]))
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os._exit(0)


def execute(folder: str, environment: dict[str, str], arguments: list[str], streams: list[int]) -> NoReturn:
    """Be `python -m ARGUMENTS` in this folder, and exit as it does."""
    import atexit
    import gc
    import runpy
    import threading
    import traceback

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0], sys.argv = folder, arguments
    status: object = 0
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    gc.collect()  # closes what is still open, such as a database, as an interpreter that ends would
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


def ask(address: str, arguments: list[str]) -> int:
    """Have the server run `python -m ARGUMENTS` here. Returns its exit status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        command = {"folder": str(Path.cwd()), "environment": dict(os.environ), "arguments": arguments}
        socket.send_fds(connection, [b" "], [0, 1, 2])
        connection.sendall(json.dumps(command).encode())
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(1)[0]


if __name__ == "__main__":
    _, address, *command = sys.argv
    if not command:
        serve(address)
    else:
        sys.exit(ask(address, command[1:]))
