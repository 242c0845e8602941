"""The seed set is validated: each mistake is one line with its place and its remedy."""

import json

import pytest
from conftest import error_line

GOOD = json.dumps({"prompt": "Which is larger, 4 or 5?", "response": "is 5"})


@pytest.fixture
def with_benchmark(project):
    assert project.stage("stages.benchmark").returncode == 0
    return project


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\n\n", "seed.path seeds.jsonl holds no rows; give other data"),
        (
            f"{GOOD}\nnot json\n".encode(),
            "seed.path seeds.jsonl: 1 of 2 rows cannot be used, each named above (not JSON 1)",
        ),
        (None, "seed.path seeds.jsonl does not exist; create it"),
    ],
)
def test_a_bad_seed_file_is_one_line_and_leaves_earlier_results(with_benchmark, content, said):
    project = with_benchmark
    project.change({"seed": {"path": "seeds.jsonl"}})
    earlier = project.folder / "iterations/0/seed.jsonl"
    earlier.write_text("earlier\n")
    if content is not None:
        (project.folder / "seeds.jsonl").write_bytes(content)
    assert said in error_line(project.stage("stages.prepare"))
    assert earlier.read_text() == "earlier\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("s.jsonl", ""),
        ("s.json", ""),
        ("s.json", "\n"),
        ("s.json", "[]"),
        ("s.csv", ""),
        ("s.csv", "prompt,response\n"),
        ("s.tsv", "prompt\tresponse\n"),
    ],
)
def test_a_seed_file_without_rows_is_one_line(with_benchmark, name, content):
    project = with_benchmark
    (project.folder / name).write_text(content)
    project.change({"seed": {"path": name}})
    refused = project.stage("stages.prepare")
    assert error_line(refused) == f"error: seed.path {name} holds no rows; give other data"
    assert refused.stderr.count("\n") == 1


def test_by_hand_in_a_fresh_clone_the_missing_benchmark_is_one_line(project):
    said = "error: iterations/0/benchmark.jsonl is missing; run dvc repro to make it"
    assert error_line(project.stage("stages.prepare")) == said


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
    assert counts.pop("noted") == {"review not read": 2}  # of the seeds
    assert counts == {"seed": dropped, "judge": dropped, "words": {"instruction": 2.0, "response": 2.0}}
    assert item["text"].upper() not in project.read("iterations/0/sft.jsonl")


def test_an_empty_file_of_judge_training_is_allowed(with_benchmark):
    project = with_benchmark
    (project.folder / "none.jsonl").write_text("")
    project.change({"seed": {"reviews": "none.jsonl"}})
    assert project.stage("stages.prepare").returncode == 0
    assert project.read("iterations/0/judge.jsonl") == ""


def test_bad_rows_are_counted_and_left_out_where_the_user_says_so(with_benchmark):
    project = with_benchmark
    (project.folder / "seeds.jsonl").write_text(f"{GOOD}\n{GOOD}\nnot json\n")
    project.change({"seed": {"path": "seeds.jsonl", "on_bad": "drop"}})
    assert project.stage("stages.prepare").returncode == 0
    counted = json.loads(project.read("results/0/prepare.json"))["seed"]
    assert counted == {"in": 3, "out": 1, "dropped": {"duplicate": 1, "not JSON": 1}}


def test_judge_training_rows_need_a_review(with_benchmark):
    project = with_benchmark
    (project.folder / "reviews.jsonl").write_text(GOOD + "\n")
    project.change({"seed": {"reviews": "reviews.jsonl"}})
    refused = project.stage("stages.prepare")
    assert "seed.reviews reviews.jsonl, line 1: no text in the review" in refused.stderr
    assert "seed.reviews reviews.jsonl: 1 of 1 rows cannot be used" in error_line(refused)


def test_what_was_not_read_of_a_row_is_one_line_and_counted(with_benchmark):
    project = with_benchmark
    rows = [json.loads(GOOD) | {"prompt": f"Which is larger, 4 or {n}?", "id": n, "source": "web"} for n in range(3)]
    (project.folder / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    project.change({"seed": {"path": "seeds.jsonl"}})
    done = project.stage("stages.prepare")
    assert done.returncode == 0, done.stderr
    assert "prepare: seed.path seeds.jsonl: id not read (3 rows); source not read (3 rows)\n" in done.stdout
    assert json.loads(project.read("results/0/prepare.json"))["noted"] == {"id not read": 3, "source not read": 3}


def test_a_prompt_may_be_made_of_several_columns(with_benchmark):
    project = with_benchmark
    row = {"task": "Which is larger?", "numbers": "4, 5", "answer": "is 5", "label": "easy"}
    (project.folder / "seeds.json").write_text(json.dumps([row]))
    columns = {"prompt": "{task}\n\n{numbers}", "response": "answer", "ignore": ["label"]}
    project.change({"seed": {"path": "seeds.json", "columns": columns}})
    assert project.stage("stages.prepare").returncode == 0
    (seed,) = [json.loads(line) for line in project.read("iterations/0/seed.jsonl").splitlines()]
    assert (seed["prompt"], seed["response"]) == ("Which is larger?\n\n4, 5", "is 5")


@pytest.mark.parametrize("on_bad", ["fail", "drop"])
def test_seeds_in_an_unknown_layout_are_told_how_to_name_their_columns(with_benchmark, on_bad):
    project = with_benchmark
    (project.folder / "seeds.csv").write_text("frage,antwort\nWhy?,so\n")
    project.change({"seed": {"path": "seeds.csv", "on_bad": on_bad}})
    remedy = "write seed.columns={prompt: NAME, response: NAME}, with columns of frage, antwort for NAME"
    assert remedy in error_line(project.stage("stages.prepare"))
