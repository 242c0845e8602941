"""What a request samples depends on the request alone."""

import random

import pytest

from stages.core import engines
from stages.core.engines import Sampling, seed_of
from stages.core.engines.transformers import TransformersEngine
from stages.core.errors import UserError

PROMPTS = [f"Which is larger, {number} or {100 - number}?{' Say why.' * (number % 5)}" for number in range(10, 34)]
SAMPLED = Sampling(temperature=1.0, top_p=0.9, max_tokens=12, random_state=0)
GREEDY = Sampling(temperature=0, top_p=1.0, max_tokens=12, random_state=0)


def ignore(steps):
    pass


def complete(model, prompts, draws=2, sampling=SAMPLED, batch_rows=64):
    return engines.complete(TransformersEngine(model, batch_rows), prompts, "", draws, sampling, ignore)


@pytest.mark.parametrize("sampling", [SAMPLED, GREEDY])
def test_neither_the_batch_nor_the_order_changes_a_completion(tiny_model, sampling):
    expected = dict(zip(PROMPTS, complete(tiny_model, PROMPTS, sampling=sampling), strict=True))
    shuffled = random.Random(1).sample(PROMPTS, len(PROMPTS))
    for batch_rows in (1, 5, 64):
        found = complete(tiny_model, shuffled, sampling=sampling, batch_rows=batch_rows)
        assert dict(zip(shuffled, found, strict=True)) == expected


def test_draws_differ_and_more_draws_keep_the_first(tiny_model):
    two, four = (complete(tiny_model, PROMPTS[:3], draws) for draws in (2, 4))
    assert [drawn[:2] for drawn in four] == two
    assert len({completion.text for completion in four[0]}) > 1


def test_greedy_agrees_with_generate_of_transformers(tiny_model):
    engine = TransformersEngine(tiny_model, 64)
    rendered = engine.render(PROMPTS[0], "")
    tokens = engine.tokenizer(rendered, return_tensors="pt", add_special_tokens=False)
    out = engine.model.generate(**tokens, max_new_tokens=12, do_sample=False)
    expected = engine.tokenizer.decode(out[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)
    assert complete(tiny_model, PROMPTS, 1, GREEDY)[0][0].text == expected


def test_sampling_follows_the_models_distribution(tiny_model):
    """The first token of 4,000 draws against the softmax: the total variation of so many draws is about 0.1."""
    import torch

    engine = TransformersEngine(tiny_model, 500)
    rendered = engine.render(PROMPTS[0], "")
    one_token = Sampling(temperature=0.7, top_p=1.0, max_tokens=1, random_state=0)
    tokens = engine.tokenizer(rendered, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        expected = (engine.model(tokens).logits[0, -1] / 0.7).softmax(-1)
    counts = torch.zeros_like(expected)
    seeds = [seed_of(rendered, one_token, draw) for draw in range(4000)]
    from stages.core.engines.transformers import _sample

    uniforms = engine._uniforms(seeds, one_token)[:, 0]
    logits = (expected.log() * 0.7).expand(4000, -1)
    for token in _sample(logits, one_token, uniforms).tolist():
        counts[token] += 1
    assert (counts / 4000 - expected).abs().sum() / 2 < 0.2


def test_the_nucleus_leaves_out_the_tail():
    import torch

    from stages.core.engines.transformers import _sample

    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(1000, -1)
    uniforms = torch.linspace(0, 0.999, 1000, dtype=torch.float64)
    chosen = _sample(logits, Sampling(1.0, 0.75, 1, 0), uniforms)
    assert set(chosen.tolist()) == {0, 1}
    assert (chosen == 0).float().mean() == pytest.approx(0.5 / 0.8, abs=0.01)


def test_a_cut_completion_says_so_and_a_prompt_that_does_not_fit_is_not_run(tiny_model):
    long = "cat, " * 600
    short_one, long_one = complete(tiny_model, [PROMPTS[0], long], 1, Sampling(1.0, 1.0, 2, 0))
    assert short_one[0].finish == "length"
    assert long_one == [engines.Completion("", "too long")]


def test_a_prompt_that_occurs_twice_is_computed_once(tiny_model):
    advanced = []
    engine = TransformersEngine(tiny_model, 64)
    first, second = engines.complete(engine, [PROMPTS[0]] * 2, "", 1, SAMPLED, advanced.append)
    assert first == second
    assert sum(advanced) == 2


def test_every_part_of_a_request_decides_its_draws():
    seeds = {
        seed_of("a", SAMPLED, 0),
        seed_of("b", SAMPLED, 0),
        seed_of("a", SAMPLED, 1),
        seed_of("a", Sampling(1.0, 0.9, 12, 1), 0),
        seed_of("a", Sampling(0.9, 0.9, 12, 0), 0),
    }
    assert len(seeds) == 5


def test_a_missing_model_is_an_error_that_names_the_folder(tmp_path):
    with pytest.raises(UserError, match=r"model folder .*nowhere is missing.*run dvc repro"):
        TransformersEngine(tmp_path / "nowhere", 8)
