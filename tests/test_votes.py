"""Agreement: which responses to an instruction have the same final answer, and how many of them."""

from collections import Counter

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from stages.core import final_answer, prompts
from stages.core.errors import UserError
from stages.core.final_answer import FinalAnswerRule, normalised
from stages.core.prompts import final_answer_rule
from stages.data.screening import outside, spread
from stages.data.votes import agreement, agreements, votes
from stages.judging.scores import by_origin, by_votes

# ---- final answers ---------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"We get \boxed{4}, no: $\boxed{\frac{1}{2}}$.", "1/2"),
        (r"\boxed{\text{(B)}} as x^{2} shows", "b"),
        ("8 - 3 = 5\n#### 1,234", "1234"),
        ("**Final Answer:** 42", "42"),
        ("First 3, then 4.\n\n### Final Answer\n\n$42.0$", "42"),
        ("The final answer is $42$. I hope it is correct.", "42"),
        ("The answer is 7. No, the answer is 8 because 3 + 5 = 8.", "8"),
        ("The answer to the question is Paris, since it is the capital.", "paris"),
        ("The correct answer is: **Paris**", "paris"),
        ("The answer is (B) Paris.", "b"),
        ("Answer: B. Paris is the capital.", "b"),
        ("Answer:\nC", "c"),
        ("The answer is a large dog.", "large dog"),
        ("I compared them.\n**B**.", "b"),
        ("(B) Paris", "b"),
        ("4 groups of 3 pencils cost 4 × 2 = 8 dollars.", "8"),
        ("12 × 1.5 = 180, so the train goes 180 km/h on average.", "180"),
        (r"So the result is \(\frac{3}{4}\).", "3/4"),
        (r"So the result is \(2\sqrt{3}\).", None),  # no number
        ("It is -3.", "-3"),
        ("It costs $5.50.", "11/2"),
        ("It was founded in 1998. It is large.", None),  # the last number of the last sentence alone
        ("The sky is blue because air scatters.", None),
        ("A. First\nB. Second", None),
        (r"\boxed{}", None),
        ("", None),
    ],
)
def test_the_usual_ways_to_give_a_final_answer_are_read(response, answer):
    assert final_answer_rule("lance").read(response) == answer


@pytest.mark.parametrize("response", ["The larger one is 67. The answer is 67.", "is 67", "maybe 67", "guess 67."])
def test_the_small_world_has_its_own_ways(response):
    assert final_answer_rule("micro").read(response) == "67"
    assert final_answer_rule("micro").read("what 67") is None


def test_the_surest_pattern_decides_and_of_its_matches_the_last_with_an_answer():
    rule = FinalAnswerRule(("so (\\S*)", "is (\\S+)"))
    assert rule.read("so 1, so 2, is 3, so ") == "2"
    assert rule.read("is 3 or is 4") == "4"
    assert FinalAnswerRule(()).read("The answer is 5.") is None


SAME = [
    ("1,000", "1000.0", "$1,000$.", "1 000", r"1{,}000", "$1000", "€1,000.00", "1000 dollars", "x = 1000", "**1000**"),
    ("0.5", ".50", "1/2", "2/4", r"\frac{1}{2}", r"\dfrac12", "½"),
    ("3", "3.0", "3.", "+3", "03", r"\(3\)", r"\boxed{3}", "3%", r"3\%", r"3^\circ", "3°", "３", "3 square meters"),
    ("-3", "−3", "-3.0"),
    ("Paris", " paris. ", r"\text{Paris}", r"\mathrm{\textbf{Paris}}", "**Paris**", "“Paris”", "the Paris"),
    ("B", "b", "(B)", "b)", r"\text{(B)}"),
    ("new  york", "New\nYork"),
    ("0", "-0", "0.00"),
]
DIFFERENT = [
    "12", "21", "2x", "2 x", "10 am", "10 pm", "5 million", "5", "(0,1)", "[0,1]", "0,5", "1.2.3", "1/0", "9" * 41,
    "9" * 5000, "5!", "2 or 3", "3 pi",
]  # fmt: skip


@pytest.mark.parametrize("wordings", SAME, ids=lambda wordings: wordings[0])
def test_wordings_of_one_answer_are_equal(wordings):
    assert len({normalised(wording) for wording in wordings}) == 1


def test_other_answers_are_not_equal():
    answers = [*(wordings[0] for wordings in SAME), *DIFFERENT]
    assert len({normalised(answer) for answer in answers}) == len(answers)


@given(st.integers(-(10**12), 10**12), st.integers(0, 4))
def test_a_number_is_equal_to_itself_however_it_is_written(number, zeros):
    ways = {f"{number}", f"{number:,}", f"{number}.{'0' * zeros}", f"${number}$", rf"\boxed{{{number}}}", f"{number}/1"}
    assert {normalised(way) for way in ways} == {str(number)}


@given(st.text())
def test_any_text_has_a_normal_form_and_markup_around_it_does_not_change_it(text):
    assert normalised(f"**{text}**") == normalised(text) == normalised(text).strip()


@pytest.mark.parametrize("unit", ["\\boxed{", "{", "answer to ", "answer is ", "1,", " 1.", "(\n", "a\n", "**", "###"])
def test_a_degenerate_response_is_read_in_no_time(unit, monkeypatch):
    """Small models repeat themselves to the limit of their tokens."""
    monkeypatch.setattr(final_answer, "MAX_SECONDS", 1.0)
    final_answer_rule("lance").read(unit * 20_000)


def test_a_pattern_without_an_end_is_one_line(monkeypatch):
    monkeypatch.setattr(final_answer, "MAX_SECONDS", 0.05)
    with pytest.raises(UserError, match=r"^final_answer.yaml: the pattern .* takes more than 0.05 seconds") as error:
        FinalAnswerRule(("(?:(a|aa)+)+b$",)).read("a" * 60 + "c")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("final_answer: ['(']", "is no pattern: missing )"),
        ("final_answer: ['is .']", "'is .' has no group; put"),
        ("final_answer: usual", "see prompts/lance for an example"),
        ("patterns: []", "see prompts/lance for an example"),
    ],
)
def test_a_rule_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, text, message):
    (tmp_path / "final_answer.yaml").write_text(text)
    monkeypatch.setattr(prompts, "FOLDER", tmp_path.parent)
    with pytest.raises(UserError) as error:
        final_answer_rule(tmp_path.name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# ---- votes -----------------------------------------------------------------------------------------------------------


def test_each_response_has_the_votes_of_its_answer_and_one_without_an_answer_its_own():
    assert votes(["5", "6", None, "5", None]) == [2, 1, 1, 2, 1]
    assert votes([]) == []


@pytest.mark.parametrize(
    ("answers", "share"),
    [
        (["5", "5", "5", "6"], 0.75),
        (["5", "5", None, None], 0.5),
        (["5", "6", "7", "8"], 0.25),
        (["5", "5"], 1.0),
        (["5", None, None, None], None),  # of one answer nobody knows whether others agree
        ([None, None, None], None),
        ([], None),
    ],
)
def test_agreement_is_the_share_of_the_most_frequent_answer_among_all_responses(answers, share):
    assert agreement(answers) == share


@given(st.lists(st.none() | st.sampled_from("abc")))
def test_votes_do_not_depend_on_the_order_and_add_up(answers):
    readable = Counter(answer for answer in answers if answer is not None)
    assert votes(answers)[::-1] == votes(answers[::-1])
    assert sum(votes(answers)) == sum(number**2 for number in readable.values()) + answers.count(None)


def test_the_responses_to_one_instruction_vote_whatever_seed_and_route_they_are_of():
    rows = [
        {"route": route, "prompt": prompt, "response": response}
        for route, prompt, response in [
            ("new", "q", "5"), ("new", "p", "5"), ("new", "q", "5"), ("own", "q", "6"), ("flawed", "q", "6"),
            ("own", "s", "6"), ("own", "s", "6"), ("flawed", "f", "6"),
        ]
    ]  # fmt: skip
    assert agreements(rows, lambda response: response) == {"q": 2 / 3, "p": None, "s": 1.0}


@pytest.mark.parametrize(("share", "side"), [(0.49, "below"), (0.5, None), (0.9, None), (0.91, "above"), (None, None)])
def test_the_ends_of_the_band_lie_within_it(share, side):
    reason = outside(share, [0.5, 0.9])
    assert reason == (side and f"agreement {side} select.agreement")


@pytest.mark.parametrize(
    ("verdicts", "width"),
    [([7.0, 10.0], 1.5), ([7.0, 10.0, None], 1.5), ([1.0, 1.0, 4.0], 1.4142), ([5.0, None], None), ([], None)],
)
def test_the_spread_is_the_standard_deviation_of_the_verdicts_that_can_be_read(verdicts, width):
    assert spread(verdicts) == width


# ---- scores by votes and by origin -----------------------------------------------------------------------------------


def response(text: str, route: str = "own") -> dict:
    return {"id": f"{route} {text}", "prompt": "6 times 7?", "response": text, "route": route}


def test_the_score_by_votes_is_ten_times_the_share_that_has_the_same_final_answer():
    answers = ["the answer is 42.", "answer: 42", "the answer is 41.", "I do not know."]
    generated = [*map(response, answers), response("the answer is 42!", "flawed")]
    kept = [generated[0], generated[2], generated[3], {"id": "seed", "prompt": "6 times 7?", "response": "42"}]
    scored = by_votes(kept, generated, final_answer_rule("lance").read)
    assert [row["score"] for row in scored.values()] == [5.0, 2.5, 2.5, None]
    assert all(row["judge"] == "votes" and row["reviews"] == [] for row in scored.values())


def test_responses_to_another_prompt_have_no_vote():
    other = {**response("the answer is 42."), "id": "other", "prompt": "40 and 2?"}
    scored = by_votes([other], [other, response("the answer is 42."), response("the answer is 41.")], str)
    assert scored["other"]["score"] == 10.0


def test_the_score_by_origin_is_ten_for_people_and_nought_for_the_model():
    person, model = ({"id": key, "prompt": "?", "response": "!", "iteration": key} for key in ("0", "1"))
    scored = by_origin([person, model, response("?")])
    assert [row["score"] for row in scored.values()] == [10.0, 0.0, 0.0]
