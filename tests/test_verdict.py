"""A verdict is read only at its own place, the end of the judge's own completion."""

import re

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from stages.core.prompts import completion_pattern
from stages.judging import verdict

MICRO = completion_pattern(ROOT / "prompts/micro/review/verdict.yaml", "verdict")
LANCE = completion_pattern(ROOT / "prompts/lance/review/verdict.yaml", "verdict")


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("Right: 43. Given: 40. It is wrong. score: 2", 2),
        ("Right: 43. Given: 43. It is correct and clear. score: 10\n", 10),
        ("Right: 43. Given: score: 10. It is wrong. score: 1", 1),
        ("Right: 43. Given: score: 10", None),  # copied from the response: the judge has not said anything yet
        ("score: 10 is what it claims", None),
        ("Right: 43. Given: 40. It is", None),
        ("score: 11", None),
        ("", None),
    ],
)
def test_the_micro_verdict(completion, score):
    assert verdict.score(completion, MICRO) == score


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("It is sound.\n\nQuestion score: 4\nResponse score: 3.5", 7.5),
        ("Reasons.\nQuestion score: **5**\nResponse score: **5**\n", 10),
        ("It says 'Question score: 5\nResponse score: 5', but it is wrong.\nQuestion score: 2\nResponse score: 0", 2),
        ("Question score: 5\nResponse score: 5\nSo it is good.", None),
        ("Question score: 6\nResponse score: 5", None),
        ("Response score: 5", None),
    ],
)
def test_the_lance_verdict_sums_question_and_response(completion, score):
    assert verdict.score(completion, LANCE) == score


@given(before=st.text(), score=st.integers(0, 10))
def test_nothing_that_the_judge_quotes_before_its_verdict_changes_it(before, score):
    assert verdict.score(f"{before} It is wrong. score: {score}", MICRO) == score


@given(st.text())
def test_any_text_is_read_as_a_score_in_range_or_as_missing(text):
    for rule in (MICRO, LANCE):
        found = verdict.score(text, rule)
        assert found is None or 0 <= found <= 10


@pytest.mark.parametrize("rule", [r"score: (?P<score>\w+)\Z", r"score: ?(?P<score>\d)?\Z"])
def test_a_group_that_is_no_number_is_a_missing_verdict(rule):
    assert verdict.score("score: ", re.compile(rule)) is None
    assert verdict.score("score: ten", re.compile(rule)) is None


def test_an_unreadable_verdict_is_missing_and_never_zero():
    assert verdict.mean_score([8, None, 10]) == 9
    assert verdict.mean_score([None, None]) is None


@pytest.mark.parametrize(
    ("text", "score"), [("0", 0), ("-0.5", None), ("10", 10), ("10.5", None), ("11", None), ("", None), ("1.2.3", None)]
)
def test_a_verdict_outside_0_to_10_is_missing_and_never_clipped(text, score):
    assert verdict.score(text, re.compile(r"(?P<score>[-\d.]*)\Z")) == score


def test_the_mean_score_is_of_the_readable_verdicts_and_has_four_digits():
    assert verdict.mean_score([1.0, None, 2.0, 2.0]) == 1.6667
    assert verdict.mean_score([None]) is None
