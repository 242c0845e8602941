"""What a request samples depends on the request alone."""

import random
from dataclasses import replace

import pytest
import torch
from conftest import RUNTIME

from stages.core.errors import UserError
from stages.inference import engines
from stages.inference.engines import Completion, Request, Sampling, seed_of
from stages.inference.engines.transformers import TransformersEngine
from stages.inference.engines.transformers.kv_cache import SPARE_COLUMNS
from stages.inference.engines.transformers.memory import MEMORY_SHARE, SAMPLING_BYTES, rows_that_fit
from stages.inference.engines.transformers.sampling import sample_next_token
from stages.models import chat

PROMPTS = [f"Which is larger, {number} or {100 - number}?{' Say why.' * (number % 5)}" for number in range(10, 34)]
SAMPLED = Sampling(temperature=1.0, top_p=0.9, max_tokens=12, random_state=0)
GREEDY = Sampling(temperature=0, top_p=1.0, max_tokens=12, random_state=0)


def requests(engine: TransformersEngine, prompts=PROMPTS, draws=2) -> list[Request]:
    rendered = [chat.rendered(engine.tokenizer, prompt) for prompt in prompts]
    tokens = engine.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    return [
        Request(prompt, tuple(each), draw)
        for prompt, each in zip(rendered, tokens, strict=True)
        for draw in range(draws)
    ]


@pytest.fixture
def ending(tiny_model) -> TransformersEngine:
    """An engine whose completions end at different lengths: every eighth token ends one."""
    engine = TransformersEngine(tiny_model, 64)
    engine.ends = set(range(0, engine.model.config.vocab_size, 8))
    return engine


@pytest.mark.parametrize("sampling", [replace(SAMPLED, max_tokens=40), GREEDY])
def test_neither_the_batch_nor_the_order_changes_a_completion(ending, sampling):
    engine = ending
    asked = requests(engine)
    engine.batch_rows = 1
    expected = dict(engine.complete(asked, sampling))
    assert set(expected) == set(asked)
    assert not sampling.temperature or len({completion.tokens for completion in expected.values()}) > 5
    for engine.batch_rows in (2, 5, 16, 64):
        shuffled = random.Random(engine.batch_rows).sample(asked, len(asked))
        assert dict(engine.complete(shuffled, sampling)) == expected


def test_completions_come_as_they_finish_and_their_places_are_filled(ending, monkeypatch):
    step, steps = ending._decode_step, []
    monkeypatch.setattr(
        ending, "_decode_step", lambda batch, *rest: (step(batch, *rest), steps.append(len(batch.rows)))[0]
    )
    ending.batch_rows = 4
    asked = requests(ending, draws=1)
    came = ending.complete(asked, replace(SAMPLED, max_tokens=40))
    next(came)
    first = len(steps)
    assert sum(1 for _ in came) == len(asked) - 1
    assert first < len(steps) / 3
    assert max(steps) == 4
    assert sum(rows == 4 for rows in steps) > len(steps) / 2  # places are filled, not left empty to the batch's end


def test_draws_differ_and_more_draws_keep_the_first(tiny_model):
    engine = TransformersEngine(tiny_model, 64)
    two, four = (dict(engine.complete(requests(engine, PROMPTS[:3], draws), SAMPLED)) for draws in (2, 4))
    assert two.items() <= four.items()
    assert len({completion.text for completion in four.values()}) > 6


def test_greedy_agrees_with_generate_of_transformers(tiny_model):
    engine = TransformersEngine(tiny_model, 64)
    (asked,) = requests(engine, PROMPTS[:1], 1)
    out = engine.model.generate(torch.tensor([asked.tokens]), max_new_tokens=12, do_sample=False)
    expected = engine.tokenizer.decode(out[0, len(asked.tokens) :], skip_special_tokens=True)
    found = dict(engine.complete(requests(engine), GREEDY))
    assert found[asked].text == expected


def test_when_the_memory_is_out_half_as_many_rows_run_and_nothing_is_lost(ending, monkeypatch):
    """The allocator's own error, for 8 and more rows at once."""
    engine = ending
    asked = requests(engine)
    expected = dict(engine.complete(asked, SAMPLED))
    forward, sizes = engine._forward, []

    def short_of_memory(tokens, *arguments):
        sizes.append(len(tokens))
        if len(tokens) >= 8 and tokens.shape[1] == 1:
            torch.empty(10**15)
        return forward(tokens, *arguments)

    monkeypatch.setattr(engine, "_forward", short_of_memory)
    assert dict(engine.complete(asked, SAMPLED)) == expected
    assert max(sizes[-5:]) < 8


def test_out_of_memory_with_one_row_is_an_error_that_says_what_to_do(tiny_model, monkeypatch):
    engine = TransformersEngine(tiny_model, 4)
    monkeypatch.setattr(engine, "_forward", lambda *arguments: torch.empty(10**15))
    with pytest.raises(UserError, match=r"out of memory with one completion at a time.*max_tokens"):
        list(engine.complete(requests(engine), SAMPLED))


def test_the_batch_is_as_large_as_the_free_memory_allows(tiny_model, monkeypatch):
    engine = TransformersEngine(tiny_model, None)
    assert rows_that_fit(engine.model, 112) == 384
    config = engine.model.config
    keys_and_values = 2 * config.num_hidden_layers * config.hidden_size * 4
    row = keys_and_values * (112 + SPARE_COLUMNS) + SAMPLING_BYTES * config.vocab_size
    monkeypatch.setattr(
        "stages.inference.engines.transformers.memory.free_memory", lambda device: 10 * row / MEMORY_SHARE
    )
    assert rows_that_fit(engine.model, 112) == 10


def test_sampling_follows_the_models_distribution(tiny_model):
    """The first token of 4,000 draws against the softmax: the total variation of so many draws is about 0.1."""
    engine = TransformersEngine(tiny_model, 500)
    one_token = Sampling(temperature=0.7, top_p=1.0, max_tokens=1, random_state=0)
    (asked,) = requests(engine, PROMPTS[:1], 1)
    with torch.inference_mode():
        expected = (engine.model(torch.tensor([asked.tokens])).logits[0, -1] / 0.7).softmax(-1)
    streams = (torch.Generator().manual_seed(seed_of(asked.prompt, one_token, draw)) for draw in range(4000))
    uniforms = torch.cat([torch.rand(1, generator=stream, dtype=torch.float64) for stream in streams])
    counts = torch.bincount(
        sample_next_token((expected.log() * 0.7).expand(4000, -1), one_token, uniforms), minlength=len(expected)
    )
    assert (counts / 4000 - expected).abs().sum() / 2 < 0.2


def test_the_nucleus_leaves_out_the_tail():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(1000, -1)
    uniforms = torch.linspace(0, 0.999, 1000, dtype=torch.float64)
    chosen = sample_next_token(logits, Sampling(1.0, 0.75, 1, 0), uniforms)
    assert set(chosen.tolist()) == {0, 1}
    assert (chosen == 0).float().mean() == pytest.approx(0.5 / 0.8, abs=0.01)


def test_a_cut_completion_says_so(tiny_model):
    engine = TransformersEngine(tiny_model, 64)
    ((_, cut),) = engine.complete(requests(engine, PROMPTS[:1], 1), Sampling(1.0, 1.0, 2, 0))
    assert (cut.finish, cut.tokens) == ("length", 2)


def test_at_a_number_the_probabilities_of_the_models_choices_are_told(tiny_model):
    """Against the softmax of the model itself, after the prompt and what was written before."""
    engine = TransformersEngine(tiny_model, 64)
    told = Sampling(1.0, 1.0, 40, 0, numbers=True)
    compared = 0
    for request, completion in engine.complete(requests(engine), told):
        for number in completion.numbers:
            before = completion.text[: number.start]
            written = engine.tokenizer(before, add_special_tokens=False)["input_ids"]
            logprobs = engine.model(torch.tensor([[*request.tokens, *written]])).logits[0, -1].log_softmax(-1)
            likely = logprobs.topk(3)
            texts = engine.tokenizer.batch_decode([[token] for token in likely.indices.tolist()])
            if tuple(written) != engine_tokens(engine, request, told)[: len(written)]:
                continue  # the text alone does not tell how it was cut into tokens
            for text, logprob in zip(texts, likely.values.tolist(), strict=True):
                if "\ufffd" not in text:  # parts of characters look alike, and their probabilities add up
                    assert number.logprobs[text] == pytest.approx(logprob, abs=1e-3)
            compared += 1
    assert compared > 10


def engine_tokens(engine: TransformersEngine, request: Request, sampling: Sampling) -> tuple[int, ...]:
    """The tokens that the engine generates for a request, from the row that it finishes."""
    rows = []
    completion = engine._completion
    engine._completion = lambda row: (rows.append(row), completion(row))[1]
    try:
        list(engine.complete([request], sampling))
    finally:
        engine._completion = completion
    return tuple(rows[0].generated)


def test_every_part_of_a_request_decides_its_draws():
    seeds = {
        seed_of("a", SAMPLED, 0),
        seed_of("b", SAMPLED, 0),
        seed_of("a", SAMPLED, 1),
        seed_of("a", Sampling(1.0, 0.9, 12, 1), 0),
        seed_of("a", Sampling(0.9, 0.9, 12, 0), 0),
    }
    assert len(seeds) == 5
    assert seed_of("a", replace(SAMPLED, temperature=1), 0) == seed_of("a", SAMPLED, 0)  # the same to DVC


def test_a_model_that_cannot_be_loaded_is_an_error_that_names_the_folder(tiny_model, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tiny_model.iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[: 1000 if path.suffix == ".safetensors" else None])
    with pytest.raises(UserError, match=r"model folder .*broken cannot be loaded.*dvc checkout"):
        TransformersEngine(broken, 8)


def test_auto_is_transformers_without_a_gpu():
    assert engines.resolve("auto") == "transformers"


def test_what_an_engine_computes_on(monkeypatch):
    vllm = RUNTIME.vllm.model_copy(update={"tensor_parallel_size": 4, "pipeline_parallel_size": 2})
    assert [engines.gpus(engine, vllm) for engine in ("transformers", "server")] == [0, None]
    monkeypatch.setattr("stages.inference.engines._has_gpu", lambda: True)
    assert [engines.gpus(engine, vllm) for engine in ("transformers", "vllm", "server")] == [1, 8, None]


def test_a_completion_is_the_same_whatever_it_cost():
    assert Completion("a", "stop", seconds=1.0) == Completion("a", "stop", seconds=2.0)
