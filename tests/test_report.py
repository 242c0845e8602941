"""report: gains over iteration 0 with their error, the funnel with its reasons, and what to know before believing."""

import pytest
from conftest import error_line

from stages.report import cells, funnel_of, gain, markdown, metrics, warnings_of


def tally(rows_in=10, out=10, **dropped):
    return {"in": rows_in, "out": out, "dropped": dropped}


def iteration(**changes):
    row = {
        "parent": "0",
        "test": {"score": 70.0, "stderr": 3.0},
        "validation": {"score": 71.0, "stderr": 4.0},
        "judging": {"score": 90.0, "stderr": 2.0},
        "gain": {"points": 10.0, "stderr": 5.0},
        "review": {"rows": tally()},
        "generate": {
            "seed": tally(), "new_instructions": tally(), "responses": tally(8, 7, truncated=1),
            "flawed_responses": tally(),
        },
        "filter": {"rows": tally(12, 9, **{"response too short": 3})},
        "assess": {"rows": tally(9, 9), "verdicts": {"asked": 9, "written": 9, "readable": 9}},
        "select": {
            "sft": {"total": 5, "new": 3, **tally(9, 3, unscored=6)}, "pairs": {"total": 4, "new": 4, **tally()},
            "seed": {"total": 20, "new": 2, **tally()},
        },
        "sft": {"rows": tally()},
        "dpo": {"rows": tally()},
        "measure": {"judge_right": {"percent": 88.0, "of": 9}, "pairs_in_order": {"percent": None, "of": 0}},
    }  # fmt: skip
    return row | changes


def test_a_gain_carries_the_error_of_a_difference():
    found = gain({"score": 70.0, "stderr": 3.0}, {"score": 60.0, "stderr": 4.0})
    assert found == {"points": 10.0, "stderr": pytest.approx(5.0)}


def test_metrics_are_the_test_average_and_the_gain_of_each_iteration():
    baseline = iteration(parent=None, test={"score": 60.0, "stderr": 4.0})
    found = metrics({"iterations": {"0": baseline, "1": iteration()}})
    assert found == {"test": {"0": 60.0, "1": 70.0}, "gain": {"1": 10.0}}


def test_a_healthy_iteration_has_no_warning():
    assert warnings_of("1", iteration()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dpo": {"passed_on": "no pairs were found"}}, "iteration 1: dpo passed its model on, no pairs were found"),
        ({"filter": {"rows": tally(3, 0, x=3)}}, "iteration 1: nothing was left after the filter"),
        ({"sft": {"rows": tally(9, 7, **{"does not fit the context": 2})}}, "iteration 1: 2 rows of sft did not fit"),
        (
            {"review": {"rows": tally(9, 6, **{"no readable verdict": 3})}},
            "iteration 1: 3 of 9 rows in review have no score: no readable verdict 3",
        ),
    ],
)
def test_what_the_user_should_know_is_a_warning(changes, said):
    (line,) = warnings_of("1", iteration(**changes))
    assert line.startswith(said)


def test_the_markdown_has_the_scores_the_funnel_and_its_reasons():
    text = markdown({"iterations": {"1": iteration()}, "warnings": ["look"]})
    assert "+10.0 ± 5.0" in text
    assert "| filter | 12 | 9 | response too short 3 |" in text
    assert "| select sft | 9 | 3 | unscored 6 |" in text
    assert "- look" in text


def test_iteration_0_has_its_funnel_too():
    row = {
        "prepare": {"seed": tally(10, 9, duplicate=1)},
        "sft": {"rows": tally(9, 8, **{"does not fit the context": 1})},
    }
    assert list(funnel_of(row)) == ["prepare", "sft"]
    assert warnings_of("0", row) == ["iteration 0: 1 rows of sft did not fit the context"]


def test_what_the_world_does_not_know_is_a_dash():
    assert cells("1", iteration())[-2:] == ["88.0", "–"]


def test_a_report_without_results_says_which_are_missing(project):
    assert "results/0/evaluate.json" in error_line(project.stage("stages.report"))
