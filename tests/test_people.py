"""How the judge agrees with people: the numbers by hand, from the label to the report."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from labelled import candidate, seed_row
from scipy.stats import spearmanr

from stages import measure
from stages.commands.label.reviews import write_reviews
from stages.core.errors import UserError
from stages.core.params import Params, load
from stages.core.prompts import verdict_rule
from stages.core.records import write
from stages.data.drawing import judged_pairs, judged_responses, labelled_rows
from stages.data.labels import Label, LabelFile
from stages.data.seeds.files import of_file
from stages.data.seeds.pairs import SeedTally, judge_training_pairs
from stages.evaluation.people import Case, bound_rows, people_counts, pooled, share
from stages.reporting import people as words

V, SFT, MARGIN = 7.0, 8.0, 2.0


def row(key, score, weight=1.0, route="seed", **labels):
    scores = {"score": score, "compared": score}
    return {"id": key, "route": route, **scores, "weight": weight, "labels": labels}


def pair(key, margin, weight=1.0, **labels):
    ids = {"chosen": f"{key}a", "rejected": f"{key}b"}
    return {**ids, "margin": margin, "weight": weight, "labels": labels}


ROWS = [
    row("r1", 9.0, ana=9, ben=8),  # above V for all
    row("r2", 9.0, weight=3.0, ana=5, ben=9),  # right by ben alone
    row("r3", 2.0, ana=3),
    row("r4", 8.0, ana=6),  # the judge alone puts it above V
    row("n1", 9.0, route="new", ana=9, ben=10),
    row("n2", 9.0, route="own", ana=4),
    row("f1", 1.0, route="flawed", ana=0),
]
PAIRS = [pair("p1", 3.0, weight=2.0, ana=1.0), pair("p2", 2.5, ana=0.5, ben=1.0), pair("p3", 1.0, weight=5.0, ana=0.0)]


def counts(rows=ROWS, pairs=PAIRS, labels=15):
    bounds = {
        "threshold": bound_rows(V, [9.0, 9.0, 2.0, 8.0, 7.5, 7.0]),
        "min_sft_score": bound_rows(SFT, [9.0, 9.0, 8.0]),
        "min_margin": bound_rows(MARGIN, [3.0, 2.5, 2.0, 1.0]),
    }
    return people_counts(labels, bounds, rows, pairs)


def test_a_share_weighs_each_row_and_each_persons_word():
    """(1 + 3 · ½ + 1 + 0) / 6 of the seeds at V; the flawed row is no seed, and the SFT score looks at new and own."""
    judge = counts()["judge"]
    assert (judge["threshold"]["percent"], judge["threshold"]["of"]) == (58.33, 4)
    assert (judge["min_sft_score"]["percent"], judge["min_sft_score"]["of"]) == (50.0, 2)
    assert (judge["min_margin"]["percent"], judge["min_margin"]["of"]) == (91.67, 2)  # (2 · 1 + ¾) / 3; p3 lies below


def test_the_interval_is_wilsons_of_as_many_rows_as_the_weights_are_worth():
    assert share([Case(1.0, 1.0)] * 8 + [Case(0.0, 1.0)] * 2) == {
        "percent": 80.0,
        "of": 10,
        "low": 49.02,
        "high": 94.33,
    }
    assert share([Case(1.0, 1.0)] * 10)["low"] == 72.25  # ten of ten are not certainty
    equal, skewed = share([Case(1.0, 2.0)] * 10), share([*[Case(1.0, 1.0)] * 9, Case(1.0, 100.0)])
    assert equal["low"] == 72.25
    assert skewed["low"] < 30  # as good as one row
    assert share([]) == {"percent": None, "of": 0, "low": None, "high": None}


def test_the_rank_correlation_is_spearmans_with_a_bootstrap():
    rank = counts()["judge"]["rank"]
    scores = [9.0, 9.0, 2.0, 8.0, 9.0, 9.0, 1.0]
    assert rank["rank"] == pytest.approx(spearmanr(scores, [8.5, 7.0, 3.0, 6.0, 9.5, 4.0, 0.0]).statistic, abs=1e-4)
    assert rank["of"] == 7
    assert rank["low"] < rank["rank"] < rank["high"] <= 1
    alike = [row("a", 5.0, ana=1), row("b", 5.0, ana=9)]
    assert counts(alike)["judge"]["rank"] == {"rank": None, "of": 2, "low": None, "high": None}


def test_people_are_compared_with_each_other_where_two_labelled_the_same():
    between = counts()["between"]
    assert between["threshold"]["percent"] == 66.67  # r1 and n1, not r2
    assert between["min_sft_score"]["percent"] == 33.33  # 9 and 8 are on two sides of 8, so are 5 and 9
    assert between["min_margin"] == {**between["min_margin"], "percent": 50.0, "of": 1}  # a tie against a preference
    assert between["rank"]["rank"] == pytest.approx(spearmanr([9, 5, 9], [8, 9, 10]).statistic, abs=1e-4)
    assert counts([row("a", 5.0, ana=1)], [])["between"] is None


def test_people_are_compared_on_the_pairs_that_the_judge_is_compared_on():
    """Above the margin all agree; below it people toss a coin, of which the judge is not asked."""
    pairs = [pair("p", 3.0, ana=1.0, ben=1.0), *(pair(f"q{n}", 0.5, ana=1.0, ben=0.0) for n in range(9))]
    found = counts([], pairs)
    assert found["judge"]["min_margin"]["of"] == found["between"]["min_margin"]["of"] == 1
    assert found["between"]["min_margin"]["percent"] == 100.0
    assert counts([], pairs[1:])["between"] is None


def test_the_best_bound_is_named_with_its_gain_and_its_cost_in_rows():
    """Above 8 instead of 7, r4 is where ana has it: 4.5 of 6 agree. Two seeds of four stay above."""
    best = counts()["best"]["threshold"]
    assert (best["bound"], best["agreement"]["percent"], best["now"]["percent"]) == (8.0, 75.0, 58.33)
    assert best["points"] == 16.67
    assert best["low"] <= best["points"] <= best["high"]
    assert best["rows"] == (4, 2)


def test_a_margin_is_best_where_enough_pairs_remain_to_tell():
    """By the lower end of the interval: that 1 of 1 are in order above 9 says less than 19 of 20 above 2."""
    pairs = [*(pair(f"p{n}", 3.0, ana=1.0) for n in range(19)), pair("q", 3.0, ana=0.0), pair("r", 9.0, ana=1.0)]
    best = counts(pairs=pairs)["best"]["min_margin"]
    assert best["bound"] == MARGIN
    assert (best["points"], best["low"], best["high"]) == (0.0, 0.0, 0.0)
    lower = [*pairs, *(pair(f"s{n}", 1.0, ana=0.0) for n in range(20))]
    assert counts(pairs=lower)["best"]["min_margin"]["bound"] == MARGIN


def test_where_no_labelled_pair_lies_above_the_margin_there_is_no_gain_over_it():
    best = counts(pairs=[pair("p", 1.0, ana=1.0), pair("q", 1.0, ana=1.0)])["best"]["min_margin"]
    assert (best["bound"], best["points"], best["low"]) == (0.5, None, None)
    assert words.bounds_table({**counts(), "best": {"min_margin": best}})[1][5] == "–"


def test_without_a_bound_there_is_nothing_to_be_right_at():
    """select.min_sft_score: null"""
    found = people_counts(3, {name: bound_rows(2.0, []) for name in ("threshold", "min_margin")}, ROWS, PAIRS)
    assert found["judge"]["min_sft_score"]["of"] == 0
    assert "min_sft_score" not in found["best"]


def test_a_bound_may_be_written_without_a_decimal_point():
    """threshold: 7"""
    assert counts(ROWS, PAIRS)["best"] == people_counts(15, {
        "threshold": bound_rows(7, [9.0, 9.0, 2.0, 8.0, 7.5, 7.0]), "min_sft_score": bound_rows(8, [9.0, 9.0, 8.0]),
        "min_margin": bound_rows(2, [3.0, 2.5, 2.0, 1.0]),
    }, ROWS, PAIRS)["best"]  # fmt: skip


def test_iterations_together_count_a_seed_once_and_labels_of_other_rows_as_elsewhere():
    first, second = counts(ROWS[:4], PAIRS[:1]), counts([*ROWS[:2], ROWS[4]], PAIRS[1:])
    run = pooled([first, second])
    assert [one["id"] for one in run["rows"]] == ["r1", "r2", "r3", "r4", "n1"]
    assert [one["weight"] for one in run["rows"]] == [2.0, 6.0, 1.0, 1.0, 1.0]
    assert run["judge"]["threshold"]["percent"] == 60.0  # (2 + 3 + 1) / 10
    assert run["bounds"]["threshold"]["above"]["7.0"] == 8
    assert (first["elsewhere"], run["elsewhere"]) == (15 - 7, 15 - 12)


def test_a_row_stands_for_those_of_its_iteration_route_and_score():
    seeds = [seed_row(number, score) for number, score in enumerate([9.0, 9.2, 8.9, 9.3, 2.0])]
    judged = judged_responses("1", seeds, [], "absolute")
    labels = {judged[index].key: Label(shown=[judged[index].id], label=9) for index in (0, 1, 4)}
    found = labelled_rows(judged, {"ana": labels})
    assert [(one["score"], one["weight"], one["labels"]) for one in found] == [
        (9.0, 2.0, {"ana": 9}), (9.2, 2.0, {"ana": 9}), (2.0, 1.0, {"ana": 9}),
    ]  # fmt: skip


@pytest.mark.parametrize("other", [{"judge": "verifier"}, {"judge": "votes"}, {"judge": "origin"}, {"passed": False}])
def test_what_a_check_votes_or_origin_scored_is_no_word_of_the_judge(other):
    seeds = [seed_row(number, 9.0) for number in range(2)]
    flawed = [candidate("flawed", seed["prompt"], "is wrong", 1.0, seed) for seed in seeds]
    for row in (seeds[0], flawed[0]):
        row.update(other)
    responses = judged_responses("1", seeds, flawed, "absolute")
    assert {response.prompt for response in responses} == {seeds[1]["prompt"]}
    pairs = judged_pairs("1", seeds, flawed, "absolute", "all", lambda response: response)
    assert [pair.prompt for pair in pairs] == [seeds[1]["prompt"]]


def test_on_the_scale_of_quantiles_the_judges_rank_is_compared_with_the_bound():
    seeds = [seed_row(number, score) for number, score in enumerate([5.0, 5.1, 5.2, 5.3])]
    assert [one.compared for one in judged_responses("1", seeds, [], "quantile")] == [0.0, 2.5, 5.0, 7.5]
    assert [one.score for one in judged_responses("1", seeds, [], "quantile")] == [5.0, 5.1, 5.2, 5.3]


# ---- from the label to measure.json and the report -------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A project with an iteration's rows: four seeds, and three responses to a new instruction."""
    for part in ("prompts", "params.yaml", "dvc.yaml", "stages/presets"):
        source, target = ROOT / part, tmp_path / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    seeds = [seed_row(number, score) for number, score in enumerate([9.0, 2.0, 8.0, 6.0])]
    candidates = [candidate("new", "Why?", f"since {score}", score, seeds[1]) for score in (9.0, 6.0, 1.0)]
    write(tmp_path / "iterations/1/review.jsonl", seeds)
    write(tmp_path / "iterations/1/assess.jsonl", candidates)
    for name in ("sft", "pairs"):
        write(tmp_path / f"iterations/1/{name}.jsonl", [])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(run) -> list[dict]:
    return [json.loads(line) for name in ("review", "assess") for line in (run / f"iterations/1/{name}.jsonl").open()]


def give(run, name, *labels):
    kept = LabelFile(run / f"labels/{name}.jsonl")
    for shown, label in labels:
        kept.add(Label(shown=shown, label=label))


def measured(run) -> dict:
    measure.main("1")
    return json.loads((run / "results/1/measure.json").read_text())


def test_measure_without_labels_says_nothing_of_people(run):
    assert "people" not in measured(run)
    give(run, "ana", (["0" * 16], "skip"))
    assert "people" not in measured(run)


def test_measure_compares_the_judge_with_labels_of_its_rows(run):
    """A label holds by the texts of its row: the same ones in another run have the same id."""
    rows = rows_of(run)
    seeds = [([row["id"]], score) for row, score in zip(rows[:4], [9, 8, 8, 3], strict=True)]
    pairs = [([rows[6]["id"], rows[4]["id"]], "second"), ([rows[5]["id"], rows[6]["id"]], "second")]
    give(run, "ana", *seeds, *pairs, (["f" * 16], 5))
    found = measured(run)["people"]
    assert (found["labels"], found["elsewhere"], found["people"]) == (7, 1, 1)
    assert found["judge"]["threshold"] == {**found["judge"]["threshold"], "percent": 75.0, "of": 4}
    assert found["judge"]["min_margin"] == {**found["judge"]["min_margin"], "percent": 50.0, "of": 2}
    assert {one["margin"]: one["labels"]["ana"] for one in found["pairs"]} == {8.0: 1.0, 5.0: 0.0}
    assert found["bounds"]["threshold"]["above"] == found["bounds"]["threshold"]["above"] | {
        "7.0": 2,
        "2.0": 3,
        "8.0": 1,
    }
    assert measured(run)["people"] == found


def test_the_tables_and_the_metrics_name_agreement_intervals_and_cost():
    found = counts()
    table = words.agreement_table({"1": {"measure": {"people": found}}, "0": {}}, found)
    assert [line[0] for line in table] == ["iteration", "1", "between people"]
    assert table[1][1:3] == ["7", "3"]
    assert table[1][4].startswith("58.3 [")
    assert table[1][4].endswith("] of 4")
    bounds = words.bounds_table(found)
    assert bounds[1][:2] == ["threshold (V)", "7"]
    assert bounds[1][3] == "8"
    assert bounds[1][6] == "4 → 2 seeds"
    assert words.note(found).startswith(
        "15 labels; 2 people labelled rows of this run. 1 of them is of a row that this run"
    )
    numbers = words.metrics(found)
    assert (numbers["labels"], numbers["right_at_v"], numbers["pairs_in_order"]) == (15, 58.33, 91.67)
    assert numbers["between"]["right_at_v"] == 66.67


# ---- labels as judge-training rows -----------------------------------------------------------------------------------


def written_reviews(run) -> dict[str, str]:
    values = load(run / "params.yaml")
    write_reviews(Params("label", list(values), values), run / "reviews.jsonl")
    tally = SeedTally()
    rows = judge_training_pairs(of_file(run / "reviews.jsonl", "seed.reviews"), "seed.reviews", tally, "fail")
    return {row["response"]: row["review"] for row in rows}


def test_labels_are_judge_training_rows_in_the_judges_own_words(run, capsys):
    """Where the judge gave people's score, its review; where it did not, such a verdict of its own, without the
    reasons, which argue for another one."""
    rows = rows_of(run)
    give(run, "ana", ([rows[4]["id"]], 9), ([rows[5]["id"]], 2), ([rows[6]["id"]], 4), (["f" * 16], 5),
         ([rows[0]["id"]], 10), ([rows[1]["id"], rows[2]["id"]], "tie"))  # fmt: skip
    give(run, "ben", ([rows[0]["id"]], 6))
    reviews = written_reviews(run)
    assert reviews["since 9.0"] == "Right: 1. Given: 1. It is correct and clear. score: 9.0"
    assert reviews["since 6.0"] == "It is correct and clear. score: 2.0"
    assert "since 1.0" not in reviews  # no review is within half a point of 4
    assert {verdict_rule("micro").total(review) for review in reviews.values()} == {9.0, 2.0, 8.0}
    assert capsys.readouterr().out == (
        f"{run}/reviews.jsonl: 3 judge-training rows from 5 labelled responses; 1 left out, of no row in this run; "
        "1 left out, with a score that the judge never gave\n"
    )


def test_the_words_are_those_of_the_prompt_set(run):
    values = load(run / "params.yaml")
    rows = rows_of(run)
    texts = ["Sound.\n\n**Question score:** 4\n**Response score:** 5", "Bad.\nQuestion score: 1\nResponse score: 0"]
    for one, text, score in zip(rows, texts, (9.0, 1.0), strict=False):
        one["reviews"] = [{"text": text, "score": score, "written": score}]
    write(run / "iterations/1/review.jsonl", rows[:2])
    write(run / "iterations/1/assess.jsonl", [])
    give(run, "ana", ([rows[0]["id"]], 1), ([rows[1]["id"]], 1))
    write_reviews(Params("label", list(values), {**values, "prompts": "lance"}), run / "reviews.jsonl")
    reviews = [json.loads(line)["review"] for line in (run / "reviews.jsonl").open()]
    assert sorted(reviews) == ["Bad.\nQuestion score: 1\nResponse score: 0", "Question score: 1\nResponse score: 0"]


def test_where_no_label_makes_a_row_the_file_is_left_alone(run):
    values = load(run / "params.yaml")
    (run / "reviews.jsonl").write_text("earlier\n")
    give(run, "ana", (["f" * 16], 5))
    with pytest.raises(UserError, match="the file is left alone; 1 left out, of no row in this run"):
        write_reviews(Params("label", list(values), values), run / "reviews.jsonl")
    assert (run / "reviews.jsonl").read_text() == "earlier\n"


def test_without_labels_there_are_no_reviews(run):
    values = load(run / "params.yaml")
    with pytest.raises(UserError, match="labels/ has no labels of responses; give some, with lance label"):
        write_reviews(Params("label", list(values), values), run / "reviews.jsonl")
