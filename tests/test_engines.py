"""The engines: what a request samples depends on the request alone, and the transformers engine's decode loop."""

import random
import shutil
from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import inf, log

import pytest
import torch
import transformers
from conftest import RUNTIME
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from stages.core.errors import UserError
from stages.inference import engines
from stages.inference.engines import ALTERNATIVES, Completion, Request, Sampling, by_text, holds_digit, seed_of
from stages.inference.engines.transformers import TransformersEngine, attention, batch, kv_cache
from stages.inference.engines.transformers.batch import Group, Row, queue, take
from stages.inference.engines.transformers.kv_cache import KVCache
from stages.inference.engines.transformers.memory import MEMORY_SHARE, SAMPLING_BYTES, Room, free_memory, total_memory
from stages.inference.engines.transformers.sampling import sample_next_token
from stages.models import chat

PROMPTS = [f"Which is larger, {number} or {100 - number}?{' Say why.' * (number % 5)}" for number in range(10, 34)]
SAMPLED = Sampling(temperature=1.0, top_p=0.9, max_tokens=12, random_state=0)
GREEDY = Sampling(temperature=0, top_p=1.0, max_tokens=12, random_state=0)


def requests(engine: TransformersEngine, prompts=PROMPTS, draws=2) -> list[Request]:
    rendered = [chat.render(engine.tokenizer, prompt) for prompt in prompts]
    tokens = engine.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    return [
        Request(prompt, tuple(prompt_tokens), draw)
        for prompt, prompt_tokens in zip(rendered, tokens, strict=True)
        for draw in range(draws)
    ]


@cache
def load_reference(folder: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def reference(engine: TransformersEngine) -> PreTrainedModel:
    """The engine's model as transformers runs it; with its own attention, since sdpa leaves out Gemma 2's softcap."""
    return load_reference(engine.model.name_or_path)


@pytest.fixture
def ending(tiny_model) -> TransformersEngine:
    """An engine whose completions end at different lengths: every eighth token ends one."""
    engine = TransformersEngine(tiny_model, 64)
    engine.ends = set(range(0, engine.model.config.vocab_size, 8))
    return engine


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("queries", [1, 2, 3, 6])
def test_attention_does_not_depend_on_the_rows_beside_a_row(queries, two_threads):
    """At a real head size, where torch's kernel sums a few queries by the thread that they fall to."""
    random = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(24, 3, 16, 64, generator=random) for _ in range(2))
    query, scoring = torch.randn(24, 3, queries, 64, generator=random), attention.Scoring(scale=0.125)
    for width in range(1, 17):
        together = attention.attend(query, keys[:, :, :width], values[:, :, :width], scoring)
        for rows in ([5], [3, 9], list(range(1, 12))):
            alone = attention.attend(query[rows], keys[rows][:, :, :width], values[rows][:, :, :width], scoring)
            assert alone.out.equal(together.out[rows])
            assert alone.lse.equal(together.lse[rows])


@pytest.fixture
def small_pages(monkeypatch) -> None:
    """Pages of 16 tokens, so that prompts and prefixes have several."""
    for module in (attention, batch, kv_cache):
        monkeypatch.setattr(module, "PAGE", 16)


SHOTS = "Which is larger, 3 or 5? 5. Which is larger, 4 or 2? 4. Which is larger, 8 or 9? 9. "


@pytest.mark.parametrize("prompts", [PROMPTS, [SHOTS + prompt for prompt in PROMPTS]])
@pytest.mark.parametrize("sampling", [replace(SAMPLED, max_tokens=40), GREEDY])
def test_neither_the_batch_nor_the_order_changes_a_bit(ending, sampling, prompts, small_pages, monkeypatch):
    """Not even the last one of the log-probabilities, whether a prefix is read once for all prompts or with each."""
    append, bits = ending._append_next_tokens, {}

    def recorded(rows, logits, sampling):
        for row, row_logits in zip(rows, logits, strict=True):
            key = row.request, len(row.generated)
            assert bits.setdefault(key, row_logits).equal(row_logits)
        append(rows, logits, sampling)

    monkeypatch.setattr(ending, "_append_next_tokens", recorded)
    pending = requests(ending, prompts)
    ending.batch_rows = 1
    expected = {request: completion for one in pending for request, completion in ending.complete([one], sampling)}
    assert not sampling.temperature or len({completion.tokens for completion in expected.values()}) > 5
    for ending.batch_rows in (2, 5, 16, 64):
        shuffled = random.Random(ending.batch_rows).sample(pending, len(pending))
        completions = list(ending.complete(shuffled, sampling))
        assert len(completions) == len(pending)
        assert dict(completions) == expected


def test_sampled_tokens_are_those_of_a_loop_without_cache_and_batch(tiny_model):
    """Token i of a draw is the one that its random number i picks."""
    engine = TransformersEngine(tiny_model, 64)
    for request, completion in engine.complete(requests(engine, PROMPTS[:6]), SAMPLED):
        stream = torch.Generator().manual_seed(seed_of(request.prompt, SAMPLED, request.draw))
        uniforms = torch.rand(SAMPLED.max_tokens, generator=stream, dtype=torch.float64)
        tokens: list[int] = []
        while len(tokens) < SAMPLED.max_tokens and not engine.ends & set(tokens):
            with torch.inference_mode():
                logits = reference(engine)(torch.tensor([[*request.tokens, *tokens]])).logits[:, -1]
            tokens += sample_next_token(logits, SAMPLED, uniforms[len(tokens), None]).tolist()
        assert completion.text == engine.tokenizer.decode(tokens, skip_special_tokens=True)
        assert completion.tokens == len(tokens)


def test_completions_end_at_the_end_token_of_the_generation_config(tiny_model, tmp_path):
    assert TransformersEngine(tiny_model, 8).ends == {AutoTokenizer.from_pretrained(tiny_model).eos_token_id}
    folder = shutil.copytree(tiny_model, tmp_path / "two_ends")
    (folder / "generation_config.json").write_text('{"eos_token_id": [3, 5]}')
    assert TransformersEngine(folder, 8).ends == {3, 5}


def running_rows(engine: TransformersEngine, monkeypatch) -> list[int]:
    """A list that the number of rows is appended to at each step."""
    step, rows = engine._step, []
    monkeypatch.setattr(
        engine, "_step", lambda groups, *rest: (step(groups, *rest), rows.append(sum(len(g.rows) for g in groups)))[0]
    )
    return rows


def test_completions_come_as_they_finish_and_their_rows_are_refilled(ending, monkeypatch):
    rows = running_rows(ending, monkeypatch)
    ending.batch_rows = 4
    pending = requests(ending, draws=1)
    completions = ending.complete(pending, replace(SAMPLED, max_tokens=40))
    next(completions)
    steps_to_first = len(rows)
    assert sum(1 for _ in completions) == len(pending) - 1
    assert steps_to_first < len(rows) / 3
    assert max(rows) == 4
    assert sum(running == 4 for running in rows) > len(rows) / 4  # refilled, not left empty until the batch ends
    assert rows[-1] < 4  # with nothing left to refill them, finished rows leave


def test_draws_differ_and_more_draws_keep_the_first(tiny_model):
    engine = TransformersEngine(tiny_model, 64)
    two, four = (dict(engine.complete(requests(engine, PROMPTS[:3], draws), SAMPLED)) for draws in (2, 4))
    assert two.items() <= four.items()
    assert len({completion.text for completion in four.values()}) > 6


def test_greedy_agrees_with_generate_of_transformers(tiny_model):
    engine = TransformersEngine(tiny_model, 64)
    (first,) = requests(engine, PROMPTS[:1], 1)
    out = reference(engine).generate(torch.tensor([first.tokens]), max_new_tokens=12, do_sample=False)
    expected = engine.tokenizer.decode(out[0, len(first.tokens) :], skip_special_tokens=True)
    completions = dict(engine.complete(requests(engine), GREEDY))
    assert completions[first].text == expected


def passes(engine: TransformersEngine, monkeypatch) -> list[int]:
    """A list that the number of tokens is appended to at each forward pass."""
    forward, sizes = engine._forward, []
    monkeypatch.setattr(
        engine, "_forward", lambda tokens, *rest: (sizes.append(len(tokens)), forward(tokens, *rest))[1]
    )
    return sizes


def test_a_prompt_is_read_once_for_all_its_draws_in_passes_of_bounded_size(ending, monkeypatch):
    pending = requests(ending, draws=3)
    expected = dict(ending.complete(pending, SAMPLED))
    sizes = passes(ending, monkeypatch)
    monkeypatch.setattr("stages.inference.engines.transformers.engine.PREFILL_TOKENS", 120)
    prompts = {request.prompt: len(request.tokens) for request in pending}
    one_token = replace(SAMPLED, max_tokens=1)
    list(ending.complete(pending, one_token))
    assert sum(sizes) == sum(prompts.values())
    assert len(sizes) >= sum(sizes) / 120
    assert max(sizes) <= 120
    assert dict(ending.complete(pending, SAMPLED)) == expected


def test_what_prompts_begin_with_in_common_is_read_once(tiny_model, small_pages, monkeypatch):
    engine = TransformersEngine(tiny_model, 64)
    sizes = passes(engine, monkeypatch)
    pending = requests(engine, [SHOTS + prompt for prompt in PROMPTS], draws=2)
    list(engine.complete(pending, replace(SAMPLED, max_tokens=1)))
    lengths = {request.prompt: len(request.tokens) for request in pending}
    shared = sizes[0]
    assert shared == 32
    assert sum(sizes) == sum(lengths.values()) - (len(lengths) - 1) * shared


def test_a_prefix_is_what_all_prompts_with_the_same_first_page_share(small_pages):
    """In whole pages, and at least one token of each prompt is left."""
    shots, other = tuple(range(40)), tuple(range(100, 120))
    prompts = {"a": (*shots, 50), "b": (*shots, 51, 52), "c": shots[:33], "d": (*other, 1), "e": other, "f": (1, 2)}
    waiting = queue([Request(prompt, tokens, 0) for prompt, tokens in prompts.items()])
    assert [(prompt.requests[0].prompt, prompt.prefix) for prompt in waiting] == [
        ("b", 32), ("a", 32), ("c", 32), ("d", 16), ("e", 16), ("f", 0),
    ]  # fmt: skip


def test_prompts_that_run_together_are_of_like_length(small_pages):
    """At most a quarter of a group's pages is padding."""
    lengths = [160, 150, 144, 100, 90, 80, 40, 16, 16, 10]
    waiting = queue([Request(str(index), (index,) * length, 0) for index, length in enumerate(lengths)])
    room, groups = Room(rows=100, capacity=1e9, per_row=1), []
    while waiting:
        groups.append([len(prompt.tokens) for prompt in take(waiting, room, [], 10**9)])
    assert groups == [[160, 150, 144, 100, 90], [80, 40], [16, 16, 10]]


def test_a_group_takes_what_fits_beside_those_that_run(small_pages):
    waiting = queue([Request(str(index), (index,) * 16, draw) for index in range(4) for draw in range(3)])
    running = Group(KVCache([32], draws=2, max_tokens=5), [])  # 32 tokens and 2 rows of 10: 52
    room = Room(rows=100, capacity=52 + 2 * (16 + 3 * 10), per_row=10)
    assert [len(prompt.requests) for prompt in take(waiting, room, [running], 10**9)] == [3, 3]
    assert take(waiting, replace(room, capacity=90), [running], 10**9) == []
    assert len(take(waiting, replace(room, capacity=1), [], 10**9)) == 1  # it is tried: there is nothing to wait for


def test_a_prompts_draws_are_taken_together_where_they_fit():
    waiting = queue(
        [Request(prompt, (1,), draw) for prompt, draws in (("a", 3), ("b", 3), ("c", 1)) for draw in range(draws)]
    )
    taken = []
    for rows in (5, 2, 9):
        prompts = take(waiting, Room(rows, capacity=1e9, per_row=1), [], 10**9)
        taken.append([(request.prompt, request.draw) for prompt in prompts for request in prompt.requests])
    assert taken == [[("a", 0), ("a", 1), ("a", 2)], [("b", 0), ("b", 1)], [("b", 2), ("c", 0)]]


def test_out_of_memory_half_as_many_rows_run_and_nothing_is_lost(ending, monkeypatch):
    """The allocator's own error, for 8 and more rows at once."""
    engine, pending = ending, requests(ending)
    expected = dict(engine.complete(pending, SAMPLED))
    forward, sizes = engine._forward, []

    def short_of_memory(tokens, positions, kv_pass, kept):
        if isinstance(kv_pass, kv_cache.Decode):
            sizes.append(len(tokens))
            if len(tokens) >= 8:
                torch.empty(10**15)
        return forward(tokens, positions, kv_pass, kept)

    monkeypatch.setattr(engine, "_forward", short_of_memory)
    assert dict(engine.complete(pending, SAMPLED)) == expected
    assert max(sizes[-5:]) < 8
    assert sum(size >= 8 for size in sizes) < 10  # half as many, and not one less, at each failure


def test_another_error_than_out_of_memory_stays_what_it_is(tiny_model, monkeypatch):
    engine = TransformersEngine(tiny_model, 4)
    monkeypatch.setattr(engine, "_forward", lambda *arguments: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        list(engine.complete(requests(engine), SAMPLED))


def test_out_of_memory_with_one_row_is_an_error_that_says_what_to_do(tiny_model, monkeypatch):
    engine = TransformersEngine(tiny_model, 4)
    monkeypatch.setattr(engine, "_forward", lambda *arguments: torch.empty(10**15))
    with pytest.raises(UserError, match=r"out of memory with one completion at a time.*max_tokens"):
        list(engine.complete(requests(engine), SAMPLED))


def test_the_batch_is_as_large_as_the_free_memory_allows(tiny_model, monkeypatch):
    engine = TransformersEngine(tiny_model, None)
    config = engine.model.config
    token = 2 * config.num_hidden_layers * config.hidden_size * 4
    monkeypatch.setattr("stages.inference.engines.transformers.memory.free_memory", lambda device: 1000 * token)
    room = Room.for_model(engine.model, SAMPLED, None)
    assert (room.rows, room.capacity) == (384, 1000 * MEMORY_SHARE)
    row = SAMPLED.max_tokens + SAMPLING_BYTES * config.vocab_size / token
    assert room.tokens(prompts=2, columns=128, rows=6) == 2 * 128 + 6 * row
    assert Room.for_model(engine.model, SAMPLED, 7) == Room(7, inf, row)


def test_in_a_container_the_free_memory_is_what_its_limit_leaves(monkeypatch, tmp_path):
    monkeypatch.setattr("stages.inference.engines.transformers.memory.CGROUP", tmp_path)
    whole_machine = free_memory(torch.device("cpu"))
    (tmp_path / "memory.stat").write_text("anon 600\nactive_file 200\ninactive_file 100\n")
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("5000\n")
    assert (free_memory(torch.device("cpu")), total_memory(torch.device("cpu"))) == (4300, 5000)
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(torch.device("cpu")) > whole_machine / 2
    assert total_memory(torch.device("cpu")) > free_memory(torch.device("cpu"))


def test_sampling_follows_the_models_distribution(tiny_model):
    """The first token of 4,000 draws against the softmax: the total variation of so many draws is about 0.1."""
    engine = TransformersEngine(tiny_model, 500)
    one_token = Sampling(temperature=0.7, top_p=1.0, max_tokens=1, random_state=0)
    (request,) = requests(engine, PROMPTS[:1], 1)
    with torch.inference_mode():
        expected = (reference(engine)(torch.tensor([request.tokens])).logits[0, -1] / 0.7).softmax(-1)
    streams = (torch.Generator().manual_seed(seed_of(request.prompt, one_token, draw)) for draw in range(4000))
    uniforms = torch.cat([torch.rand(1, generator=stream, dtype=torch.float64) for stream in streams])
    counts = torch.bincount(
        sample_next_token((expected.log() * 0.7).expand(4000, -1), one_token, uniforms), minlength=len(expected)
    )
    assert (counts / 4000 - expected).abs().sum() / 2 < 0.2


def test_the_nucleus_leaves_out_the_tail():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(1000, -1)
    uniforms = torch.linspace(0, 0.999, 1000, dtype=torch.float64)
    sampled = sample_next_token(logits, Sampling(1.0, 0.75, 1, 0), uniforms)
    assert set(sampled.tolist()) == {0, 1}
    assert (sampled == 0).float().mean() == pytest.approx(0.5 / 0.8, abs=0.01)


@pytest.mark.parametrize(("top_p", "size"), [(0.25, 1), (0.26, 2), (0.5, 2), (0.51, 3), (0.99, 4), (1, 4)])
def test_the_nucleus_is_the_smallest_set_with_the_mass_of_top_p(top_p, size):
    uniforms = torch.linspace(0, 0.999, 1000, dtype=torch.float64)
    sampled = sample_next_token(torch.zeros(1000, 4), Sampling(1.0, top_p, 1, 0), uniforms)
    assert len(set(sampled.tolist())) == size


def test_a_random_number_picks_the_token_whose_share_it_falls_into():
    """In the vocabulary's order; tokens without probability are never picked."""
    logits = torch.tensor([-torch.inf, 0, 0, -torch.inf, 0, 0]).expand(6, -1)
    uniforms = torch.tensor([0, 0.24, 0.25, 0.5, 0.75, 0.9999999], dtype=torch.float64)
    assert sample_next_token(logits, Sampling(1.0, 1.0, 1, 0), uniforms).tolist() == [1, 1, 2, 4, 5, 5]


def test_probabilities_are_summed_in_64_bits():
    """In 32 bits, a sum near 0.5 does not grow by each of these tokens of 8e-9."""
    logits = torch.tensor([0.0, *[-18.0] * 1000, 0.0]).repeat(1002, 1)
    shares = logits.softmax(-1)[0].double()
    middles = (shares.cumsum(-1) - shares / 2) / shares.sum()
    assert sample_next_token(logits, Sampling(1.0, 1.0, 1, 0), middles).tolist() == list(range(1002))


def test_the_end_token_counts_and_is_not_part_of_the_text(ending, monkeypatch):
    rows = finished_rows(ending, monkeypatch)
    completions = dict(ending.complete(requests(ending), SAMPLED))
    assert len({completion.finish for completion in completions.values()}) == 2
    for row in rows:
        completion = completions[row.request]
        assert completion.text == ending.tokenizer.decode(row.generated, skip_special_tokens=True)
        assert completion.tokens == len(row.generated) + (completion.finish == "stop")
        assert completion.prompt_tokens == len(row.request.tokens)
        assert not ending.ends & set(row.generated)


def test_a_cut_completion_finishes_with_length(tiny_model):
    engine = TransformersEngine(tiny_model, 64)
    ((_, cut),) = engine.complete(requests(engine, PROMPTS[:1], 1), Sampling(1.0, 1.0, 2, 0))
    assert (cut.finish, cut.tokens) == ("length", 2)


def test_numbers_have_the_models_own_log_probabilities(tiny_model, monkeypatch):
    """Compared with the softmax of the model itself, after the prompt and the text generated before."""
    engine = TransformersEngine(tiny_model, 64)
    rows = finished_rows(engine, monkeypatch)
    sampling = Sampling(1.0, 1.0, 40, 0, numbers=True)
    compared = 0
    for request, completion in engine.complete(requests(engine), sampling):
        for number in completion.numbers:
            before = completion.text[: number.start]
            tokens = engine.tokenizer(before, add_special_tokens=False)["input_ids"]
            logprobs = reference(engine)(torch.tensor([[*request.tokens, *tokens]])).logits[0, -1].log_softmax(-1)
            likely = logprobs.topk(3)
            texts = engine.tokenizer.batch_decode([[token] for token in likely.indices.tolist()])
            (generated,) = (row.generated for row in rows if row.request == request)
            if tokens != generated[: len(tokens)]:
                continue  # the same text can be cut into tokens in several ways
            for text, logprob in zip(texts, likely.values.tolist(), strict=True):
                if "\ufffd" not in text:  # parts of characters look alike, and their probabilities add up
                    assert number.logprobs[text] == pytest.approx(logprob, abs=1e-3)
            compared += 1
    assert compared > 10


def finished_rows(engine: TransformersEngine, monkeypatch) -> list[Row]:
    """A list that the engine's rows, with their tokens, are appended to as they finish."""
    rows: list[Row] = []
    completion = engine._completion
    monkeypatch.setattr(engine, "_completion", lambda row: (rows.append(row), completion(row))[1])
    return rows


def test_numbers_are_recorded_at_every_digit_and_at_the_token_after_it(tiny_model, monkeypatch):
    engine = TransformersEngine(tiny_model, 64)
    rows = finished_rows(engine, monkeypatch)
    completions = dict(engine.complete(requests(engine), Sampling(1.0, 1.0, 40, 0, numbers=True)))
    for row in rows:
        tokens = [row.request.tokens[-1], *row.generated, *(engine.ends if row.stopped else ())]
        digits = [holds_digit(engine.tokenizer.decode([token])) for token in tokens]
        at_number = [index for index, neighbours in enumerate(pairwise(digits)) if any(neighbours)]
        assert [index for index, _ in row.numbers] == at_number
        assert all(len(logprobs) == ALTERNATIVES for _, logprobs in row.numbers)
        text, numbers = completions[row.request].text, completions[row.request].numbers
        for index, number in zip(at_number, numbers, strict=True):
            if digits[index + 1]:
                assert text.startswith(engine.tokenizer.decode([tokens[index + 1]]), number.start)
    assert sum(len(row.numbers) for row in rows) > 50


def test_everywhere_is_at_every_token_whatever_was_sampled(tiny_model):
    engine = TransformersEngine(tiny_model, 64)
    everywhere = Sampling(0, 1.0, 3, 0, numbers="everywhere")
    for _, completion in engine.complete(requests(engine, ["Why?", "Who is it?"]), everywhere):
        assert len(completion.numbers) == completion.tokens
        assert completion.numbers[0].start == 0
        assert all(len(number.logprobs) > ALTERNATIVES / 2 for number in completion.numbers)


def test_what_decides_a_completion_is_in_the_store_as_before():
    """With other values, every completion in every store would be computed again."""
    assert list(vars(SAMPLED).values()) == [1.0, 0.9, 12, 0, False]
    assert list(vars(replace(SAMPLED, numbers=True)).values()) == [1.0, 0.9, 12, 0, True]


def test_tokens_with_the_same_text_count_as_one():
    logprobs = by_text([("5", log(0.3)), ("6", log(0.25)), ("5", log(0.2))])
    assert logprobs == {"5": round(log(0.5), 6), "6": round(log(0.25), 6)}


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


def test_the_seed_of_a_draw_stays_what_it_is():
    """With another one, every sampled completion and every file that rests on one would change."""
    assert seed_of("Why?", SAMPLED, 2) == 7043198704832524983


def test_a_model_that_cannot_be_loaded_is_an_error_that_names_the_folder(tiny_model, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tiny_model.iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[: 1000 if path.suffix == ".safetensors" else None])
    with pytest.raises(UserError, match=r"model folder .*broken cannot be loaded.*dvc checkout"):
        TransformersEngine(broken, 8)


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("Llama4Text", {"num_local_experts": 2, "head_dim": 16, "attention_chunk_size": 8}, "chunked_attention"),
        ("Bloom", {"n_layer": 2, "n_head": 2}, "attention of their own"),
        ("Lfm2", {"layer_types": ["conv", "full_attention"]}, "conv"),
    ],
)
def test_an_architecture_with_attention_of_its_own_is_refused(name, settings, reason, tiny_model, tmp_path):
    config = getattr(transformers, f"{name}Config")(**{
        "vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, **settings,
    })  # fmt: skip
    folder = shutil.copytree(tiny_model, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors", "config*"))
    getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")(config).save_pretrained(folder)
    with pytest.raises(UserError, match=rf"cannot run the architecture of model folder .*({reason}).*vllm"):
        TransformersEngine(folder, 8)


def test_a_model_that_reads_otherwise_than_before_is_refused(tiny_model, monkeypatch):
    monkeypatch.setattr(kv_cache, "_hidden", lambda queries, keys, window: keys != queries)  # each token sees itself
    with pytest.raises(UserError, match=r"its logits differ by \d+%.*runtime.engine: vllm"):
        TransformersEngine(tiny_model, 8)


def test_auto_is_transformers_without_a_gpu():
    assert engines.resolve("auto") == "transformers"


def test_how_many_gpus_an_engine_uses(monkeypatch):
    vllm = RUNTIME.vllm.model_copy(update={"tensor_parallel_size": 4, "pipeline_parallel_size": 2})
    assert [engines.gpus(engine, vllm) for engine in ("transformers", "server")] == [0, None]
    monkeypatch.setattr("stages.inference.engines.has_gpu", lambda: True)
    assert [engines.gpus(engine, vllm) for engine in ("transformers", "vllm", "server")] == [1, 8, None]


def test_completions_are_equal_whatever_they_cost():
    assert Completion("a", "stop", seconds=1.0) == Completion("a", "stop", seconds=2.0)
