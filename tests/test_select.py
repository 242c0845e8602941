"""select: SFT rows, preference pairs, the grown seed set and the replay, all with their lineage."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from stages.core.records import Tally, content_id, read, write
from stages.data.growth import added, by_content, counted
from stages.data.preference_pairs import pools, preference_pairs
from stages.data.scale import absolute, quantile
from stages.select import earlier_rows, judge_rows, main, rescored, seed_rows, sft_rows

ORIGINAL = {"id": "s", "prompt": "Is 4 even or odd?", "response": "is even", "score": 9.0}


def assessed(name, score, route="new", prompt="Is 5 even or odd?"):
    return {
        "id": name, "route": route, "prompt": prompt, "response": f"response {name}", "score": score, "judge": "0",
        "seed": ORIGINAL, "lineage": {"seed": "s"},
        "reviews": [{"text": f"score: {score}", "score": score, "written": score}] * 3,
    }  # fmt: skip


SEED = {**ORIGINAL, "score": None, "iteration": "0"}
REVIEWED = {**SEED, "score": 9.0, "judge": "0", "reviews": [{"text": "score: 9", "score": 9.0, "written": 9.0}]}


def paired(rows, *rule, min_margin=2.0, dropped=None):
    """(chosen, rejected) of each pair by the rows' names; `dropped`: what the tally must say of the others."""
    tally = Tally(len(rows))
    pairs = preference_pairs(pools([], rows), "1", min_margin, tally, absolute, *rule)
    counts = tally.counts(len(pairs))
    assert dropped is None or counts["dropped"] == dropped
    return [(pair["chosen"].split()[-1], pair["rejected"].split()[-1]) for pair in pairs]


def test_an_sft_row_is_a_new_pair_scored_above_and_not_at_the_bound():
    rows = [assessed("a", 8.1), assessed("b", 8.0), assessed("c", None), assessed("d", 9.0, route="flawed")]
    tally = Tally(len(rows))
    (row,) = sft_rows(rows, "1", 8.0, tally)
    assert tally.counts(1)["dropped"] == {"flawed on purpose": 1, "not above select.min_sft_score": 1, "unscored": 1}
    assert row["completion"] == "response a"
    assert row["lineage"] == {"seed": "s", "score": 8.1, "verdicts": [8.1] * 3}


def test_rejected_is_the_lowest_and_chosen_every_one_that_leads_by_more_than_the_margin():
    pool = [assessed("a", 9.0), assessed("b", 3.0), assessed("c", 1.0), assessed("d", 3.1)]
    assert paired(pool) == [("a", "c"), ("d", "c")]


def test_on_the_scale_of_ranks_score_and_margin_are_ranks_and_the_rows_keep_their_scores():
    """Of ten scores within 0.3, the ranks 9 and 8 lie above 8 and 7.9, and lead the lowest by more than 7."""
    rows = [assessed(name, 6 + number / 30) for number, name in enumerate("abcdefghij")]
    rank = quantile(row["score"] for row in rows)
    (best,) = sft_rows(rows, "1", 8.0, Tally(10), rank)
    assert (best["id"], best["lineage"]["score"]) == ("j", rows[9]["score"])
    pairs = preference_pairs(pools([], rows), "1", 7.0, Tally(10), rank)
    assert [(pair["chosen"], pair["margin"]) for pair in pairs] == [("response i", 8.0), ("response j", 9.0)]
    assert sft_rows(rows, "1", 8.0, Tally(10)) == []
    assert preference_pairs(pools([], rows), "1", 7.0, Tally(10)) == []


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


def own(name, score, seed_score=9.0):
    source = {**ORIGINAL, "score": seed_score}
    return assessed(name, score, "own", source["prompt"]) | {"seed": source}


def test_an_own_response_is_an_sft_row_by_its_score_and_no_new_seed():
    rows = [own("a", 8.1), own("b", 8.0), own("c", None), assessed("n", 9.0)]
    tally, seed_tally = Tally(4), Tally(4)
    sft = sft_rows(rows, "1", 8.0, tally)
    assert [(row["id"], row["kind"], row["prompt"]) for row in sft] == [
        ("a", "own", ORIGINAL["prompt"]), ("n", "new", "Is 5 even or odd?"),
    ]  # fmt: skip
    assert tally.counts(2)["dropped"] == {"not above select.min_sft_score": 1, "unscored": 1}
    assert [row["id"] for row in seed_rows(rows, "1", seed_tally)] == ["n"]
    assert seed_tally.counts(1)["dropped"] == {"answers a seed's own prompt": 3}


def test_a_seeds_pool_has_its_original_once_beside_own_and_flawed_responses():
    rows = [own("a", 9.0), own("b", 1.0), assessed("f", 2.0, "flawed", SEED["prompt"])]
    (pool,) = pools([REVIEWED], rows).values()
    assert [row["id"] for row in pool] == ["s", "a", "b", "f"]
    pairs = preference_pairs(pools([REVIEWED], rows), "1", 2.0, Tally(4))
    assert {(pair["chosen"], pair["rejected"]) for pair in pairs} == {
        ("is even", "response b"), ("response a", "response b"),
    }  # fmt: skip


def test_an_own_response_that_is_the_original_is_in_the_pool_once_and_may_be_an_sft_row():
    same = own("s", 9.0) | {"response": ORIGINAL["response"]}
    rows = [own("b", 1.0), same]
    (pool,) = pools([REVIEWED], rows).values()
    assert [row["id"] for row in pool] == ["s", "b"]
    assert [row["id"] for row in sft_rows(rows, "1", 8.0, Tally(2))] == ["s"]


def test_an_unscored_seeds_own_responses_are_compared_among_themselves():
    unscored = {**REVIEWED, "score": None}
    rows = [own("a", 9.0, None), own("b", 1.0, None), own("s", 8.0, None)]
    (pool,) = pools([unscored], rows).values()
    assert [row["id"] for row in pool] == ["a", "b", "s"]


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
    rows = [assessed("a", 3.0), assessed("b", 9.0), assessed("c", None, prompt="q")]
    flawed = [assessed("f", 9.5, "flawed"), assessed("g", 9.5, "flawed", SEED["prompt"])]
    tally = Tally(5)
    (row,) = seed_rows(rows + flawed, "1", tally)
    assert (row["id"], row["score"], row["iteration"]) == ("b", 9.0, "1")
    assert tally.counts(1)["dropped"] == {
        "flawed on purpose": 2, "not the best response to its instruction": 1, "unscored": 1,
    }  # fmt: skip


def test_a_seed_row_carries_its_newest_score_and_keeps_its_verdicts_when_it_is_not_reviewed_again():
    (once,) = rescored([SEED], [REVIEWED])
    assert (once["score"], once["judge"], once["verdicts"]) == (9.0, "0", [9.0])
    (again,) = rescored([once], [{**once, "reviews": []}])
    assert (again["score"], again["verdicts"]) == (9.0, [9.0])


@pytest.mark.parametrize("score", [None, 9.0])
def test_no_pair_without_a_margin(score):
    assert preference_pairs(pools([], [assessed("a", 9.0), assessed("b", score)]), "1", 2.0, Tally(2)) == []


def test_a_choice_goes_by_the_id_and_not_by_the_place():
    assert by_content([{"id": "b"}, {"id": "c"}, {"id": "a"}], 2) == [{"id": "a"}, {"id": "b"}]


def test_what_an_earlier_iteration_replayed_is_not_accumulated(tmp_path):
    write(tmp_path / "sft.jsonl", [{"id": kind, "kind": kind} for kind in ("seed", "new", "own", "judge")])
    write(tmp_path / "pairs.jsonl", [{"id": "p"}])
    assert earlier_rows(tmp_path) == ([{"id": kind, "kind": kind} for kind in ("new", "own")], [{"id": "p"}])


@pytest.mark.parametrize(("scores", "best"), [((3.0, 9.0), "b"), ((9.0, 3.0), "a"), ((9.0, 9.0), "a")])
def test_a_new_seed_has_the_best_response_and_the_first_of_equals(scores, best):
    rows = [assessed(name, score) for name, score in zip("ab", scores, strict=True)]
    tally = Tally(2)
    (row,) = seed_rows(rows, "1", tally)
    assert row["id"] == best
    assert tally.counts(1)["dropped"] == {"not the best response to its instruction": 1}
    assert row["verdicts"] == [max(scores)] * 3


def test_of_equal_scores_the_rejected_one_goes_by_its_id():
    pool = [assessed("b", 1.0), assessed("a", 1.0), assessed("c", 9.0)]
    assert paired(pool) == [("c", "a")]


def test_a_lead_of_exactly_the_margin_is_no_pair_and_the_margin_has_four_digits():
    rows = [assessed("a", 1.0), assessed("b", 3.0), assessed("c", 8.66667), assessed("d", 2.0)]
    tally = Tally(4)
    (pair,) = preference_pairs(pools([], rows), "1", 2.0, tally)
    assert (pair["chosen"], pair["rejected"], pair["margin"]) == ("response c", "response a", 7.6667)
    assert tally.counts(1)["dropped"] == {
        "the rejected one of its pool": 1,
        "does not lead by more than select.min_margin": 2,
    }


@pytest.mark.parametrize(("high", "low"), [(4.3333, 2.3333), (5.3333, 3.3333), (8.6667, 6.6667), (9.6667, 7.6667)])
def test_a_margin_that_is_written_as_the_bound_is_not_above_it(high, low):
    """Means of three verdicts, whose difference is 2.0000000000000004 in floating point."""
    assert high - low > 2.0
    rows = [assessed("a", high), assessed("b", low)]
    assert paired(rows) == paired(rows, "extremes") == []
    assert paired(rows, min_margin=1.9999) == paired(rows, "extremes", min_margin=1.9999) == [("a", "b")]


def test_of_the_extremes_only_the_best_and_the_worst_of_a_prompt_are_a_pair():
    rows = [
        assessed("a", 8.0),
        assessed("b", 9.0),
        assessed("c", 1.0),
        assessed("d", 3.1),
        assessed("e", 9.0, prompt="q"),
    ]
    others = {"neither the best nor the worst of its pool": 2, "the rejected one of its pool": 2}
    assert paired(rows, "extremes", dropped=others) == [("b", "c")]


def test_of_equal_extremes_the_ids_choose_on_either_side():
    rows = [assessed(name, score) for name, score in zip("dbcagef", (9.0, 9.0, 9.0, 1.0, 1.0, 5.0, 1.0), strict=True)]
    assert paired(rows, "extremes") == paired(rows[::-1], "extremes") == [("b", "a")]


def test_extremes_that_do_not_differ_by_more_than_the_margin_are_no_pair():
    no_lead = {"does not lead by more than select.min_margin": 1, "the rejected one of its pool": 1}
    for scores in ((5.0, 3.0), (5.0, 5.0)):
        rows = [assessed(name, score) for name, score in zip("ab", scores, strict=True)]
        assert paired(rows, "extremes", dropped=no_lead) == []
    rows = [assessed("a", 5.0), assessed("b", 5.0), assessed("c", 5.0)]
    others = no_lead | {"neither the best nor the worst of its pool": 1}
    assert paired(rows, "extremes", min_margin=0.0, dropped=others) == []


@pytest.mark.parametrize(
    ("answers", "pairs"),
    [
        ({"a": "5", "b": "5"}, []),
        ({"a": "5", "b": "6"}, [("a", "b")]),
        ({"a": "5"}, [("a", "b")]),
        ({}, [("a", "b")]),  # neither can be read: nobody knows whether they are the same
    ],
)
def test_extremes_with_the_same_final_answer_are_no_pair_and_the_next_best_is_not_tried(answers, pairs):
    rows = [assessed("a", 9.0), assessed("b", 1.0), assessed("c", 8.0)]
    same = {
        "neither the best nor the worst of its pool": 1, "same final answer as the rejected one": 1,
        "the rejected one of its pool": 1,
    }  # fmt: skip
    rule = ("extremes", lambda response: answers.get(response[-1]))
    assert paired(rows, *rule, dropped=None if pairs else same) == pairs


@given(st.lists(st.sampled_from([0.0, 3.3333, 5.3333, 9.0]), min_size=1), st.sampled_from([0.0, 2.0, 3.6667]))
def test_extremes_are_at_most_one_pair_with_the_largest_margin_of_all_pairs(scores, min_margin):
    rows = [assessed(f"{number:02}", score) for number, score in enumerate(scores)]
    every = preference_pairs(pools([], rows), "1", min_margin, Tally(len(rows)))
    extreme = preference_pairs(pools([], rows), "1", min_margin, Tally(len(rows)), absolute, "extremes")
    assert len(extreme) == bool(every)
    assert [pair["margin"] for pair in extreme] == [max(pair["margin"] for pair in every) for _ in extreme]
    assert all(pair in every for pair in extreme)


def test_over_a_bound_is_counted():
    rows = [{"id": str(number)} for number in range(9)]
    tally, replayed = Tally(9), Tally(9)
    assert len(added([], rows, 3, tally)) == 3
    assert tally.counts(3)["dropped"] == {"over the bound": 6}
    assert len(judge_rows(rows, 4, replayed)) == 4
    assert replayed.counts(4)["dropped"] == {"over select.max_judge": 5}


def test_counts_tell_new_rows_from_earlier_ones():
    tally = Tally(4)
    tally.drop("unscored")
    assert counted(tally, 2, 5) == {"new": 3, "earlier": 2, "total": 5, "in": 4, "out": 3, "dropped": {"unscored": 1}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where iteration 1 may be selected: two responses to a new instruction, a flawed one to a high seed's, and an
    earlier row of each set."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    sft = [{"id": "old", "kind": "new"}, {"id": "j", "kind": "judge"}]
    candidates = [assessed("a", 9.0), assessed("b", 3.0), assessed("f", 2.0, "flawed", SEED["prompt"])]
    files = {
        "0/judge.jsonl": [{"id": "j", "kind": "judge"}], "0/seed.jsonl": [SEED], "0/sft.jsonl": sft,
        "0/pairs.jsonl": [{"id": "old", "prompt": "q", "chosen": "c", "rejected": "r", "margin": 3.0}],
        "1/review.jsonl": [REVIEWED], "1/assess.jsonl": candidates, "1/generated.jsonl": candidates,
    }  # fmt: skip
    shutil.copytree(ROOT / "prompts", tmp_path / "prompts")
    for name, rows in files.items():
        write(Path("iterations", name), rows)
    return tmp_path


def select_iteration_1():
    here = Path("iterations/1")
    main(here / "review.jsonl", here / "generated.jsonl", here / "assess.jsonl", Path("iterations/0"), here)
    rows = {name: [row["id"] for row in read(here / f"{name}.jsonl", dict)] for name in ("sft", "pairs", "seed")}
    counts = json.loads(Path("results/1/select.json").read_text())
    outcomes_are_counted(read(here / "outcomes.jsonl", dict), counts)
    return rows, counts


def outcomes_are_counted(outcomes, counts):
    """Contract: select says of every row what it says of their number."""
    tallies = {step: counts[step] for step in ("sft", "pairs", "seed")}
    if "screening" in counts:
        tallies["candidates"] = counts["screening"]["candidates"]
    assert {step for row in outcomes for step in row["steps"]} <= set(tallies)
    for step, tally in tallies.items():
        fate = Counter(row["steps"][step] for row in outcomes if step in row["steps"])
        assert (fate.total(), fate.pop(None, 0), fate) == (tally["in"], tally["out"], tally["dropped"])


def test_an_iteration_trains_on_its_own_rows_and_those_that_it_replays(folder, capsys):
    rows, counts = select_iteration_1()
    assert (rows["sft"], rows["seed"]) == (["a", "j"], ["s", "a"])
    pairs = {(pair["chosen"], pair["rejected"]) for pair in read(Path("iterations/1/pairs.jsonl"), dict)}
    assert pairs == {("response a", "response b"), ("is even", "response f")}
    totals = {name: (counts[name]["new"], counts[name]["earlier"], counts[name]["total"]) for name in rows}
    assert totals == {"sft": (1, 0, 1), "pairs": (2, 0, 2), "seed": (1, 1, 2)}
    assert counts["replayed_judge_training"] == {"in": 1, "out": 1, "dropped": {}}
    assert [example["sft"] for example in counts["examples"]] == [True, False]
    assert capsys.readouterr().out == "select@1: 1 SFT rows, 2 pairs, 2 seeds\n"


def test_every_row_has_its_reason_in_each_set_and_a_response_the_reason_of_its_pair(folder):
    """Of the two pairs one is left out by the bound: its chosen response has that reason."""
    set_select(folder, max_pairs="1")
    select_iteration_1()
    fates = {row["id"]: row["steps"] for row in read(Path("iterations/1/outcomes.jsonl"), dict)}
    assert fates["b"] == {
        "sft": "not above select.min_sft_score",
        "pairs": "the rejected one of its pool",
        "seed": "not the best response to its instruction",
    }
    assert {fates["a"]["pairs"], fates["s"]["pairs"]} == {None, "over the bound"}
    assert (fates["a"]["sft"], fates["a"]["seed"], set(fates["s"])) == (None, None, {"pairs"})


def test_of_the_responses_to_an_instruction_the_reason_is_that_of_the_worse_one_whatever_their_order(folder):
    rows = [assessed("b", 3.0), assessed("a", 9.0), assessed("c", 9.0)]
    write(Path("iterations/1/assess.jsonl"), rows)
    select_iteration_1()
    fates = {row["id"]: row["steps"]["seed"] for row in read(Path("iterations/1/outcomes.jsonl"), dict)}
    not_best = "not the best response to its instruction"
    assert fates == {"a": None, "b": not_best, "c": not_best}


def test_rows_and_pairs_of_earlier_iterations_are_added_where_they_accumulate(folder):
    params = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(params.replace("accumulate: false", "accumulate: true"))
    rows, counts = select_iteration_1()
    assert rows["sft"] == ["old", "a", "j"]
    assert rows["pairs"][0] == "old"
    assert [counts[name]["earlier"] for name in ("sft", "pairs")] == [1, 1]


def test_ranks_are_those_among_the_reviewed_seeds_and_the_assessed_rows_of_the_iteration(folder):
    """Four scores, two of them the same 9.0 above the others: both have the rank 5."""
    params = (folder / "params.yaml").read_text()
    for score, selected in (("4.9", ["a", "j"]), ("5.0", ["j"])):
        text = params.replace("scale: absolute", "scale: quantile").replace(
            "min_sft_score: 8.0", f"min_sft_score: {score}"
        )
        (folder / "params.yaml").write_text(text)
        rows, counts = select_iteration_1()
        assert rows["sft"] == selected
        assert counts["ranks"] == {"scores": 4, "same": 0.5}
    margins = [pair["margin"] for pair in read(Path("iterations/1/pairs.jsonl"), dict)]
    assert margins == [2.5, 5.0]  # ranks 5 over 2.5, and 5 over 0


def set_select(folder, **values):
    """params.yaml with these values in the section `select`."""
    params = (folder / "params.yaml").read_text(encoding="utf-8")
    for name, value in values.items():
        params, number = re.subn(rf"(?m)^(  {name}:) \S+", rf"\1 {value}", params)
        assert number == 1
    (folder / "params.yaml").write_text(params, encoding="utf-8")


def responses(prompt, *texts, score=9.0, route="new"):
    """A candidate for each text, with an identity of its own as generate gives it."""
    return [
        assessed(content_id(prompt, text), score, route, prompt) | {"response": text, "lineage": {"seed": "s"}}
        for text in texts
    ]


def test_an_instruction_outside_of_the_band_is_in_none_of_the_sets(folder):
    """Three of five agree on q1, all on q2, a quarter on q3; q4 has one answer that can be read. Equal responses, of
    which the filter keeps one, have their votes: without them one of three would agree on q1. Flawed ones have none."""
    generated = [
        *responses("q1", "is 5", "is 5", "is 5", "is 6", "is 7"),
        *responses("q2", "is 5", "is 5", "maybe 5", "guess 5"),
        *responses("q3", "is 1", "is 2", "is 3", "is 4"),
        *responses("q4", "is 1", "who knows", "no idea"),
        *responses("q2", "is 7", score=1.0, route="flawed"),
        *responses(SEED["prompt"], "is odd", score=2.0, route="flawed"),
    ]
    kept = list({row["id"]: row for row in generated}.values())
    write(Path("iterations/1/generated.jsonl"), generated)
    write(Path("iterations/1/assess.jsonl"), kept)
    set_select(folder, agreement="[0.5, 0.9]")
    _, counts = select_iteration_1()
    assert counts["screening"] == {
        "candidates": {
            "in": 15, "out": 7,
            "dropped": {"agreement above select.agreement": 4, "agreement below select.agreement": 4},
        },
        "agreement": {"instructions": 4, "below": 1, "above": 1, "unknown": 1},
    }  # fmt: skip
    rows = {name: read(Path(f"iterations/1/{name}.jsonl"), dict) for name in ("sft", "seed", "pairs")}
    assert {row["prompt"] for row in rows["sft"] if row["kind"] == "new"} == {"q1", "q4"}
    assert {row["prompt"] for row in rows["seed"]} == {"q1", "q4", SEED["prompt"]}
    assert {row["prompt"] for row in rows["pairs"]} == {SEED["prompt"]}


def test_the_examples_of_the_report_may_be_of_an_instruction_that_is_dropped(folder):
    rows = responses("q", "is 1", "is 2", "is 3")
    for name in ("generated", "assess"):
        write(Path(f"iterations/1/{name}.jsonl"), rows)
    set_select(folder, agreement="[0.5, 0.9]")
    _, counts = select_iteration_1()
    assert [(example["instruction"], example["sft"]) for example in counts["examples"]] == [("q", False)]


def test_without_a_band_and_a_spread_nothing_is_screened_and_the_counts_are_as_before(folder):
    _, counts = select_iteration_1()
    assert "screening" not in counts


def test_a_row_of_which_the_judge_is_undecided_is_in_none_of_the_sets_and_a_seeds_own_in_no_pair(folder):
    """Verdicts of 7 and 10 are 1.5 from their mean."""

    def verdicts(*scores):
        return {"reviews": [{"text": "", "score": score, "written": score} for score in scores]}

    rows = [
        assessed("a", 9.0) | verdicts(7.0, 10.0), assessed("b", 9.0) | verdicts(6.9, 10.0),
        assessed("c", 2.0) | verdicts(None, 2.0), assessed("f", 2.0, "flawed", SEED["prompt"]),
    ]  # fmt: skip
    write(Path("iterations/1/assess.jsonl"), rows)
    write(Path("iterations/1/review.jsonl"), [REVIEWED | verdicts(9.0, 9.0, 0.0)])
    set_select(folder, max_spread="1.5")
    selected, counts = select_iteration_1()
    assert (selected["sft"], selected["seed"]) == (["a", "j"], ["s", "a"])
    assert [pair["chosen"] for pair in read(Path("iterations/1/pairs.jsonl"), dict)] == ["response a"]
    assert counts["screening"] == {
        "candidates": {"in": 4, "out": 3, "dropped": {"judge undecided (select.max_spread)": 1}},
        "spread": {"rows": 4, "undecided": 1, "unknown": 1},
    }
    assert counts["pairs"]["dropped"]["judge undecided (select.max_spread)"] == 1


def test_the_pairs_are_the_extremes_by_the_final_answers_of_the_prompt_set(folder):
    """Both say 5, in other words: one judge's luck, and nothing to learn."""
    rows = responses("q1", "is 5") + responses("q1", "The answer is 5.", score=1.0)
    rows += responses("q2", "is 5") + responses("q2", "The answer is 6.", score=1.0)
    write(Path("iterations/1/assess.jsonl"), rows)
    for kind, prompts in (("all", ["q1", "q2"]), ("extremes", ["q2"])):
        set_select(folder, pairs=kind)
        select_iteration_1()
        assert [pair["prompt"] for pair in read(Path("iterations/1/pairs.jsonl"), dict)] == prompts


def test_a_stopped_chain_keeps_its_seed_set_and_trains_on_nothing(folder, capsys):
    write(Path("iterations/1/review.jsonl"), [])
    rows, counts = select_iteration_1()
    assert rows == {"sft": [], "pairs": [], "seed": ["s"]}
    nothing = {"new": 0, "earlier": 0, "total": 0, "in": 0, "out": 0, "dropped": {}}
    seed = nothing | {"earlier": 1, "total": 1}
    assert counts == {"sft": nothing, "pairs": nothing, "seed": seed, "examples": []}
    assert "the chain was stopped" in capsys.readouterr().out


def test_what_stands_behind_an_unscored_row_is_still_in_its_pool():
    rows = [assessed("a", None), assessed("b", 9.0)]
    assert [response["id"] for pool in pools([], rows).values() for response in pool] == ["b"]


def test_a_row_that_is_there_twice_is_counted_once():
    tally = Tally(3)
    added([{"id": "a"}, {"id": "b"}], [{"id": "a"}, {"id": "b"}, {"id": "c"}], 9, tally)
    assert tally.counts(1)["dropped"] == {"there already": 2}
