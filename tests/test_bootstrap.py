"""The difference of two iterations on the same items: its interval covers the truth, and pairing narrows it."""

import random

import pytest

from stages.evaluation.bootstrap import difference, mean_score, of_one_group


def rows(scores: list[float], benchmark="b"):
    names = [f"{benchmark}{item}" for item in range(len(scores))]
    return [
        {"id": name, "group": name, "benchmark": benchmark, "score": score}
        for name, score in zip(names, scores, strict=True)
    ]


def test_the_points_are_the_difference_of_the_means_over_benchmarks():
    before = rows([0, 0, 1, 1], "a") + rows([0, 0], "b")
    after = rows([1, 0, 1, 1], "a") + rows([1, 1], "b")
    assert difference(after, before).points == pytest.approx((25 + 100) / 2)
    assert mean_score(after) - mean_score(before) == pytest.approx(difference(after, before).points)


def test_the_same_scores_differ_by_nothing():
    gain = difference(rows([0, 1, 1]), rows([0, 1, 1]))
    assert (gain.points, gain.low, gain.high) == (0, 0, 0)


def test_only_the_same_items_can_be_compared():
    with pytest.raises(ValueError, match="same items"):
        difference(rows([0, 1]), rows([0, 1, 1]))


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
def test_a_benchmark_of_one_group_gives_points_without_an_interval(score):
    """A single item, or items of a single group, beside a benchmark that has enough."""
    many, one = rows([0, 1, 1, 0], "a"), rows([0], "b")
    copies = [{**one[0], "id": f"copy {copy}"} for copy in range(3)]
    for single in (one, copies):
        after = [{**row, "score": score} for row in single]
        gain = difference(many + after, many + single)
        assert (gain.points, gain.low, gain.high) == (100 * score / 2, None, None)
        assert not gain.is_gain
        assert not gain.is_loss
    assert of_one_group(many + copies) == ["b"]
    assert of_one_group(many) == []


def test_a_gain_or_a_loss_is_one_whose_whole_interval_is():
    worse, better = rows([0] * 50), rows([1] * 50)
    assert (difference(better, worse).is_gain, difference(better, worse).is_loss) == (True, False)
    assert (difference(worse, better).is_gain, difference(worse, better).is_loss) == (False, True)


def test_the_order_of_the_items_does_not_matter():
    draw = random.Random(0)
    before, after = ([draw.random() for _ in range(50)] for _ in range(2))
    assert difference(rows(after)[::-1], rows(before)) == difference(rows(after), rows(before))


def test_pairing_narrows_the_interval_to_what_changed():
    """Ten of 200 items got better: independent scores would have an interval of ±10 points."""
    before = [item % 2 for item in range(200)]
    after = [1 if item < 20 else score for item, score in enumerate(before)]
    gain = difference(rows(after), rows(before))
    assert gain.points == pytest.approx(5)
    assert 1.5 < gain.low < 3
    assert 7 < gain.high < 8.5


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """True difference 5 points; of 200 experiments about 95 % have an interval that covers it."""
    draw, covered = random.Random(1), 0
    for _ in range(200):
        before = [draw.random() < 0.6 for _ in range(150)]
        after = [score if draw.random() < 0.75 else draw.random() < 0.8 for score in before]
        gain = difference(rows(after), rows(before))
        covered += gain.low <= 5 <= gain.high
    assert 0.9 < covered / 200 < 0.99


def test_items_of_a_group_are_drawn_together():
    """Eleven copies of each of 40 problems, as in eleven languages: no more evidence than the 40 problems are."""
    draw = random.Random(2)
    before, after = ([float(draw.random() < 0.5) for _ in range(40)] for _ in range(2))
    gain = difference(rows(after), rows(before))
    many = [
        [{**row, "id": f"{row['id']} {copy}"} for row in rows(scores) for copy in range(11)]
        for scores in (after, before)
    ]
    together = difference(*many)
    assert together.points == pytest.approx(gain.points, abs=1e-3)
    assert together.low == pytest.approx(gain.low, abs=1)
    assert together.high == pytest.approx(gain.high, abs=1)
    alone = difference(*([{**row, "group": row["id"]} for row in side] for side in many))
    assert alone.high - alone.low < 0.5 * (together.high - together.low)
