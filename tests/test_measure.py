"""measure: ground truth where the world knows it, and an honest blank where it does not."""

from stages.measure import correct, in_order, judged_right, measure

QUESTION = "Which is larger, 45 or 67?"


def test_a_response_is_correct_by_the_answer_that_it_gives_last():
    assert correct(QUESTION, "The larger one is 67. The answer is 67.") is True
    assert correct(QUESTION, "The answer is 45. No, the answer is 67.") is True
    assert correct(QUESTION, "maybe 45") is False
    assert correct(QUESTION, "I cannot say.") is False


def test_what_the_world_does_not_know_is_unknown():
    assert correct("Why is the sky blue?", "The answer is 67.") is None
    found = measure([], [{"kind": "new", "prompt": "Why?", "completion": "x", "iteration": "1"}], [], "1")
    assert found["sft_rows_correct"] == {"percent": None, "of": 0}


def test_the_judge_is_right_when_its_score_agrees_with_the_truth():
    row = {"prompt": QUESTION, "response": "is 67"}
    assert judged_right({**row, "score": 6.0})
    assert not judged_right({**row, "score": 1.0})
    assert judged_right({**row, "response": "is 45", "score": 1.0})


def test_a_pair_is_in_order_when_only_the_chosen_one_is_right():
    assert in_order({"prompt": QUESTION, "chosen": "is 67", "rejected": "is 45"}) is True
    assert in_order({"prompt": QUESTION, "chosen": "is 45", "rejected": "is 67"}) is False
    assert in_order({"prompt": QUESTION, "chosen": "is 67", "rejected": "maybe 67"}) is None


def test_own_responses_are_measured_where_there_are_some():
    def assessed(response, route):
        return {"prompt": QUESTION, "response": response, "route": route, "score": 9.0}

    rows = [assessed("is 67", "own"), assessed("is 45", "own"), assessed("is 67", "new")]
    sft = [{"kind": "own", "prompt": QUESTION, "completion": "is 45", "iteration": "1"}]
    found = measure(rows, sft, [], "1")
    assert found["own_responses_right"] == {"percent": 50.0, "of": 2}
    assert found["sft_rows_correct"] == {"percent": 0.0, "of": 1}
    assert "own_responses_right" not in measure(rows[2:], sft, [], "1")
