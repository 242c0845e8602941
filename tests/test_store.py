"""The completion store: nothing is computed twice, no damaged value is served, no finished completion is lost."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, RUNTIME, Project

from stages.core.errors import UserError
from stages.inference import store as store_module
from stages.inference.engines import Completion, Number
from stages.inference.store import Reader, Store, _checksum, _is_damage, store_file

DONE = Completion("It is wrong. score: 2", "stop", 40, 9, (Number(20, {"2": -0.1, "3": -2.5}),), 0.25)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "completions.sqlite"


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_what_was_put_is_found_whole_by_another_process_too(path):
    Store(path, 1).put(key(1), DONE)
    (completion,) = Store(path, 1).find([key(1), key(2)]).values()
    assert (completion, completion.numbers, completion.seconds) == (DONE, DONE.numbers, 0.25)


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder, without the index of SQLite's journal, in which readers hold locks."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith("-shm")}


@pytest.mark.parametrize("writing", [True, False])
def test_a_reader_finds_undamaged_values_and_leaves_no_trace(path, writing):
    store = Store(path, 1)
    for number in range(3):
        store.put(key(number), DONE)
    store._db.execute("UPDATE calls SET value = ? WHERE key = ?", [b"{}", key(1)])
    if not writing:
        store.close()
    before = contents(path.parent)
    assert Reader(path).find(map(key, range(4))) == {key(0): DONE, key(2): DONE}
    assert contents(path.parent) == before
    assert Store(path, 1).totals()["served"] == 0


def test_a_reader_leaves_the_journal_of_a_killed_process_alone(path, tmp_path):
    store = Store(path, 1)
    store.put(key(0), DONE)
    (tmp_path / "killed").mkdir()
    for file in ("completions.sqlite", "completions.sqlite-wal", "completions.sqlite-shm"):  # as the kill leaves them
        shutil.copy(tmp_path / file, tmp_path / "killed")
    before = contents(tmp_path / "killed")
    assert Reader(tmp_path / "killed/completions.sqlite").find([key(0)]) == {key(0): DONE}
    assert contents(tmp_path / "killed") == before


def test_a_reader_takes_a_missing_or_damaged_store_for_an_empty_one(path):
    assert Reader(path).find([key(1)]) == {}
    assert not path.exists()
    path.write_bytes(b"no database at all" * 100)
    reader = Reader(path)
    assert reader.find([key(1)]) == {}
    assert reader.damaged
    assert path.read_bytes() == b"no database at all" * 100


def test_a_truncated_completion_is_kept_as_such(path):
    store = Store(path, 1)
    store.put(key(1), Completion("It is", "length"))
    assert store.find([key(1)])[key(1)].finish == "length"


@pytest.mark.parametrize(
    "torn", [b"{}", b'{"text": "It is right. score: 9", "finish": "stop"}', b"\xff\x00", "text", 7]
)
def test_a_torn_value_is_not_served(path, torn):
    store = Store(path, 1)
    for number in range(3):
        store.put(key(number), DONE)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE calls SET value = ? WHERE key = ?", [torn, key(1)])
    assert set(store.find(map(key, range(3)))) == {key(0), key(2)}
    store.put(key(1), DONE)
    assert store.find([key(1)])[key(1)] == DONE


@pytest.mark.parametrize("damage", [b"no database at all", None])
def test_a_damaged_file_is_renamed_and_the_run_continues(path, capsys, damage):
    store = Store(path, 1)
    for number in range(2000):
        store.put(key(number), DONE)
    store.close()
    content = path.read_bytes()
    path.write_bytes(damage or content[: len(content) // 3] + bytes(len(content) - len(content) // 3))
    store = Store(path, 1)
    assert len(store.find(map(key, range(2000)))) < 2000
    store.put(key(1), DONE)
    assert Store(path, 1).find([key(1)]) == {key(1): DONE}
    assert "is damaged" in capsys.readouterr().out
    assert path.with_name("completions.sqlite.damaged").exists()


@pytest.mark.parametrize(
    ("error", "code", "is_damage"),
    [
        (sqlite3.DatabaseError, sqlite3.SQLITE_CORRUPT, True),
        (sqlite3.DatabaseError, sqlite3.SQLITE_CORRUPT_INDEX, True),
        (sqlite3.DatabaseError, sqlite3.SQLITE_NOTADB, True),
        (sqlite3.OperationalError, sqlite3.SQLITE_ERROR, True),  # such as a table that is gone
        (sqlite3.OperationalError, sqlite3.SQLITE_FULL, False),
        (sqlite3.OperationalError, sqlite3.SQLITE_BUSY, False),
        (sqlite3.ProgrammingError, None, False),
        (sqlite3.OperationalError, None, True),  # text that is not UTF-8
    ],
)
def test_what_counts_as_damage(error, code, is_damage):
    raised = error("message")
    if code is not None:
        raised.sqlite_errorcode = code
    assert _is_damage(raised) == is_damage


def test_random_damage_is_never_served_and_never_ends_a_run(path):
    store = Store(path, 1)
    for number in range(300):
        store.put(key(number), Completion(f"text {number}", "stop"))
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    whole, randomly = path.read_bytes(), random.Random(0)
    for _ in range(40):
        content = bytearray(whole)
        for _ in range(30):
            content[randomly.randrange(len(content))] = randomly.randrange(256)
        path.write_bytes(content)
        store = Store(path, 1)
        for stored_key, completion in store.find(map(key, range(300))).items():
            assert completion.text == f"text {int.from_bytes(stored_key, 'big')}"
        store.put(key(1), DONE)
        assert store.find([key(1)]) == {key(1): DONE}
        assert store.totals()["completions"] > 0
        store.close()
        for file in path.parent.glob("completions.sqlite*"):
            file.unlink()


def test_of_two_processes_with_the_same_damaged_file_the_second_keeps_the_new_store_of_the_first(path):
    Store(path, 1).put(key(0), DONE)
    first, second = Store(path, 1), Store(path, 1)
    damage = sqlite3.DatabaseError("database disk image is malformed")
    first._replace_damaged(damage)
    for number in range(1, 200):
        first.put(key(number), DONE)
    second._replace_damaged(damage)
    second.put(key(200), DONE)
    first.put(key(201), DONE)
    assert len(Store(path, 1).find(map(key, range(1, 202)))) == 201


def test_a_process_switches_to_the_new_store_that_another_one_has_begun(path):
    first, second = Store(path, 1), Store(path, 1)
    first._replace_damaged(sqlite3.DatabaseError("database disk image is malformed"))
    for number in range(150):
        second.put(key(number), DONE)
    assert key(149) in Store(path, 1).find([key(149)])


WRITER = """
import sys
from pathlib import Path
from stages.inference.engines import Completion
from stages.inference.store import Store
store = Store(Path(sys.argv[1]), 1)
for number in range(int(sys.argv[2])):
    store.put(number.to_bytes(32, "big"), Completion(f"text {number} " * 20, "stop", seconds=0.001))
    print(number, flush=True)
"""


def writer(path: Path, rows: int, **settings) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(path), str(rows)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)


def test_several_processes_write_at_once(path):
    writers = [writer(path, 500) for _ in range(4)]
    for process in writers:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert len(Store(path, 1).find(map(key, range(500)))) == 500


def test_what_was_put_survives_kill_9(path):
    process = writer(path, 10**6)
    lines = [process.stdout.readline() for _ in range(300)]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(Store(path, 1).find(key(int(line)) for line in lines)) == 300


def test_a_full_disk_is_an_error_in_one_line_and_keeps_what_was_stored(path):
    """The file may not grow over 2 MB: the kernel refuses the write, as on a full disk."""

    def small_disk():
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    process = writer(path, 10**6, preexec_fn=small_disk)
    written, errors = process.communicate()
    assert process.returncode != 0
    assert "UserError: completion store" in errors
    assert "free disk space, lower runtime.store.max_gb or set runtime.store.path" in errors
    kept = Store(path, 1).find(key(int(line)) for line in written.splitlines())
    assert len(kept) == len(written.splitlines()) > 100


def test_the_least_recently_used_leave_first_and_the_bound_holds(path):
    bound = 1_000_000
    store = Store(path, bound / 10**9)
    store.put(key(0), DONE)
    long = Completion("x" * 500, "stop")
    for number in range(1, 4000):
        store.put(key(number), long)
        if number % 500 == 0:
            store.find([key(0)])
    assert store.size_bytes() < 1.3 * bound
    assert key(0) in store.find([key(0)])
    assert not store.find(map(key, range(1, 500)))


EARLIER = """
CREATE TABLE completions (key BLOB PRIMARY KEY, value BLOB NOT NULL, checksum BLOB NOT NULL, tokens INTEGER NOT NULL,
seconds REAL NOT NULL, served INTEGER NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX by_use ON completions (used);
"""


def test_a_store_of_the_layout_before_this_one_is_taken_over_and_its_writers_are_not_disturbed(path, tmp_path):
    Store(tmp_path / "now.sqlite", 1).put(key(1), DONE)
    with sqlite3.connect(tmp_path / "now.sqlite") as now:
        row = now.execute("SELECT key, value, checksum, tokens, seconds FROM calls").fetchone()
    earlier = sqlite3.connect(path, isolation_level=None)  # a process that began before the update
    earlier.executescript(EARLIER)
    earlier.execute("INSERT INTO completions VALUES (?, ?, ?, ?, ?, 3, 1790000000)", row)
    store = Store(path, 1)
    totals = store.totals()
    assert [totals[name] for name in ("completions", "served", "served_tokens", "served_seconds")] == [1, 3, 27, 0.75]
    assert store.find([key(1)]) == {key(1): DONE}
    earlier.execute("INSERT INTO completions VALUES (?, ?, ?, ?, ?, 0, 1790000000)", (key(2), *row[1:]))
    totals = Store(path, 1).totals()
    assert (totals["completions"], totals["served"]) == (2, 3 + 1)


def earlier_store(path, rows, size=10):
    """A store of the earlier layout: completions whose text has `size` letters."""
    Store(path.with_name("now.sqlite"), 1).put(key(0), replace(DONE, text="x" * size))
    with sqlite3.connect(path.with_name("now.sqlite")) as now:
        value, tokens, seconds = now.execute("SELECT value, tokens, seconds FROM calls").fetchone()
    earlier = sqlite3.connect(path)
    earlier.executescript(f"PRAGMA auto_vacuum = INCREMENTAL; {EARLIER}")
    lines = ((key(n), value, _checksum(key(n), value), tokens, seconds, 1, n) for n in range(rows))
    earlier.executemany("INSERT INTO completions VALUES (?, ?, ?, ?, ?, ?, ?)", lines)
    earlier.commit()
    earlier.close()


def test_a_reader_finds_what_an_earlier_layout_holds(path):
    """The plan, before the first stage after an update."""
    earlier_store(path, 3)
    reader = Reader(path)
    assert len(reader.find(map(key, range(4)))) == 3
    assert not reader.damaged
    Store(path, 1).close()
    assert len(Reader(path).find(map(key, range(4)))) == 3


def test_taking_an_earlier_layout_over_needs_little_room(path, monkeypatch):
    """A full disk has no room for a second store. The least recently used are the first in the new layout, too."""
    monkeypatch.setattr(store_module, "ADOPTED", 100)
    earlier_store(path, 3000, size=3000)
    before = path.stat().st_size
    store = Store(path, 1)
    assert store.totals()["completions"] == store.totals()["served"] == 3000
    assert store.run(lambda db: db.execute("SELECT key FROM calls ORDER BY id LIMIT 1").fetchone()) == (key(0),)
    store.close()
    assert path.stat().st_size < 1.3 * before


def test_a_found_completion_is_written_about_only_if_its_last_use_is_long_ago(path):
    """A run that finds a million completions must not rewrite a million rows."""
    store = Store(path, 1)
    for number in range(1000):
        store.put(key(number), DONE)

    def written(numbers: range) -> int:
        before = store._db.total_changes
        assert len(store.find(map(key, numbers))) == len(numbers)
        return store._db.total_changes - before

    assert written(range(1000)) == 1 + 900  # the sums, and the calls that are not among the newest tenth
    assert written(range(1000)) == 1
    for number in range(1000, 1200):
        store.put(key(number), DONE)
    assert written(range(1000)) == 1 + 1000


def test_a_lowered_bound_shrinks_the_file(path):
    store = Store(path, 1)
    for number in range(2000):
        store.put(key(number), Completion("x" * 500, "stop"))
    store.close()
    size = path.stat().st_size
    store = Store(path, size / 2 / 10**9)
    store.put(key(0), DONE)
    store.close()
    assert path.stat().st_size < 0.6 * size


def test_a_temporary_copy_uses_the_store_of_its_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert store_file(RUNTIME.store) == tmp_path / ".dvc/completions.sqlite"


def test_the_worktrees_of_a_repository_share_its_store(project: Project):
    project.run("git", "worktree", "add", "-q", "../other")
    code = "from stages.core.params import read_runtime; from stages.inference.store import store_file;"
    code += "print(store_file(read_runtime().store))"
    files = [
        subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout
        for folder in (project.folder, project.folder.parent / "other")
    ]
    assert files[0] == files[1] == f"{project.folder.resolve() / '.dvc/completions.sqlite'}\n"


def test_the_command_prints_what_the_store_holds_and_what_it_saved(project: Project):
    assert "empty; dvc repro fills it" in project.attempt("lance", "store").stdout
    store = Store(project.folder / ".dvc/completions.sqlite", 1)
    store.put(key(1), DONE)
    store.find([key(1)])
    store.find([key(1)])
    output = " ".join(project.attempt("lance", "store").stdout.split())
    assert "holds 1 completions 9 tokens 0.2 s of computing" in output
    assert "saved 2 completions 18 tokens 0.5 s of computing" in output


def test_a_path_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "a_file").write_text("")
    with pytest.raises(UserError, match=r"completion store .*a_file.*set runtime.store.path"):
        Store(tmp_path / "a_file/completions.sqlite", 1)


def test_many_keys_are_found_at_once_and_all_count_as_served(path):
    store = Store(path, 1)
    for number in range(1200):
        store.put(key(number), DONE)
    assert len(store.find(map(key, range(1200)))) == 1200
    assert store.totals()["served"] == 1200
