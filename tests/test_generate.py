"""generate: the routing by threshold, stable by content, and the lineage of what is made."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from stages.core.answers import trim
from stages.core.prompts import answer_rule
from stages.core.records import Tally, content_id, read, write
from stages.data.scale import quantile
from stages.generate import Text, Writer, flawed_candidate, main, new_candidate, route
from stages.inference.engines import Completion, Sampling
from stages.models import reasoning


def rows_of(scores):
    return [row(str(number), score) for number, score in enumerate(scores)]


def row(text, score):
    return {"id": content_id(text), "prompt": text, "response": text, "score": score}


def routed(rows, threshold=7.0, max_low=100, max_high=100, parent="0"):
    tally = Tally(len(rows))
    low, high = route(rows, threshold, max_low, max_high, parent, tally)
    tally.counts(len(low) + len(high))
    return low, high


def test_a_score_at_the_threshold_is_low_and_an_unscored_row_is_neither():
    rows = rows_of([7.0, 7.1, None])
    assert routed(rows) == ([rows[0]], [rows[1]])


def test_on_the_scale_of_ranks_the_highest_three_of_ten_are_above_7():
    rows = rows_of([6 + number / 1000 for number in range(11)] + [None])
    rank = quantile(row["score"] for row in rows)
    low, high = route(rows, 7.0, 100, 100, "0", Tally(12), rank)
    assert sorted(row["score"] for row in high) == [6.008, 6.009, 6.01]
    assert len(low) == 8


@given(scores=st.lists(st.none() | st.floats(0, 10)), max_low=st.integers(0, 5), max_high=st.integers(0, 5))
def test_no_row_is_lost_without_a_reason(scores, max_low, max_high):
    low, high = routed(rows_of(scores), 7.0, max_low, max_high)
    assert len(low) <= max_low
    assert len(high) <= max_high


@given(scores=st.lists(st.floats(0, 10), min_size=5, max_size=30))
def test_a_grown_seed_set_moves_the_choice_only_by_the_new_rows(scores):
    before = rows_of(scores)
    grown = [*before, row("grown", 1.0)]
    old, new = (routed(rows, max_low=3)[0] for rows in (before, grown))
    assert len([row for row in old if row not in new]) <= 1


def test_the_choice_does_not_depend_on_the_order_of_the_rows():
    rows = rows_of([1.0] * 20)
    assert routed(rows, max_low=5) == routed(rows[::-1], max_low=5)


def test_the_next_iteration_chooses_other_rows():
    rows = rows_of([1.0] * 20)
    assert routed(rows, max_low=5) != routed(rows, max_low=5, parent="1")


SEED = {"id": "seed", "prompt": "Is 4 even or odd?", "response": "is even", "score": 6.0}


def test_a_new_candidate_knows_its_seed_its_prompts_and_its_samples():
    instruction = Text(SEED, "Is 5 even or odd?", {"prompt_hash": "p1", "draw": 2})
    made = new_candidate(Text(instruction, "is odd", {"prompt_hash": "p2", "draw": 1}))
    assert (made["prompt"], made["response"], made["route"]) == ("Is 5 even or odd?", "is odd", "new")
    assert made["lineage"] == {
        "seed": "seed",
        "instruction": {"prompt_hash": "p1", "draw": 2},
        "response": {"prompt_hash": "p2", "draw": 1},
    }


def test_a_flawed_candidate_keeps_the_seeds_instruction():
    made = flawed_candidate(Text(SEED, "is odd", {"prompt_hash": "p", "draw": 0}))
    assert (made["prompt"], made["response"], made["route"]) == (SEED["prompt"], "is odd", "flawed")
    assert made["seed"] == SEED


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


ADD = "What is 2 + 2?"
ANSWERS = {
    "at once": "Final Answer: What is 2 + 2?",
    "after reasons": "It trains addition.\nFinal Answer: What is 2 + 2?",
    "on the next line": "It trains addition.\n\nFinal Answer:\n\nWhat is 2 + 2?\n",
    "on the line of the reasons": "It trains addition. Final Answer: What is 2 + 2?",
    "bold words": "**Final Answer:** What is 2 + 2?",
    "bold words, colon outside": "**Final Answer**: What is 2 + 2?",
    "a blank before the end of bold type": "**Final Answer: ** What is 2 + 2?",
    "bold words above": "**Final Answer:**\nWhat is 2 + 2?",
    "all bold": "**Final Answer: What is 2 + 2?**",
    "bold text": "Final Answer: **What is 2 + 2?**",
    "all of it bold, apart": "**Final Answer:** **What is 2 + 2?**",
    "the end of bold type alone": "Final Answer:** What is 2 + 2?",
    "italic": "*Final Answer:* What is 2 + 2?",
    "underlined bold": "__Final Answer:__ What is 2 + 2?",
    "code": "`Final Answer:` What is 2 + 2?",
    "a heading": "### Final Answer:\nWhat is 2 + 2?",
    "a heading without colon": "### Final Answer\nWhat is 2 + 2?",
    "a bold heading": "## **Final Answer**\n\nWhat is 2 + 2?",
    "a bullet": "- Final Answer: What is 2 + 2?",
    "other letter case": "FINAL ANSWER: What is 2 + 2?",
    "small letters": "Final answer: What is 2 + 2?",
    "two colons": "Final Answer:: What is 2 + 2?",
    "a fullwidth colon": "Final Answer：What is 2 + 2?",
    "the prompt's tag": "Final Answer: <question>What is 2 + 2?</question>",
    "the prompt's tag on its lines": "Final Answer:\n<question>\nWhat is 2 + 2?\n</question>",
    "bold, and the prompt's tag": "**Final Answer:** <Question>What is 2 + 2?</Question>",
    "an answer behind it": "Final Answer: <question>What is 2 + 2?</question>\n<response>It is 4.</response>",
    "the end of the tag alone": "Final Answer: What is 2 + 2?\n</question>",
    "the beginning of the tag alone": "Final Answer: <question>\nWhat is 2 + 2?",
    "quoted in the reasons": 'I write it after the words "Final Answer:" as told.\nFinal Answer: What is 2 + 2?',
    "quoted at a line's beginning": 'I write it after\n"Final Answer:" as told.\n\nFinal Answer: What is 2 + 2?',
    "within the reasons": "The words Final Answer: come first.\nFinal Answer: What is 2 + 2?",
    "in a think block that the prompt began": "Final Answer: What? No.\n</think>\n\nFinal Answer: What is 2 + 2?",
    "the words twice": "Final Answer:\n\n**Final Answer:** What is 2 + 2?",
    "the answer twice": "Final Answer: What is 2 + 2?\n\n**Final Answer:** What is 2 + 2?",
    "the words again at the end": "Final Answer: What is 2 + 2?\n\nFinal Answer:",
    "in a think block": "<think>\nFinal Answer: What is 1 + 1? No.\n</think>\n\nFinal Answer: What is 2 + 2?",
}


def read_answer(completion, kind="instruction"):
    """As the stage reads it: the client takes the reasoning off."""
    return answer_rule("lance", kind).read(reasoning.split(completion).answer)


@pytest.mark.parametrize("completion", ANSWERS.values(), ids=ANSWERS)
def test_the_final_answer_is_what_stands_behind_its_words(completion):
    assert read_answer(completion) == ADD


@pytest.mark.parametrize(
    "completion",
    [
        "What is 2 + 2?",
        "Final Answer:   ",
        "**Final Answer:**",
        "Final Answer: <question></question>",
        'I will write it after the words "Final Answer:" as told.',
        "<think>\nFinal Answer: What is 2 + 2?\n</think>\n",
        "<think>\nFinal Answer: What is 2 + 2?",
        "",
    ],
)
def test_without_its_words_there_is_no_final_answer(completion):
    assert read_answer(completion) is None


WHOLE = [
    "What is 2 * 3 * 4?\nShow it.",
    "Explain **bold** type in Markdown, and __dunder__ names.",
    "* one\n* two",
    "Which tag does <question> stand for in <question>…</question> of this form?",
    "What do <think> and </think> mean?",
    "    if x:\n        return 1\n    return 0",
]


@pytest.mark.parametrize(
    "completion",
    [
        "Final Answer: What is 1 + 1?\nToo easy.\nFinal Answer: What is 2 + 2?",
        "Final Answer: What is 2 + 2?\nFinal Answer: 4",
        "**Final Answer:** First, 2 * 3 = 6.\n\n### Final Answer\n6",
    ],
)
def test_different_texts_behind_the_words_are_no_answer_since_one_may_be_a_draft(completion):
    for kind in ("instruction", "flawed"):
        assert read_answer(completion, kind) is None


def test_the_words_in_quotation_marks_or_within_a_sentence_stay_in_an_answer():
    for text in ('Explain what "Final Answer:" is for.', "Which prompt ends in the words Final Answer: and why?"):
        assert read_answer(f"Final Answer: {text}") == text


@pytest.mark.parametrize("text", WHOLE)
@pytest.mark.parametrize(
    "before", ["Final Answer:\n", "**Final Answer:**\n\n", "*Final Answer:*\n", "Why.\nFinal Answer:\n"]
)
def test_the_text_itself_stays_as_it_was_written(text, before):
    for kind in ("instruction", "flawed"):
        assert read_answer(f"{before}{text}\n", kind) == text


def test_markup_of_an_answer_about_markup_stays():
    xml = "<response><code>200</code></response>"
    assert answer_rule("lance", "flawed").read(f"Final Answer: {xml}") == xml
    assert answer_rule("lance", "flawed").read("Final Answer: <response>It is 5.</response>") == "It is 5."
    assert answer_rule("lance", "flawed").read("*Final Answer:* 3*4*5") == "3*4*5"
    assert answer_rule("lance", "flawed").read("*Final Answer: 3*4*5*") == "3*4*5"


def test_the_micro_sets_instruction_follows_its_words_and_its_responses_are_whole_completions():
    assert answer_rule("micro", "instruction").read("Final Answer: Is 4 even or odd?") == "Is 4 even or odd?"
    assert answer_rule("micro", "instruction").read("Is 4 even or odd?") is None
    for kind in ("flawed", "response"):
        assert answer_rule("micro", kind).read("Final Answer: is even\n") == "Final Answer: is even"


@given(st.text())
def test_a_whole_completion_loses_blank_lines_and_blanks_at_its_end_only(text):
    kept = trim(text)
    assert kept in text
    assert kept.split() == text.split()
    assert trim(kept) == kept


def test_a_first_line_keeps_its_indentation_and_a_single_blank_is_none():
    assert trim("\n \n    if x:\n        return 1\n") == "    if x:\n        return 1"
    assert trim("\tif x:") == "\tif x:"
    assert trim(" It is 4. ") == "It is 4."


class Scripted:
    """A client that gives each prompt the completions of a script."""

    def __init__(self, script):
        self.script = script

    def complete(self, task, prompts, system_prompt, draws, sampling, begun):
        self.begun = begun
        return [self.script[prompt] for prompt in prompts]


def test_the_writer_keeps_what_can_be_read_with_its_sample_and_counts_the_rest():
    script = {
        "one": [Completion("Final Answer: Why?", "stop"), Completion("Final Answer: Wh", "length")],
        "two": [Completion("", "too long"), Completion("I cannot say.", "stop")],
        "three": [Completion("Why?", "stop"), Completion("Final Answer: How?", "stop")],
        "four": [Completion("", "unfinished reasoning"), Completion("", "reasoning within the answer")],
    }
    writer = Writer(Scripted(script), "micro", 2, Sampling(1.0, 1.0, 8, 0))
    texts, counts = writer.write("generate@1", "instruction", ["s1", "s2", "s3", "s4"], list(script))
    assert texts == [
        Text("s1", "Why?", {"prompt_hash": content_id("one"), "draw": 0}),
        Text("s3", "How?", {"prompt_hash": content_id("three"), "draw": 1}),
    ]
    dropped = {"does not fit the context": 1, "truncated": 1, "unreadable": 2}
    dropped |= {"unfinished reasoning": 1, "reasoning within the answer": 1}
    assert counts == {"in": 8, "out": 2, "dropped": dropped}
    assert not writer.client.begun


@pytest.mark.parametrize(("kind", "begun"), [("instruction", "Final Answer:"), ("response", "")])
def test_without_a_rationale_the_words_before_the_text_are_put_into_the_models_mouth(kind, begun):
    client = Scripted({"one": [Completion(" Why?", "stop"), Completion(" Why? Final Answer: How?", "stop")]})
    writer = Writer(client, "lance", 2, Sampling(1.0, 1.0, 8, 0), rationale=False)
    texts, _ = writer.write("generate@1", kind, ["seed"], ["one"])
    assert client.begun == begun
    assert texts[0].text == "Why?"
    assert len(texts) == (1 if begun else 2)  # a second "Final Answer:" makes it unreadable


def test_a_seed_over_a_bound_is_counted_by_its_route():
    tally = Tally(5)
    low, high = route(rows_of([1.0, 1.0, 9.0, 9.0, 9.0]), 7.0, 1, 1, "0", tally)
    assert (len(low), len(high)) == (1, 1)
    assert tally.counts(2)["dropped"] == {"over generate.max_high": 2, "over generate.max_low": 1}


def test_low_seeds_get_new_pairs_high_ones_flawed_responses_and_the_counts_add_up(base, tmp_path, monkeypatch, capsys):
    """By the default's model, as the stage runs."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "prompts").symlink_to(ROOT / "prompts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    Path("iterations/0").mkdir(parents=True)
    Path("iterations/0/model").symlink_to(base)
    low = {"Which is larger, 4 or 5?": 2.0, "Is 4 even or odd?": 7.0, "Which is larger, 6 or 7?": 1.0}
    scores = low | {"Which is larger, 8 or 1?": 9.0, "Why?": None}
    here = Path("iterations/1")
    write(here / "review.jsonl", [row(prompt, score) for prompt, score in scores.items()])
    main(here / "review.jsonl", Path("iterations/0/model"), here / "generated.jsonl")

    routes = [candidate["route"] for candidate in read(here / "generated.jsonl", dict)]
    new, flawed = routes.count("new"), routes.count("flawed")
    assert routes == ["new"] * new + ["flawed"] * flawed
    assert new > 4
    assert flawed > 1
    counts = json.loads(Path("results/1/generate.json").read_text())
    assert counts["seed"] == {"in": 5, "out": 4, "dropped": {"unscored": 1}, "low": 3, "high": 1}
    assert [counts[step]["in"] for step in ("new_instructions", "flawed_responses")] == [3 * 4, 1 * 4]
    assert counts["responses"]["in"] == 4 * counts["new_instructions"]["out"]
    assert [counts[step]["out"] for step in ("responses", "flawed_responses")] == [new, flawed]
    assert "reasoning" not in counts
    assert Path("costs/1/generate.json").is_file()
    expected = f"generate@1: 3 low, 1 high seeds gave {new} new pairs, {flawed} flawed\n"
    assert capsys.readouterr().out.endswith(expected)
