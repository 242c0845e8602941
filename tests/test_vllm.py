"""The vllm and server engines with real vLLM; skipped where it is not installed (docs/engines.md).

pytest -n 0 tests/test_vllm.py
"""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest
import yaml
from conftest import ROOT, RUNTIME

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GB, of the build without GPU

pytest.importorskip("vllm")

from test_engines import requests
from test_evaluate import SAMPLED as SAMPLED_TASKS
from test_evaluate import write_sampled_suite
from test_judge import ELICITED, EXPECTED, RIGHT, UNWRITTEN, WRONG, scores

from stages.core.errors import UserError
from stages.inference.client import Client
from stages.inference.engines import Request, Sampling, load
from stages.inference.engines.server import served_model_name
from stages.inference.engines.transformers import TransformersEngine
from stages.models.fingerprint import digest

pytestmark = pytest.mark.slow

SAMPLED = Sampling(temperature=1.0, top_p=0.9, max_tokens=32, random_state=0)
GREEDY = Sampling(temperature=0, top_p=1.0, max_tokens=32, random_state=0, numbers=True)


@pytest.fixture(scope="module")
def reference(base) -> TransformersEngine:
    return TransformersEngine(base, 64)


@pytest.fixture(scope="module")
def server(base, tmp_path_factory) -> Iterator[str]:
    """The URL of a vLLM server, in its own process, of the base model in a folder with the extra files of best/."""
    folder = shutil.copytree(base, tmp_path_factory.mktemp("served") / "best")
    (folder / "README.md").write_text("---\ntags:\n- lance\n---\n\n# A card\n", encoding="utf-8")
    (folder / "iteration.json").write_text('{"iteration": "1"}\n', encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--served-model-name", served_model_name(digest(base)), "--dtype", "float32", "--enforce-eager"]
    address = ["--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), *options, *address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(180):
                assert process.poll() is None, "the server has ended"
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
                    break
                except OSError:
                    time.sleep(1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def at(url: str):
    """The runtime settings with another server URL."""
    return RUNTIME.model_copy(update={"server": RUNTIME.server.model_copy(update={"url": url})})


@pytest.fixture(scope="module", params=["vllm", "server"])
def engine(request, base):
    settings = RUNTIME
    if request.param == "server":
        settings = at(request.getfixturevalue("server"))
    return load(request.param, base, digest(base), settings)


def test_greedy_completions_are_those_of_the_transformers_engine(engine, reference):
    pending = requests(reference, draws=1)
    completions, expected = (dict(model.complete(pending, GREEDY)) for model in (engine, reference))
    assert completions == expected  # texts, finish reasons and counts


def test_the_probabilities_at_numbers_are_those_of_the_transformers_engine(engine, reference):
    pending = requests(reference, draws=1)
    completions, expected = (dict(model.complete(pending, GREEDY)) for model in (engine, reference))
    for request in pending:
        numbers, others = completions[request].numbers, expected[request].numbers
        assert [number.start for number in numbers] == [number.start for number in others]
        for number, other in zip(numbers, others, strict=True):
            likely = {token: logprob for token, logprob in other.logprobs.items() if logprob > -5}
            assert {token: number.logprobs[token] for token in likely} == pytest.approx(likely, abs=1e-3)


def test_what_a_request_samples_does_not_depend_on_the_order(engine, reference):
    pending = requests(reference, draws=3)
    expected = dict(engine.complete(pending, SAMPLED))
    shuffled = random.Random(1).sample(pending, len(pending))
    assert dict(engine.complete(shuffled, SAMPLED)) == expected
    assert len({completion.text for completion in expected.values()}) > len(pending) / 3


def test_a_cut_completion_finishes_with_length(engine, reference):
    for _, completion in engine.complete(requests(reference, draws=1), Sampling(0, 1.0, 2, 0)):
        assert (completion.finish, completion.tokens) == ("length", 2)


@pytest.mark.parametrize("settings", [EXPECTED, ELICITED], ids=["expected", "elicited"])
def test_reviews_tell_right_from_wrong(settings, engine, base, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    judge = Client(base, "review@1", 0.5, RUNTIME)
    judge._engine = engine
    right, wrong = scores(judge, [RIGHT, WRONG], settings)
    assert right > 8
    assert wrong < 4


def test_scores_of_unwritten_reviews_are_those_of_the_transformers_engine(
    engine, reference, base, monkeypatch, tmp_path
):
    monkeypatch.chdir(ROOT)
    by_engine = []
    for number, model in enumerate((engine, reference)):
        (tmp_path / str(number)).mkdir()
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / str(number)))
        judge = Client(base, "review@1", 0.5, RUNTIME)
        judge._engine = model
        by_engine.append(scores(judge, [RIGHT, WRONG], UNWRITTEN))
    assert by_engine[0] == pytest.approx(by_engine[1], abs=0.01)


def test_a_server_with_another_model_is_an_error_that_says_how_to_start_the_right_one(server, base):
    with pytest.raises(
        UserError,
        match=r"serves lance-\w+, not the model of .*vllm serve .* --served-model-name lance-0{16} --dtype float32",
    ):
        load("server", base, "0" * 64, at(server))


def test_a_model_that_vllm_cannot_load_is_an_error_in_one_line(tmp_path):
    engine = load("vllm", tmp_path, "", RUNTIME)
    with pytest.raises(UserError, match=r"vllm cannot start with model folder .*runtime\.vllm"):
        list(engine.complete([Request("a", (1, 2), 0)], SAMPLED))


def test_more_prompts_than_a_step_reads_are_sampled_alike(base, reference):
    """Where vLLM splits one of them, it cannot rewind its random numbers on a CPU: a server has to be told."""
    engine = load("vllm", base, "", RUNTIME)
    pending = requests(reference, [f"{number} or {number + 1}?{' Say why.' * 8}" for number in range(400)], draws=1)
    assert sum(len(request.tokens) for request in pending) > 2 * 8192
    expected = dict(engine.complete(pending, SAMPLED))
    assert dict(engine.complete(pending[::-1], SAMPLED)) == expected


@pytest.fixture
def with_vllm(project, base) -> dict[str, str]:
    """The environment of a stage with vLLM: lm-eval looks for the package vllm, and the CPU build has another name."""
    shutil.copytree(base, project.folder / "iterations/0/model")
    (project.folder / "iterations/0/judgebench.jsonl").touch()
    project.change({"runtime": {"engine": "vllm", "vllm": {"enforce_eager": True}}})
    package = project.folder / "packages/vllm-0.31.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.31.0+cpu\n")
    return os.environ | {"PYTHONPATH": str(package.parent)}


def test_a_stage_ends_with_its_work(project, with_vllm):
    """Without the shutdown at exit, Python would wait for vLLM's processes forever."""
    row = {"id": "a", "prompt": "Which is larger, 4 or 5?", "response": "is 5", "score": None}
    (project.folder / "seed.jsonl").write_text(json.dumps(row) + "\n")
    command = ["-m", "stages.review", "--rows", "seed.jsonl", "--judge", "iterations/0/model", "--out"]
    command.append("iterations/1/review.jsonl")
    subprocess.run([sys.executable, *command], cwd=project.folder, env=with_vllm, check=True, timeout=300)
    assert len(json.loads(project.read("iterations/1/review.jsonl"))["reviews"]) == 3


def test_an_evaluation_gives_the_scores_of_the_transformers_engine(project, with_vllm):
    """Generated answers and multiple choice, in lm-eval's own vLLM class."""
    folder = project.folder / "evaluation/both"
    shutil.copytree(project.folder / "evaluation/micro", folder)
    shutil.copytree(project.folder / "evaluation/safety", folder, dirs_exist_ok=True)
    principle = {"shots": 0, "metric": "acc_norm,none", "item": "{{question}}"}
    count = {"shots": 0, "metric": "exact_match,answer", "item": "{{question}}"}
    suite = {"validation": 0.3, "tasks": {"safety_principle": principle, "micro_count": count}}
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    scores_by_engine = {}
    for engine in ("vllm", "transformers"):
        store = {"path": f".dvc/{engine}.sqlite"}
        project.change({"evaluate": {"suite": "both"}, "runtime": {"engine": engine, "store": store}})
        project.run("python", "-m", "stages.benchmark")
        output = project.run(
            "python", "-m", "stages.evaluate", "--model", "iterations/0/model", env=with_vllm, fresh=True
        ).stdout
        assert "evaluate@0: 210 of 210 in" in output
        scores_by_engine[engine] = project.read("results/0/scores.jsonl")
    assert scores_by_engine["vllm"] == scores_by_engine["transformers"]


def test_a_task_that_samples_is_evaluated_the_same_again(project, with_vllm):
    """With an empty store each time; the draws of an item differ."""
    write_sampled_suite(project.folder / "evaluation/sampled")
    outs = []
    for again in (False, True):
        project.change({"evaluate": {"suite": "sampled"}, "runtime": {"store": {"path": f".dvc/{again}.sqlite"}}})
        project.run("python", "-m", "stages.benchmark")
        project.run("python", "-m", "stages.evaluate", "--model", "iterations/0/model", env=with_vllm, fresh=True)
        outs.append([project.read(f"iterations/0/evaluation/samples_{task}.jsonl") for task in SAMPLED_TASKS])
    assert outs[0] == outs[1]
    draws = [json.loads(line)["resps"][0] for task in outs[0] for line in task.splitlines()]
    assert sum(len(set(of_item)) for of_item in draws) > len(draws) * 1.5
