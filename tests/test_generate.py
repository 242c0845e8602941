"""generate: the routing by threshold, stable by content, and the lineage of what is made."""

import json
import re
import shutil
import weakref
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from stages.core.answers import trim
from stages.core.params import read_runtime
from stages.core.prompts import answer_rule
from stages.core.records import Tally, content_id, read, write
from stages.data.routing import own_seeds, route, shots_of
from stages.data.scale import quantile
from stages.generate import client_of, main, new_candidate, seed_candidate
from stages.inference.client import Client
from stages.inference.engines import Completion, Sampling
from stages.inference.sampler import Sampler, Text
from stages.models import reasoning


def rows_of(scores):
    return [row(str(number), score) for number, score in enumerate(scores)]


def row(text, score, iteration="0"):
    return {"id": content_id(text), "prompt": text, "response": text, "score": score, "iteration": iteration}


def routed(rows, threshold=7.0, max_low=100, max_high=100, parent="0"):
    tally = Tally(len(rows))
    low, high = route(rows, threshold, max_low, max_high, parent, tally)
    tally.counts(len(low) + len(high))
    return low, high


def test_a_score_at_the_threshold_is_low_and_an_unscored_row_is_neither():
    rows = rows_of([7.0, 7.1, None])
    low, high = routed(rows)
    assert ([seed["id"] for seed in low], [seed["id"] for seed in high]) == ([rows[0]["id"]], [rows[1]["id"]])


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


def answered(rows, limit=100, parent="0"):
    tally = Tally(len(rows))
    own = own_seeds(rows, limit, parent, tally)
    assert tally.counts(len(own))["dropped"] == (
        {"over generate.max_own": len(rows) - limit} if len(own) < len(rows) else {}
    )
    return [seed["id"] for seed in own]


def test_own_seeds_need_no_score_and_are_chosen_as_the_others():
    rows = rows_of([None, 1.0, 9.0, *[None] * 20])
    assert set(answered(rows)) == {row["id"] for row in rows}
    assert answered(rows, 5) == answered(rows[::-1], 5)
    assert answered(rows, 5) != answered(rows, 5, parent="1")
    low, _ = routed([{**row, "score": 1.0} for row in rows], max_low=5)
    assert answered(rows, 5) == [seed["id"] for seed in low]


PEOPLE = [row(f"people's {number}", 5.0) for number in range(20)]
GENERATED = [row(f"generated {number}", 5.0, iteration="1") for number in range(20)]


def shown(number, people_share, reviewed=(*PEOPLE, *GENERATED), seed=PEOPLE[0], parent="1"):
    """How many of people's and how many generated rows are shown before a seed."""
    shots = shots_of(seed, list(reviewed), number, people_share, parent)
    assert seed["prompt"] not in {shot["prompt"] for shot in shots}
    assert len({shot["id"] for shot in shots}) == len(shots)
    people = sum(shot["iteration"] == "0" for shot in shots)
    return people, len(shots) - people


@pytest.mark.parametrize(
    ("number", "share", "mixed"),
    [(7, 1.0, (7, 0)), (7, 0.0, (0, 7)), (7, 0.75, (5, 2)), (2, 0.25, (1, 1)), (3, 0.5, (2, 1)), (1, 0.4, (0, 1))],
)
def test_the_share_of_people_among_the_shots_is_rounded_half_up(number, share, mixed):
    assert shown(number, share) == mixed


def test_people_stand_in_for_generated_shots_that_are_not_there_and_of_too_few_fewer_are_shown():
    assert shown(7, 0.5, reviewed=PEOPLE) == (7, 0)
    assert shown(7, 0.5, reviewed=[*PEOPLE, *GENERATED[:2]]) == (5, 2)
    assert shown(7, 0.5, reviewed=[*PEOPLE[:3], *GENERATED]) == (2, 3)  # the seed itself is one of the three
    assert shown(7, 1.0, reviewed=PEOPLE[:1]) == (0, 0)


def test_shots_differ_by_seed_and_parent_and_not_by_the_order_or_most_of_a_grown_seed_set():
    def ids(seed=PEOPLE[0], parent="1", reviewed=(*PEOPLE, *GENERATED)):
        return [shot["id"] for shot in shots_of(seed, list(reviewed), 5, 0.5, parent)]

    assert ids() == ids(reviewed=[*GENERATED, *PEOPLE][::-1])
    assert ids() != ids(seed=PEOPLE[1])
    assert ids() != ids(parent="2")
    assert len(set(ids()) - set(ids(reviewed=[*PEOPLE, *GENERATED, row("new", 1.0, "2")]))) <= 1


SEED = {"id": "seed", "prompt": "Is 4 even or odd?", "response": "is even", "score": 6.0}


def test_a_new_candidate_knows_its_seed_its_prompts_and_its_samples():
    instruction = Text(SEED, "Is 5 even or odd?", {"prompt_hash": "p1", "draw": 2})
    text = Text(instruction, "is odd", {"prompt_hash": "p2", "draw": 1})
    made = new_candidate(text, [])
    assert (made["prompt"], made["response"], made["route"]) == ("Is 5 even or odd?", "is odd", "new")
    assert made["lineage"] == {
        "seed": "seed",
        "instruction": {"prompt_hash": "p1", "draw": 2},
        "response": {"prompt_hash": "p2", "draw": 1},
    }
    assert new_candidate(text, PEOPLE[:2])["lineage"]["shots"] == [PEOPLE[0]["id"], PEOPLE[1]["id"]]


@pytest.mark.parametrize("route", ["own", "flawed"])
def test_an_own_or_flawed_candidate_keeps_the_seeds_instruction(route):
    made = seed_candidate(route, Text(SEED, "is odd", {"prompt_hash": "p", "draw": 0}))
    assert (made["prompt"], made["response"], made["route"]) == (SEED["prompt"], "is odd", route)
    assert made["seed"] == SEED
    assert made["lineage"] == {"seed": "seed", "response": {"prompt_hash": "p", "draw": 0}}


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


def test_the_sampler_keeps_what_can_be_read_with_its_sample_and_counts_the_rest():
    script = {
        "one": [Completion("Final Answer: Why?", "stop"), Completion("Final Answer: Wh", "length")],
        "two": [Completion("", "too long"), Completion("I cannot say.", "stop")],
        "three": [Completion("Why?", "stop"), Completion("Final Answer: How?", "stop")],
        "four": [Completion("", "unfinished reasoning"), Completion("", "reasoning within the answer")],
    }
    sampler = Sampler(Scripted(script), "micro", 2, Sampling(1.0, 1.0, 8, 0))
    texts, counts = sampler.write("generate@1", "instruction", ["s1", "s2", "s3", "s4"], list(script))
    assert texts == [
        Text("s1", "Why?", {"prompt_hash": content_id("one"), "draw": 0}),
        Text("s3", "How?", {"prompt_hash": content_id("three"), "draw": 1}),
    ]
    dropped = {"does not fit the context": 1, "truncated": 1, "unreadable": 2}
    dropped |= {"unfinished reasoning": 1, "reasoning within the answer": 1}
    assert counts == {"in": 8, "out": 2, "dropped": dropped}
    assert not sampler.client.begun


@pytest.mark.parametrize(("kind", "begun"), [("instruction", "Final Answer:"), ("response", "")])
def test_without_a_rationale_the_words_before_the_text_are_put_into_the_models_mouth(kind, begun):
    client = Scripted({"one": [Completion(" Why?", "stop"), Completion(" Why? Final Answer: How?", "stop")]})
    sampler = Sampler(client, "lance", 2, Sampling(1.0, 1.0, 8, 0), rationale=False)
    texts, _ = sampler.write("generate@1", kind, ["seed"], ["one"])
    assert client.begun == begun
    assert texts[0].text == "Why?"
    assert len(texts) == (1 if begun else 2)  # a second "Final Answer:" makes it unreadable


def test_a_seed_over_a_bound_is_counted_by_its_route():
    tally = Tally(5)
    low, high = route(rows_of([1.0, 1.0, 9.0, 9.0, 9.0]), 7.0, 1, 1, "0", tally)
    assert (len(low), len(high)) == (1, 1)
    assert tally.counts(2)["dropped"] == {"over generate.max_high": 2, "over generate.max_low": 1}


@pytest.fixture
def folder(base, tmp_path, monkeypatch):
    """Where iteration 1 may be generated from five seeds by the default's model, which is M_0 and M_1."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "prompts").symlink_to(ROOT / "prompts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for key in "01":
        Path("iterations", key).mkdir(parents=True)
        Path("iterations", key, "model").symlink_to(base)
    low = {"Which is larger, 4 or 5?": 2.0, "Is 4 even or odd?": 7.0, "Which is larger, 6 or 7?": 1.0}
    scores = low | {"Which is larger, 8 or 1?": 9.0, "Why?": None}
    write(Path("iterations/1/review.jsonl"), [row(prompt, score) for prompt, score in scores.items()])
    return tmp_path


def generate_iteration_1(writer="0", **settings):
    """The candidates and counts of the stage as it runs, with these settings of `generate`."""
    params = Path("params.yaml").read_text()
    for name, value in settings.items():
        params = re.sub(rf"(?m)^  {name}: \S+", f"  {name}: {value}", params)
    Path("params.yaml").write_text(params)
    here = Path("iterations/1")
    models = (Path("iterations", key, "model") for key in ("0", writer))
    main(here / "review.jsonl", *models, here / "generated.jsonl")
    return read(here / "generated.jsonl", dict), json.loads(Path("results/1/generate.json").read_text())


def test_low_seeds_get_new_pairs_high_ones_flawed_responses_and_the_counts_add_up(folder, capsys):
    """By the default's model, as the stage runs."""
    candidates, counts = generate_iteration_1()
    routes = [candidate["route"] for candidate in candidates]
    new, flawed = routes.count("new"), routes.count("flawed")
    assert routes == ["new"] * new + ["flawed"] * flawed
    assert new > 4
    assert flawed > 1
    assert list(counts) == ["seed", "new_instructions", "responses", "flawed_responses"]
    assert counts["seed"] == {"in": 5, "out": 4, "dropped": {"unscored": 1}, "low": 3, "high": 1}
    assert [counts[step]["in"] for step in ("new_instructions", "flawed_responses")] == [3 * 4, 1 * 4]
    assert counts["responses"]["in"] == 4 * counts["new_instructions"]["out"]
    assert [counts[step]["out"] for step in ("responses", "flawed_responses")] == [new, flawed]
    assert Path("costs/1/generate.json").is_file()
    expected = f"generate@1: 3 low, 1 high seeds gave {new} new pairs, {flawed} flawed\n"
    assert capsys.readouterr().out.endswith(expected)


def test_peoples_prompts_are_answered_beside_the_other_routes_whatever_their_score(folder, capsys):
    plain, _ = generate_iteration_1()
    rows = read(Path("iterations/1/review.jsonl"), dict)
    write(Path("iterations/1/review.jsonl"), [*rows, row("Is 8 even or odd?", None, iteration="1")])
    candidates, counts = generate_iteration_1(max_own=4, own_samples=3)
    own = [candidate for candidate in candidates if candidate["route"] == "own"]
    assert [candidate for candidate in candidates if candidate["route"] != "own"] == plain
    assert len({candidate["prompt"] for candidate in own}) == 4
    assert {candidate["prompt"] for candidate in own} < {row["prompt"] for row in rows}
    assert {None, 9.0} & {candidate["seed"]["score"] for candidate in own}
    assert {candidate["lineage"]["response"]["draw"] for candidate in own} == {0, 1, 2}
    assert all(candidate["prompt"] == candidate["seed"]["prompt"] for candidate in own)
    assert counts["own_seed"] == {"in": 5, "out": 4, "dropped": {"over generate.max_own": 1}}
    assert counts["own_responses"] == {"in": 12, "out": 12, "dropped": {}}
    assert capsys.readouterr().out.endswith("flawed, 12 own ones to 4 seeds\n")


def test_an_own_response_is_to_the_prompt_alone(folder):
    candidates, _ = generate_iteration_1(max_own=5)
    hashes = {row["prompt"]: row["lineage"]["response"]["prompt_hash"] for row in candidates if row["route"] == "own"}
    assert hashes == {prompt: content_id(prompt) for prompt in hashes}


def test_the_seeds_that_were_shown_are_in_the_lineage_of_a_new_instruction(folder):
    candidates, _ = generate_iteration_1(shots=3)
    seeds = {row["id"] for row in read(Path("iterations/1/review.jsonl"), dict)}
    new = [candidate for candidate in candidates if candidate["route"] == "new"]
    assert new
    assert all(len(set(row["lineage"]["shots"]) & seeds - {row["seed"]["id"]}) == 2 for row in new)
    assert all("shots" not in row["lineage"] for row in candidates if row["route"] == "flawed")


def test_only_the_new_instructions_are_written_by_the_writer(folder, tiny_model):
    """The tiny model is not trained, so none of its texts can be read."""
    (folder / "iterations/1/model").unlink()
    (folder / "iterations/1/model").symlink_to(tiny_model)
    by_parent, _ = generate_iteration_1()
    by_writer, counts = generate_iteration_1(writer="1")
    assert counts["new_instructions"]["out"] == counts["responses"]["in"] == 0
    assert by_writer == [candidate for candidate in by_parent if candidate["route"] == "flawed"]
    assert sum(counts[step]["in"] for step in ("new_instructions", "flawed_responses")) == 3 * 4 + 4
    cost = json.loads(Path("costs/1/generate.json").read_text())
    assert cost["tokens"] > 12 * 40  # of the writer's, which never end, beside the parent's


def test_the_same_model_is_served_by_one_client(folder, tiny_model):
    (folder / "iterations/tiny").symlink_to(tiny_model)
    client = Client(Path("iterations/0/model"), "generate@1", 1.0, read_runtime())
    params = {"max_overlong": 1.0}
    for same in ("iterations/0/model", "iterations/1/model"):  # the same folder, and the same content
        assert client_of(Path(same), client, params) is client
    assert client_of(Path("iterations/tiny"), client, params).digest != client.digest


def test_a_released_client_completes_again(base, folder):
    client = Client(base, "generate@1", 1.0, read_runtime())
    sampling = Sampling(0.0, 1.0, 8, 0)
    first = client.complete("one", ["Is 4 even or odd?"], "", 1, sampling)
    engine = weakref.ref(client._engine)
    client.release()
    assert engine() is None
    assert client.complete("two", ["Is 4 even or odd?"], "", 1, sampling) == first
    assert client.complete("three", ["Is 5 even or odd?"], "", 1, sampling)[0][0].finish == "stop"
