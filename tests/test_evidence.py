"""evidence: the experiments it asks dvc for, and its table of means over seeds."""

from stages.commands.evidence import RUNS, changes, difference, mean, table

PRESENT = ["1", "2", "3"]  # iterations of params.yaml


def run(*tests, judge_right=90.0):
    """The iterations of one seed, with these test scores."""
    rows = [{"test": {"score": score}, "judging": {"score": 98.0}} for score in tests]
    counts = {key: {"percent": 80.0} for key in ("instructions_well_posed", "sft_rows_correct", "pairs_in_order")}
    for row in rows[1:]:
        row["gain"] = {"points": row["test"]["score"] - tests[0]}
        row["measure"] = {"judge_right": {"percent": judge_right}, **counts}
    return rows


def test_a_run_sets_its_seed_and_its_own_changes():
    assert changes(RUNS["no-dpo"], 4, 3, PRESENT) == ["random_state=4", "seed.random_state=4", "dpo.enabled=false"]


def test_the_chain_has_the_requested_length_and_judges():
    assert changes(RUNS["own-judge"], 0, 4, PRESENT)[2:] == [
        "iterations.2.judge=1", "iterations.3.judge=2", "+iterations.4={parent: 3, judge: 3, writer: 3}",
    ]  # fmt: skip
    assert changes(RUNS["loop"], 0, 1, [*PRESENT, "b"])[2:] == ["~iterations.2", "~iterations.3", "~iterations.b"]


def test_a_mean_has_the_interval_of_students_t():
    assert mean([1.0, 2.0, 3.0]) == "2.0 ± 2.5"  # 4.303 · 1 / √3
    assert mean([-1.5], "+") == "−1.5"


def test_the_table_has_scores_gains_and_the_shares_that_have_ground_truth():
    rows = table([run(50.0, 60.0), run(52.0, 66.0, judge_right=None)])
    assert list(rows) == [
        "test", "judging", "gain", "new instructions that are well-posed", "SFT rows that are right", "pairs in order",
    ]  # fmt: skip
    assert rows["test"] == ["51.0 ± 12.7", "63.0 ± 38.1"]
    assert rows["gain"] == ["", "12.0 ± 25.4"]


def test_runs_are_compared_seed_by_seed():
    runs, loop = [run(50.0, 61.0), run(60.0, 71.0)], [run(50.0, 60.0), run(60.0, 70.0)]
    assert difference(runs, loop) == ["+0.0 ± 0.0", "+1.0 ± 0.0"]
