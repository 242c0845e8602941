"""A process that ends when the one that started it does, however that ends: by ctrl-C, `kill -9` or a closed terminal.

Its stdin is a pipe, and the process that started it has the other end, which closes with it. A signal could get lost:
`kill -9` sends none to children, and ssh and `docker exec` pass none on to another machine; but they pass on stdin.
"""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Thread
from typing import IO

GREETING = b"lance\n"  # tells a stdin that this module holds from an empty one, such as /dev/null
ORDERLY = 3.0  # seconds that a process has to clean up when its stdin ends
PATIENCE = 5.0  # seconds to wait for a process whose stdin ended
SLOW = 40.0  # seconds to wait for one that was terminated; a cluster may itself wait 30 before it kills


def run(command: Sequence[str], env: Mapping[str, str], stderr: IO[str] | None = None) -> int:
    """Run a command that ends with this process. Returns its exit status, or -N if signal N ended it. Raises `OSError`
    if it cannot be started."""
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stderr=stderr, bufsize=0, start_new_session=True
    ) as process:
        try:
            with suppress(BrokenPipeError):  # it has ended, or closed its stdin
                process.stdin.write(GREETING)  # type: ignore[union-attr]
            return process.wait()
        except BaseException:  # ctrl-C, or SIGTERM
            _end(process)
            raise


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and its group, and wait for it: by its stdin, then by signals. Another ctrl-C changes nothing."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    process.stdin.close()  # type: ignore[union-attr]
    for seconds, next_signal in ((PATIENCE, signal.SIGTERM), (SLOW, signal.SIGKILL)):
        try:
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, next_signal)
    process.wait()


def hold(greeted: bool = False) -> None:
    """From now on, end this process and those that it starts when stdin ends. `greeted`: only if stdin is one that
    `run` holds at its other end; where a launcher does not pass it on, it is empty or closed from the start."""
    if sys.stdin is None:  # closed; what is opened next may get its number
        return
    mode = os.fstat(0).st_mode
    if not stat.S_ISFIFO(mode) and not stat.S_ISSOCK(mode):  # /dev/null, say, has ended before it began
        return
    Thread(target=_watch, args=(greeted,), daemon=True).start()


def _watch(greeted: bool) -> None:
    if greeted and not os.read(0, len(GREETING)):
        return
    while os.read(0, 1024):
        pass
    import psutil

    me = psutil.Process()
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in (*me.children(recursive=True), me):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        time.sleep(ORDERLY)
