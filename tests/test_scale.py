"""review.scale: what a score is compared by, as it is or by its rank in the judge's own distribution."""

from hypothesis import given
from hypothesis import strategies as st

from stages.data.scale import absolute, quantile, ranks, scale_of

known = st.floats(0, 10)
distributions = st.lists(st.none() | known, min_size=1).filter(any)


def test_a_rank_is_ten_times_the_share_of_lower_scores():
    rank = quantile([6.1, 6.2, 6.3, 6.4, None])
    assert [rank(score) for score in (6.1, 6.2, 6.3, 6.4)] == [0.0, 2.5, 5.0, 7.5]


def test_a_threshold_of_7_is_passed_above_70_percent_of_the_scores():
    scores = [6 + number / 1000 for number in range(100)]
    above = [score for score in scores if quantile(scores)(score) > 7]
    assert above == scores[71:]  # 70 lie below scores[70], which is not above more than 70 % of them


def test_equal_scores_have_equal_ranks_and_of_nothing_but_equals_none_is_above_any():
    rank = quantile([3.0, 5.0, 5.0, 5.0, 9.0])
    assert [rank(score) for score in (3.0, 5.0, 9.0)] == [0.0, 2.0, 8.0]
    assert quantile([8.0] * 9)(8.0) == 0.0


@given(distributions)
def test_ranks_keep_the_order_and_lie_from_0_to_below_10(scores):
    rank = quantile(scores)
    ordered = sorted({score for score in scores if score is not None})
    ranked = [rank(score) for score in ordered]
    assert ranked == sorted(set(ranked))
    assert ranked[0] == 0.0
    assert ranked[-1] < 10


@given(distributions)
def test_a_rank_depends_on_the_order_alone(scores):
    """Not on where the judge's scores lie, nor on how far apart, nor on the order of the rows."""
    squeezed = [None if score is None else int(score * 2**20) for score in scores]
    moved = [None if score is None else score + 2**20 for score in squeezed]
    some = next(score for score in squeezed if score is not None)
    assert quantile(squeezed)(some) == quantile(moved[::-1])(some + 2**20)


def test_absolute_is_the_score_itself_and_has_no_distribution():
    assert scale_of("absolute", [1.0, 9.0])(7.3) == absolute(7.3) == 7.3
    assert ranks("absolute", [1.0, 9.0]) is None


def test_the_counts_say_how_many_scores_are_ranked_and_how_many_are_equal():
    assert ranks("quantile", [5.0, 5.0, 6.0, None]) == {"scores": 3, "same": 0.6667}
    assert ranks("quantile", [None]) is None
