"""Held-out texts are found in any text that contains them, whole or nearly so."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core.rows import BenchmarkItem
from stages.data.decontamination import HeldOut, held_out

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


def numbered(start: int, end: int) -> str:
    return " ".join(f"w{number}" for number in range(start, end))


@pytest.mark.parametrize(
    "text",
    [
        "Tell me: what is the capital of Norway?",
        "1. What is the capital of Norway?\n2. Why?",
        "Yes! what is the capital of Norway",
        "- What is the capital of Norway?",
        "(What is the capital of Norway?)",
        "He asks “What is the capital of Norway?” again.",
        "<q>What is the capital of Norway</q>",
    ],
)
def test_a_short_item_is_found_as_a_sentence_of_its_own(text):
    assert HeldOut([SHORT], 0.9).is_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "Tell me what is the capital of Norway?",
        "What is the capital of Norway and Denmark?",
        "In 1900, what is the capital of Norway?",
    ],
)
def test_a_short_item_within_a_longer_sentence_is_a_phrase(text):
    assert not HeldOut([SHORT], 0.9).is_in(text)


def test_an_item_of_several_short_sentences_is_found_and_one_of_ten_words_needs_none():
    short, long = "Tom has 3 cats. How many?", numbered(0, 10)
    assert HeldOut([short], 0.9).is_in(f"So it is. {short} Why?")
    assert not HeldOut([short], 0.9).is_in(f"So it is that {short} Why?")
    assert HeldOut([long], 1.0).is_in(f"so {long} it is")
    assert not HeldOut([numbered(0, 9)], 0.9).is_in(f"so {numbered(0, 9)} it is")


def test_a_question_moved_before_its_context_does_not_hide_it():
    context, question = "Tom has 3 red cats and 4 grey dogs in his old house.", "How many legs do all of his pets have?"
    assert HeldOut([f"{context} {question}"], 0.9).is_in(f"Solve. {question} {context} Thanks.")
    assert not HeldOut([f"{context} {question}"], 0.9).is_in(question)
    assert not HeldOut([f"{context} {question}"], 1.0).is_in(f"{question} {context}")


@pytest.mark.parametrize(("end", "is_in"), [(14, True), (13, False)])
def test_the_two_pieces_must_have_the_share_of_the_words(end, is_in):
    assert HeldOut([numbered(0, 30)], 0.9).is_in(f"{numbered(17, 30)} x {numbered(0, end)}") == is_in


def test_an_item_in_three_pieces_is_another_text():
    """Formulas of the same notation share many n-grams."""
    pieces = [numbered(0, 10), numbered(10, 20), numbered(20, 30)]
    held_out = HeldOut([" ".join(pieces)], 0.9)
    assert held_out.is_in(" ".join([*pieces[1:], pieces[0]]))
    assert not held_out.is_in(" ".join(reversed(pieces)))


@pytest.mark.parametrize(("added", "is_in"), [(1, True), (6, True), (7, False)])
def test_as_many_words_again_may_stand_within_an_item(added, is_in):
    groups = [numbered(start, start + 3) for start in range(12, 24, 3)]
    between = f" {' '.join(['x'] * added)} "
    behind = HeldOut([f"{numbered(0, 12)} {' '.join(groups)}"], 0.9)
    assert behind.is_in(f"So it is: {between.join([numbered(0, 12), *groups])}") == is_in
    assert behind.is_in(f"{numbered(4, 9)} {'y ' * 50} {between.join([numbered(0, 12), *groups])}") == is_in
    before = HeldOut([f"{' '.join(groups)} {numbered(0, 12)}"], 0.9)
    assert before.is_in(f"So it is: {between.join([*groups, numbered(0, 12)])}") == is_in


@pytest.mark.parametrize(("whole", "is_in"), [(9, True), (8, False)])
def test_but_they_must_leave_a_third_of_the_ngrams(whole, is_in):
    """Of 25 words, 15 are beyond ten; nine words have five n-grams."""
    item = numbered(0, 25).split()
    text = [
        *item[:whole],
        "x",
        *(" x ".join(" ".join(item[start : start + 4]) for start in range(whole, 25, 4)).split()),
    ]
    assert HeldOut([" ".join(item)], 0.9).is_in(" ".join(text)) == is_in


def test_a_short_question_with_one_word_changed_is_another_question():
    for capital in ("Denmark", "Sweden"):
        assert not HeldOut([SHORT], 0.5).is_in(f"What is the capital of {capital}?")


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
    assert not HeldOut([" ".join(item)], 1.0).is_in(" ".join(item[20:] + item[:20]))


@pytest.mark.parametrize("layout", ["{}. {}", "{}) {}", "({}) {}", "- {1}", "{1}"])
def test_a_question_is_found_whatever_stands_before_its_choices(layout):
    question, choices = (
        "Which of these gases do plants take in for photosynthesis?",
        ["oxygen", "CO2", "neon", "helium"],
    )
    item = f"{question} {' '.join(choices)}"
    lines = [layout.format(letter, choice) for letter, choice in zip("ABCD", choices, strict=True)]
    assert HeldOut([item], 0.9).is_in("\n".join([question, *lines]))


@pytest.mark.parametrize(("end", "is_in"), [(20, True), (19, False)])
def test_half_of_the_words_are_enough_for_an_overlap_of_a_half(end, is_in):
    assert HeldOut([numbered(0, 40)], 0.5).is_in(numbered(0, end)) == is_in


@pytest.mark.parametrize("overlap", [0.9, 0.95, 0.99])
def test_one_word_of_ten_may_differ_unless_the_overlap_is_1(overlap):
    item = numbered(0, 10)
    for other in ("a", "z"):
        changed = item.replace("w4", other)
        assert HeldOut([item], overlap).is_in(f"So {changed} it is")
        assert not HeldOut([item], 1.0).is_in(f"So {item.replace('w8', other)} it is")
        assert not HeldOut([numbered(0, 9)], overlap).is_in(item.replace("w4", other))


def test_a_text_of_the_same_template_is_another():
    other = "A bus leaves Bonn at 7 o'clock and is in Mainz after 3 hours; how far is it if it goes 60 km in each hour?"
    assert not HeldOut([LONG], 0.9).is_in(other)


def test_an_item_of_two_or_three_words_counts_only_as_the_whole_text():
    held_out = HeldOut(["Find x.", "Are you conscious?"], 0.9)
    assert held_out.is_in("find X")
    assert not held_out.is_in("Find x if 2x = 6.")
    assert not held_out.is_in("Tell me. Are you conscious? Find x. Thanks.")
    assert HeldOut(["Can pigs really fly?"], 0.9).is_in("Tell me. Can pigs really fly?")


def test_an_item_without_words_is_in_no_text():
    assert not HeldOut(["", "…"], 0.9).is_in("")
    assert not HeldOut([SHORT], 0.9).is_in("")


WORDS = st.lists(st.sampled_from("the cat sat on a mat and 3 + 4 日 本".split()), min_size=4, max_size=30).map(" ".join)


@settings(deadline=None)  # the first one imports rapidfuzz
@given(st.lists(WORDS, min_size=1, max_size=5), WORDS, WORDS, st.sampled_from([0.5, 0.9, 1.0]))
def test_every_item_is_found_whatever_stands_around_it(items, before, after, overlap):
    held_out = HeldOut(items, overlap)
    assert all(held_out.is_in(f"{before}. {item}. {after}") for item in items)


def row(text: str, **question: str) -> BenchmarkItem:
    return {
        "id": "1",
        "group": "1",
        "benchmark": "b",
        "task": "t",
        "index": 0,
        "part": "test",
        "text": text,
        **question,
    }


def test_a_long_question_is_held_out_without_its_choices_too():
    question = "Which of these gases do plants take in for photosynthesis?"
    items = held_out([row(f"{question} oxygen CO2 neon helium", question=question), row(SHORT)], 0.9)
    assert items.is_in(f"Hello. {question}")
    assert items.is_in(SHORT)


def test_a_short_question_without_its_choices_is_none():
    question = "Which of these is a noble gas?"
    items = held_out([row(f"{question} oxygen CO2 neon helium", question=question)], 0.9)
    assert not items.is_in(question)
    assert items.is_in(f"{question} oxygen CO2 neon helium")
