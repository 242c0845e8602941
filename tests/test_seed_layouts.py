"""The layouts that instruction data has: each is read whole, or refused with the name of the field."""

import json
import re

import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.data.seeds.layouts import read_row
from stages.data.seeds.source import Number, RowError


def turns(*contents, roles=("user", "assistant")):
    """Messages of role and content."""
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]


def pair(row, columns=None):
    """A row's prompt and response."""
    reading = read_row(row, columns)
    return reading.prompt, reading.response


SINGLE = [
    {"prompt": "Why?", "response": "So."},
    {"prompt": "Why?", "completion": "So."},
    {"Question": "Why?", "Answer": "So."},
    {"query": "Why?", "response": "So.", "type": "GSM_AnsAug"},  # MetaMathQA
    {"problem": "Why?", "solution": "So.", "source": "olympiads"},  # NuminaMath
    {"inputs": "Why?", "targets": "So.", "language": "English"},  # FLAN, xP3, Aya
    {"input": "Why?", "target": "So.", "kind": "NLI"},  # Firefly
    {"input": "Why?", "output": "So."},
    {"human": "Why?", "gpt": "So."},
    {"user": "Why?", "assistant": "So."},
    {"instruction": "Why?", "input": "", "output": "So.", "text": "Below is an instruction …"},  # Alpaca
    {"instruction": "Why?", "context": None, "response": "So.", "category": "open_qa"},  # Dolly
    {"instruction": "Why?", "output": "So.", "system": "", "history": [], "images": None, "tools": "[]"},
    {"system_prompt": "", "question": "Why?", "response": "So.", "id": "niv.1"},  # OpenOrca
    {"messages": turns("Why?", "So."), "source": "tulu"},  # Tülu 3, smoltalk
    {"messages": turns("Why?", "So."), "user": "u-17", "bot": "b-1"},
    {"messages": turns("", "Why?", "So.", roles=("system", "user", "assistant"))},
    {"messages": {"role": ["user", "assistant"], "content": ["Why?", "So."]}},  # as older versions of datasets give it
    {"messages": json.dumps(turns("Why?", "So."))},  # in a CSV file
    {"messages": [{**turn, "tool_calls": None, "reasoning_content": ""} for turn in turns("Why?", "So.")]},
    {"prompt": turns("Why?", roles=["user"]), "completion": turns("So.", roles=["assistant"])},  # trl
    {"prompt": "Why?", "prompt_id": "7", "messages": turns("Why?", "So.")},  # no_robots, UltraChat 200k
    {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},  # ShareGPT, OpenHermes
    {
        "conversations": [
            {"from": "human", "value": "Why?", "weight": 0},
            {"from": "gpt", "value": "So.", "weight": 1.0},
        ]
    },
    {"instruction": "Why?", "response": "So.", "conversations": turns("Why?", "So.")},  # Magpie
    {"conversations": ["Why?", "So."], "source": "stackexchange"},  # LIMA
    {"conversation": [{"human": "Why?", "assistant": "So."}]},  # MOSS
    {"conversation": [{"system": "", "input": "Why?", "output": "So."}]},  # XTuner
    {"instruction": "Why?", "output": "So.", "response": "So."},
    {"prompt": "Why?", "completion": "So.", "user": "u-17", "label": True},  # KTO
    {"question": "Why?", "gold": "So."},
    {"question": "Why?", "response": "So.", "correct_answer": "So."},
    {"query": "Why?", "response": "So.", "original_question": "Why not?"},  # MetaMathQA
    {"problem": "Why?", "solution": "So.", "problem_is_valid": "Yes", "solution_is_valid": "Yes"},  # NuminaMath 1.5
]


@pytest.mark.parametrize("row", SINGLE, ids=lambda row: "-".join(row))
def test_a_common_layout_is_read(row):
    assert pair(row) == ("Why?", "So.")


@pytest.mark.parametrize("context", ["input", "context", "passage", "article", "Story", "hint"])
@pytest.mark.parametrize(
    ("task", "answer"), [("instruction", "output"), ("instruction", "response"), ("question", "answer")]
)
def test_what_goes_with_a_task_follows_it_in_the_prompt(task, context, answer):
    row = {context: "The cat is grey.", task: "Which colour?", answer: "Grey."}
    assert pair(row) == ("Which colour?\n\nThe cat is grey.", "Grey.")


@pytest.mark.parametrize("value", [0, Number("0"), Number("0.0"), "0", "No."])
def test_an_input_that_is_a_number_stays_as_it_is_written(value):
    assert pair({"instruction": "Even?", "input": value, "output": "Yes."}) == (f"Even?\n\n{value}", "Yes.")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        *((value, "a truth value") for value in (True, False)),
        *((value, "a number") for value in (0.0, 0.1, float("nan"))),
        *((value, "a list") for value in (["b", "a"], [])),
        *((value, "a group") for value in ({"a": 1}, {})),
        (b"x", "a bytes"),
    ],
)
@pytest.mark.parametrize("field", ["instruction", "input", "output"])
def test_a_value_that_is_no_text_is_refused_and_never_its_repr(field, value, kind):
    row = {"instruction": "Sort.", "input": "b, a", "output": "a, b"}
    with pytest.raises(RowError, match=f"^{kind} instead of text in the {field}"):
        read_row(row | {field: value})


def test_a_prompt_is_no_number():
    with pytest.raises(RowError, match=r"a number instead of text in the prompt \(7\)"):
        read_row({"prompt": Number("7"), "response": "is 7"})


ARC = {"text": ["Venus", "Mars", "Earth"], "label": ["A", "B", "C"]}
PLANETS = "Which is red?\n\nA. Venus\nB. Mars\nC. Earth"


@pytest.mark.parametrize(
    "row",
    [
        {"choices": ARC, "answerKey": "B", "id": "MCAS_1"},  # ARC, CommonsenseQA, OpenBookQA
        {"choices": ["Venus", "Mars", "Earth"], "answer": 1},  # MMLU
        {"choices": ["Venus", "Mars", "Earth"], "answer": Number("1")},
        {"options": ["Venus", "Mars", "Earth"], "answer": "B"},  # RACE
        {"options": ["Venus", "Mars", "Earth"], "answer": "(b)"},
        {"options": {"A": "Venus", "B": "Mars", "C": "Earth", "D": None}, "answer": "Mars", "answer_idx": "B"},  # MedQA
        {"options": '["Venus", "Mars", "Earth"]', "label": "1"},  # in a CSV file
        {"choices": [{"label": "A", "text": "Venus"}, {"label": "B", "text": "Mars"}, {"label": "C", "text": "Earth"}],
         "answerKey": "B"},
        {"A": "Venus", "B": "Mars", "C": "Earth", "D": "", "answer": "B"},
        {"option_a": "Venus", "option_b": "Mars", "option_c": "Earth", "answer": "b"},
        {"opa": "Venus", "opb": "Mars", "opc": "Earth", "answer": "B."},
        {"options": ["Venus", "Mars", "Earth"], "answer": "option_b"},
        {"opa": "Venus", "opb": "Mars", "opc": "Earth", "correct_option": "opb"},
        {"options": ["Venus", "Mars", "Earth"], "answer": "Answer: B"},
        {"options": ["Venus", "Mars", "Earth"], "answer": "The correct answer is **(B)**."},
        {"options": ["Venus", "Mars", "Earth"], "answer": "$\\boxed{\\text{B}}$"},
        {"options": ["Venus", "Mars", "Earth"], "answer": "\uff22"},  # full width
        {"options": ["Venus", "Mars", "Earth"], "answer": "B", "correct": 1},  # a verdict beside an answer
        {"options": ["Venus", "Mars", "Earth"], "answer": "B", "gold": "Mars"},
    ],
    ids=lambda row: "-".join(row),
)  # fmt: skip
def test_choices_are_lines_of_the_prompt_and_the_right_one_is_the_response(row):
    assert pair({"question": "Which is red?", **row}) == (PLANETS, "B. Mars")


def test_choices_with_numbers_as_labels_and_with_labels_of_their_own_keep_them():
    row = {"question": "Which?", "choices": {"text": ["one", "two"], "label": ["1", "2"]}, "answerKey": "1"}
    assert pair(row) == ("Which?\n\n1. one\n2. two", "1. one")
    row = {"question": "Which?", "options": ["A)21", "B)21.5"], "correct": "B", "rationale": "…"}  # AQuA
    assert pair(row) == ("Which?\n\nA)21\nB)21.5", "B)21.5")


def test_a_choices_label_has_1_to_3_characters():
    row = {"question": "Which?", "answerKey": "II"}
    assert pair({**row, "choices": {"text": ["one", "two"], "label": ["III", "II"]}})[1] == "II. two"
    for label in ("", " ", "VIII"):
        with pytest.raises(RowError, match="the choices are not a list of 2 to 26 answers"):
            read_row({**row, "choices": {"text": ["one", "two"], "label": [label, "II"]}})


def test_an_answer_in_words_stays_as_it_is_written():
    row = {"question": "Which is red?", "choices": ["Venus", "Mars", "Earth"]}
    assert pair({**row, "answer": "Mars"}) == (PLANETS, "Mars")
    assert pair({**row, "response": "Mars, by its rust."}) == (PLANETS, "Mars, by its rust.")
    assert pair({**row, "output": "It is red with rust, so the answer is (B)."})[1].endswith("is (B).")
    for line in ("B. Mars", "(b) Mars", "B: mars, by its rust"):
        assert pair({**row, "answer": line}) == (PLANETS, line)
    assert pair({"question": "1 + 1?", "choices": [3, 2, 1], "answer": 2}) == ("1 + 1?\n\nA. 3\nB. 2\nC. 1", "2")


def test_a_question_has_2_to_26_choices():
    for number in (2, 25, 26):
        texts = [f"planet {index}" for index in range(number)]
        assert pair({"question": "Which?", "choices": texts, "answer": "planet 1"})[0].count("\n") == number + 1
    for number in (1, 27):
        texts = [f"planet {index}" for index in range(number)]
        with pytest.raises(RowError, match="the choices are not a list of 2 to 26 answers"):
            read_row({"question": "Which?", "choices": texts, "answer": "planet 0"})


def test_a_number_taken_for_that_of_a_choice_is_noted():
    reading = read_row({"question": "Which?", "choices": ["one", "two"], "answer": 0})
    assert (reading.response, reading.notes) == ("A. one", ["answer taken for the number of a choice, from 0"])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"choices": ["Venus", "Mars"], "answer": "E"}, "the answer is none of the choices (E)"),
        ({"choices": ["Venus", "Mars"], "answer": 2}, "the answer is none of the choices (2)"),
        ({"choices": ["Venus", "Mars"], "label": -1}, "the label is none of the choices (-1)"),  # kept secret
        ({"choices": [3, 2, 1], "answer": 0}, "the answer is none of the choices (0)"),
        ({"choices": ["Venus", "Mars"], "answer": "-1"}, "the answer is none of the choices (-1)"),
        ({"choices": ["Venus", "Mars"], "answer": Number("0.5")}, "the answer is none of the choices (0.5)"),
        ({"A": "Venus", "B": "Mars", "label": "1"}, "the label is none of the choices (1)"),  # from 1 in Social IQa
        (
            {"choices": ["3", "2", "1"], "answer": "1"},
            "the answer is the key of one choice and the text of another (1)",
        ),
        ({"choices": ARC, "answerKey": "B", "answer": "Venus"}, "more than one response (answerKey, answer)"),
        ({"choices": ARC, "answerKey": ""}, "no text in the answerKey"),
        ({"choices": "Venus, Mars", "answer": "B"}, "the choices are not a list of 2 to 26 answers"),
        (
            {"choices": "['Venus', 'Mars']", "answer": "B"},
            "a text that is no list in the choices (not JSON",
        ),
        ({"choices": ["Venus", ["Mars"]], "answer": "B"}, "a list instead of text in the choices"),
        ({"choices": ARC, "options": ["x", "y"], "answer": "B"}, "more than one set of choices (choices, options)"),
        ({"A": "Venus", "answer": "B"}, "'A' would be lost"),
        ({"option1": "Venus", "option2": "Mars", "answer": "2"}, "'option1', 'option2' would be lost"),
        ({"choices": ["Venus", "Mars"], "answer": "Jupiter"}, "the answer is none of the choices (Jupiter)"),
        ({"choices": ["Venus", "Mars"], "answer": "B: Venus"}, "the answer is none of the choices (B: Venus)"),
        (
            {"choices": ["Venus", "Mars"], "answer": "B: Venus, as it is hot"},
            "the answer is none of the choices (B: Venus",
        ),
        ({"choices": ["Venus", "Mars"], "output": "It is none of these."}, "the output is none of the choices"),
        ({"choices": ["Venus", "Mars"], "answer": "choice 2"}, "the answer is none of the choices (choice 2)"),
        ({"options": ["Venus", "Mars"], "output": "I cannot tell."}, "the output is none of the choices"),
        ({"candidates": ["Mars", "It is Mars."], "output": "Mars"}, "'candidates' would be lost"),  # drawn answers
        ({"choices": ["Venus", "Mars"], "answer": "A", "correct": 0}, "'correct' says that the answer is a bad one"),
        ({"answer": "Mars", "answer_idx": "B"}, "'answer_idx' would be lost"),
    ],
)
def test_a_question_whose_choices_or_answer_are_not_plain_is_refused(row, reason):
    with pytest.raises(RowError) as error:
        read_row({"question": "Which is red?", **row})
    assert str(error.value).startswith(reason)


LOST = {
    "system": "Be brief.",
    "system_prompt": "Be brief.",
    "history": [["Why?", "So."]],
    "tools": '[{"name": "search"}]',
    "functions": [{"name": "search"}],
    "images": ["1.jpg"],
    "image": {"bytes": b"\xff", "path": None},
    "audio": "a.wav",
    "reasoning_content": "Hm.",
    "thinking": "Hm.",
    "documents": [{"text": "…"}],
    "distractor1": "Or so.",
    "definition": "Translate it.",  # Natural Instructions
    "Complex_CoT": "Hm.",
    "dialogue_history": ["Why?"],
    "Picture": "1.jpg",
    "has_image": True,
    "image_id": "7",
    "candidates": ["So.", "Or so."],
    "examples": [{"input": "1", "output": "2"}],
    "context_2": "Cats.",
}
JUDGED = {
    "score": 0.0,
    "rating": "5",
    "rank": 2,
    "reward": -1.5,
    "instruct_reward": 2.0,
    "label": "1",
    "helpfulness": 4,
    "chosen": "So.",
    "rejected": "Or so.",
    "weight": 0,
    "loss_weight": 0.5,
    "LLMScore": 3,
    "stars": 1,
    "qualityscore": 1,
    "feedback": "Well done.",
    "error": "Traceback",
}


@pytest.mark.parametrize("layout", [SINGLE[0], {"messages": turns("Why?", "So.")}])
@pytest.mark.parametrize(("field", "value"), [*LOST.items(), *JUDGED.items()])
def test_a_field_that_belongs_to_the_question_or_judges_the_row_refuses_it_by_name(layout, field, value):
    with pytest.raises(RowError, match=f"^'{field}' (would be lost|judges the row)"):
        read_row({**layout, field: value})


@pytest.mark.parametrize("field", [*LOST, "score", "rejected"])
@pytest.mark.parametrize("nothing", [None, "", "  ", [], {}, [None], {"bytes": None, "path": None}])
def test_such_a_field_without_content_refuses_nothing(field, nothing):
    assert pair({**SINGLE[0], field: nothing}) == ("Why?", "So.")


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("label", [True, "True", "true"], [False, "False"]),
        ("true", ["1", 1, Number("1.0")], ["0", 0]),
        ("is_correct", [True, 1], [False, 0]),
        ("accepted", ["yes"], ["no"]),
        ("toxic", [False, 0], [True, 1]),
        ("deleted", [False], [True]),
        ("is_safe", [True], [False]),  # BeaverTails
        ("is_incorrect", [False, 0], [True]),
        ("approved", [1], [0]),
        ("tests_passed", [True], [False]),
        ("answer_is_correct", [1], [0, "no"]),
        ("bad_answer", [0], [True]),
        ("status", ["completed", "ok"], ["rejected", "failed"]),
        ("finish_reason", ["stop"], ["length"]),
        ("feedback", ["positive"], ["negative"]),
        ("keep", [True], [False]),
        ("no_train", [False], [True]),
        ("error", [False], [True]),
        ("weight", [1, 1.0, "1.0"], []),
    ],
)
def test_a_verdict_that_says_yes_or_no_is_used(field, good, bad):
    for value in good:
        reading = read_row({**SINGLE[0], field: value})
        assert (reading.prompt, reading.unread) in [("Why?", []), ("Why?", [field])]
    for value in bad:
        with pytest.raises(RowError, match=f"'{field}' says that the answer is a bad one"):
            read_row({**SINGLE[0], field: value})


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"content": "So.", "tool_calls": [{"id": 1}]}, "'messages.tool_calls' would be lost"),
        ({"content": None, "function_call": {"name": "f"}}, "'messages.function_call' would be lost"),
        ({"content": "So.", "reasoning_content": "Hm."}, "'messages.reasoning_content' would be lost"),
        ({"content": "So.", "weight": 0}, "'messages.weight' is a verdict on the row (0)"),
        ({"content": "So.", "train": False}, "'messages.train' says that the answer is a bad one (False)"),
        ({"content": "So.", "loss": False}, "'messages.loss' says that the answer is a bad one (False)"),
        ({"content": "So.", "status": "rejected"}, "'messages.status' says that the answer is a bad one (rejected)"),
        ({"content": "So.", "reasoning_content": "final"}, "'messages.reasoning_content' would be lost"),
        ({"content": "So.", "channel": "analysis"}, "a message of another channel than final in the messages"),
        (
            {"content": [{"type": "text", "text": "So.", "image_url": "1.png"}]},
            "'messages.image_url' would be lost",
        ),
        ({"content": None}, "no text in the messages"),
        ({"content": "So.", "text": "Or so."}, "more than one text in a message of the messages"),
        ({"content": "So.", "text": "So so."}, "more than one text in a message of the messages"),
        ({"content": "<think>Hm.</think>So."}, "reasoning in the messages"),
        ({"content": [{"type": "image_url", "image_url": {}}]}, "a part of a message that is no text in the messages"),
        ({"content": [{"type": "reasoning", "value": "Hm."}]}, "a part of a message that is no text in the messages"),
        ({"content": 7.5}, "a number instead of text in the messages (7.5)"),
    ],
)
def test_a_message_that_says_more_than_its_text_is_refused(message, reason):
    with pytest.raises(RowError) as error:
        read_row({"messages": [*turns("Why?", roles=["user"]), {"role": "assistant", **message}]})
    assert str(error.value).startswith(reason)


@pytest.mark.parametrize("field", ["tools", "functions"])
def test_tools_in_a_system_message_without_text_are_not_lost(field):
    system = {"role": "system", "content": "", field: '[{"name": "search"}]'}
    with pytest.raises(RowError, match=rf"'messages\.{field}' would be lost"):
        read_row({"messages": [system, *turns("Why?", "So.")]})


def test_whether_the_question_is_learnt_is_no_verdict_on_the_answer():
    messages = turns("Why?", "So.")
    for field in ("loss", "weight", "train"):
        assert pair({"messages": [messages[0] | {field: False}, messages[1] | {field: 1}]}) == ("Why?", "So.")


def test_columns_of_messages_that_differ_in_length_are_refused():
    with pytest.raises(RowError, match="the columns of the messages differ in length"):
        read_row({"messages": {"role": ["user", "assistant"], "content": ["Why?", "So.", "And?"]}})


def test_the_content_of_a_message_may_be_text_parts():
    parts = [{"type": "text", "text": "Why?"}, {"type": "text", "value": "And how?"}]
    assert pair({"messages": turns(parts, [{"type": "text", "text": "So."}])}) == ("Why?\n\nAnd how?", "So.")


def test_a_message_may_have_its_text_in_two_fields():
    messages = [message | {"text": message["content"]} for message in turns("Why?", "So.")]
    assert pair({"messages": messages}) == ("Why?", "So.")


def test_a_message_of_the_final_channel_is_an_answer():
    messages = [*turns("Why?", roles=["user"]), {"role": "assistant", "content": "So.", "channel": "final"}]
    assert pair({"messages": messages}) == ("Why?", "So.")


def test_only_what_the_assistant_says_is_read_as_a_response():
    question = "<think>Hm.</think> is a tag of what?"
    assert pair({"messages": turns(question, "So.")}) == (question, "So.")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (turns("a", "b", "c", roles=("system", "user", "assistant")), "not a single turn (system, user, assistant)"),
        (turns("a", "b") * 3, "not a single turn (user, assistant, user, assistant, …)"),
        (turns("a", "b", "c", roles=("user", "tool", "assistant")), "not a single turn (user, tool, assistant)"),
        (["a", "b", "c", "d"], "not a single turn (user, assistant, user, assistant)"),
        ([{"from": "human", "value": "a"}], "no prompt and response (its fields are conversations)"),
        (
            '[{"role": "user", "role": "assistant", "content": "a"}]',
            "a text that is no list in the conversations (a field that stands twice (role))",
        ),
        ("User: a", "conversations are not a list of role and content"),
        (
            "[{'role': 'user'}]",
            "a text that is no list in the conversations (not JSON",
        ),
        ([{"input": "a", "output": "b"}] * 2, "not a single turn (?, ?)"),
        ([1, 2], "conversations are not a list of role and content"),
        ([{"system": "Be brief.", "input": "a", "output": "b"}], "'system' would be lost"),
    ],
)
def test_a_conversation_of_more_than_a_turn_is_refused(messages, reason):
    with pytest.raises(RowError) as error:
        read_row({"conversations": messages})
    assert str(error.value).startswith(reason)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Why?", "instruction": "How?", "response": "So."}, "more than one prompt (prompt, instruction)"),
        ({"problem": "Why?", "solution": "Thus: so.", "answer": "so"}, "more than one response (solution, answer)"),
        ({"query": "Why?", "answer": "No.", "best_answer": "So."}, "more than one response (answer, best_answer)"),
        ({"question": "Why?", "response": "No.", "gold": "So."}, "more than one response (response, gold)"),
        ({"prompt": "Translate.", "user": "Good day", "assistant": "So."}, "more than one prompt (prompt, user)"),
        ({"prompt": "Be a poet.", "human": "早上好", "response": "So."}, "more than one prompt (prompt, human)"),
        ({"question": "Why?", "support": 12, "answer": "So."}, "a number instead of text in the support (12)"),
        ({"prompt": "<image>\nWhy?", "response": "So."}, "a place for an image in the prompt"),
        ({"prompt": "Why?", "messages": turns("How?", "So.")}, "more than one prompt (prompt, messages)"),
        ({"messages": turns("Why?", "So."), "context": "Cats."}, "'context' would be lost"),
        ({"instruction": "Why?", "output": "  "}, "no text in the output"),
        ({"instruction": None, "output": "So."}, "no text in the instruction"),
        ({"frage": "Why?", "antwort": "So."}, "no prompt and response (its fields are frage, antwort)"),
        ({"prompt": "Why?", "chosen": "So."}, "no prompt and response (its fields are prompt, chosen)"),
        ({}, "no prompt and response (its fields are none)"),
    ],
)  # fmt: skip
def test_a_row_without_one_prompt_and_one_response_is_refused(row, reason):
    with pytest.raises(RowError) as error:
        read_row(row)
    assert str(error.value) == reason


def test_a_name_of_more_than_40_characters_is_cut_in_an_error():
    with pytest.raises(RowError) as error:
        read_row({"x" * 40: "Why?", "y" * 41: "So.", "tab\t": "z"})
    assert str(error.value) == f"no prompt and response (its fields are {'x' * 40}, {'y' * 39}…, tab\\t)"


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"prompt": "Why?", "chosen": "So.", "rejected": "No."}, "{prompt: prompt, response: chosen}"),
        ({"prompt": "Why?", "chosen": "So.", "score_chosen": 5, "score_rejected": 1},
         "{prompt: prompt, response: chosen, ignore: [score_chosen, score_rejected]}"),
        ({"chosen_messages": turns("Why?", "So."), "rejected_messages": turns("Why?", "No.")},
         "{prompt: chosen_messages, response: chosen_messages}"),
        ({"conversations": turns("Why?", roles=["user"]), "chosen": turns("So.", roles=["assistant"])},
         "{prompt: conversations, response: chosen}"),
        ({"system": "Be brief.", "query": "Why?", "answer": "So."}, "{prompt: [system, query], response: answer}"),
        ({"Definition": "Be brief.", "inputs": "Why?", "targets": "So."},
         "{prompt: [Definition, inputs], response: targets}"),
        ({"messages": turns("Why?", "So."), "context": "Cats."}, "{prompt: [messages, context], response: messages}"),
        ({"prompt": "Why?", "response": "So.", "score 1": 5, "rank": 1},
         '{prompt: prompt, response: response, ignore: ["score 1", rank]}'),
        ({"prompt": "Why?", "response": "So.", "tools": "search", "score": 5},
         "{prompt: prompt, response: response, ignore: [tools, score]}"),
        ({"query{}": "Why?", "{answer}": "So.", "rank": 1},
         '{prompt: "query{}", response: ["{answer}"], ignore: [rank]}'),
        ({"prompt": "Why?", "response": "So.", "metadata": {"score": 1}},
         "{prompt: prompt, response: response, ignore: [metadata]}"),
        ({"instruction": "Be brief.", "question": "Why?", "output": "So."},
         "{prompt: [instruction, question], response: output}"),
        ({"instruction": "Be brief.", "user": "Why is it?", "assistant": "So."},
         "{prompt: [instruction, user], response: assistant}"),
        ({"problem": "Why?", "prompt": "Tell me: Why?", "solution": "So."}, "{prompt: prompt, response: solution}"),
        ({"question": "Which?", "options": ["No.", "So."], "answer": "B", "answer_index": 1, "rating": 5},
         "{prompt: [question, options], response: answer, ignore: [rating]}"),
        ({"question": "Which?", "A": "No.", "B": "So.", "answer": "B", "rating": 5},
         "{prompt: [question, A, B], response: answer, ignore: [rating]}"),
    ],
)  # fmt: skip
def test_the_columns_that_would_read_a_refused_row_are_named_and_do(tmp_path, row, columns):
    with pytest.raises(RowError) as error:
        read_row(row)
    assert f"seed.columns={columns}" in error.value.remedy
    params = tmp_path / "params.yaml"
    params.write_text("seed: {columns: null}")
    apply_overrides(params, [f"seed.columns={columns}"])  # as after -S of dvc exp run
    assert pair(row, yaml.safe_load(params.read_text())["seed"]["columns"])[1] in ("So.", "B. So.")


@pytest.mark.parametrize(
    ("row", "remedy"),
    [
        ({"frage": "Why?", "antwort": "So."}, "{prompt: NAME, response: NAME}, with columns of frage, antwort for"),
        ({"document": "…", "summary": "So.", "id": "7"},  # XSum
         "{prompt: NAME, response: NAME}, with columns of document, summary, id for NAME"),
        ({"id": Number("7"), "Q": "Why?", "A": "So."}, "{prompt: NAME, response: NAME}, with columns of Q, A for NAME"),
        ({"question": "Why?", "reply": "So.", "id": "7"}, "{prompt: question, response: NAME}, with one of reply, id"),
        ({"id": "7", "context": "…", "question": "Why?", "answers": {"text": ["So."]}},  # SQuAD
         "{prompt: [question, context], response: NAME}, with one of id for NAME, or with fields of your own"),
        ({"question": "Why?", "answer": "So.", "gold": "No."},
         "{prompt: question, response: NAME}, with the right one of answer, gold for NAME"),
        ({"id": Number("7"), "category": "math", "turns": ["Why?"]}, "write the question into a field `prompt`"),
        ({"chosen": "Human: Why?", "rejected": "Human: Why?"}, "write the question into a field `prompt`"),
        ({"sentence": "A _.", "option1": "a", "option2": "b", "answer": "2"}, "write the question into `question`"),
        ({"goal": "Why?", "sol1": "a", "sol2": "b", "label": 1}, "write the question into `question`"),  # PIQA
        ({"question": "Why?", "distractor1": "No.", "correct_answer": "So."}, "write the question into `question`"),
        ({"question": "Why?", "answer": True}, "write the words of the answer, such as yes or no"),  # BoolQ
        ({"messages": turns("Be brief.", "Why?", "So.", roles=("system", "user", "assistant"))},
         "write the system's text into the user's message, before the question"),
        ({"conversations": ["Why?", "So.", "And?", "No."]}, "give one question of the user and its answer a row"),
    ],
)  # fmt: skip
def test_where_the_columns_are_not_certain_none_are_proposed_but_how_to_name_them(row, remedy):
    with pytest.raises(RowError) as error:
        read_row(row)
    assert remedy in error.value.remedy


METADATA = {
    "has_image": False,
    "num_images": 0,
    "image": "NULL",
    "tools_used": False,
    "num_tools": 3,
    "reasoning_tokens": 512,
    "reasoning_effort": "low",
    "system_fingerprint": "fp_1",
    "function_name": "f",
    "turns": 1,
    "language_label": "en",
    "topic_score": 0.9,
    "difficulty_rating": 3,
    "rank_in_file": 3,
    "toxicity": 0.0,
    "skip_prompt_formatting": True,
    "best_of": 4,
    "user": "u-17",
    "score": float("nan"),
    "metadata": {"source": "web", "flagged": False, "tools": [], "error": None},
}


@pytest.mark.parametrize(("field", "value"), METADATA.items())
def test_remarks_on_a_row_refuse_nothing(field, value):
    assert pair({**SINGLE[0], field: value}) == ("Why?", "So.")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"score": 1}, "'metadata.score' judges the row (metadata.score: 1)"),
        ({"quality": {"rating": 2}}, "'metadata.quality' judges the row"),
        ({"review": {"status": "rejected"}}, "'metadata.review.status' says that the answer is a bad one (rejected)"),
        ([{"id": 1}, {"label": False}], "'metadata.label' says that the answer is a bad one (False)"),
        ({"system_prompt": "Be brief."}, "'metadata.system_prompt' would be lost"),
    ],
)
def test_a_group_of_fields_judges_the_row_as_its_fields_do(value, reason):
    with pytest.raises(RowError) as error:
        read_row({**SINGLE[0], "metadata": value})
    assert str(error.value) == reason


def test_fields_of_no_known_meaning_are_no_obstacle_and_are_named():
    row = {**SINGLE[0], "id": 7, "source": "web", "url": "", "tags": ["a"], "metadata": {"page": 1}}
    assert read_row(row).unread == ["id", "source", "tags", "metadata"]
    messages = [{**turn, "timestamp": 5} for turn in turns("Why?", "So.")]
    assert set(read_row({"messages": messages, "id": 7}).unread) == {"id", "messages.timestamp"}


# ---- seed.columns ----------------------------------------------------------------------------------------------------

ROW = {"task": "Translate.", "text": "the cat", "style": "", "out": "le chat", "note": "fine"}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("task", "Translate."),
        (["task", "text"], "Translate.\n\nthe cat"),
        (["text", "style", "task"], "the cat\n\nTranslate."),
        ("{task}\n\n{text}", "Translate.\n\nthe cat"),
        ("{style}\n\n{task} Text: “{text}” {} {", "Translate. Text: “the cat” {} {"),
        ("{task}\n\nStyle: {style}\n\nText: {text}", "Translate.\n\nText: the cat"),
    ],
)
def test_a_prompt_is_a_column_several_or_a_template(prompt, expected):
    assert pair(ROW, {"prompt": prompt, "response": "out"}) == (expected, "le chat")


def test_a_response_may_be_several_columns_too():
    row = {"question": "Why?", "rationale": "It is so.", "correct": "B"}
    columns = {"prompt": "question", "response": ["rationale", "correct"]}
    assert pair(row, columns) == ("Why?", "It is so.\n\nB")


def test_a_template_takes_no_text_for_a_template():
    row = {"a": "{b}", "b": "{a}", "c": "\\1 %s"}
    assert pair(row, {"prompt": "{a} {b} {c}", "response": "c"})[0] == "{b} {a} \\1 %s"


def test_columns_read_choices_and_conversations_as_the_layouts_do():
    hellaswag = {"ctx": "The sun", "endings": ["rises.", "barks."], "label": "0", "ind": 4}
    assert pair(hellaswag, {"prompt": ["ctx", "endings"], "response": "label"}) == (
        "The sun\n\nA. rises.\nB. barks.",
        "A. rises.",
    )
    in_text = {"question": "Which?", "options": '["no", "yes"]', "answer": "B", "index": "1"}  # of a CSV file
    for response in ("answer", "index", ["index", "answer"]):
        assert pair(in_text, {"prompt": ["question", "options"], "response": response})[1] == "B. yes"
    template = {"prompt": ["question", "options"], "response": "It is {answer}"}
    assert pair(in_text, template)[1] == "It is B. yes"
    lettered = {"question": "Which?", "option_a": "no", "option_b": "yes", "answer": "option_b", "why": "It is so."}
    columns = {"prompt": ["question", "option_a", "option_b"], "response": ["why", "answer"]}
    assert pair(lettered, columns) == ("Which?\n\nA. no\nB. yes", "It is so.\n\nB. yes")
    chosen = {"prompt": "Why?", "chosen": turns("Why?", "So."), "rejected": turns("Why?", "No.")}  # UltraFeedback
    assert pair(chosen, {"prompt": "prompt", "response": "chosen"}) == ("Why?", "So.")
    with pytest.raises(RowError, match="more than one prompt"):
        read_row({**chosen, "prompt": "How?"}, {"prompt": "prompt", "response": "chosen"})
    orca = {"system": "Be brief.", "messages": turns("Why?", "So.")}
    assert pair(orca, {"prompt": ["system", "messages"], "response": "messages"}) == ("Be brief.\n\nWhy?", "So.")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("messages", turns("Why?", "So.")),
        ("messages", ["Why?", "So."]),
        ("protocol", turns("Why?", "So.")),
    ],
)
def test_a_conversation_beside_another_column_is_read_by_its_name_or_its_form(name, value):
    columns = {"prompt": ["subject", name], "response": [name]}
    reading = read_row({"subject": "Cats.", name: value}, columns)
    assert (reading.prompt, reading.response) == ("Cats.\n\nWhy?", "So.")


def test_what_belongs_to_the_question_is_not_lost_by_columns_either_unless_it_is_ignored():
    dolly = {"instruction": "Which colour?", "context": "The cat is grey.", "response": "Grey.", "score": 3}
    columns = {"prompt": "instruction", "response": "response"}
    with pytest.raises(RowError, match="'context' would be lost"):
        read_row(dolly, columns)
    with pytest.raises(RowError) as error:
        read_row({"messages": turns("Why?", "So."), "rank": 1}, {"prompt": "messages", "response": "messages"})
    assert error.value.remedy.endswith("seed.columns={prompt: messages, response: messages, ignore: [rank]}")
    with pytest.raises(RowError, match="'score' judges the row"):
        read_row(dolly, columns | {"ignore": ["context"]})
    reading = read_row(dolly, columns | {"ignore": ["context", "score"]})
    assert (reading.prompt, reading.unread) == ("Which colour?", ["context", "score"])


def test_other_prompts_and_responses_beside_the_columns_are_named():
    row = {"frage": "Why?", "antwort": "So.", "prompt": "Why?", "response": "y", "gold": "z"}
    reading = read_row(row, {"prompt": "frage", "response": "antwort"})
    assert (reading.prompt, reading.response, reading.unread) == ("Why?", "So.", ["prompt", "response", "gold"])
    with pytest.raises(RowError, match="'prompt' would be lost"):
        read_row(row | {"prompt": "How?"}, {"prompt": "frage", "response": "antwort"})


def test_a_column_that_a_row_lacks_or_that_is_empty_is_told_unless_there_are_others():
    assert pair({"a": "Why?", "c": "So."}, {"prompt": ["a", "b"], "response": "c"}) == ("Why?", "So.")
    with pytest.raises(RowError, match=r"no column 'b' \(its fields are a, c\)"):
        read_row({"a": "Why?", "c": "So."}, {"prompt": "b", "response": "c"})
    with pytest.raises(RowError, match="no text in the a"):
        read_row({"a": "", "b": None, "c": "So."}, {"prompt": ["a", "b"], "response": "c"})


def test_a_review_is_read_beside_its_pair_and_its_score_is_no_verdict_on_the_row():
    reading = read_row({**SINGLE[0], "review": "Fine. score: 9", "score": 9}, with_review=True)
    assert (reading.review, reading.unread) == ("Fine. score: 9", ["score"])
    with pytest.raises(RowError, match="no text in the review"):
        read_row(SINGLE[0], with_review=True)


scalars = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=6) | st.binary(max_size=3)
values = st.recursive(
    scalars, lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=8), some), max_leaves=6
)
fields = st.sampled_from(
    "prompt instruction input context question messages conversations response output answer choices A B answerKey "
    "label chosen rejected score system tools role content from value".split()
)
records = st.dictionaries(
    fields | st.text(max_size=5), values | st.lists(st.dictionaries(fields, values), max_size=3), max_size=6
)
specs = fields | st.lists(fields, min_size=1, max_size=3) | st.just("{prompt} {question}")


@given(row=records)
@settings(max_examples=300, deadline=None)
@example(row={"prompt": "Why?", "score": 1, "tools": "search", "response": "So."})
@example(row={"chosen": "So.", "rejected": "No."})
@example(row={"question": "Why?", "choices": ["a", "b"], "label": 1, "answer": "B", "system": "Be brief.", "score": 0})
def test_every_columns_that_an_error_proposes_read_the_row(row):
    try:
        read_row(row)
    except RowError as problem:
        for columns in re.findall(r"seed\.columns=(\{.*?\})(?=;|$)", problem.remedy):
            reading = read_row(row, yaml.safe_load(columns))
            assert reading.prompt != reading.response


@given(
    row=records,
    columns=st.none() | st.fixed_dictionaries({"prompt": specs, "response": specs, "ignore": st.lists(fields)}),
)
@settings(max_examples=300, deadline=None)
def test_any_row_is_a_pair_of_texts_or_refused_with_a_reason(row, columns):
    try:
        reading = read_row(row, columns)
    except RowError as problem:
        reason = str(problem)
        assert reason.isprintable() or reason.isascii()
    else:
        assert reading.prompt.strip()
        assert reading.response.strip()
        assert {*row} >= {name for name in reading.unread if "." not in name}
