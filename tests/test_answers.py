"""Answers to lm-eval's requests: what decides one is in its key, draws are numbered, and a task says how it samples."""

from itertools import combinations

import pytest
from lm_eval.api.instance import Instance

from stages.core.errors import UserError
from stages.evaluation.answers import answer_key, number_draws, sampling_of, with_seed
from stages.evaluation.generation import check_sampling
from stages.inference.engines import Sampling

SAMPLED = {"until": ["\n"], "temperature": 1.0, "max_gen_toks": 16}


def request(context="Why?", settings=SAMPLED, task="t", document=0, repeats=1) -> Instance:
    return Instance("generate_until", {}, (context, settings), 0, (task, document, repeats))


def test_all_that_decides_an_answer_is_in_its_key_and_nothing_else():
    different = [
        answer_key(model, request(context, settings), draw)
        for model in ("m", "n")
        for context in ("Why?", "How?")
        for settings in (SAMPLED, *(SAMPLED | change for change in [
            {"temperature": 0.5}, {"max_gen_toks": 17}, {"until": ["\n", "."]}, {"top_p": 0.9}, {"top_k": 3},
            {"do_sample": False},
        ]))
        for draw in (0, 1)
    ]  # fmt: skip
    assert len(set(different)) == len(different) == 2 * 2 * 7 * 2
    same = [
        request(),
        request(task="another", document=7),
        request(settings=dict(reversed(SAMPLED.items()))),
        request(settings=SAMPLED | {"temperature": 1}),
        request(settings={"until": "\n", "temperature": 1.0, "max_new_tokens": 16}),
        request(settings=SAMPLED | {"do_sample": True}),
    ]
    assert len({answer_key("m", each, 0) for each in same}) == 1


def test_a_likelihood_is_another_answer_than_a_text():
    likelihood = Instance("loglikelihood", {}, ("Why?", " So."), 0, ("t", 0, 1))
    rolling = Instance("loglikelihood_rolling", {}, ("Why?",), 0, ("t", 0, 1))
    keys = [answer_key("m", each, 0) for each in (likelihood, rolling, request())]
    assert all(one != other for one, other in combinations(keys, 2))


def test_the_repeats_of_an_item_are_its_draws():
    item, other = request(repeats=3), request("How?", repeats=3)
    assert number_draws([item] * 3 + [other] * 3) == [0, 1, 2, 0, 1, 2]


def test_items_of_a_task_that_read_the_same_have_draws_of_their_own():
    """As in lm-eval's tasks that state each item several times instead of setting `repeats`."""
    twins = [request(document=number, repeats=2) for number in range(2) for _ in range(2)]
    assert number_draws(twins) == [0, 1, 2, 3]
    assert number_draws([request(task="a"), request(task="b")]) == [0, 0]


def test_what_does_not_sample_has_one_draw():
    greedy = request(settings={"until": ["\n"], "do_sample": False, "temperature": 0.7}, repeats=2)
    assert number_draws([greedy] * 2) == [0, 0]
    assert number_draws([Instance("loglikelihood", {}, ("Why?", " So."), 0, ("t", 0, 2))] * 2) == [0, 0]


@pytest.mark.parametrize(
    ("settings", "sampling"),
    [
        ({"temperature": 0.7}, Sampling(0.7, 1.0, 256, 0)),
        ({"temperature": 1, "do_sample": True, "top_p": 0.9, "max_gen_toks": 8}, Sampling(1.0, 0.9, 8, 0)),
        ({"temperature": 1.0, "do_sample": False}, None),  # as in many of lm-eval's tasks
        ({"temperature": 0.0}, None),
        ({}, None),
    ],
)
def test_a_temperature_samples_unless_do_sample_is_false(settings, sampling):
    check_sampling(settings)
    assert sampling_of(settings) == sampling


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_sample": True}, "do_sample is true with temperature 0.0"),
        ({"do_sample": True, "temperature": 0}, "do_sample is true with temperature 0"),
        ({"do_sample": True, "temperature": -1.0}, "do_sample is true with temperature -1.0"),
        ({"temperature": 1.0, "top_p": 0}, "top_p is 0"),
        ({"temperature": "warm"}, "temperature is 'warm'; write a number"),
        ({"temperature": None}, "temperature is None; write a number"),
        ({"temperature": 1.0, "top_k": "5"}, "top_k is '5'; write a number"),
        ({"temperature": 1.0, "num_beams": 4, "seed": 1}, "num_beams, seed: a task that samples takes no such"),
    ],
)
def test_sampling_that_is_unclear_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        check_sampling(settings)


def test_a_draws_seed_is_of_its_content_and_number():
    (_, first), (_, again), (_, other) = (
        with_seed(request(document=n), draw).args for n, draw in [(0, 0), (1, 0), (0, 1)]
    )
    assert first["seed"] == again["seed"] != other["seed"]
    assert first.items() > SAMPLED.items()
