"""push: the hub's own client against a server that implements the hub's endpoints; every failure is one line."""

import base64
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import error_line

CARD = "---\ntags:\n- lance\n---\n\n# A model of LANCE\n"


class Hub(BaseHTTPRequestHandler):
    """The endpoints of huggingface.co that the client calls: who am I, create a repository, upload by LFS, commit."""

    def do_GET(self):
        repository = self.server.repositories.get(self.path.removeprefix("/api/"))
        if self.headers["Authorization"] != "Bearer good":
            self.answer({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/whoami-v2":
            self.answer({"name": "user", "auth": {"accessToken": {"role": self.server.role}}})
        elif repository is None:
            self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        else:
            self.answer({"id": "user/name", "private": repository["private"], "siblings": []})

    def do_POST(self):
        body = self.body()
        address = "/user/name" if "/models/" in self.path else "/datasets/user/name"
        kind, _, action = self.path.removeprefix("/api/").partition("/user/name")
        if self.path == "/api/repos/create":
            request = json.loads(body)
            if request.get("organization") == "others":
                self.answer({"error": "You don't have the rights to create a model under others"}, 403)
                return
            repository = f"{request.get('type') or 'model'}s/{request['organization']}/{request['name']}"
            self.server.repositories[repository] = {"private": request["visibility"] == "private", "files": {}}
            self.answer({"url": f"{self.server.url}/user/name"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": self.server.faults, "warnings": []}, 400 if self.server.faults else 200)
        elif action.startswith("/preupload"):
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith((".safetensors", ".jsonl")) else "regular" for name in names}
            answers = [{"path": name, "uploadMode": modes[name], "shouldIgnore": False} for name in names]
            self.answer({"files": answers})
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            upload = {"actions": {"upload": {"href": f"{self.server.url}/lfs"}}}
            self.answer({"objects": [{**file, **upload} for file in json.loads(body)["objects"]]})
        elif action.startswith("/commit"):
            files = self.server.repositories[f"{kind}/user/name"]["files"]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    files[line["value"]["path"]] = self.server.stored[line["value"]["oid"]]
            self.answer({"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.server.url}{address}/commit/0"})

    def do_PUT(self):
        body = self.body()
        self.server.stored[hashlib.sha256(body).hexdigest()] = body
        self.answer({})

    def body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def answer(self, value: object, status: int = 200, headers: dict | None = None):
        body = json.dumps(value).encode()
        self.send_response(status)
        length = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, header in {**length, **(headers or {})}.items():
            self.send_header(name, header)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.url = f"http://127.0.0.1:{server.server_port}"
        server.repositories, server.stored, server.role, server.faults = {}, {}, "write", []
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


@pytest.fixture
def made(project):
    """A project with a model and a data set to push."""
    for folder, weights in (("best", "model.safetensors"), ("dataset", "sft.jsonl")):
        (project.folder / folder).mkdir()
        (project.folder / folder / "README.md").write_text(CARD)
        (project.folder / folder / weights).write_bytes(os.urandom(3_000))
        (project.folder / folder / "config.json").write_text("{}")
    return project


@pytest.fixture
def push(made, hub, tmp_path):
    """Run `lance push` with a token against the server."""

    def run(*arguments, token="good", url=hub.url):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        settings = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": ""}
        env = clean | settings | ({"HF_TOKEN": token} if token else {})
        return made.attempt("lance", "push", *arguments, env=env, fresh=True)

    return run


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "folder"), [("model", "best"), ("dataset", "dataset")])
def test_the_hub_receives_the_folder_in_a_private_repository(push, hub, made, kind, folder):
    result = push(kind, "user/name")
    assert result.returncode == 0, result.stderr
    assert "pushed to" in result.stdout
    assert "private" in result.stdout
    assert hub.repositories == {f"{kind}s/user/name": {"private": True, "files": files(made.folder / folder)}}


@pytest.mark.slow
def test_a_repository_is_public_only_on_request(push, hub):
    assert push("model", "user/name", "--public").returncode == 0
    assert hub.repositories["models/user/name"]["private"] is False
    hub.repositories["models/user/name"]["files"].clear()
    assert "user/name exists and is public; pass --public" in error_line(push("model", "user/name"))
    assert hub.repositories["models/user/name"]["files"] == {}


@pytest.mark.slow
def test_a_dry_run_lists_every_file_with_its_size_and_writes_nothing(push, hub):
    result = push("model", "user/name", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "3,000 bytes  model.safetensors" in result.stdout
    assert "the card's title: A model of LANCE" in result.stdout
    assert f"would be pushed to {hub.url}/user/name, a new private repository; nothing was written" in result.stdout
    assert hub.repositories == {}


@pytest.mark.slow
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_every_obstacle_is_one_line(push, hub, made, dry):
    unreached = "http://127.0.0.1:9"
    assert "there is no token for the hub; run hf auth login" in error_line(push("model", "user/name", *dry, token=""))
    assert "the hub refused user/name: 401" in error_line(push("model", "user/name", *dry, token="bad"))
    assert "the hub cannot be reached" in error_line(push("model", "user/name", *dry, url=unreached))
    assert "'user/name/x' is not a repository's name" in error_line(push("model", "user/name/x", *dry))
    hub.role = "read"
    assert "the hub's token may only read" in error_line(push("model", "user/name", *dry))
    (made.folder / "dataset/README.md").unlink()
    assert "dataset/ has no README.md; run dvc repro" in error_line(push("dataset", "user/name", *dry))
    assert hub.repositories == {}


@pytest.mark.slow
def test_a_refusal_is_one_line_with_the_hubs_own_message(push, hub):
    refused = error_line(push("model", "others/name"))
    assert "the hub refused others/name: 403" in refused
    assert "You don't have the rights" in refused
    hub.faults = [{"message": '"base_model" is not valid'}]
    assert '"base_model" is not valid' in error_line(push("model", "user/name"))


def test_an_unknown_kind_is_one_line(project):
    line = error_line(project.attempt("lance", "push", "modle", "user/name"))
    assert line == "error: 'modle' cannot be pushed; choose model or dataset, as in: lance push model user/name"
