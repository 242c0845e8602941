"""Reasoning is kept apart from the answer: it is no answer, is not judged and not published, and it is counted."""

import json
import re
from math import log

import pytest
from conftest import ROOT, RUNTIME
from hypothesis import given
from hypothesis import strategies as st

from stages.core.errors import UserError
from stages.core.prompts import verdict_rule
from stages.core.verdict import Part, Verdict
from stages.data.seeds.files import of_file
from stages.data.seeds.pairs import SeedTally, judge_training_pairs, pairs
from stages.evaluation import harness
from stages.evaluation.answers import answer_key
from stages.inference.client import Client, without_reasoning
from stages.inference.engines import Completion, Number, Request, Sampling
from stages.inference.sampler import Sampler
from stages.inference.store import Store
from stages.judging.judge import expected, sampled
from stages.models.fingerprint import digest
from stages.models.reasoning import CLOSING, MARKS, OPENING, Parts, is_begun, is_in, split

PROMPT = Request("<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n", (1, 2), 0)
BEGUN = Request(PROMPT.prompt + "<think>\n", (1, 2, 3), 0)
SAMPLING = Sampling(1.0, 1.0, 64, 0)
VERDICT = "It is wrong. score: 2"

plain_texts = st.text().filter(lambda text: not any(mark.lower() in text.lower() for pair in MARKS for mark in pair))


# ---- the split -------------------------------------------------------------------------------------------------------


@given(st.sampled_from(MARKS), plain_texts, plain_texts.filter(lambda text: not re.match(r"\s", text)))
def test_the_answer_behind_reasoning_comes_back_as_it_was_written(marks, reasoning, answer):
    opening, closing = marks
    text = f"{opening}\n{reasoning}\n{closing}\n\n{answer}"
    assert split(text) == Parts(text.removesuffix(answer) if answer else text, answer)
    assert split(f"{reasoning}{closing}\n{answer}", begun=True).answer == answer


@given(plain_texts)
def test_a_text_without_marks_is_an_answer_as_it_is(text):
    assert split(text) == Parts("", text)
    assert not is_in(text)


@given(st.text(st.sampled_from("ab \n`<>/think[]THINK|")) | st.lists(st.sampled_from(sum(MARKS, ("\n", "x", "```\n")))))
def test_nothing_of_a_text_is_lost(pieces):
    text = "".join(pieces)
    for begun in (True, False):
        parts = split(text, begun)
        assert parts.reasoning + parts.answer == text
        assert parts.fault is None or not parts.answer
        assert not OPENING.match(parts.answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\n\n</think>\n\nBecause.", "Because."),
        ("<think>It is 5.</think>Because.", "Because."),
        ("\n <THINK>It is 5.</Think> Because.", "Because."),
        ("[THINK]It is 5.[/THINK]Because.", "Because."),
        ("<|channel>thought\nIt is 5.\n<channel|>Because.", "Because."),
        (
            "<|channel|>analysis<|message|>It is 5.<|end|><|start|>assistant<|channel|>final<|message|>Because.",
            "Because.",
        ),
        ("<think>One.</think>\n<think>Two.</think>\nBecause.", "Because."),
        ("<think>One <think>two</think> three.\n</think>\nBecause.", "Because."),
        ("It is 5.\n</think>\n\nBecause.", "Because."),  # the prompt has begun it, in somebody else's template
        ("It is 5.</think>\n\nBecause.", "Because."),
        ("<think>\nx\n</think>\n\n    if x:\n        return 1", "    if x:\n        return 1"),
    ],
)
def test_reasoning_is_what_stands_before_the_answer(text, answer):
    assert split(text) == Parts(text.removesuffix(answer), answer)
    assert is_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "Remove it so:\n\n```python\ntext = re.sub(r'<think>.*?</think>', '', text)\n```",
        "Its format is\n\n```\n<think>\nreasoning\n</think>\nanswer\n```\n\nand nothing else.",
        "~~~\n</think>\n~~~",
        "The tag `<think>` begins it, and `</think>` ends it.",
        "I think so. <thinkpad> is a laptop.",
        "analysis: it is 5.",
    ],
)
def test_a_text_that_speaks_about_the_marks_is_an_answer(text):
    assert split(text) == Parts("", text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<think>It is", "unfinished reasoning"),
        ("<think>One.</think>\n<think>Two", "unfinished reasoning"),
        ("Sure!\n<think>It is 5.</think>\nBecause.", "reasoning within the answer"),
        ("<think>One.</think>\nBecause.\n<think>\nTwo", "reasoning within the answer"),
    ],
)
def test_where_the_answer_cannot_be_told_from_the_reasoning_there_is_none(text, fault):
    assert split(text) == Parts(text, "", fault)


def test_a_prompt_may_begin_the_reasoning():
    assert is_begun(BEGUN.prompt)
    assert not is_begun(PROMPT.prompt)
    assert not is_begun(PROMPT.prompt.replace("Why?", "What is <think>?"))
    assert not is_begun(BEGUN.prompt + "\n</think>\n\n")
    assert split("It is `</think>` 5.", begun=True).answer == "` 5."
    assert split("It is 5.", begun=True).fault == "unfinished reasoning"


# ---- completions -----------------------------------------------------------------------------------------------------


def test_a_completion_without_reasoning_is_returned_as_it_was_written():
    completion = Completion("It is 5.", "stop", numbers=(Number(6, {"5": -0.1}),))
    assert without_reasoning(PROMPT, completion) is completion


def test_a_completions_numbers_are_those_of_its_answer():
    """Their places, too: a verdict's probabilities are looked up there."""
    reasoning = "<think>It is 7.</think>\n\n"
    numbers = (Number(reasoning.index("7"), {"7": -0.1}), Number(len(reasoning) + VERDICT.index("2"), {"2": -0.2}))
    parts = without_reasoning(PROMPT, Completion(reasoning + VERDICT, "stop", numbers=numbers))
    assert (parts.reasoning, parts.text, parts.finish) == (reasoning, VERDICT, "stop")
    assert [parts.text[number.start] for number in parts.numbers] == ["2"]


def test_a_completion_that_ends_in_its_reasoning_has_no_answer():
    stopped, cut = (without_reasoning(BEGUN, Completion("It is 7.", finish)) for finish in ("stop", "length"))
    assert (stopped.text, stopped.finish) == ("", "unfinished reasoning")
    assert (cut.text, cut.finish) == ("", "length")


def test_a_review_is_read_behind_its_reasoning(monkeypatch):
    monkeypatch.chdir(ROOT)
    rule = verdict_rule("micro")
    texts = [f"<think>{VERDICT}</think>\nIt is correct. score: 9", f"<think>\n{VERDICT}", VERDICT]
    reviews = [sampled(without_reasoning(PROMPT, Completion(text, "stop")), rule) for text in texts]
    assert [review.score for review in reviews] == [9, None, 2]
    assert [review.completion.text for review in reviews] == ["It is correct. score: 9", "", VERDICT]


class Scripted:
    """A client whose model writes the same texts for every prompt."""

    def __init__(self, *texts):
        self.texts = texts

    def complete(self, task, prompts, system_prompt, draws, sampling, begun=""):
        return [[without_reasoning(PROMPT, Completion(text, "stop")) for text in self.texts] for _ in prompts]


@pytest.mark.parametrize("kind", ["instruction", "response", "flawed"])
def test_a_final_answer_within_the_reasoning_is_none(monkeypatch, kind):
    monkeypatch.chdir(ROOT)
    thought = "<think>\nI write\nFinal Answer: Why not?\n</think>\n\n"
    client = Scripted(
        f"{thought}Final Answer: Why?", f"{thought}It is", thought[:-12], f"Hm.\n{thought}Final Answer: Why?"
    )
    texts, counts = Sampler(client, "lance", 4, SAMPLING).write("generate@1", kind, ["seed"], ["prompt"])
    assert not any("Why not?" in text.text for text in texts)
    faults = {"unfinished reasoning": 1, "reasoning within the answer": 1}
    if kind == "response":
        assert [text.text for text in texts] == ["Final Answer: Why?", "It is"]
        assert counts["dropped"] == faults
    else:
        assert [text.text for text in texts] == ["Why?"]
        assert counts["dropped"] == {**faults, "unreadable": 1}


def test_completions_with_reasoning_are_counted():
    client = Client.__new__(Client)
    client.completions = {b"1": Completion("It is 5.", "stop")}
    assert client.reasoning() is None
    for key, text in ((b"2", "<think>7</think>8"), (b"3", "<think>7")):
        client.completions[key] = without_reasoning(PROMPT, Completion(text, "stop"))
    assert client.reasoning() == {"completions": 2, "answers": 1}


# ---- data ------------------------------------------------------------------------------------------------------------


def test_a_seed_whose_response_has_reasoning_is_refused(tmp_path, capsys):
    path = tmp_path / "seeds.jsonl"
    good = {"prompt": "What is <think>?", "response": "The tag `<think>` begins it."}
    bad = {"prompt": "Why?", "response": "<think>\nHm.\n</think>\n\nBecause."}
    path.write_text("".join(json.dumps(row) + "\n" for row in (good, bad)))
    tally = SeedTally()
    assert list(pairs(of_file(path, "seed.path"), "seeds", tally, on_bad="drop")) == [good]
    assert tally.dropped == {"reasoning in the response": 1}
    with pytest.raises(UserError, match="1 of 2 rows cannot be used"):
        list(pairs(of_file(path, "seed.path"), "seeds", SeedTally()))
    assert "line 2: reasoning in the response (only the answer behind it is learnt" in capsys.readouterr().err


def test_a_judge_does_not_learn_reasoning_either(tmp_path):
    path, tally = tmp_path / "reviews.jsonl", SeedTally()
    good = {"prompt": "Why?", "response": "So.", "review": VERDICT}
    bad = good | {"prompt": "How?", "review": f"<think>Hm.</think>{VERDICT}"}
    path.write_text("".join(json.dumps(row) + "\n" for row in (good, bad)))
    assert list(judge_training_pairs(of_file(path, "seed.reviews"), "reviews", tally, "drop")) == [good]
    assert tally.dropped == {"reasoning in the review": 1}


def test_every_opening_mark_has_its_closing_one():
    for opening, closing in MARKS:
        assert OPENING.fullmatch(opening)
        assert CLOSING.fullmatch(closing)


class Recorder:
    """A client that keeps the prompts that it is given, and answers each with the digit 0."""

    def complete_rendered(self, task, rendered, draws, sampling):
        self.prompts = list(rendered)
        return [[Completion("0", "stop", numbers=(Number(0, {"0": 0.0}),))] for _ in rendered]


def test_a_judge_that_is_asked_how_a_score_would_go_on_reads_its_reasoning_again():
    """A 1 may become a 10: the judge writes that token behind all that it wrote before it."""
    text = "<think>\nIt is 7.\n</think>\n\nscore: 9"
    numbers = (Number(len(text) - 1, {"9": log(0.5), "1": log(0.5)}),)
    review, client = without_reasoning(PROMPT, Completion(text, "stop", numbers=numbers)), Recorder()
    rule = Verdict([Part(label="score", highest=10)])
    (verdict,) = expected(client, "review", [PROMPT.prompt], [review], rule)
    assert client.prompts == [PROMPT.prompt + text[:-1] + "1"]
    assert verdict.score == pytest.approx(0.5 * 9 + 0.5 * 10)


@pytest.mark.slow
def test_evaluation_reads_an_answer_behind_its_reasoning_and_stores_both(monkeypatch, tmp_path, tiny_model):
    from lm_eval.api.instance import Instance

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    store = Store.from_settings(RUNTIME.store)
    written = {PROMPT.prompt: "<think>It is 7.</think>\n8", BEGUN.prompt: "It is 7.</think>\n8"}
    requests = []
    for prompt, text in written.items():
        requests.append(Instance("generate_until", {}, (prompt, {"until": []}), 0, ("t", 0, 1)))
        store.put(answer_key(digest(tiny_model), requests[-1], 0), Completion(json.dumps(text), "stop"))
    lm = harness.load_lm(tiny_model, RUNTIME, lambda _: None)
    assert lm.generate_until(requests) == ["8", "8"]
    assert [json.loads(completion.text) for completion in lm.used] == list(written.values())
    assert lm.reasoning == {"completions": 2, "answers": 2}
    for prompt, text in {"Why?": "<think>It is", "How?": "So."}.items():
        other = Instance("generate_until", {}, (prompt, {"until": []}), 0, ("t", 0, 1))
        store.put(answer_key(digest(tiny_model), other, 0), Completion(json.dumps(text), "stop"))
        lm.generate_until([other])
    assert lm.reasoning == {"completions": 3, "answers": 2}
