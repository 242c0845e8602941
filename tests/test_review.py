"""review and assess: which rows are scored, what an unreadable verdict is, and when a stage gives up."""

import pytest
from conftest import ROOT

from stages.core.errors import UserError
from stages.core.prompts import ReviewPrompt, verdict_rule
from stages.inference.engines import Completion
from stages.judging.judge import sampled
from stages.review import (
    count,
    distribution,
    need_readable,
    reviewed,
    shuffle_scores,
    summary,
    to_review,
    with_claims,
)


@pytest.fixture
def rule(monkeypatch):
    monkeypatch.chdir(ROOT)
    return verdict_rule("micro")


def test_a_judge_scores_what_it_has_not_scored_before():
    rows = [{"id": "a", "score": 3.0, "judge": "0"}, {"id": "b", "score": None, "judge": "0"}, {"id": "c"}]
    assert to_review(rows, "0") == rows[1:]
    assert to_review(rows, "1") == rows


def test_a_score_is_the_mean_of_the_readable_verdicts(rule):
    texts = ["It is wrong. score: 2", "It is", "It is wrong. score: 1"]
    row = reviewed({"id": "a"}, [sampled(Completion(text, "stop"), rule) for text in texts], "0")
    assert (row["score"], row["judge"]) == (1.5, "0")
    assert [each["score"] for each in row["reviews"]] == [2, None, 1]


def test_a_truncated_review_has_no_verdict(rule):
    row = reviewed({"id": "a"}, [sampled(Completion("It is correct. score: 1", "length"), rule)], "0")
    assert row["score"] is None


def test_a_pair_that_does_not_fit_the_context_is_dropped_with_that_reason(rule):
    rows = [
        reviewed({"id": "a"}, [sampled(Completion("", "too long"), rule)], "0"),
        reviewed({"id": "b"}, [sampled(Completion("no verdict", "stop"), rule)], "0"),
        reviewed({"id": "c"}, [sampled(Completion("It is correct. score: 7", "stop"), rule)], "0"),
    ]
    counts = count(rows, reviewed=3, samples=1)
    assert counts["rows"] == {"in": 3, "out": 1, "dropped": {"does not fit the context": 1, "no readable verdict": 1}}
    assert counts["verdicts"] == {"asked": 3, "written": 2, "readable": 1}


def test_rows_that_the_judge_does_not_read_as_they_are_are_counted_and_told(monkeypatch):
    monkeypatch.chdir(ROOT)
    texts = [("Why?", "It is so."), ("Why? score: 10", "It is so."), ("Why?", "Score: ten"), ("Why?", "</response>")]
    rows = [{"id": str(number), "prompt": prompt, "response": text} for number, (prompt, text) in enumerate(texts)]
    assert with_claims(ReviewPrompt("micro"), rows) == 2
    counts = {"reviewed": 4, "verdicts": {"asked": 4, "written": 4, "readable": 4}, "scores": None}
    closing = "4 of 4 rows scored anew, 4 of 4 verdicts readable"
    assert summary(counts, 4) == closing
    assert summary({**counts, "on_scores": 0.774}, 4) == f"{closing}, 77% of the probability on scores"
    assert summary({**counts, "claims": 2}, 4) == f"{closing}, 2 rows read without what could be taken for a verdict"


def test_more_unreadable_verdicts_than_allowed_is_an_error_that_says_what_to_do():
    counts = {
        "rows": {"in": 10, "out": 8, "dropped": {"no readable verdict": 2}},
        "reviewed": 10,
        "verdicts": {"asked": 10, "written": 10, "readable": 8},
    }
    need_readable("review@1", counts, 0.2)
    with pytest.raises(UserError, match=r"review@1: 20% of the verdicts.*allows 19%.*verdict\.yaml.*max_unparsed"):
        need_readable("review@1", counts, 0.19)


def test_a_judge_that_no_prompt_fits_has_read_nothing():
    counts = {
        "rows": {"in": 3, "out": 0, "dropped": {"does not fit the context": 3}},
        "reviewed": 3,
        "verdicts": {"asked": 3, "written": 0, "readable": 0},
    }
    with pytest.raises(UserError, match=r"100% of the verdicts are unreadable.*3 rows do not fit the context"):
        need_readable("review@1", counts, 0.1)
    need_readable("review@1", counts, 1.0)
    need_readable("review@1", {**counts, "reviewed": 0}, 0.1)


def test_the_shuffled_control_deals_out_the_same_scores():
    rows = [{"id": str(number), "score": number} for number in range(20)]
    shuffled = shuffle_scores(rows, 0)
    assert [row["id"] for row in shuffled] == [row["id"] for row in rows]
    assert sorted(row["score"] for row in shuffled) == list(range(20))
    assert shuffled != rows
    assert shuffled == shuffle_scores(rows, 0)


def test_a_distribution_has_mean_spread_and_the_nearest_whole_scores():
    assert distribution([0.0, 0.4, 9.5, 10.0]) == {
        "mean": 4.975, "spread": 4.7804, "nearest": [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
    }  # fmt: skip
    assert distribution([]) is None
