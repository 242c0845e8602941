"""A model of the hub: fetched once, at its commit; if it cannot be, one line says why before anything has run.

The real client against a local server that speaks the hub's protocol and has a real model's files.
"""

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import Project, error_line
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.slow

COMMIT = "c0ffee" + 34 * "0"
NAME = "people/model"


class Hub(ThreadingHTTPServer):
    """Serves one model, whose only commit is also `main`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = folder
        self.requested: list[str] = []
        self.refusal: dict[str, tuple[int, str]] = {}  # beginning of a path: status and the hub's error code

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requested.append(path)
        refused = [refusal for start, refusal in self.server.refusal.items() if path.startswith(start)]
        route = re.fullmatch(rf"(?:/api/models)?/{NAME}/(revision|tree|resolve)/(main|{COMMIT})(?:/(.+))?", path)
        if refused or not route:
            model_exists = path.startswith((f"/api/models/{NAME}/", f"/{NAME}/"))
            status, code = refused[0] if refused else (404, "RevisionNotFound" if model_exists else "RepoNotFound")
            self.send({"X-Error-Code": code, "X-Error-Message": code}, b"", status)
            return
        kind, _, file = route.groups()
        if kind == "resolve":
            self.file(self.server.files / file, with_body)
        elif kind == "tree":
            self.send({}, json.dumps([entry(path) for path in sorted(self.server.files.iterdir())]).encode())
        else:
            self.send({}, json.dumps({"id": NAME, "sha": COMMIT, "siblings": []}).encode())

    def file(self, path: Path, with_body: bool) -> None:
        headers = {"ETag": f'"{entry(path)["oid"]}"', "X-Repo-Commit": COMMIT}
        if with_body:
            self.send(headers, path.read_bytes())
        else:
            self.send({**headers, "Content-Length": str(path.stat().st_size)}, b"")

    def send(self, headers: dict[str, str], body: bytes, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not into the tests' output."""


def entry(path: Path) -> dict[str, object]:
    size = path.stat().st_size
    return {"type": "file", "path": path.name, "size": size, "oid": sha1(f"{path.name} {size}".encode()).hexdigest()}


@pytest.fixture
def hub(tiny_model, tmp_path) -> Iterator[Hub]:
    shutil.copytree(tiny_model, tmp_path / "published")
    (tmp_path / "published/pytorch_model.bin").write_bytes(b"a pickle")
    with Hub(tmp_path / "published") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


# A forked process has the hub's client from its server, where it had another environment.
WITH_ITS_ENVIRONMENT = """
import importlib, runpy, sys
import stages
from huggingface_hub import constants
importlib.reload(constants)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__")
"""


class HubProject:
    """A project whose base model is the hub's, and its stages with an empty Hugging Face cache."""

    def __init__(self, project: Project, hub: Hub, home: Path) -> None:
        self.project, self.hub, self.home = project, hub, home
        self.set(id=NAME, revision=COMMIT)

    def set(self, **source: str) -> None:
        self.project.change({"model": {"hub": source}})

    def run(self, stage: str) -> subprocess.CompletedProcess:
        env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        env |= {"HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.home)}
        return self.project.attempt("python", "-c", WITH_ITS_ENVIRONMENT, f"stages.{stage}", env=env)


@pytest.fixture
def hub_project(project, hub, tmp_path) -> HubProject:
    return HubProject(project, hub, tmp_path / "home")


def done(result) -> str:
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_an_experiment_in_a_temporary_copy_does_not_ask_for_what_the_repository_has(
    hub_project, hub, tmp_path, monkeypatch
):
    done(hub_project.run("check"))
    done(hub_project.run("base"))
    shutil.rmtree(hub_project.home)
    hub.requested.clear()
    monkeypatch.setenv("DVC_ROOT", str(hub_project.project.folder))
    copy = Project.at(tmp_path / "copy")
    shutil.copytree(hub_project.project.folder, copy.folder, ignore=shutil.ignore_patterns("iterations"))
    done(HubProject(copy, hub, tmp_path / "other").run("check"))
    assert not hub.requested


def test_the_base_model_is_that_of_the_folder_and_pickles_are_not_even_fetched(hub_project, hub):
    assert done(hub_project.run("check")) == ""
    assert "base: downloading people/model to" in done(hub_project.run("base"))
    assert not any(path.endswith(".bin") for path in hub.requested)
    made = {path.name: path.read_bytes() for path in (hub_project.project.folder / "iterations/0/base").iterdir()}
    assert json.loads(made.pop("source.json"))["hub"] == {"id": NAME, "revision": COMMIT}

    shutil.copytree(hub.files, hub_project.project.folder / "published")
    shutil.rmtree(hub_project.project.folder / "iterations/0/base")
    hub_project.project.change({"model": {"name": "published"}})
    text = re.sub(r"hub:\n +id: .*\n +revision: .*\n", "hub: null\n", hub_project.project.read("params.yaml"))
    (hub_project.project.folder / "params.yaml").write_text(text)
    done(hub_project.run("base"))
    folder = hub_project.project.folder / "iterations/0/base"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made


def test_what_is_in_the_cache_needs_no_network(hub_project, hub):
    done(hub_project.run("base"))
    shutil.rmtree(hub_project.project.folder / "iterations/0/base")
    hub.requested.clear()
    done(hub_project.run("check"))
    assert "downloading" not in done(hub_project.run("base"))
    assert hub.requested == []


def test_a_cache_that_a_killed_download_left_is_completed(hub_project, hub, tiny_model):
    """Also one of an older client, which keeps no list of what belongs to it."""
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(hub.files, max_shard_size="40KB")
    (hub.files / "model.safetensors").unlink()
    done(hub_project.run("base"))
    shards = sorted(hub_project.home.glob("hub/*/snapshots/*/*.safetensors"))
    assert len(shards) > 1
    shards[0].resolve().unlink()
    shards[0].unlink()
    (trees,) = hub_project.home.glob("hub/*/trees")
    shutil.rmtree(trees)
    assert "downloading" in done(hub_project.run("base"))
    assert shards[0].is_file()


def test_what_is_materialised_already_needs_neither_network_nor_cache(hub_project, hub):
    done(hub_project.run("base"))
    shutil.rmtree(hub_project.home)
    hub.refusal["/"] = (500, "Down")
    done(hub_project.run("check"))


@pytest.mark.parametrize(
    ("source", "refusal", "message"),
    [
        ({"revision": 40 * "a"}, {}, f"{NAME} has no revision '{40 * 'a'}'; choose one of "),
        ({"id": "people/modle"}, {}, "/people/modle does not exist or is private; correct the id, or log in with "),
        ({}, {f"/{NAME}/resolve": (403, "GatedRepo")}, f"{NAME} is gated; request access at "),
        ({}, {"/": (500, "Down")}, "500 Internal Server Error"),
    ],
)  # fmt: skip
def test_what_the_hub_refuses_is_said_before_anything_has_run(hub_project, hub, source, refusal, message):
    hub_project.set(**{"id": NAME, "revision": COMMIT, **source})
    hub.refusal |= refusal
    assert message in error_line(hub_project.run("check"))
    assert not (hub_project.project.folder / "iterations/params.valid").exists()
    assert message in error_line(hub_project.run("base"))
    assert not (hub_project.project.folder / "iterations/0/base").exists()


def test_without_a_network_the_line_says_how_to_bring_the_model(hub_project, hub):
    hub.shutdown()
    hub.server_close()
    message = error_line(hub_project.run("check"))
    assert re.search(rf"{NAME} is not in the Hugging Face cache, and {hub.url} cannot be reached", message)
    assert (
        f"run hf download {NAME} --repo-type model --revision {COMMIT}, and copy its cache to this machine" in message
    )
    assert f"({hub_project.home}/hub)" in message


def test_too_little_disk_is_said_before_anything_is_fetched(hub_project, hub):
    weights = hub.files / "model.safetensors"
    os.truncate(weights, 4 * shutil.disk_usage(hub.files).free)  # a hole: it takes no room here
    message = error_line(hub_project.run("check"))
    assert re.search(
        r"the model needs [\d.,]+ GB on the disk of .*, which has [\d.,]+ GB free; free some space", message
    )
    assert not list(hub_project.home.glob("hub/*/snapshots"))


def test_a_model_that_has_only_pickles_is_refused(hub_project, hub):
    (hub.files / "model.safetensors").unlink()
    assert f"{NAME} has no *.safetensors" in error_line(hub_project.run("check"))


def test_the_name_is_that_of_a_repository(hub_project):
    hub_project.set(id="model", revision=COMMIT)
    assert "model.hub.id: 'model' is not of the form OWNER/NAME" in error_line(hub_project.run("check"))


def test_a_branch_is_no_revision(hub_project):
    hub_project.set(revision="main")
    assert "model.hub.revision: 'main' is not a commit" in error_line(hub_project.run("check"))
