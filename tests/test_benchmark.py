"""benchmark: its measurements on small data, and the copy of the project that it works in."""

import random
import subprocess

import pytest
from conftest import ROOT, error_line

from stages.commands.benchmark import command, completions, filtering, loop, measurement, pipeline, texts
from stages.data.decontamination import HeldOut, held_out


def test_a_target_decides_on_the_ratio_to_the_baseline():
    fast = measurement.speedup("engine", "generate", seconds=2.0, baseline=3.0, least=1.5)
    assert (fast.ratio, fast.target, fast.met) == (1.5, "≥ 1.5", True)
    assert not measurement.speedup("engine", "generate", seconds=2.0, baseline=2.9, least=1.5).met
    calls = measurement.at_most("sweep", "one threshold", measured=16, baseline=10, most=1.5, unit="calls")
    assert (calls.ratio, calls.target, calls.met) == (1.6, "≤ 1.5", False)
    assert not measurement.within("check", seconds=1.1, most=1).met


def test_the_filter_drops_the_copies_among_the_synthetic_records(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert filtering.filter_records(800).dropped == 80


def test_the_store_is_measured_with_a_remote_that_is_pushed_to_and_pulled_from():
    rows = {row.what: row for row in completions.measured(2000)}
    assert list(rows)[-3:] == ["push of 1,800 completions", "pull of 1,800 completions", "all of this: memory"]
    assert 600 < rows["store of 4,000 completions: bytes each"].measured < 1200
    assert rows["all of this: memory"].met


ITEM = "Tom has 12 apples and gives a third of them to his sister Ann; how many are left?"


def test_items_are_looked_for_within_other_text_as_they_are_changed_and_with_the_question_first():
    several = "Tom has twelve red apples and gives a third of them to Ann. How many apples does he have left now?"
    rows = list(texts.detection([ITEM, several, "Can pigs fly?", "Can he?"], HeldOut([ITEM, several], 0.9)))
    assert [(row.measured, row.met) for row in rows] == [(50.0, False), (50.0, False), (100.0, True), (100.0, True)]
    assert texts.question_first("It is so. Why? Tell me.") == "Tell me. It is so. Why?"


def test_long_questions_are_looked_for_without_their_choices():
    question = "Which of these gases do plants take in for their photosynthesis?"
    rows = [
        {"text": f"{question} CO2 neon", "question": question},
        {"text": "Why? no yes", "question": "Why?"},
        {"text": "So"},
    ]
    measured = texts.questions(rows, held_out(rows, 0.9))
    assert (measured.measured, measured.met) == (100.0, True)
    assert measured.against == "the 1 of 2 questions of at least 10 words"
    assert not texts.questions(rows, HeldOut([], 0.9)).met


def test_a_change_is_of_one_word_or_number():
    change = texts.word_changer(random.Random(0))
    changed = [change(ITEM) for _ in range(50)]
    assert {sum(word != other for word, other in zip(text.split(), ITEM.split(), strict=True)) for text in changed} == {
        1
    }
    assert any(" 19 apples" in text for text in changed)


def test_a_false_alarm_is_a_row_that_is_dropped():
    alarms = texts.dropped("", ["Why is the sky blue?", ITEM], HeldOut([ITEM], 0.9), 49.0)
    assert (alarms.measured, alarms.met) == (50.0, False)
    assert texts.dropped("", ["Why is the sky blue?", ITEM], HeldOut([ITEM], 0.9)).met


def test_the_copy_of_the_project_has_its_files_as_they_are_now(project, tmp_path, monkeypatch):
    project.change({"threshold": 6.5})
    (project.folder / "untracked.txt").write_text("x")
    monkeypatch.chdir(project.folder)
    pipeline.copy_project(tmp_path / "copy")
    assert (tmp_path / "copy/params.yaml").read_text() == project.read("params.yaml")
    assert not (tmp_path / "copy/untracked.txt").exists()
    names = ["git", "ls-files"]
    copied, tracked = (subprocess.check_output(names, cwd=folder) for folder in (tmp_path / "copy", project.folder))
    assert copied == tracked


ESTIMATORS = ("expected", "elicited", "unwritten elicited")  # that are compared with the first one, `sampled`


@pytest.fixture
def four_seeds(monkeypatch):
    """Every part that calls the model works on four seeds."""
    from stages.commands.benchmark import estimators, generation

    monkeypatch.chdir(ROOT)
    rows = loop.seeds(4)
    for module in (loop, generation, estimators):
        monkeypatch.setattr(module, "seeds", lambda *_: rows)


@pytest.mark.slow
def test_a_repeated_experiment_makes_no_model_call(base, four_seeds):
    from stages.commands.benchmark import generation

    with loop.fresh_client(base) as client:
        loop.construct(client)
    assert {call.draws for call in client.calls} == {3, 4}
    sweep, again = generation.sweep(base)
    assert sweep.ratio >= 1
    assert (again.measured, again.met) == (0, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "whats"),
    [
        ("construction", ["review + generate + assess of 256 seeds"]),
        ("engine", ["engine, 12 reviews"]),
        ("order", ["texts that change, of 72"]),
        (
            "estimators",
            [
                *(f"{name}{what}" for name in ESTIMATORS for what in (" review of 4 pairs", ", agreement")),
                "expected, rationales of 256 tokens",
            ],
        ),
    ],
)
def test_every_part_that_calls_the_model_runs(base, four_seeds, part, whats):
    rows = list(command.parts(rows=0)[part](base))
    assert all(row.what.startswith(what) for row, what in zip(rows, whats, strict=True))
    if part == "order":
        assert rows[0].met


@pytest.mark.slow
def test_a_part_that_does_not_exist_is_one_line(project):
    line = error_line(project.attempt("lance", "benchmark", "fliter", "engine"))
    assert line.startswith("error: there is no part fliter; choose from construction, engine, ")
