"""The micro world: problems have one right answer, held-out problems are in no training data, roles are as taught."""

import json
import subprocess
import sys
from itertools import islice
from random import Random

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from stages import world as stage
from stages.microworld import corpus
from stages.microworld.pretraining import render_chat, tokenize
from stages.microworld.world import FAMILIES, draw, draw_distinct, oracle, split_of


@given(st.integers())
def test_the_oracle_reads_every_drawn_question_back(seed):
    problem = draw(Random(seed))
    assert oracle(problem.question) == problem


@given(st.text())
def test_the_oracle_solves_nothing_else(text):
    assert oracle(text) is None


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Which is smaller, 45 or 12?", "12"),
        ("Find the highest number: 34, 12, 99.", "99"),
        ("Name the third word in cat, dog, fox, owl.", "fox"),
        ("What comes just before dog in cat, dog, fox?", "cat"),
        ("Which word appears twice: red, kiwi, red?", "red"),
        ("Tell me if 345 is odd or even.", "odd"),
        ("Name the number after 386.", "387"),
        ("Count the items: cat, dog, fox.", "3"),
        ("Which is smaller, 45 or 45?", None),  # ill-posed
        ("Name the third word in cat, dog.", None),
        ("What comes just before cat in cat, dog, fox?", None),
        ("Which word appears twice: red, kiwi, cat?", None),
    ],
)
def test_the_oracle_knows_the_answer_and_what_is_ill_posed(question, answer):
    problem = oracle(question)
    assert (problem.solution.answer if problem else None) == answer


def test_every_family_has_enough_distinct_held_out_problems():
    for family in FAMILIES:
        problems = list(islice(draw_distinct(Random(0), "test", family), 150))
        assert len({problem.solution.key for problem in problems}) == 150


def shipped(path):
    return [json.loads(line) for line in (ROOT / path).read_text(encoding="utf-8").splitlines()]


def test_seeds_judge_rows_and_benchmark_share_no_problem():
    for name in ("seeds", "reviews"):
        trained = [row["prompt"] for row in shipped(f"stages/microworld/data/{name}.jsonl")]
        assert {split_of(oracle(question)) for question in trained} == {"train"}
    for path in sorted((ROOT / "evaluation/micro/data").glob("*.jsonl")):
        held_out = [row["question"] for row in shipped(path.relative_to(ROOT))]
        assert {split_of(oracle(question)) for question in held_out} == {"validation", "test"}


def test_the_checked_seeds_are_the_seeds_with_the_right_answers():
    seeds, checked = shipped("stages/microworld/data/seeds.jsonl"), shipped("stages/microworld/data/checked.jsonl")
    assert [{"prompt": row["prompt"], "response": row["response"]} for row in checked] == seeds
    for row in checked:
        assert row["check"] == {"kind": "answer", "expected": oracle(row["prompt"]).solution.answer}


def test_the_shipped_data_is_what_the_stage_makes(project):
    for part in ("stages/microworld/data", "evaluation/micro/data"):
        for path in (project.folder / part).iterdir():
            path.unlink()
    assert project.stage("stages.world").returncode == 0
    for part in ("stages/microworld/data", "evaluation/micro/data"):
        made = {path.name: path.read_bytes() for path in (project.folder / part).iterdir()}
        assert made == {path.name: path.read_bytes() for path in (ROOT / part).iterdir()}
    assert len(shipped("evaluation/micro/data/compare.jsonl")) == sum(stage.HELD_OUT.values())


def test_people_are_often_misled_and_the_judge_is_taught_the_truth():
    random = Random(0)
    problems = [draw(random) for _ in range(4000)]
    misled = [problem for problem in problems if problem.solution.misconception is not None]
    assert 0.4 < len(misled) / len(problems) < 0.6
    right = [corpus.human_response(random, problem).answer == problem.solution.answer for problem in misled]
    assert sum(right) / len(right) == pytest.approx(corpus.RIGHT_WHEN_MISLED, abs=0.03)
    for problem in problems[:200]:
        response = corpus.judged_response(random, problem)
        text = "".join(part for part, _ in corpus.true_review(random, problem, response))
        assert ("It is correct" in text) == (response.answer == problem.solution.answer)


def test_a_wrong_answer_is_wrong():
    random = Random(0)
    for _ in range(2000):
        problem = draw(random)
        assert corpus.wrong_answer(random, problem) != problem.solution.answer


def test_the_weighted_segments_are_tokenized_as_the_whole_text():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "stages/microworld/base")
    random = Random(0)
    for _ in range(100):
        prompt, segments = corpus.draw_example(random)
        whole = render_chat(prompt) + "".join(text for text, _ in segments) + "<|im_end|>"
        example = tokenize(tokenizer, prompt, segments)
        assert example.tokens == tokenizer(whole, add_special_tokens=False)["input_ids"]


def test_the_tokenizers_chat_template_is_the_pre_trainings_chat():
    from transformers import AutoTokenizer

    from stages.models.chat import render

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "stages/microworld/base")
    assert render(tokenizer, "Is 4 even or odd?") == render_chat("Is 4 even or odd?")


def test_the_checkpoint_is_small_enough_for_git():
    size = sum(path.stat().st_size for path in (ROOT / "stages/microworld/base").iterdir())
    assert size <= 4_000_000


@pytest.mark.slow
def test_pre_training_gives_the_same_bytes_each_time(tmp_path):
    from stages.microworld.pretraining import train

    for name in ("one", "two"):
        train(
            tmp_path / name, steps=3, batch_size=4, learning_rate=1e-3, hidden=32, layers=1, heads=2, random_state=0,
            on_step=lambda loss: None,
        )  # fmt: skip
    files = {path.name for path in (tmp_path / "one").iterdir()}
    assert "model.safetensors" in files
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


def test_pre_training_fixes_the_instruction_set_before_torch_is_imported():
    """Else it would be without effect, and another kind of machine would give other bytes."""
    code = (
        "import os, sys, stages.pretrain as stage; assert 'torch' not in sys.modules; "
        "os.environ.update(stage.INSTRUCTIONS); import torch; print(torch.backends.cpu.get_cpu_capability())"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() in ("AVX2", "DEFAULT")  # the latter where the machine has less
