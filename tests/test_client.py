"""Asking a model: nothing is computed twice, a killed stage goes on where it was, and what cannot be asked is said."""

import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, RUNTIME, Project, error_line

from stages.core.errors import UserError
from stages.inference.client import Client
from stages.inference.engines import Sampling
from stages.models.fingerprint import digest

PROMPTS = [f"Which is larger, {number} or {100 - number}?" for number in range(10, 20)]
SAMPLED = Sampling(temperature=1.0, top_p=0.9, max_tokens=12, random_state=0)


@pytest.fixture
def asked(monkeypatch, tmp_path, tiny_model):
    """A model in a repository with an empty store, and how many completions its engine has computed."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    computed = []

    def ask(prompts=PROMPTS, draws=2, sampling=SAMPLED, folder=tiny_model, max_overlong=0.0, runtime=RUNTIME):
        model = Client(folder, "review@1", max_overlong, runtime)
        put = model._store.put
        model._store.put = lambda key, completion: computed.append(completion) or put(key, completion)
        return model.complete("review@1", prompts, "", draws, sampling)

    ask.computed = computed
    return ask


def test_the_same_question_is_computed_once_whatever_the_order(asked):
    first = asked()
    assert len(asked.computed) == 20
    assert asked(PROMPTS[::-1])[::-1] == first
    assert len(asked.computed) == 20


def test_only_what_is_new_is_computed(asked):
    asked()
    asked([*PROMPTS, "Why?"])
    assert len(asked.computed) == 22
    asked(PROMPTS, draws=3)
    assert len(asked.computed) == 32


@pytest.mark.parametrize("change", [{"temperature": 0.9}, {"top_p": 0.8}, {"max_tokens": 13}, {"random_state": 1}])
def test_other_sampling_parameters_are_another_question(asked, change):
    asked()
    asked(sampling=Sampling(**{**vars(SAMPLED), **change}))
    assert len(asked.computed) == 40


def test_the_same_model_in_another_folder_is_the_same_model(asked, tiny_model, tmp_path):
    asked()
    shutil.copytree(tiny_model, tmp_path / "moved")
    asked(folder=tmp_path / "moved")
    assert len(asked.computed) == 20


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors"])
def test_every_file_of_a_model_decides_its_content(tiny_model, tmp_path, file):
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    assert digest(other) == digest(tiny_model)
    (other / file).write_bytes((other / file).read_bytes() + b" ")
    assert digest(other) != digest(tiny_model)


def test_a_prompt_that_occurs_twice_is_computed_once(asked):
    first, second = asked([PROMPTS[0]] * 2)
    assert first == second
    assert len(asked.computed) == 2


def test_a_prompt_that_does_not_fit_is_not_run_and_says_so(asked):
    fits, unfit = asked([PROMPTS[0], "cat, " * 600], max_overlong=0.5)
    assert [each.finish for each in unfit] == ["too long"] * 2
    assert "too long" not in [each.finish for each in fits]
    assert len(asked.computed) == 2


def test_more_unfit_prompts_than_allowed_is_an_error_before_any_work(asked):
    with pytest.raises(
        UserError, match=r"review@1: 50% of the prompts do not fit .* 512 tokens.*max_overlong allows 40%"
    ):
        asked([PROMPTS[0], "cat, " * 600], max_overlong=0.4)
    assert not asked.computed


def test_a_missing_model_is_an_error_that_names_the_stage_the_folder_and_the_remedy(asked, tmp_path):
    with pytest.raises(UserError, match=r"review@1: model folder .*nowhere is missing or broken.*run dvc repro"):
        asked(folder=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "content"),
    [("tokenizer.json", "{"), ("tokenizer.json", "[]"), ("tokenizer.json", None), ("config.json", "[]"),
     ("chat_template.jinja", "{% if"), ("chat_template.jinja", None)],
)  # fmt: skip
def test_a_broken_model_is_an_error_that_names_the_stage_and_the_remedy(asked, tiny_model, tmp_path, file, content):
    shutil.copytree(tiny_model, tmp_path / "broken")
    (tmp_path / "broken" / file).unlink()
    if content is not None:
        (tmp_path / "broken" / file).write_text(content)
    with pytest.raises(UserError, match=r"review@1: model folder .*broken is broken.*dvc checkout"):
        asked(folder=tmp_path / "broken")


def test_an_engine_that_is_not_installed_is_an_error_before_any_stage_runs(project: Project):
    project.change({"runtime": {"engine": "vllm"}})
    for stage in (["stages.check"], STAGES["review"], STAGES["generate"]):
        said = error_line(project.stage(*stage))
        assert "runtime.engine: 'vllm' is not installed; pip install -e '.[vllm]'" in said


def test_a_server_that_does_not_answer_is_an_error_that_names_it(asked):
    runtime = RUNTIME.model_copy(
        update={"engine": "server", "server": RUNTIME.server.model_copy(update={"retries": 0})}
    )
    with pytest.raises(
        UserError, match=r"review@1: runtime\.server\.url http://127\.0\.0\.1:8000/v1: Connection error"
    ):
        asked(runtime=runtime)


# ---- killed ----------------------------------------------------------------------------------------------------------

STAGES = {
    name: (
        f"stages.{module} --rows iterations/{rows}.jsonl --{model} iterations/0/model --out iterations/{out}.jsonl"
    ).split()
    for name, module, rows, model, out in (
        ("review", "review", "0/seed", "judge", "1/review"),
        ("generate", "generate", "1/review", "model", "1/generated"),
        ("assess", "review", "1/generated", "judge", "1/assess"),
    )
}
OUTS = {"review": "review.jsonl", "generate": "generated.jsonl", "assess": "assess.jsonl"}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Project:
    """The base model's review, generate and assess, each run once without a break."""
    settings = {"seed": {"limit": 80}, "runtime": {"batch_rows": 16}}
    project = Project(tmp_path_factory.mktemp("unbroken") / "project", settings)
    for stage in (["stages.check"], ["stages.benchmark"], ["stages.prepare"], ["stages.base"]):
        project.run("python", "-m", *stage)
    shutil.copytree(project.folder / "iterations/0/base", project.folder / "iterations/0/model")
    for arguments in STAGES.values():
        project.run("python", "-m", *arguments)
    return project


def stored(path: Path) -> int:
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            return database.execute("SELECT count(*) FROM completions").fetchone()[0]
    except sqlite3.OperationalError:  # not there yet
        return 0


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_kill_9_loses_at_most_a_batch_and_changes_no_byte(unbroken, stage):
    """Killed twice at random points of its model calls, then run to its end, on an empty store."""
    out = unbroken.folder / "iterations/1" / OUTS[stage]
    expected, counts = out.read_bytes(), (unbroken.folder / f"results/1/{stage}.json").read_bytes()
    unbroken.change({"runtime": {"store": {"path": f".dvc/{stage}.sqlite"}}})
    store, points = unbroken.folder / f".dvc/{stage}.sqlite", random.Random(stage)
    out.unlink()
    for _ in range(2):
        before = stored(store)
        target = before + points.randint(1, 60)
        command = [sys.executable, "-m", *STAGES[stage]]
        process = subprocess.Popen(command, cwd=unbroken.folder, stdout=subprocess.PIPE, text=True)
        while stored(store) < target and process.poll() is None:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        assert not out.exists(), "it was killed too late"
        assert said == "" or f"{before:,} of" in said
    kept = stored(store)
    assert kept > 0
    said = unbroken.run("python", "-m", *STAGES[stage]).stdout
    found = [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) of [\d,]+ completions were in the", said)]
    assert sum(found) == kept, "a finished completion was computed again"
    assert out.read_bytes() == expected
    assert (unbroken.folder / f"results/1/{stage}.json").read_bytes() == counts
