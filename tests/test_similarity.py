"""How alike texts are: ROUGE-L, distinct n-grams, and the cosine of embeddings."""

from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from stages.base import materialise
from stages.data.similarity import (
    device_of,
    distinct,
    diversity,
    duplicates,
    embed,
    mean_distance,
    near_duplicates,
    rouge_l,
    same_words,
)


def test_an_embedding_duplicate_of_an_earlier_or_a_kept_row_falls():
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    assert duplicates(vectors, earlier=2, cosine=0.99) == {2, 4}


def test_a_row_like_a_dropped_one_only_is_kept():
    angles = np.radians([0, 5, 10])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert duplicates(vectors, earlier=1, cosine=np.cos(np.radians(6))) == {1}


@pytest.mark.parametrize("earlier", [0, 1])
def test_a_cosine_at_the_limit_is_not_above_it(earlier):
    vectors = np.array([[1.0, 0.0], [0.6, 0.8]])
    assert duplicates(vectors, earlier, cosine=0.6) == set()
    assert duplicates(vectors, earlier, cosine=0.59) == {1}
    assert duplicates(np.array([[1.0, 0.0], [0.2, 0.96**0.5]]), earlier, cosine=0.1) == {1}


@given(text=st.text(), other=st.text())
def test_rouge_l_is_a_symmetric_share(text, other):
    assert 0 <= rouge_l(text, other) <= 1
    assert rouge_l(text, other) == pytest.approx(rouge_l(other, text))


@given(
    st.lists(st.sampled_from("the cat sat on a mat".split())), st.lists(st.sampled_from("the cat sat on a mat".split()))
)
def test_rouge_l_is_that_of_the_rouge_score_package(text, other):
    text, other = " ".join(text), " ".join(other)
    assert rouge_l(text, other) == pytest.approx(RougeScorer(["rougeL"]).score(text, other)["rougeL"].fmeasure)


def plainly(vectors: np.ndarray, earlier: int, cosine: float) -> set[int]:
    """The definition: each row against all that are kept before it."""
    kept = list(range(earlier))
    for row in range(earlier, len(vectors)):
        if not (vectors[kept] @ vectors[row] > cosine).any():
            kept.append(row)
    return set(range(len(vectors))) - set(kept)


@pytest.mark.parametrize("cosine", [0.1, 0.7, 0.9, 0.99])
def test_duplicates_over_several_blocks_are_those_of_the_definition(monkeypatch, cosine):
    monkeypatch.setattr("stages.data.similarity.BLOCK", 64)
    random = np.random.default_rng(0)
    centres = random.normal(size=(60, 24))
    vectors = centres[random.integers(60, size=500)] + random.normal(scale=0.25, size=(500, 24))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    found = duplicates(vectors, 40, cosine)
    assert found == plainly(vectors, 40, cosine)
    assert (len(found) > 20) == (cosine < 0.99)


def test_the_mean_distance_is_that_of_all_pairs():
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    assert mean_distance(vectors) == pytest.approx(((1 - 0.0) + (1 - 0.6) + (1 - 0.8)) / 3)
    assert mean_distance(vectors[:2]) == 1
    assert mean_distance(vectors[:1]) is None
    assert mean_distance(vectors[:0]) is None


def test_distinct_n_is_the_share_of_different_ngrams():
    assert distinct(["a b a", "a b"], 1) == pytest.approx(2 / 5)
    assert distinct(["a b a", "a b"], 2) == pytest.approx(2 / 3)
    assert distinct([], 1) is None


def test_a_text_with_the_words_of_an_earlier_one_repeats_it():
    first, again, other = "What is 3 - 2?", "what is  3 − 2", "What is 3 + 2?"
    assert same_words([first, again, other], []) == {again}
    assert same_words([first, other], [again]) == {first}


EARLIER, NEW = ["Which is larger, 4 or 5?"], ["Is 7 even or odd?", "Name the last word in fox, bus."]


def test_a_near_duplicate_falls_and_the_distance_is_that_of_the_others(base, capsys):
    fresh = [*NEW, "Say a colour to me now."]
    distance = mean_distance(embed(fresh, base))
    assert near_duplicates(fresh + EARLIER, EARLIER, base, 0.999) == (set(EARLIER), pytest.approx(distance))
    assert "filter embeddings: 5 of 5 in" in capsys.readouterr().out


def test_embeddings_are_not_compared_where_the_limit_is_1(base):
    assert near_duplicates([*EARLIER, *NEW], EARLIER, base, 1.0) == (set(), mean_distance(embed(EARLIER + NEW, base)))


def test_nothing_is_embedded_where_nothing_is_new():
    assert near_duplicates([], EARLIER, Path("no model"), 0.999) == (set(), None)


def test_a_vector_is_the_mean_of_the_last_hidden_states_over_the_users_message(base):
    from transformers import AutoModel, AutoTokenizer

    message = "<|im_start|>user\nIs 7 even or odd?<|im_end|>"
    tokens = AutoTokenizer.from_pretrained(base)(message, return_tensors="pt", add_special_tokens=False)
    mean = AutoModel.from_pretrained(base)(**tokens).last_hidden_state[0].mean(0).detach().numpy()
    assert np.abs(embed(NEW[:1], base)[0] - mean / np.linalg.norm(mean)).max() < 1e-5


def test_a_text_longer_than_the_context_is_cut(base):
    short, long = embed(["Why? " * 2000, "Why? " * 4000], base)
    assert np.abs(short - long).max() < 1e-5


def test_a_text_has_the_same_vector_of_unit_length_beside_any_others(base, capfd):
    alone, beside = embed(NEW[:1], base)[0], embed([*EARLIER, *NEW, "Why? " * 50], base)
    assert np.abs(beside[1] - alone).max() < 1e-5
    assert np.abs(np.linalg.norm(beside, axis=1) - 1).max() < 1e-5
    assert "Batches" not in capfd.readouterr().err  # no progress bar of the library's


@pytest.mark.parametrize(("gpu", "free", "device"), [(True, 151, "cuda"), (True, 150, "cpu"), (False, 151, "cpu")])
def test_the_gpu_embeds_where_it_has_more_than_one_and_a_half_times_the_weights_free(
    tmp_path, monkeypatch, gpu, free, device
):
    """By what the driver reports."""
    (tmp_path / "model-1.safetensors").write_bytes(bytes(60))
    (tmp_path / "model-2.safetensors").write_bytes(bytes(40))
    (tmp_path / "tokenizer.json").write_bytes(bytes(999))
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (free, 999))
    assert device_of(tmp_path) == device


def test_diversity_is_of_the_kept_and_repetition_of_the_compared_and_what_was_not_measured_is_null():
    assert diversity(["a b", "a c"], 0.123456, 1 / 3) == {
        "distance": 0.1235, "distinct_1": 0.75, "distinct_2": 1.0, "near_duplicates": 0.3333,
    }  # fmt: skip
    assert diversity([], None, None) == dict.fromkeys(("distance", "distinct_1", "distinct_2", "near_duplicates"))


def test_vectors_of_a_model_in_16_bits_have_unit_length_too(tmp_path):
    """Else a cosine may be above 1, and distinct instructions fall by rounding."""
    base = materialise(ROOT / "stages/microworld/base", "bfloat16", tmp_path / "base")
    vectors = embed([f"Which is larger, {number} or 50?" for number in range(10, 60)], base)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
