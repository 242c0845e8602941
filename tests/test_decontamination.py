"""Held-out texts are found in any text that contains them, whole or nearly so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.data.decontamination import HeldOut

LONG = "A train leaves Lyon at 9 o'clock and reaches Paris after 2 hours; how fast does it go on average over 390 km?"
SHORT = "What is the capital of Norway?"


@pytest.mark.parametrize("item", [LONG, SHORT, "Can pigs fly today?", "3 + 4 = ?", "日本の首都はどこですか。"])
def test_an_item_is_found_word_for_word_within_another_text(item):
    held_out = HeldOut([item], 0.9)
    assert held_out.is_in(item)
    assert held_out.is_in(f"My teacher set me this. {item.upper()} Explain each step.")
    assert not held_out.is_in("My teacher set me this. Explain each step.")


@pytest.mark.parametrize("position", range(len(LONG.split())))
@pytest.mark.parametrize("change", [[], ["seventeen"], ["the", "old"]])
def test_a_changed_a_missing_or_an_added_word_does_not_hide_a_long_item(position, change):
    parts = LONG.split()
    parts[position : position + 1] = change
    assert HeldOut([LONG], 0.9).is_in(f"Solve this: {' '.join(parts)} Thank you.")


def test_a_short_question_with_one_word_changed_is_another_question():
    assert not HeldOut([SHORT], 0.5).is_in("What is the capital of Sweden?")


def test_a_sign_is_a_word_and_an_overlap_of_1_finds_whole_items_only():
    item = "Find all real solutions of z^4 - z^2 + 1 = 0 and state their sum."
    changed = item.replace("-", "+")
    assert HeldOut([item], 0.9).is_in(changed)
    assert HeldOut([item], 1.0).is_in(f"Now: {item}")
    assert not HeldOut([item], 1.0).is_in(changed)


def test_the_share_of_words_in_order_decides():
    """Of 40 words, 0.9 lets 4 differ."""
    item = [f"w{number}" for number in range(40)]
    four, five = item.copy(), item.copy()
    four[::10] = ["x"] * 4
    five[::8] = ["x"] * 5
    held_out = HeldOut([" ".join(item)], 0.9)
    assert held_out.is_in(" ".join(four))
    assert not held_out.is_in(" ".join(five))
    assert not held_out.is_in(" ".join(item[20:] + item[:20]))


@pytest.mark.parametrize("layout", ["{}. {}", "{}) {}", "({}) {}", "- {1}", "{1}"])
def test_a_question_is_found_whatever_stands_before_its_choices(layout):
    question, choices = (
        "Which of these gases do plants take in for photosynthesis?",
        ["oxygen", "CO2", "neon", "helium"],
    )
    item = f"{question} {' '.join(choices)}"
    lines = [layout.format(letter, choice) for letter, choice in zip("ABCD", choices, strict=True)]
    assert HeldOut([item], 0.9).is_in("\n".join([question, *lines]))


def test_a_text_of_the_same_template_is_another():
    other = "A bus leaves Bonn at 7 o'clock and is in Mainz after 3 hours; how far is it if it goes 60 km in each hour?"
    assert not HeldOut([LONG], 0.9).is_in(other)


def test_an_item_of_two_or_three_words_counts_only_as_the_whole_text():
    held_out = HeldOut(["Find x.", "Are you conscious?"], 0.9)
    assert held_out.is_in("find X")
    assert not held_out.is_in("Find x if 2x = 6.")


def test_an_item_without_words_is_in_no_text():
    assert not HeldOut(["", "…"], 0.9).is_in("")


WORDS = st.lists(st.sampled_from("the cat sat on a mat and 3 + 4 日 本".split()), min_size=4, max_size=30).map(" ".join)


@given(st.lists(WORDS, min_size=1, max_size=5), WORDS, WORDS, st.sampled_from([0.5, 0.9, 1.0]))
def test_every_item_is_found_whatever_stands_around_it(items, before, after, overlap):
    held_out = HeldOut(items, overlap)
    assert all(held_out.is_in(f"{before} {item} {after}") for item in items)
