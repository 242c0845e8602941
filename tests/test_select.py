"""select: SFT rows, preference pairs, the grown seed set and the replay, all with their lineage."""

import pytest

from stages.core.records import Tally
from stages.select import added, pairs_of, pools, preference_pairs, rescored, seed_rows, sft_rows

ORIGINAL = {"id": "s", "prompt": "Is 4 even or odd?", "response": "is even", "score": 9.0}


def assessed(name, score, route="new", prompt="Is 5 even or odd?"):
    return {
        "id": name, "route": route, "prompt": prompt, "response": f"response {name}", "score": score, "judge": "0",
        "seed": ORIGINAL, "lineage": {"seed": "s"},
        "reviews": [{"text": f"score: {score}", "score": score, "written": score}] * 3,
    }  # fmt: skip


SEED = {**ORIGINAL, "score": None, "iteration": "0"}
REVIEWED = {**SEED, "score": 9.0, "judge": "0", "reviews": [{"text": "score: 9", "score": 9.0, "written": 9.0}]}


def test_an_sft_row_is_a_new_pair_scored_above_and_not_at_the_bound():
    rows = [assessed("a", 8.1), assessed("b", 8.0), assessed("c", None), assessed("d", 9.0, route="flawed")]
    tally = Tally(len(rows))
    (row,) = sft_rows(rows, "1", 8.0, tally)
    assert tally.counts(1)["dropped"] == {"flawed on purpose": 1, "not above select.min_sft_score": 1, "unscored": 1}
    assert row["completion"] == "response a"
    assert row["lineage"] == {"seed": "s", "score": 8.1, "verdicts": [8.1] * 3}


def test_rejected_is_the_lowest_and_chosen_every_one_that_leads_by_more_than_the_margin():
    pool = [assessed("a", 9.0), assessed("b", 3.0), assessed("c", 1.0), assessed("d", 3.1)]
    assert [(chosen["id"], rejected["id"]) for chosen, rejected in pairs_of(pool, 2.0)] == [("a", "c"), ("d", "c")]


def test_the_pool_of_a_high_seed_is_the_original_and_its_flawed_responses():
    rows = [assessed("f", 2.0, "flawed", SEED["prompt"]), assessed("g", 8.0, "flawed", SEED["prompt"])]
    (pool,) = pools([REVIEWED], rows).values()
    assert [row["id"] for row in pool] == ["s", "f", "g"]
    tally = Tally(3)
    pairs = preference_pairs(pools([REVIEWED], rows), "1", 2.0, tally)
    assert tally.counts(2)["dropped"] == {"the rejected one of its pool": 1}
    assert {(pair["chosen"], pair["rejected"]) for pair in pairs} == {
        ("is even", "response f"),
        ("response g", "response f"),
    }
    assert pairs[0]["lineage"]["rejected"] == {"seed": "s", "score": 2.0, "verdicts": [2.0] * 3}


def test_an_unscored_row_is_in_no_pool():
    assert pools([REVIEWED], [assessed("a", None)]) == {}


def test_two_seeds_of_one_instruction_both_bring_their_original():
    other = {**REVIEWED, "id": "s2", "response": "is odd", "score": 1.0}
    flawed = [
        assessed(name, 5.0, "flawed", SEED["prompt"])
        | {"lineage": {"seed": seed["id"]}, "seed": {key: seed[key] for key in ORIGINAL}}
        for name, seed in (("f", REVIEWED), ("g", other))
    ]
    (pool,) = pools([REVIEWED, other], flawed).values()
    assert [row["id"] for row in pool] == ["s", "f", "s2", "g"]


def test_the_bounds_keep_the_same_rows_when_more_come():
    rows = [{"id": str(number)} for number in range(10)]
    assert added([], rows[:5], 3, Tally(5)) == added([], rows, 3, Tally(10)) == rows[:3]


def test_rows_that_add_up_over_the_iterations_have_no_doubles():
    tally = Tally(2)
    assert added([{"id": "a"}], [{"id": "a"}, {"id": "b"}], 9, tally) == [{"id": "a"}, {"id": "b"}]
    assert tally.counts(1)["dropped"] == {"there already": 1}


def test_the_seed_set_grows_by_each_new_instruction_with_its_best_response():
    rows = [assessed("a", 3.0), assessed("b", 9.0), assessed("c", None, prompt="q"), assessed("f", 9.0, "flawed")]
    tally = Tally(4)
    (row,) = seed_rows(rows, "1", tally)
    assert (row["id"], row["score"], row["iteration"]) == ("b", 9.0, "1")
    assert tally.counts(1)["in"] == 4


def test_a_seed_row_carries_its_newest_score_and_keeps_its_verdicts_when_it_is_not_reviewed_again():
    (once,) = rescored([SEED], [REVIEWED])
    assert (once["score"], once["judge"], once["verdicts"]) == (9.0, "0", [9.0])
    (again,) = rescored([once], [{**once, "reviews": []}])
    assert (again["score"], again["verdicts"]) == (9.0, [9.0])


@pytest.mark.parametrize("score", [None, 9.0])
def test_no_pair_without_a_margin(score):
    assert preference_pairs(pools([], [assessed("a", 9.0), assessed("b", score)]), "1", 2.0, Tally(2)) == []
