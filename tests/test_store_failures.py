"""The completion store where things fail: power cuts, kills, full disks, clocks that jump. What was stored stays."""

import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import pytest
from conftest import ROOT

from stages.core.errors import UserError
from stages.inference.engines import Completion
from stages.inference.store import SYNC_INTERVAL, Reader, Store

pytestmark = pytest.mark.slow

SECTOR = 512  # bytes that a disk writes at once
HEADER, FRAME = 32, 24 + 4096  # bytes of the journal's header, and of a page in it


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


START = """
import os
from pathlib import Path
from stages.commands.store import command, shards
from stages.commands.store.remote import Remote
from stages.core.command import run
from stages.inference.engines import Completion
from stages.inference.store import Store
def put(store, number):
    store.put(number.to_bytes(32, "big"), Completion(f"text {number} " * 60, "stop", seconds=0.001))
    os.write(1, b"%d\\n" % number)
def local(folder):
    from dvc.fs import LocalFileSystem
    return Remote("storage", folder, LocalFileSystem())
"""
PUT = """
def main():
    store = Store(Path(arguments[0]), 1)
    for number in range(int(arguments[1]), int(arguments[2])):
        put(store, number)
run(main)
"""
SHARE = """
def main():
    shards.BYTES = 20_000
    store, remote = Store(Path(arguments[0]), 1), local(arguments[1])
    os.write(1, b"begin\\n")
    command.ACTIONS[arguments[2]](store, remote)
run(main)
"""


@contextmanager
def process(code: str, *arguments: object, out: Path | None = None, limit: Callable[[], None] | None = None):
    """A Python process that runs `START` and the code; it is killed at the end of the block if it still runs."""
    command = [sys.executable, "-c", f"{START}\narguments = {[*map(str, arguments)]}\n{code}"]
    with open(out or os.devnull, "wb") as written:  # noqa: PTH123
        started = subprocess.Popen(
            command, cwd=ROOT, stdout=written, stderr=subprocess.PIPE, text=True, preexec_fn=limit
        )
        try:
            yield started
        finally:
            started.kill()
            started.wait()
            started.stderr.close()


def numbers(out: Path) -> list[int]:
    """What a process has reported as stored."""
    lines = out.read_text().split("\n")[:-1] if out.exists() else []
    return [int(line) for line in lines if line.isdecimal()]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def undamaged(path: Path, stored: range) -> bool:
    """Whether the file has exactly these completions, takes another one, and was not taken for damaged."""
    store = Store(path, 1)
    found = store.find(map(key, range(stored.stop + 100)))
    store.put(key(10**9), Completion("one more", "stop"))
    store.close()
    damaged = [file.name for file in path.parent.iterdir() if ".damaged" in file.name]
    texts = {key(number): Completion(f"text {number} " * 60, "stop") for number in stored}
    return found == texts and not damaged


# ---- power cuts ------------------------------------------------------------------------------------------------------


def snapshots(folder: Path, count: int) -> list[Path]:
    """The files of a store, and what was reported as stored, at random moments while a process writes: the process
    stands still while they are copied."""
    moments, copies = random.Random(0), []
    (folder / "live").mkdir()
    with process(PUT, folder / "live/store", 0, 100_000, out=folder / "live/out") as writer:
        wait_for(lambda: bool(numbers(folder / "live/out")))
        for number in range(count):
            time.sleep(moments.uniform(0.02, 0.12))
            writer.send_signal(signal.SIGSTOP)
            os.waitpid(writer.pid, os.WUNTRACED)
            copies.append(folder / str(number))
            shutil.copytree(folder / "live", copies[-1])
            writer.send_signal(signal.SIGCONT)
    return copies


def unsynced(copy: Path) -> tuple[int, int]:
    """The bytes of the journal that are on the disk for sure, since SQLite waits for them before it copies pages from
    there into the file; and its length. By https://sqlite.org/walformat.html"""
    index = (copy / "store-shm").read_bytes()
    (frames,) = struct.unpack_from("=I", index, 16)
    (copied,) = struct.unpack_from("=I", index, 128)
    return HEADER + copied * FRAME, HEADER + frames * FRAME


def test_after_a_power_cut_all_is_there_that_was_stored_before_the_last_write_that_reached_the_disk(tmp_path):
    """At each moment the journal may have reached the disk up to any of its bytes; the rest is missing, or zeros, or
    there but for one sector."""
    cut, lost = random.Random(1), 0
    for copy in snapshots(tmp_path, 6):
        reported = numbers(copy / "out")
        synced, length = unsynced(copy)
        for tail in ("all", "missing", "zeros", "hole", "hole"):
            after = copy / f"after {cut.random()}"
            after.mkdir()
            shutil.copy(copy / "store", after)
            journal = (copy / "store-wal").read_bytes()[:length]
            kept = len(journal) if tail == "all" else cut.randint(synced, length)
            lost_part = {"zeros": bytes(length - kept), "hole": bytes(SECTOR) + journal[kept + SECTOR :]}.get(tail, b"")
            (after / "store-wal").write_bytes(journal[:kept] + lost_part)
            stored = len(Reader(after / "store").find(map(key, range(len(reported) + 100))))
            assert undamaged(after / "store", range(stored))
            if tail == "all":
                assert stored in (len(reported), len(reported) + 1)
            lost += len(reported) - stored
    assert lost > 100  # the cuts took something


def test_a_completion_is_on_the_disk_a_second_later(tmp_path):
    """SQLite waits for the disk at a commit if it is told to; by default only every thousand pages."""
    store, statements, start = Store(tmp_path / "store", 1), [], time.monotonic()
    store._db.set_trace_callback(statements.append)
    puts = 0
    while time.monotonic() < start + 2.5 * SYNC_INTERVAL:
        store.put(key(puts), Completion("text", "stop"))
        puts += 1
    waits = [number for number, statement in enumerate(statements) if statement == "PRAGMA synchronous = FULL"]
    assert len(waits) == 3 < puts
    for number in waits:
        assert statements[number + 1].startswith("INSERT")
        assert statements[number + 2] == "PRAGMA synchronous = NORMAL"


# ---- kills -----------------------------------------------------------------------------------------------------------


def test_of_two_writers_that_are_killed_at_random_moments_nothing_is_lost(tmp_path):
    moments, store = random.Random(2), tmp_path / "store"
    outs = [tmp_path / f"out{number}" for number in range(6)]
    for number in range(0, 6, 2):
        first, second = (
            process(PUT, store, 10_000 * writer, 10_000 * (writer + 1), out=outs[writer])
            for writer in (number, number + 1)
        )
        with first as one, second as two:
            wait_for(lambda: all(numbers(out) for out in outs[number : number + 2]))  # noqa: B023
            for writer in (one, two):
                time.sleep(moments.uniform(0, 0.1))
                writer.kill()
    reported = [number for out in outs for number in numbers(out)]
    assert len(Store(store, 1).find(map(key, reported))) == len(reported) > 100
    assert not list(tmp_path.glob("*.damaged*"))


def filled(path: Path, stored: range) -> Store:
    store = Store(path, 1)
    for number in stored:
        store.put(key(number), Completion(f"text {number} " * 60, "stop"))
    return store


def test_a_push_and_a_pull_that_are_killed_at_random_moments_are_made_up_for_by_the_next_ones(tmp_path):
    moments, remote = random.Random(3), tmp_path / "remote"
    filled(tmp_path / "ann", range(2000)).close()
    Store(tmp_path / "ben", 1).close()
    for _ in range(3):
        for machine, action in (("ann", "push"), ("ben", "pull")):
            with process(SHARE, tmp_path / machine, remote, action, out=tmp_path / "out") as sharing:
                wait_for(lambda: (tmp_path / "out").read_bytes().startswith(b"begin"))
                time.sleep(moments.uniform(0.05, 0.5))
                sharing.kill()
    for machine, action in (("ann", "push"), ("ben", "pull")):
        with process(SHARE, tmp_path / machine, remote, action) as sharing:
            assert sharing.wait() == 0
    assert undamaged(tmp_path / "ben", range(2000))


# ---- disks -----------------------------------------------------------------------------------------------------------


def small_disk() -> None:
    """No file may grow over 1 MB: the kernel refuses the write, as on a full disk."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))


@pytest.mark.parametrize(("action", "where"), [("push", "storage"), ("pull", "completion store")])
def test_a_disk_that_gets_full_while_sharing_is_one_line_and_the_next_try_goes_on(tmp_path, action, where):
    """Pushing: the text does not compress, so that a shard is too large for the disk."""
    noise = random.Random(0)
    machine = Store(tmp_path / "ann", 1)
    for number in range(1000):
        machine.put(key(number), Completion(noise.randbytes(1000).hex(), "stop"))
    machine.close()
    share = SHARE.replace("20_000", "4_000_000")
    if action == "pull":
        with process(share, tmp_path / "ann", tmp_path / "remote", "push") as pushing:
            assert pushing.wait() == 0
    target = tmp_path / ("ann" if action == "push" else "ben")
    with process(share, target, tmp_path / "remote", action, limit=small_disk) as sharing:
        _, errors = sharing.communicate()
    assert sharing.returncode == 1
    assert errors.startswith("error: ") and errors.count("\n") == 1 and where in errors  # noqa: PT018
    for machine, again in (("ann", "push"), ("ben", "pull")):
        with process(share, tmp_path / machine, tmp_path / "remote", again) as sharing:
            assert sharing.wait() == 0
    assert Store(tmp_path / "ben", 1).totals()["completions"] == 1000


READ_ONLY = """
def main():
    if os.getuid() == 0:  # root may write anywhere
        os.setuid(65534)
    put(Store(Path(arguments[0]), 1), 0)
run(main)
"""


@pytest.mark.parametrize("file", ["store", "new"])
def test_a_read_only_folder_is_one_line_and_plans_still_read_it(tmp_path, file):
    folder = tmp_path / "folder"
    folder.mkdir()
    filled(folder / "store", range(5)).close()
    for path in (tmp_path.parent, tmp_path):
        path.chmod(0o755)
    (folder / "store").chmod(0o444)
    folder.chmod(0o555)
    before = (folder / "store").read_bytes()
    with process(READ_ONLY, folder / file) as writer:
        _, errors = writer.communicate()
    assert writer.returncode == 1
    assert errors.startswith(f"error: completion store {folder / file}: ")
    assert "set runtime.store.path to another disk" in errors
    assert errors.count("\n") == 1
    assert len(Reader(folder / "store").find(map(key, range(5)))) == 5
    assert (folder / "store").read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["store"]


# ---- clocks ----------------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_does_not_decide_what_leaves_a_full_store(tmp_path, monkeypatch):
    clock = cycle([1.8e9, 0.0, 4e9, 1.7e9])
    monkeypatch.setattr("time.time", lambda: next(clock))
    store = Store(tmp_path / "store", 0.001)
    for number in range(4000):
        store.put(key(number), Completion("x" * 500, "stop"))
        if number % 200 == 0:
            assert key(0) in store.find([key(0)])
    assert key(3999) in store.find([key(3999)])
    assert not store.find(map(key, range(1, 500)))


def test_a_store_is_of_use_on_a_disk_that_was_full(tmp_path):
    """A put that failed left nothing behind that stands in the way of the next one."""
    store = filled(tmp_path / "store", range(20))
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(UserError, match="database or disk is full"):
        store.put(key(20), Completion("x" * 10_000, "stop"))
    store._db.execute("PRAGMA max_page_count = 1000000")
    store.put(key(20), Completion("x" * 10_000, "stop"))
    assert len(store.find(map(key, range(21)))) == 21
