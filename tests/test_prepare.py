"""The seed set is validated: each mistake is one line with its place and its remedy."""

import json

import pytest
from conftest import error_line

from stages.core.records import Tally
from stages.prepare import choose, seed_set

GOOD = json.dumps({"prompt": "Which is larger, 4 or 5?", "response": "is 5"})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "seed.path seeds.jsonl has no rows"),
        (b"\n\n", "seed.path seeds.jsonl has no rows"),
        (f"{GOOD}\nnot json\n".encode(), "seed.path seeds.jsonl, line 2: not JSON"),
        (f'{GOOD}\n{{"prompt": "Why?"}}\n'.encode(), "line 2: no text in the field 'response'"),
        (f'{GOOD}\n{{"prompt": "Why?", "response": "  "}}\n'.encode(), "line 2: no text in the field 'response'"),
        (f'{GOOD}\n{{"prompt": 7, "response": "is 7"}}\n'.encode(), "line 2: no text in the field 'prompt'"),
        (f"{GOOD}\n[1, 2]\n".encode(), "line 2: no text in the field 'prompt'"),
        (GOOD.encode() + b'\n{"prompt": "caf\xe9"}\n', "line 2: not UTF-8; save the file as UTF-8"),
        (f'{GOOD}\n{{"prompt": "cut \\ud83d", "response": "x"}}\n'.encode(), "line 2: half of a surrogate pair"),
        (None, "seed.path seeds.jsonl does not exist; create it"),
    ],
)
def test_a_bad_seed_file_is_one_line_and_leaves_earlier_results(project, content, said):
    project.change({"seed": {"path": "seeds.jsonl"}})
    earlier = project.folder / "iterations/0/seed.jsonl"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("earlier\n")
    if content is not None:
        (project.folder / "seeds.jsonl").write_bytes(content)
    assert said in error_line(project.stage("stages.prepare"))
    assert earlier.read_text() == "earlier\n"


def test_a_folder_is_not_a_seed_file(project):
    project.change({"seed": {"path": "stages"}})
    assert "seed.path stages cannot be read: Is a directory; name a file" in error_line(project.stage("stages.prepare"))


@pytest.fixture
def with_benchmark(project):
    assert project.stage("stages.benchmark").returncode == 0
    return project


def test_the_default_seed_set_and_its_judge_rows_are_written(with_benchmark):
    project = with_benchmark
    assert project.stage("stages.prepare").returncode == 0
    seed = [json.loads(line) for line in project.read("iterations/0/seed.jsonl").splitlines()]
    rows = [json.loads(line) for line in project.read("iterations/0/sft.jsonl").splitlines()]
    counts = json.loads(project.read("results/0/prepare.json"))
    assert len(seed) == project.params["seed"]["limit"] == counts["seed"]["out"]
    assert counts["seed"]["in"] == counts["seed"]["out"] + sum(counts["seed"]["dropped"].values())
    assert [row["kind"] for row in rows] == ["seed"] * len(seed) + ["judge"] * counts["judge"]["out"]
    assert all(set(row["lineage"]) == {"reviewed", "review_prompt_hash"} for row in rows[len(seed) :])


def test_a_row_that_is_an_item_of_the_benchmark_is_left_out_and_counted(with_benchmark):
    project = with_benchmark
    (item, *_) = [json.loads(line) for line in project.read("iterations/0/benchmark.jsonl").splitlines()]
    leaked = {"prompt": item["text"].upper() + "!", "response": "is so", "review": "Fine. score: 9"}
    for name in ("seeds.jsonl", "reviews.jsonl"):
        (project.folder / name).write_text(f"{json.dumps(leaked)}\n{json.dumps(leaked | {'prompt': 'Why so?'})}\n")
    project.change({"seed": {"path": "seeds.jsonl", "reviews": "reviews.jsonl"}})
    assert project.stage("stages.prepare").returncode == 0
    counts = json.loads(project.read("results/0/prepare.json"))
    dropped = {"in": 2, "out": 1, "dropped": {"in the benchmark": 1}}
    assert counts == {"seed": dropped, "judge": dropped, "words": {"instruction": 2.0, "response": 2.0}}
    assert item["text"].upper() not in project.read("iterations/0/sft.jsonl")


def test_an_empty_file_of_judge_training_is_allowed(with_benchmark):
    project = with_benchmark
    (project.folder / "none.jsonl").write_text("")
    project.change({"seed": {"reviews": "none.jsonl"}})
    assert project.stage("stages.prepare").returncode == 0
    assert project.read("iterations/0/judge.jsonl") == ""


ROWS = [{"prompt": f"question {number}", "response": "answer"} for number in range(50)]


def test_the_choice_of_rows_does_not_depend_on_the_order_of_the_file():
    assert choose(ROWS, 10, 0) == choose(ROWS[::-1], 10, 0)


def test_a_larger_limit_keeps_the_rows_of_a_smaller_one():
    assert choose(ROWS, 20, 0)[:10] == choose(ROWS, 10, 0)


def test_another_random_state_chooses_other_rows():
    assert choose(ROWS, 10, 0) != choose(ROWS, 10, 1)


def test_duplicates_are_counted():
    tally = Tally(3)
    kept = seed_set([ROWS[0], ROWS[0], ROWS[1]], 10, 0, tally)
    assert tally.counts(len(kept)) == {"in": 3, "out": 2, "dropped": {"duplicate": 1}}
