"""Sampled rows carry their whole way from the seed to the pair."""

from stages.data.lineage import SAMPLE, dropped, lineages

SEEDS = [
    {"id": f"s{n}", "prompt": f"seed {n}", "response": "x", "score": 2.0, "reviews": [{"text": "score: 2"}]}
    for n in range(20)
]


def assessed(number: int, route="new", score=9.0):
    lineage = {"seed": f"s{number}"}
    prompt = f"new {number}" if route == "new" else f"seed {number}"
    reviews = [{"text": f"score: {score}"}, {"text": "another one"}]
    names = {"id": f"{route}{number}", "route": route, "prompt": prompt, "response": f"{route} answer {number}"}
    return {**names, "score": score, "reviews": reviews, "lineage": lineage}


PAIR = {"prompt": "new 3", "chosen": "new answer 3", "rejected": "wrong", "margin": 6.5}


def test_a_row_has_its_seed_the_verdicts_and_what_became_of_it():
    rows = [assessed(3)]
    (found,) = lineages(SEEDS, rows, [PAIR], rows)
    assert found == {
        "route": "new",
        "seed": {"id": "s3", "prompt": "seed 3", "response": "x", "score": 2.0, "review": "score: 2"},
        "instruction": "new 3",
        "response": "new answer 3",
        "score": 9.0,
        "review": "score: 9.0",
        "sft": True,
        "pair": {"chosen": "new answer 3", "rejected": "wrong", "margin": 6.5},
    }


def test_ten_rows_of_both_kinds_each_of_another_seed_those_in_pairs_first():
    rows = [assessed(n) for n in range(20)] + [assessed(n, "flawed", 1.0) for n in range(20)]
    found = lineages(SEEDS, rows, [PAIR], [])
    assert len(found) == SAMPLE
    assert [row["route"] for row in found] == ["new"] * 5 + ["flawed"] * 5
    assert len({(row["route"], row["seed"]["id"]) for row in found}) == SAMPLE
    assert found[0]["pair"]["margin"] == 6.5


def test_own_responses_are_shown_beside_the_other_routes():
    rows = [assessed(n, route) for route in ("flawed", "own", "new") for n in range(20)]
    assert [row["route"] for row in lineages(SEEDS, rows, [], [])] == ["new"] * 5 + ["own"] * 5 + ["flawed"] * 5


def test_the_choice_does_not_depend_on_the_order():
    rows = [assessed(n) for n in range(20)]
    assert lineages(SEEDS, rows, [], []) == lineages(SEEDS[::-1], rows[::-1], [], [])


def test_a_row_without_a_score_or_a_pair_says_so():
    (found,) = lineages(SEEDS, [{**assessed(1), "score": None, "reviews": []}], [], [])
    assert (found["score"], found["review"], found["pair"], found["sft"]) == (None, None, None, False)


def test_dropped_rows_keep_their_reason():
    rows = [{"id": f"{n:02}", "route": "new", "prompt": "p", "response": "r", "reason": "too long"} for n in range(30)]
    assert dropped(rows) == [{"route": "new", "prompt": "p", "response": "r", "reason": "too long"}] * SAMPLE


def test_dropped_rows_are_sampled_by_their_id_and_not_by_their_place():
    rows = [{"id": f"{n:02}", "route": "new", "prompt": str(n), "response": "r", "reason": "x"} for n in range(30)]
    assert [row["prompt"] for row in dropped(rows[::-1])] == [str(n) for n in range(SAMPLE)]
