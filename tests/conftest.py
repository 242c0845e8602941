"""Copies of the project to run stages in; nothing is ever written into the checkout."""

import compileall
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from stages.core.schema import parse_runtime

os.environ["OMP_NUM_THREADS"] = "1"  # the tests run on two cores at once
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores ctrl-C, and what it starts
FORKING = "LANCE_FORKING"  # names the folder of a `python` whose -m and -c fork a warm process (forking.py)

ROOT = Path(__file__).parent.parent
LONGEST = (
    "test_training", "test_end_to_end", "test_families", "test_plan", "test_sharing", "test_end_to_end_failures",
    "test_end_to_end_lora", "test_client", "test_benchmark", "test_suite", "test_hub", "test_pipeline",
)  # fmt: skip
PARTS = (
    "dvc.yaml",
    "dvc.lock",
    "params.yaml",
    "pyproject.toml",
    "stages",
    "prompts",
    "evaluation",
    "labels",
    ".gitignore",
    ".dvcignore",
)

# Small enough to run every stage for real in seconds.
SMALL = {
    "iterations": {"1": {"parent": "0", "judge": "0", "writer": "0"}},
    "samples": 2,
    "seed": {"limit": 24},
    "review": {"samples": 2},
    "generate": {"max_low": 8, "max_high": 6},
    "sft": {"epochs": 1},
    "select": {"max_judge": 8, "accumulate": True},
    "evaluate": {"limit": 4},
}

IN_GIT = ("world", "pretrain")  # stages whose outs are in git

RUNTIME = parse_runtime(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))


def pytest_configure(config: pytest.Config) -> None:
    """Start the server of forking.py, one for all workers of pytest-xdist. It imports nothing until a test asks."""
    if FORKING in os.environ:
        return
    if shutil.which("nvidia-smi"):  # CUDA does not survive a fork
        return
    folder = tempfile.TemporaryDirectory()
    config.add_cleanup(folder.cleanup)
    script, address = str(Path(__file__).with_name("forking.py")), f"{folder.name}/socket"
    python = Path(folder.name, "python")
    python.write_text(
        "#!/bin/sh\n"
        '[ "$1" = -u ] && shift\n'
        f'case "$1" in -m | -c) exec {shlex.join([sys.executable, "-IS", script, address])} "$@" ;; esac\n'
        f'exec {shlex.quote(sys.executable)} "$@"\n'
    )
    python.chmod(0o755)
    output = Path(folder.name, "output")
    with output.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, script, address], stdin=subprocess.PIPE, stdout=stream, stderr=stream
        )
    config.add_cleanup(lambda: sys.stderr.write(output.read_text()))
    config.add_cleanup(server.communicate)
    os.environ[FORKING] = folder.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest modules first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def forking_environment() -> dict[str, str]:
    """The environment in which `python -m MODULE` and `python -c CODE` fork, also as a command of dvc.yaml."""
    if FORKING not in os.environ:
        return dict(os.environ)
    return os.environ | {"PATH": f"{os.environ[FORKING]}:{os.environ['PATH']}"}


def command_line(*command: str, forks: bool = True) -> list[str]:
    """A command with `python`, `dvc` and `lance` resolved to this interpreter's, or to the one that forks."""
    python = f"{os.environ[FORKING]}/python" if forks and FORKING in os.environ else sys.executable
    name, *arguments = command
    modules = {"python": [], "dvc": ["-m", "dvc"], "lance": ["-m", "stages.commands.lance"]}
    return [python, *modules[name], *arguments] if name in modules else [*command]


def as_in_a_fresh_clone(lock: Path) -> None:
    """Take the stages that ran in the checkout out of its dvc.lock."""
    locked = yaml.safe_load(lock.read_text(encoding="utf-8"))
    locked["stages"] = {name: stage for name, stage in locked["stages"].items() if name in IN_GIT}
    lock.write_text(yaml.safe_dump(locked, sort_keys=False), encoding="utf-8")


def merged(values: dict, changes: dict) -> dict:
    """`values` with `changes` laid over them, section by section; `iterations` is replaced whole."""
    result = dict(values)
    for name, value in changes.items():
        nested = isinstance(value, dict) and name != "iterations"
        result[name] = merged(values.get(name) or {}, value) if nested else value
    return result


@cache
def fresh_clone() -> tempfile.TemporaryDirectory:
    """The project in a git and dvc repository of its own, for copies: compiled, and with one commit."""
    clone = tempfile.TemporaryDirectory()
    folder = Path(clone.name)
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, folder / part)
    as_in_a_fresh_clone(folder / "dvc.lock")
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    shutil.copy(ROOT / ".dvc/.gitignore", folder / ".dvc")
    compileall.compile_dir(folder / "stages", quiet=1)
    project = Project.at(folder)
    project.change({})  # written as other changes are
    project.run("git", "init", "-q")
    shutil.rmtree(folder / ".git/hooks")  # samples
    project.run("git", "config", "user.name", "test")
    project.run("git", "config", "user.email", "test@localhost")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "start")
    project.run("git", "repack", "-adq")
    return clone


class Project:
    """A copy of the project in a git and dvc repository of its own."""

    def __init__(self, folder: Path, changes: dict | None = None) -> None:
        self.folder = folder
        shutil.copytree(fresh_clone().name, folder)
        if changes:
            self.change(changes)
            self.run("git", "commit", "-qam", "start", "--amend")

    @classmethod
    def at(cls, folder: Path) -> "Project":
        """A project that is there already."""
        project = cls.__new__(cls)
        project.folder = folder
        return project

    def copy(self, folder: Path) -> "Project":
        """Another project with the same files, history and DVC cache."""
        shutil.copytree(self.folder, folder)
        return Project.at(folder)

    @property
    def params(self) -> dict:
        return yaml.safe_load((self.folder / "params.yaml").read_text())

    def change(self, changes: dict) -> None:
        text = yaml.safe_dump(merged(self.params, changes), sort_keys=False)
        (self.folder / "params.yaml").write_text(text)

    def run(self, *command: str, env: dict | None = None, fresh: bool = False) -> subprocess.CompletedProcess:
        """Run a command that must succeed."""
        result = self.attempt(*command, env=env, fresh=fresh)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result

    def attempt(self, *command: str, env: dict | None = None, fresh: bool = False) -> subprocess.CompletedProcess:
        """Run a command. `fresh`: it and what it starts are fresh interpreters, as some variables are read when Python
        starts or a library is imported."""
        return subprocess.run(
            command_line(*command, forks=not fresh), cwd=self.folder,
            env=env or (dict(os.environ) if fresh else forking_environment()),
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def stage(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run one stage by hand, `python -m stages.NAME …`."""
        return self.attempt("python", "-m", *arguments)

    def read(self, path: str) -> str:
        return (self.folder / path).read_text(encoding="utf-8")


def ran(output: str) -> list[str]:
    """The stages that dvc says it runs."""
    return re.findall(r"^Running stage '([^']+)'", output, re.MULTILINE)


def error_line(result: subprocess.CompletedProcess) -> str:
    """The one line of a user's mistake: non-zero exit, one line that begins with "error:", no traceback."""
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


@pytest.fixture(scope="session")
def looped(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Project:
    """A project that ran the whole loop by `dvc repro`, with its results in git. It is made once for all workers of
    pytest-xdist; to read and to copy only."""
    if worker_id == "master":  # without pytest-xdist
        folder = tmp_path_factory.mktemp("looped")
    else:
        folder = tmp_path_factory.getbasetemp().parent / "looped"
    output = folder / "output.txt"
    with FileLock(f"{folder}.lock"):
        if not output.exists():
            project = Project(folder / "project", SMALL)
            result = project.run("dvc", "repro")
            project.run("git", "add", "-A")
            project.run("git", "commit", "-qm", "ran")
            output.write_text(result.stdout + result.stderr, encoding="utf-8")
    project = Project.at(folder / "project")
    project.output = output.read_text(encoding="utf-8")
    return project


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Qwen2 of one layer, with the default's tokenizer."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "stages/microworld/base")
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default's base model in 32 bits, as the pipeline uses it."""
    from stages.base import materialise

    return materialise(ROOT / "stages/microworld/base", "float32", tmp_path_factory.mktemp("base"))
