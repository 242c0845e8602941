"""A team's store: completions go through a DVC remote, none is lost or pushed twice, and shards tell nothing else."""

import hashlib
import os
import socket
import subprocess
from io import BytesIO
from pathlib import Path

import pyarrow.parquet
import pytest
from conftest import Project, command_line, error_line, forking_environment

from stages.commands.store import command, exchange, shards
from stages.commands.store.remote import Remote, remote_errors
from stages.core.errors import UserError
from stages.inference.engines import Completion, Number
from stages.inference.store import Store

DONE = Completion("Es ist wahr. score: 9 ✓", "stop", 40, 9, (Number(20, {"9": -0.1}),), 0.25)


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def text(number: int) -> Completion:
    return Completion(f"text {number} " * 20, "stop", 40, 60, (), 0.5)


class Machine:
    """A colleague's machine: a store, and the folder that is everyone's remote."""

    def __init__(self, folder: Path, remote: Path, max_gb: float = 1) -> None:
        from dvc.fs import LocalFileSystem

        self.store = Store(folder / "completions.sqlite", max_gb)
        self.remote = Remote("storage", str(remote), LocalFileSystem())

    def puts(self, numbers: range) -> None:
        for number in numbers:
            self.store.put(key(number), text(number))

    def push(self) -> None:
        command.push(self.store, self.remote)

    def pull(self) -> None:
        command.pull(self.store, self.remote)

    def has(self, numbers: range) -> bool:
        return self.store.find(map(key, numbers)) == {key(number): text(number) for number in numbers}

    def to_push(self) -> int:
        return exchange.count(self.store, exchange.unshared(self.store, self.remote.shards()))


@pytest.fixture
def remote(tmp_path) -> Path:
    return tmp_path / "remote"


@pytest.fixture
def machines(tmp_path, remote) -> list[Machine]:
    return [Machine(tmp_path / name, remote) for name in ("ann", "ben", "cem")]


def files(remote: Path) -> list[Path]:
    return sorted((remote / "completions").iterdir())


def test_what_one_machine_pushes_another_pulls_whole(machines):
    ann, ben, _ = machines
    ann.store.put(key(0), DONE)
    ann.push()
    ben.pull()
    (completion,) = ben.store.find([key(0)]).values()
    assert (completion, completion.numbers, completion.seconds) == (DONE, DONE.numbers, 0.25)
    assert ben.store.totals()["tokens"] == 9


def test_nothing_is_pushed_or_pulled_twice(machines, remote, capsys):
    ann, ben, _ = machines
    ann.puts(range(300))
    ann.push()
    ben.puts(range(200, 400))  # of which Ann has made a half, too
    ben.pull()
    before = files(remote)
    ann.push()
    assert files(remote) == before
    assert ben.to_push() == 100
    ben.push()
    capsys.readouterr()
    ann.pull()
    assert "pulled 100 new completions" in capsys.readouterr().out
    assert ann.has(range(400))
    assert ben.has(range(400))
    assert ann.to_push() == ben.to_push() == 0
    ann.pull()
    assert "pulled 0 new completions, 0.0 MB; new shards: 0" in capsys.readouterr().out


def test_what_is_here_already_stays_as_it_is(machines):
    """Another machine may have computed another text; outs that rest on the own one must not change."""
    ann, ben, _ = machines
    ann.store.put(key(0), Completion("by Ann", "stop"))
    ann.push()
    ben.store.put(key(0), Completion("by Ben", "stop"))
    ben.pull()
    assert ben.store.find([key(0)])[key(0)].text == "by Ben"


def test_a_torn_value_is_mended_by_a_pull(machines):
    ann, ben, _ = machines
    ann.puts(range(3))
    ann.push()
    ben.puts(range(2))
    ben.store.run(lambda db: db.execute("UPDATE calls SET value = ? WHERE key = ?", [b"{}", key(1)]))
    ben.pull()
    assert ben.has(range(3))
    assert ben.to_push() == 0


def test_many_completions_go_into_several_shards(machines, remote, monkeypatch):
    monkeypatch.setattr(shards, "BYTES", 100_000)
    ann, ben, _ = machines
    ann.puts(range(1000))
    ann.push()
    assert len(files(remote)) > 3
    ben.pull()
    assert ben.has(range(1000))


def test_another_remote_or_an_emptied_one_gets_everything(machines, remote, tmp_path):
    ann, ben, _ = machines
    ann.puts(range(20))
    ann.push()
    other = Remote("other", str(tmp_path / "other"), ann.remote.fs)
    command.push(ann.store, other)
    assert ann.to_push() == 0
    for file in files(remote):
        file.unlink()
    assert ann.to_push() == 20
    ann.push()
    ben.pull()
    assert ben.has(range(20))


def test_what_left_a_full_store_and_was_computed_again_is_found_in_order(machines, tmp_path, remote):
    small = Machine(tmp_path / "small", remote, max_gb=0.0005)
    small.puts(range(1000))
    small.push()
    small.puts(range(1000, 1500))
    small.puts(range(100))
    small.push()
    assert small.to_push() == 0
    _, ben, _ = machines
    ben.pull()
    assert ben.has(range(1400, 1500))
    assert ben.has(range(100))


def test_a_pull_evicts_nothing(machines, tmp_path, remote):
    ann, *_ = machines
    ann.puts(range(3000))
    ann.push()
    small = Machine(tmp_path / "small", remote, max_gb=0.0005)
    small.puts(range(5000, 5300))
    with pytest.raises(UserError, match=r"grow beyond 0.0005 GB; raise runtime.store.max_gb"):
        small.pull()
    assert small.has(range(5000, 5300))
    assert small.store.totals()["completions"] == 300


def test_a_damaged_shard_is_named_and_keeps_no_other_from_being_merged(machines, remote):
    ann, ben, cem = machines
    for machine, numbers in ((ann, range(50)), (ben, range(50, 100))):
        machine.puts(numbers)
        machine.push()
    damaged = next(file for file in files(remote) if file.name not in exchange.known_shards(ben.store))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{damaged.name} is damaged; the others were merged. Delete"):
        cem.pull()
    assert cem.has(range(50, 100))
    damaged.unlink()  # as the message says
    ann.push()
    cem.pull()
    assert cem.has(range(100))


def write_shard(remote: Path, content: bytes) -> str:
    name = hashlib.sha256(content).hexdigest() + ".parquet"
    (remote / "completions" / name).write_bytes(content)
    return name


def of_another_version(change: str) -> bytes:
    value = b'{"text": "", "mood": "a field of the future", "numbers": []}' if change == "field" else b"[]"
    _, content = shards.pack([exchange.Call(1, key(7), value)])
    table = pyarrow.parquet.read_table(BytesIO(content))
    if change == "format":
        table = table.replace_schema_metadata({"format": "2"})
    if change == "column":
        table = table.append_column("mood", [["good"]])
    out = BytesIO()
    pyarrow.parquet.write_table(table, out)
    return b"no parquet" if change == "file" else out.getvalue()


@pytest.mark.parametrize("change", ["format", "column", "field", "value", "file"])
def test_a_shard_of_another_version_is_named_and_keeps_no_other_from_being_merged(machines, remote, change):
    ann, ben, _ = machines
    ann.puts(range(50))
    ann.push()
    name = write_shard(remote, of_another_version(change))
    with pytest.raises(
        UserError, match=rf"{name} is of an unknown format; the others were merged.*update this project"
    ):
        ben.pull()
    assert ben.store.totals()["completions"] == 50


def test_uploads_under_way_and_foreign_files_are_no_shards(machines, remote):
    ann, ben, _ = machines
    ann.puts(range(5))
    ann.push()
    (remote / "completions/.upload.tmp").write_bytes(b"half")
    (remote / "completions/notes.txt").write_bytes(b"ours")
    ben.pull()
    assert ben.has(range(5))


def test_a_torn_completion_is_not_pushed(machines):
    ann, ben, _ = machines
    ann.puts(range(5))
    ann.store._db.execute("UPDATE calls SET value = ? WHERE key = ?", [b"{}", key(3)])
    ann.push()
    ben.pull()
    assert set(ben.store.find(map(key, range(5)))) == {key(number) for number in (0, 1, 2, 4)}


def test_a_shard_tells_nothing_but_keys_and_completions(machines, remote, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    ann, *_ = machines
    ann.puts(range(50))
    ann.push()
    (shard,) = files(remote)
    table = pyarrow.parquet.read_table(shard)
    assert table.column_names == ["key", "value"]
    assert table.schema.metadata == {b"format": b"1"}
    told = shard.read_bytes() + b"".join(table["value"].to_pylist())
    for secret in ("hf_abcdefgh", socket.gethostname(), str(remote.parent), os.environ.get("USER", "root-user")):
        assert secret.encode() not in told


def test_the_same_completions_make_the_same_shard(machines, remote):
    for machine in machines:
        machine.puts(range(50))
        machine.push()
    assert len(files(remote)) == 1


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("ssh://ann:secret@host/x", "ssh://host/x"),
        ("ssh://ann:sec/r@t@host/x", "ssh://host/x"),
        ("https://host/x?sig=secret", "https://host/x?"),
    ],
)
def test_errors_of_a_remote_are_one_line_without_its_password(address, shown):
    with pytest.raises(UserError) as raised, remote_errors("lab"):
        raise ValueError(f"no route to {address}")
    assert str(raised.value).startswith(f"DVC remote 'lab': ValueError: no route to {shown}; nothing is lost")


def test_a_shard_whose_upload_was_cut_has_no_name_yet(tmp_path, monkeypatch):
    from dvc.fs import LocalFileSystem

    remote = Remote("lab", str(tmp_path), LocalFileSystem())
    name = f"{'0' * 64}.parquet"
    monkeypatch.setattr(LocalFileSystem, "move", lambda *_: (_ for _ in ()).throw(ConnectionError("cut")))
    with pytest.raises(UserError, match="cut; nothing is lost"):
        remote.write(name, b"a shard")
    assert remote.shards() == set()
    monkeypatch.undo()
    remote.write(name, b"a shard")
    assert remote.shards() == {name}
    assert remote.read(name) == b"a shard"


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(project: Project) -> Project:
    """A project with a remote, and ten completions."""
    project.run("dvc", "remote", "add", "-q", "-d", "storage", str(project.folder.parent / "remote"))
    store = Store(project.folder / ".dvc/completions.sqlite", 1)
    for number in range(10):
        store.put(key(number), text(number))
    store.close()
    return project


def test_two_processes_that_push_at_once_and_a_second_clone_lose_nothing(shared, tmp_path):
    other = shared.copy(tmp_path / "other")
    Machine(other.folder / ".dvc", tmp_path / "none").puts(range(10, 20))
    pushes = [
        subprocess.Popen(command_line("lance", "store", "push"), cwd=each.folder, env=forking_environment())
        for each in (shared, shared, other)
    ]
    assert [push.wait() for push in pushes] == [0, 0, 0]
    third = Machine(tmp_path / "third", tmp_path / "remote")
    third.pull()
    assert third.has(range(20))


def test_a_clone_pulls_what_the_default_remote_holds(shared, tmp_path):
    assert "pushed 10 completions" in shared.run("lance", "store", "push").stdout
    clone = shared.copy(tmp_path / "clone")
    for file in (clone.folder / ".dvc").glob("completions.sqlite*"):
        file.unlink()
    assert "pulled 10 new completions" in clone.run("lance", "store", "pull").stdout
    assert "holds 10 completions" in " ".join(clone.run("lance", "store").stdout.split())


@pytest.mark.parametrize(
    ("url", "arguments", "message"),
    [
        (None, ["push"], "there is no default DVC remote; dvc remote add -d NAME URL"),
        (None, ["pull", "-r", "lab"], "there is no DVC remote 'lab'; dvc remote list shows"),
        ("/nowhere/at/all", ["pull"], "holds no completions at /nowhere/at/all/completions; lance store push"),
        ("/proc/nowhere", ["push"], "DVC remote 'storage': FileNotFoundError"),
        ("https://127.0.0.1:9/x", ["pull"], "cannot list its files; use a folder, S3 or SSH"),
        ("gdrive://abc", ["push"], "gdrive is supported, but requires 'dvc-gdrive' to be installed"),
        (None, ["steal"], "there is no lance store steal; choose push or pull, or neither"),
    ],
)
def test_a_remote_that_cannot_be_used_is_one_line_and_nothing_is_lost(shared, url, arguments, message):
    shared.run("dvc", "remote", "remove", "-q", "storage")
    if url:
        shared.run("dvc", "remote", "add", "-q", "-d", "storage", url)
    assert message in error_line(shared.attempt("lance", "store", *arguments))
    assert Store(shared.folder / ".dvc/completions.sqlite", 1).totals()["completions"] == 10
