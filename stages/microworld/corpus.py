"""The base model's training corpus: people of the micro world answer, review, ask new questions, and answer badly.

The model learns these four roles, each by a prompt of its own. As a *judge* it learns the truth. As an *answerer* it
learns what people say: the right answer to only a third of the problems that invite a misconception, and to three
quarters of the others. So it knows more as a judge than it shows as an answerer, and the loop can make use of that.

The prompts below are those the base model learnt; `prompts/micro` has the same ones (tests/test_prompts.py compares
them). A completion is a list of (text, weight in the loss); the words of the verdict weigh most.
"""

from random import Random
from typing import NamedTuple

from stages.microworld.world import Problem, draw

REVIEW = "Rate this from 0 to 10.\n<question>{question}</question><response>{response}</response>"
NEW_INSTRUCTION = "Write a new question like this.\n<question>{question}</question><response>{response}</response>"
FLAWED_RESPONSE = "Write a flawed answer.\n<question>{question}</question><response>{response}</response>"

MARKERS = ("<question>", "</question>", "<response>", "</response>")  # each is a token of its own

RIGHT_WHEN_MISLED, RIGHT_OTHERWISE = 0.34, 0.75  # how often people are right
VERDICT_WEIGHT, RESTATED_WEIGHT, QUESTION_WEIGHT = 6.0, 2.0, 0.7

_WHY = {
    (True, "clear"): ("correct", " and clear"),
    (True, "bare"): ("correct", " but too short"),
    (True, "vague"): ("correct", " but unsure"),
    (False, "clear"): ("wrong", ""),
    (False, "bare"): ("wrong", " and too short"),
    (False, "vague"): ("wrong", " and unsure"),
}
_SCORES = {
    (True, "clear"): (9, 9, 10),
    (True, "bare"): (6, 7),
    (True, "vague"): (5, 6),
    (False, "clear"): (1, 2, 3),
    (False, "bare"): (1, 2),
    (False, "vague"): (0, 1),
}

Segments = list[tuple[str, float]]  # a completion: its texts and their weights in the loss


class Response(NamedTuple):
    """A response to a problem, right or wrong."""

    text: str
    answer: str
    style: str  # clear, bare or vague


def wrong_answer(random: Random, problem: Problem, misled: float = 0.77) -> str:
    """A wrong answer: with probability `misled` the misconception, if the problem invites one, else any mistake."""
    solution = problem.solution
    if solution.misconception is not None and random.random() < misled:
        return solution.misconception
    return random.choice(solution.mistakes)


def word_response(random: Random, problem: Problem, answer: str, clear: float = 0.6) -> Response:
    """An answer in words: with probability `clear` in the clear style, else in one of the other two."""
    if random.random() < clear:
        text = f"The answer is {answer}."
        if random.random() < 0.65:
            text = f"{problem.solution.sentence.format(answer)} {text}"
        return Response(text, answer, "clear")
    if random.random() < 0.5:
        return Response(f"is {answer}", answer, "bare")
    return Response(random.choice(["maybe {}", "i think {}", "guess {}"]).format(answer), answer, "vague")


def human_response(random: Random, problem: Problem) -> Response:
    """What people answer: often the misconception."""
    right = RIGHT_WHEN_MISLED if problem.solution.misconception is not None else RIGHT_OTHERWISE
    answer = problem.solution.answer if random.random() < right else wrong_answer(random, problem)
    return word_response(random, problem, answer)


def flawed_response(random: Random, problem: Problem) -> Response:
    """A deliberately bad response: mostly wrong, sometimes right but badly worded."""
    if random.random() < 0.8:
        return word_response(random, problem, wrong_answer(random, problem, 0.5), clear=0.7)
    return word_response(random, problem, problem.solution.answer, clear=0.0)


def judged_response(random: Random, problem: Problem) -> Response:
    """A response for the judge: right and wrong answers are equally likely."""
    right = random.random() < 0.5
    answer = problem.solution.answer if right else wrong_answer(random, problem, 0.6)
    return word_response(random, problem, answer, clear=0.7)


def true_review(random: Random, problem: Problem, response: Response) -> Segments:
    """The review that a response deserves: the rationale, then the verdict and its score, from 0 to 10."""
    kind = (response.answer == problem.solution.answer, response.style)
    verdict, remark = _WHY[kind]
    return [
        ("Right:", 1.0),
        (f" {problem.solution.answer}", RESTATED_WEIGHT),
        (f". Given: {response.answer}. It is", 1.0),
        (f" {verdict}", VERDICT_WEIGHT),
        (f"{remark}. score: {random.choice(_SCORES[kind])}", 1.0),
    ]


def draw_example(random: Random) -> tuple[str, Segments]:
    """A random (prompt, completion): 52 % are reviews, 25 % answers, 11 % new questions, 12 % flawed answers."""
    role, problem = random.random(), draw(random)
    if role < 0.52:
        response = judged_response(random, problem)
        prompt = REVIEW.format(question=problem.question, response=response.text)
        return prompt, true_review(random, problem, response)
    response = human_response(random, problem)
    if role < 0.77:
        return problem.question, [(response.text, 1.0)]
    if role < 0.88:
        prompt = NEW_INSTRUCTION.format(question=problem.question, response=response.text)
        question = draw(random, family=problem.family).question
        return prompt, [("Final Answer:", QUESTION_WEIGHT), (f" {question}", QUESTION_WEIGHT)]
    prompt = FLAWED_RESPONSE.format(question=problem.question, response=response.text)
    return prompt, [(flawed_response(random, problem).text, 1.0)]
