"""generate: the routing by threshold, stable by content, and the lineage of what is made."""

from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from stages.core.prompts import completion_pattern
from stages.core.records import Tally, content_id
from stages.generate import Text, Writer, final_answer, flawed_candidate, new_candidate, route
from stages.inference.engines import Completion, Sampling


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


def test_the_final_answer_is_what_stands_behind_its_words():
    micro = completion_pattern(ROOT / "prompts/micro/generate/answers.yaml", "instruction")
    lance = completion_pattern(ROOT / "prompts/lance/generate/answers.yaml", "instruction")
    assert final_answer("Final Answer: Is 4 even or odd?", micro) == "Is 4 even or odd?"
    assert final_answer("Is 4 even or odd?", micro) is None
    assert final_answer("Let me think.\nFinal Answer:\nWhat is 2 + 2?\nShow it.", lance) == "What is 2 + 2?\nShow it."
    assert final_answer("Final Answer:   ", lance) is None


class Scripted:
    """A client that gives each prompt the completions of a script."""

    def __init__(self, script):
        self.script = script

    def complete(self, task, prompts, system_prompt, draws, sampling):
        return [self.script[prompt] for prompt in prompts]


def test_the_writer_keeps_what_can_be_read_with_its_sample_and_counts_the_rest(monkeypatch):
    monkeypatch.chdir(ROOT)
    script = {
        "one": [Completion("Final Answer: Why?", "stop"), Completion("Final Answer: Wh", "length")],
        "two": [Completion("", "too long"), Completion("I cannot say.", "stop")],
        "three": [Completion("Why?", "stop"), Completion("Final Answer: How?", "stop")],
    }
    writer = Writer(Scripted(script), "micro", 2, Sampling(1.0, 1.0, 8, 0))
    texts, counts = writer.write("generate@1", "instruction", ["s1", "s2", "s3"], list(script))
    assert texts == [
        Text("s1", "Why?", {"prompt_hash": content_id("one"), "draw": 0}),
        Text("s3", "How?", {"prompt_hash": content_id("three"), "draw": 1}),
    ]
    dropped = {"does not fit the context": 1, "truncated": 1, "unreadable": 2}
    assert counts == {"in": 6, "out": 2, "dropped": dropped}


def test_a_seed_over_a_bound_is_counted_by_its_route():
    tally = Tally(5)
    low, high = route(rows_of([1.0, 1.0, 9.0, 9.0, 9.0]), 7.0, 1, 1, "0", tally)
    assert (len(low), len(high)) == (1, 1)
    assert tally.counts(2)["dropped"] == {"over generate.max_high": 2, "over generate.max_low": 1}
