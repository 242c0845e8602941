"""`python -m MODULE …` and `python -c CODE …` without the seconds that imports take: a server with the heavy libraries
imported forks a process for each command.

    python tests/forking.py SOCKET                    the server; it ends when its stdin does
    python tests/forking.py SOCKET -m MODULE ARG …    a command that the server runs
    python tests/forking.py SOCKET -c CODE ARG …      another

The command is a process of its own: with its own folder, environment, arguments and streams, and with modules of the
project imported from its folder. Its `sys.executable` forks too. Kill the client, and the command is killed, with the
processes that it started.
"""

import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, NoReturn

LIBRARIES = (
    "accelerate", "datasets", "dvc.analytics", "dvc.cachemgr", "dvc.cli.parser", "dvc.data_cloud", "dvc.lock",
    "dvc.repo.experiments", "dvc.repo.index", "dvc.repo.reproduce", "dvc.scm", "dvc.utils.strictyaml",
    "dvc_render.vega", "httpx", "lm_eval.evaluator", "lm_eval.models.huggingface", "networkx", "peft",
    "pydantic.fields", "pydantic.json_schema", "pydantic.plugin._loader", "pyparsing", "rapidfuzz", "ruamel.yaml",
    "scipy.io", "scipy.stats", "scmrepo.git", "torch", "transformers", "trl",
    "typer._click.decorators", "typer.main", "vl_convert",
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
        events = select.poll()
        events.register(server, select.POLLIN)
        events.register(sys.stdin, select.POLLIN)
        running: dict[int, Running] = {}  # by either of its file descriptors
        while sys.stdin.fileno() not in (ready := dict(events.poll())):
            if server.fileno() in ready and (command := start(server)):
                events.register(command.ended, select.POLLIN)
                events.register(command.client, 0)  # only that it has gone
                running |= dict.fromkeys((command.ended, command.client.fileno()), command)
            for command in {running[number] for number in ready if number in running}:
                for number in (command.ended, command.client.fileno()):
                    events.unregister(number)
                    del running[number]
                finish(command, killed=command.ended not in ready)
        for command in set(running.values()):
            finish(command, killed=True)


class Running(NamedTuple):
    process: int
    ended: int  # a file descriptor that is readable then
    client: socket.socket


def start(server: socket.socket) -> Running | None:
    """Fork for the next client's command. None if the client has gone."""
    client, _ = server.accept()
    message, streams, *_ = socket.recv_fds(client, 1 << 16, 3)
    while more := client.recv(1 << 16):
        message += more
    command = None
    if message:
        import_libraries()
        process = os.fork()
        if process == 0:
            execute(**json.loads(message), streams=streams)
        command = Running(process, os.pidfd_open(process), client)
    for stream in streams:
        os.close(stream)
    return command


def finish(command: Running, killed: bool) -> None:
    """Send the exit status of a command that has ended, or kill one whose client has gone."""
    if killed:
        import psutil

        for process in psutil.Process(command.process).children(recursive=True):  # clients, whose commands follow
            with suppress(psutil.NoSuchProcess):
                process.kill()
        os.kill(command.process, signal.SIGKILL)
    _, status = os.waitpid(command.process, 0)
    with command.client, suppress(BrokenPipeError):
        command.client.send(bytes([os.waitstatus_to_exitcode(status) % 256]))
    os.close(command.ended)


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


def execute(
    folder: str, environment: dict[str, str], executable: str, arguments: list[str], streams: list[int]
) -> NoReturn:
    """Be `python ARGUMENTS` in this folder, and exit as it does."""
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
    option, program, *_ = arguments
    sys.executable, sys.path[0], sys.argv = executable, folder, arguments[1:]
    status: object = 0
    try:
        if option == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            sys.argv[0], sys.modules["__main__"] = "-c", (main := ModuleType("__main__"))
            exec(program, vars(main))
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
    """Have the server run `python ARGUMENTS` here. Returns its exit status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        command = {
            "folder": str(Path.cwd()), "environment": dict(os.environ), "arguments": arguments,
            "executable": str(Path(address).with_name("python")),
        }  # fmt: skip
        socket.send_fds(connection, [b" "], [0, 1, 2])
        connection.sendall(json.dumps(command).encode())
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(1)[0]


if __name__ == "__main__":
    _, address, *command = sys.argv
    if not command:
        serve(address)
    else:
        sys.exit(ask(address, command))
