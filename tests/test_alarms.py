"""Every failure, built from synthetic counts and scores, raises its alarm; a healthy run raises none."""

import re
from copy import deepcopy

import pytest
import yaml
from conftest import ROOT

from stages.reporting import alarms
from stages.reporting.summary import Scores

THRESHOLDS = yaml.safe_load((ROOT / "params.yaml").read_text())["alarms"]
ITEMS = 400


def tally(rows_in=100, out=100, **dropped):
    return {"in": rows_in, "out": out, "dropped": dropped}


WARM_START = {"parent": None, "prepare": {"words": {"instruction": 6.0, "response": 5.0}}}
SLIGHT = [{"step": 1, "chosen": 0.0, "rejected": 0.0}, {"step": 2, "chosen": -0.4, "rejected": -3.0}]
HEALTHY = {
    "review": {"verdicts": {"asked": 300, "written": 300, "readable": 299}},
    "filter": {"diversity": {"near_duplicates": 0.1}, "words": {"instruction": 6.0, "response": 5.4}},
    "assess": {
        "verdicts": {"asked": 300, "written": 300, "readable": 300},
        "scores": {"mean": 6.0, "spread": 3.1, "nearest": [5, 10, 20, 5, 5, 5, 5, 5, 10, 20, 10]},
    },
    "select": {"pairs": {"new": 200, **tally()}},
    "dpo": {"rows": tally(), "log": SLIGHT},
}


def items(right: int) -> list[dict]:
    """The scores of ITEMS items, of which the first `right` are right."""
    return [
        {"id": str(n), "group": str(n), "benchmark": "b", "part": "validation", "score": float(n < right)}
        for n in range(ITEMS)
    ]


def chain(percents: list[float], monkeypatch) -> tuple[dict, Scores]:
    """A run whose iterations have these validation scores, in percent; a model is right on the first items."""
    scored = {str(key): items(round(percent / 100 * ITEMS)) for key, percent in enumerate(percents)}
    monkeypatch.setattr("stages.reporting.summary.read", lambda path, kind: scored[path.parent.name])
    iterations = {str(key): {"parent": str(key - 1)} for key in range(1, len(percents))}
    rows = {key: {**iteration, **deepcopy(HEALTHY)} for key, iteration in iterations.items()}
    return {"0": WARM_START, **rows}, Scores(iterations, {"b"})


def names(rows: dict, scores: Scores) -> list[tuple[str, str]]:
    return [(alarm["iteration"], alarm["name"]) for alarm in alarms.detect(rows, scores, THRESHOLDS)]


@pytest.fixture
def healthy(monkeypatch):
    return chain([57, 76, 84, 86], monkeypatch)


def test_without_an_interval_nothing_counts_as_a_decline(monkeypatch):
    """All items are of one group."""
    rows, scores = chain([86, 20, 80, 20], monkeypatch)
    assert {("1", "decline"), ("3", "oscillation")} <= set(names(rows, scores))
    for items_of in scores._rows.values():
        items_of[:] = [{**item, "group": "g"} for item in items_of]
    assert not {"decline", "oscillation"} & {name for _, name in names(rows, scores)}
    every = "in iteration 1, 2, 3"
    assert alarms.unmeasured(rows, scores) == [f"decline {every}", f"oscillation {every}"]


def test_a_healthy_run_raises_no_alarm(healthy):
    assert names(*healthy) == []


def test_a_healthy_run_may_fall_a_little_by_chance(monkeypatch):
    assert names(*chain([57, 76, 84, 83.75], monkeypatch)) == []


def test_decline_is_against_the_best_so_far(monkeypatch):
    rows, scores = chain([57, 86, 84, 82], monkeypatch)
    raised = alarms.detect(rows, scores, THRESHOLDS)
    assert [(alarm["iteration"], alarm["name"]) for alarm in raised] == [("2", "decline"), ("3", "decline")]
    assert raised[1]["finding"].startswith("validation -4.0 [")
    assert raised[1]["finding"].endswith("points against iteration 1")
    assert "stop_on" in raised[1]["advice"]


def test_oscillation(monkeypatch):
    assert ("4", "oscillation") in names(*chain([57, 70, 60, 72, 61], monkeypatch))
    assert ("2", "oscillation") not in names(*chain([57, 70, 60], monkeypatch))
    risen = names(*chain([57, 70, 60, 72, 80, 86], monkeypatch))
    assert [key for key, name in risen if name == "oscillation"] == ["3"]  # it rises from there on


def test_slow_improvement(monkeypatch):
    assert names(*chain([57, 57.25, 57.5, 57.5], monkeypatch)) == [("3", "slow improvement")]
    assert names(*chain([57, 57.25], monkeypatch)) == []  # one iteration says little


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (
            {"assess": {"scores": {"mean": 5.0, "spread": 0.3, "nearest": [0] * 5 + [98, 2] + [0] * 4}}},
            "judge collapse",
        ),
        ({"assess": {"scores": {"mean": 8.9, "spread": 2.0, "nearest": [5] + [0] * 8 + [95, 0]}}}, "judge collapse"),
        ({"filter": {"diversity": {"near_duplicates": 0.7}}}, "duplicates"),
        ({"filter": {"words": {"instruction": 6.0, "response": 9.0}}}, "length drift"),
        ({"filter": {"words": {"instruction": 6.0, "response": 2.0}}}, "length drift"),
        ({"assess": {"verdicts": {"asked": 300, "written": 300, "readable": 240}}}, "unreadable verdicts"),
        ({"review": {"verdicts": {"asked": 300, "written": 300, "readable": 240}}}, "unreadable verdicts"),
        ({"select": {"pairs": {"new": 10, **tally()}}}, "few pairs"),
        (
            {"dpo": {"log": [{"chosen": 0.2, "rejected": 0.1}, {"chosen": -0.9, "rejected": -1.2}]}},
            "falling rewards",
        ),
    ],
)
def test_a_failure_in_the_counts_raises_only_its_own_alarm(healthy, change, name):
    rows, scores = healthy
    for stage, counts in change.items():
        rows["2"][stage] = rows["2"][stage] | counts
    raised = alarms.detect(rows, scores, THRESHOLDS)
    assert [(alarm["iteration"], alarm["name"]) for alarm in raised] == [("2", name)]
    assert raised[0]["advice"] == alarms.ADVICE[name]


def test_a_collapsed_judges_alarm_says_that_scores_lie_close_together_and_names_the_scale_of_ranks(healthy):
    rows, scores = healthy
    close = {"mean": 6.9, "spread": 0.3, "nearest": [0] * 7 + [100, 0, 0, 0]}
    rows["2"]["assess"] = rows["2"]["assess"] | {"scores": close}
    (alarm,) = alarms.detect(rows, scores, THRESHOLDS)
    assert alarm["finding"].startswith("the judge's scores lie close together")
    assert "review.scale: quantile" in alarm["advice"]


@pytest.mark.parametrize(("same", "raised"), [(0.2, []), (0.95, [("2", "judge collapse")])])
def test_where_ranks_are_compared_scores_may_lie_close_together_but_not_be_equal(healthy, same, raised):
    rows, scores = healthy
    close = {"mean": 6.9, "spread": 0.3, "nearest": [0] * 7 + [100, 0, 0, 0]}
    rows["2"]["assess"] = rows["2"]["assess"] | {"scores": close}
    rows["2"]["select"] = rows["2"]["select"] | {"ranks": {"scores": 160, "same": same}}
    assert names(rows, scores) == raised


def test_what_was_not_measured_is_named_and_not_among_what_found_nothing(healthy):
    rows, scores = healthy
    assert alarms.unmeasured(rows, scores) == []
    for key in ("1", "3"):
        rows[key]["filter"] = rows[key]["filter"] | {"diversity": {"near_duplicates": None}}
    rows["2"]["assess"] = rows["2"]["assess"] | {"scores": None}
    assert alarms.unmeasured(rows, scores) == ["judge collapse in iteration 2", "duplicates in iteration 1, 3"]


def test_a_high_but_falling_share_of_duplicates_is_no_alarm(healthy):
    rows, scores = healthy
    for key, share in (("1", 0.8), ("2", 0.7), ("3", 0.6)):
        rows[key]["filter"] = rows[key]["filter"] | {"diversity": {"near_duplicates": share}}
    assert names(rows, scores) == [("1", "duplicates")]


def test_falling_rewards_are_those_of_both_responses_from_the_first_tenth_of_the_log_to_the_last(healthy):
    rows, scores = healthy

    def log(*last):
        chosen = [1.0, 0.5, 0.0, *[9.0] * 15, *last]  # of 21 points, three are a tenth
        return {"log": [{"chosen": reward, "rejected": reward - 1} for reward in chosen]}

    rows["2"]["dpo"] = log(-0.4, -0.4, -0.4)
    assert names(rows, scores) == []
    rows["2"]["dpo"] = log(-1.0, -0.8, -0.6)
    (alarm,) = alarms.detect(rows, scores, THRESHOLDS)
    assert alarm["finding"] == ("the mean reward of chosen responses changed by -1.30, of rejected ones by -1.30")
    assert all(name in alarm["advice"] for name in ("dpo.nll", "dpo.beta"))
    rows["2"]["dpo"] = {"log": [{"chosen": 0.0, "rejected": 0.0}, {"chosen": 0.5, "rejected": -5.0}]}
    assert names(rows, scores) == []


@pytest.mark.parametrize(
    ("counts", "unmeasured"),
    [
        ({"passed_on": "no pairs were found"}, []),
        ({"log": SLIGHT[:1]}, ["falling rewards in iteration 2"]),
        ({"log": [{"step": 1, "margin": 0.0}, {"step": 2, "margin": 1.0}]}, ["falling rewards in iteration 2"]),
    ],
    ids=["no DPO", "one step", "a log of an earlier version"],
)
def test_falling_rewards_are_measured_where_dpo_took_steps_and_logged_them(healthy, counts, unmeasured):
    rows, scores = healthy
    rows["2"]["dpo"] = counts
    assert names(rows, scores) == []
    assert alarms.unmeasured(rows, scores) == unmeasured


def test_few_pairs_are_no_alarm_if_dpo_is_off(healthy):
    rows, scores = healthy
    rows["2"]["select"] = {"pairs": {"new": 0, **tally()}}
    rows["2"]["dpo"] = {"passed_on": "dpo.enabled is false"}
    assert names(rows, scores) == []


def test_an_iteration_that_did_not_run_raises_none(healthy):
    rows, scores = healthy
    rows["3"] = {"parent": "2", "review": {"stopped": True}}
    assert names(rows, scores) == []


def test_every_threshold_is_used_and_named_by_a_rule_and_every_alarm_has_a_rule_and_advice():
    source = (ROOT / "stages/reporting/alarms.py").read_text()
    assert all(f'thresholds["{name}"]' in source for name in THRESHOLDS)
    assert set(re.findall(r"{(\w+)}", "".join(alarms.RULES.values()))) == set(THRESHOLDS)
    assert list(alarms.RULES) == list(alarms.ADVICE) == re.findall(r'_alarms\("([a-z ]+)"', source)
    assert alarms.rules(THRESHOLDS)["few pairs"] == "there are fewer than 50 new pairs and DPO is enabled"
