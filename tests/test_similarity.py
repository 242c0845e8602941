"""How alike texts are: ROUGE-L, distinct n-grams, and the cosine of embeddings."""

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from stages.base import materialise
from stages.data.similarity import (
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


@pytest.mark.parametrize("cosine", [0.7, 0.9, 0.99])
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
    assert mean_distance(vectors[:1]) is None


def test_distinct_n_is_the_share_of_different_ngrams():
    assert distinct(["a b a", "a b"], 1) == pytest.approx(2 / 5)
    assert distinct(["a b a", "a b"], 2) == pytest.approx(2 / 3)
    assert distinct([], 1) is None


def test_a_text_with_the_words_of_an_earlier_one_repeats_it():
    first, again, other = "What is 3 - 2?", "what is  3 − 2", "What is 3 + 2?"
    assert same_words([first, again, other], []) == {again}
    assert same_words([first, other], [again]) == {first}


def test_embeddings_are_not_compared_where_the_limit_is_1(base):
    found, _ = near_duplicates(["Which is larger, 4 or 5?"], ["Which is larger, 4 or 5?"], base, 1.0)
    assert found == set()
    found, _ = near_duplicates(["Which is larger, 4 or 5?"], ["Which is larger, 4 or 5?"], base, 0.999)
    assert found == {"Which is larger, 4 or 5?"}


def test_diversity_is_of_the_kept_and_repetition_of_the_compared_and_what_was_not_measured_is_null():
    assert diversity(["a b", "a c"], 0.123456, 1 / 3) == {
        "distance": 0.1235, "distinct_1": 0.75, "distinct_2": 1.0, "near_duplicates": 0.3333,
    }  # fmt: skip
    assert diversity([], None, None) == dict.fromkeys(("distance", "distinct_1", "distinct_2", "near_duplicates"))


@pytest.mark.slow
def test_vectors_of_a_model_in_16_bits_have_unit_length_too(tmp_path):
    """Else a cosine may be above 1, and distinct instructions fall by rounding."""
    base = materialise(ROOT / "stages/microworld/base", "bfloat16", tmp_path / "base")
    vectors = embed([f"Which is larger, {number} or 50?" for number in range(10, 60)], base)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
