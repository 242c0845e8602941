"""The client: nothing is computed twice, a killed stage resumes where it stopped, and mistakes are one-line errors."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, RUNTIME, Project, command_line, error_line
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from stages.core.errors import UserError
from stages.inference.client import Client
from stages.inference.engines import Request, Sampling
from stages.models.fingerprint import digest

PROMPTS = [f"Which is larger, {number} or {100 - number}?" for number in range(10, 20)]
SAMPLED = Sampling(temperature=1.0, top_p=0.9, max_tokens=12, random_state=0)


@pytest.fixture
def complete(monkeypatch, tmp_path, tiny_model):
    """Completes prompts in a repository with an empty store; `complete.computed`: what the engine has computed."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    computed = []

    def run(prompts=PROMPTS, draws=2, sampling=SAMPLED, folder=tiny_model, max_overlong=0.0, runtime=RUNTIME):
        client = Client(folder, "review@1", max_overlong, runtime)
        put = client._store.put
        client._store.put = lambda key, completion: computed.append(completion) or put(key, completion)
        return client.complete("review@1", prompts, "", draws, sampling)

    run.computed = computed
    return run


def test_words_put_into_the_models_mouth_are_part_of_the_prompt(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    client = Client(tiny_model, "generate@1", 0.0, RUNTIME)
    sampling = Sampling(1.0, 1.0, 6, 0)
    begun = client.complete("task", ["Why?"], "", 1, sampling, "Final Answer:")
    assert begun == client.complete_rendered("task", [client.render("Why?", "") + "Final Answer:"], 1, sampling)
    assert begun != client.complete("task", ["Why?"], "", 1, sampling)


def test_the_same_prompts_are_computed_once_in_any_order(complete):
    first = complete()
    assert len(complete.computed) == 20
    assert complete(PROMPTS[::-1])[::-1] == first
    assert len(complete.computed) == 20


def test_only_what_is_new_is_computed(complete):
    complete()
    complete([*PROMPTS, "Why?"])
    assert len(complete.computed) == 22
    complete(PROMPTS, draws=3)
    assert len(complete.computed) == 32


def test_equal_parameters_have_equal_keys_and_those_of_floats_stay_what_they_are(complete, monkeypatch, tiny_model):
    client = Client(tiny_model, "review@1", 0.0, RUNTIME)
    monkeypatch.setattr(client, "digest", "digest")
    request = Request("Why?", (1, 2), 0)
    keys = {client._key(request, Sampling(one, one, 12, 0)) for one in (1, 1.0, np.float64(1))}
    parts = ["1", "digest", "Why?", [1.0, 1.0, 12, 0, False], 0]
    assert keys == {hashlib.sha256(json.dumps(parts).encode()).digest()}


def test_a_text_that_goes_on_with_a_number_ends_where_its_first_token_begins(tiny_model):
    """The default's tokenizer, like Llama's and Qwen's, cuts digits off one by one; GPT-2's takes a blank with them."""
    from transformers import PreTrainedTokenizerFast

    client = Client(tiny_model, "review@1", 0.0, RUNTIME)
    assert client.up_to_number("score: ") == "score: "
    other = Client(tiny_model, "review@1", 0.0, RUNTIME)
    joining = Tokenizer(models.BPE())
    joining.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    joining.train_from_iterator(
        ["score: 4 4 4"], trainers.BpeTrainer(initial_alphabet=list(" :4"), show_progress=False)
    )
    other._tokenizer = PreTrainedTokenizerFast(tokenizer_object=joining)
    assert other.up_to_number("score: ") == "score:"


@pytest.mark.parametrize("change", [{"temperature": 0.9}, {"top_p": 0.8}, {"max_tokens": 13}, {"random_state": 1}])
def test_every_sampling_parameter_is_part_of_the_key(complete, change):
    complete()
    complete(sampling=Sampling(**{**vars(SAMPLED), **change}))
    assert len(complete.computed) == 40


def test_the_key_of_a_completion_stays_what_it_is(tiny_model):
    """With another one, no store that anyone has would serve anything; `client.KEYS` changes it on purpose."""
    client = Client(tiny_model, "review@1", 0.0, RUNTIME)
    client.digest = "0" * 64
    request = Request("Is 1 ∈ ℕ?", (1,), 2)
    key = "02a5adb73bd23c5e912759a922cc8f625e90a923811e24a5d04d5c80fbe5ca94"
    assert client._key(request, replace(SAMPLED, numbers=True)).hex() == key


def test_a_client_keeps_all_that_it_returned_with_the_seconds_of_computing(complete, tiny_model):
    """What costs/ is written from: the same from the store as from the engine."""
    first, again = (Client(tiny_model, "review@1", 0.0, RUNTIME) for _ in range(2))
    before = time.monotonic()
    first.complete("review@1", [*PROMPTS, PROMPTS[0]], "", 2, SAMPLED)
    assert sum(completion.seconds for completion in first.completions.values()) < time.monotonic() - before
    again.complete("review@1", [*PROMPTS, PROMPTS[0]], "", 2, SAMPLED)
    assert len(first.completions) == 20
    assert again.completions == first.completions
    seconds = [[completion.seconds for completion in client.completions.values()] for client in (first, again)]
    assert seconds[0] == seconds[1]
    assert min(seconds[0]) > 0


def test_the_same_model_in_another_folder_is_the_same_model(complete, tiny_model, tmp_path):
    complete()
    shutil.copytree(tiny_model, tmp_path / "moved")
    complete(folder=tmp_path / "moved")
    assert len(complete.computed) == 20


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors"])
def test_every_file_of_a_model_decides_its_content(tiny_model, tmp_path, file):
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    assert digest(other) == digest(tiny_model)
    (other / file).write_bytes((other / file).read_bytes() + b" ")
    assert digest(other) != digest(tiny_model)


def test_a_prompt_that_occurs_twice_is_computed_once(complete):
    first, second = complete([PROMPTS[0]] * 2)
    assert first == second
    assert len(complete.computed) == 2


def test_a_prompt_that_does_not_fit_is_not_run_and_finishes_with_too_long(complete):
    fitting, overlong = complete([PROMPTS[0], "cat, " * 600], max_overlong=0.5)
    assert [completion.finish for completion in overlong] == ["too long"] * 2
    assert "too long" not in [completion.finish for completion in fitting]
    assert len(complete.computed) == 2


def test_nothing_is_added_to_a_rendered_prompt(tiny_model):
    """Not even the token that a tokenizer puts before every text: the chat template decides that."""
    client = Client(tiny_model, "review@1", 0.0, RUNTIME)
    tokenizer, expected = client._tokenizer, client._requests(["Why?"], 1)
    end = (tokenizer.eos_token, tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{end[0]} $A", special_tokens=[end])
    assert tokenizer("Why?")["input_ids"][0] == end[1]
    assert client._requests(["Why?"], 1) == expected


def test_a_prompt_may_fill_the_context_to_its_last_token(complete, tiny_model):
    client = Client(tiny_model, "review@1", 0.0, RUNTIME)
    (request,) = client._requests([client.render("cat, " * 230, "")], 1)
    room = 512 - len(request.tokens)
    assert 0 < room < 50
    for max_tokens, runs in ((room, True), (room + 1, False)):
        ((completion,),) = complete(["cat, " * 230], 1, replace(SAMPLED, max_tokens=max_tokens), max_overlong=1.0)
        assert (completion.finish != "too long") == runs


def test_more_overlong_prompts_than_allowed_are_an_error_before_any_work(complete):
    with pytest.raises(
        UserError, match=r"review@1: 50% of the prompts do not fit .* 512 tokens.*max_overlong allows 40%"
    ):
        complete([PROMPTS[0], "cat, " * 600], max_overlong=0.4)
    assert not complete.computed


def test_a_missing_model_is_an_error_that_names_the_stage_the_folder_and_the_remedy(complete, tmp_path):
    with pytest.raises(UserError, match=r"review@1: model folder .*nowhere is missing or broken.*run dvc repro"):
        complete(folder=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "content"),
    [("tokenizer.json", "{"), ("tokenizer.json", "[]"), ("tokenizer.json", None), ("config.json", "[]"),
     ("chat_template.jinja", "{% if"), ("chat_template.jinja", None)],
)  # fmt: skip
def test_a_broken_model_is_an_error_that_names_the_stage_and_the_remedy(complete, tiny_model, tmp_path, file, content):
    shutil.copytree(tiny_model, tmp_path / "broken")
    (tmp_path / "broken" / file).unlink()
    if content is not None:
        (tmp_path / "broken" / file).write_text(content)
    with pytest.raises(UserError, match=r"review@1: model folder .*broken is broken.*dvc checkout"):
        complete(folder=tmp_path / "broken")


def test_without_prompts_no_tokenizer_is_loaded(complete, monkeypatch):
    """It takes transformers and torch to load one, seconds in which a stage that has nothing to do would be done."""
    monkeypatch.setattr("stages.inference.client._load_tokenizer", lambda folder: pytest.fail(f"loaded {folder}"))
    assert complete([]) == []


def test_an_engine_that_is_not_installed_is_an_error_before_any_stage_runs(project: Project):
    project.change({"runtime": {"engine": "vllm"}})
    for stage in (["stages.check"], STAGES["review"], STAGES["generate"]):
        line = error_line(project.stage(*stage))
        assert "runtime.engine: 'vllm' is not installed; pip install -e '.[vllm]'" in line


def test_a_server_that_does_not_answer_is_an_error_that_names_it(complete):
    runtime = RUNTIME.model_copy(
        update={"engine": "server", "server": RUNTIME.server.model_copy(update={"retries": 0})}
    )
    with pytest.raises(
        UserError, match=r"review@1: runtime\.server\.url http://127\.0\.0\.1:8000/v1: Connection error"
    ):
        complete(runtime=runtime)


# ---- killed ----------------------------------------------------------------------------------------------------------

STAGES = {
    name: (
        f"stages.{module} --rows iterations/{rows}.jsonl {models} iterations/0/model --out iterations/{out}.jsonl"
    ).split()
    for name, module, rows, models, out in (
        ("review", "review", "0/seed", "--judge", "1/review"),
        ("generate", "generate", "1/review", "--writer iterations/0/model --model", "1/generated"),
        ("assess", "review", "1/generated", "--judge", "1/assess"),
    )
}
OUTS = {"review": "review.jsonl", "generate": "generated.jsonl", "assess": "assess.jsonl"}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Project:
    """A project in which review, generate and assess have run once, without interruption, with the base model."""
    settings = {
        "seed": {"limit": 80}, "samples": 2, "generate": {"max_low": 30, "max_high": 16},
        "runtime": {"batch_rows": 16},
    }  # fmt: skip
    project = Project(tmp_path_factory.mktemp("uninterrupted") / "project", settings)
    for stage in (["stages.check"], ["stages.benchmark"], ["stages.prepare"], ["stages.base"]):
        project.run("python", "-m", *stage)
    shutil.copytree(project.folder / "iterations/0/base", project.folder / "iterations/0/model")
    for arguments in STAGES.values():
        project.run("python", "-m", *arguments)
    return project


def stored(path: Path) -> int:
    """How many completions a store has."""
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            return database.execute("SELECT count(*) FROM calls").fetchone()[0]
    except sqlite3.OperationalError:  # not there yet
        return 0


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_kill_9_loses_at_most_a_batch_and_changes_no_byte(uninterrupted, stage):
    """Killed twice at random points of its model calls, then run to its end, on an empty store."""
    out = uninterrupted.folder / "iterations/1" / OUTS[stage]
    expected, counts = out.read_bytes(), (uninterrupted.folder / f"results/1/{stage}.json").read_bytes()
    uninterrupted.change({"runtime": {"store": {"path": f".dvc/{stage}.sqlite"}}})
    store, points = uninterrupted.folder / f".dvc/{stage}.sqlite", random.Random(stage)
    out.unlink()
    for _ in range(2):
        before = stored(store)
        target = before + points.randint(1, 60)
        command = command_line("python", "-m", *STAGES[stage])
        process = subprocess.Popen(command, cwd=uninterrupted.folder, stdout=subprocess.PIPE, text=True)
        while stored(store) < target and process.poll() is None:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        assert not out.exists(), "it was killed too late"
        assert output == "" or f"{before:,} of" in output
    kept = stored(store)
    assert kept > 0
    output = uninterrupted.run("python", "-m", *STAGES[stage]).stdout
    counts_found = re.findall(r"([\d,]+) of [\d,]+ completions were in the", output)
    reused = sum(int(number.replace(",", "")) for number in counts_found)
    assert reused == kept, "a finished completion was computed again"
    assert out.read_bytes() == expected
    assert (uninterrupted.folder / f"results/1/{stage}.json").read_bytes() == counts
