"""The base model's corpus: how this world's people answer, review, ask, and answer badly.

The model learns four roles, each from a prompt of its own. As a *judge* it is taught the truth. As an *answerer* it is
taught what people say: the right answer only in a third of the problems that invite a misconception, and in three
quarters of the others. So the model knows more as a judge than it does as an answerer, which is what the loop can use.

The wordings below are what the base model was taught; `prompts/micro` says the same to it (tests/test_world.py compares
them). A completion is a list of (text, weight in the loss); the verdict's own words weigh more.
"""

from random import Random
from typing import NamedTuple

from stages.microworld.world import Problem, draw

REVIEW = "Rate this from 0 to 10.\n<question>{question}</question><response>{response}</response>"
NEW_INSTRUCTION = "Write a new question like this.\n<question>{question}</question><response>{response}</response>"
FLAWED_RESPONSE = "Write a flawed answer.\n<question>{question}</question><response>{response}</response>"

MARKERS = ("<question>", "</question>", "<response>", "</response>")  # single tokens of the vocabulary

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

Segments = list[tuple[str, float]]


class Response(NamedTuple):
    text: str
    answer: str
    style: str  # clear, bare or vague


def wrong_answer(random: Random, problem: Problem, misled: float = 0.77) -> str:
    """The misconception in `misled` of the problems that invite one, else any other mistake."""
    solution = problem.solution
    if solution.misconception is not None and random.random() < misled:
        return solution.misconception
    return random.choice(solution.mistakes)


def worded(random: Random, problem: Problem, answer: str, clear: float = 0.6) -> Response:
    """The answer in one of the three styles; `clear` is the share of clear ones."""
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
    return worded(random, problem, answer)


def flawed_response(random: Random, problem: Problem) -> Response:
    """Mostly wrong, sometimes right but poorly worded."""
    if random.random() < 0.8:
        return worded(random, problem, wrong_answer(random, problem, 0.5), clear=0.7)
    return worded(random, problem, problem.solution.answer, clear=0.0)


def judged_response(random: Random, problem: Problem) -> Response:
    """What the judge is shown: right and wrong answers in equal parts."""
    right = random.random() < 0.5
    answer = problem.solution.answer if right else wrong_answer(random, problem, 0.6)
    return worded(random, problem, answer, clear=0.7)


def review(random: Random, problem: Problem, response: Response) -> Segments:
    """The true review of a response: the rationale, then the verdict."""
    kind = (response.answer == problem.solution.answer, response.style)
    verdict, remark = _WHY[kind]
    return [
        ("Right:", 1.0),
        (f" {problem.solution.answer}", RESTATED_WEIGHT),
        (f". Given: {response.answer}. It is", 1.0),
        (f" {verdict}", VERDICT_WEIGHT),
        (f"{remark}. score: {random.choice(_SCORES[kind])}", 1.0),
    ]


def example(random: Random) -> tuple[str, Segments]:
    """One (prompt, completion) of the corpus: 52 % reviews, 25 % answers, 11 % new questions, 12 % flawed answers."""
    role, problem = random.random(), draw(random)
    if role < 0.52:
        response = judged_response(random, problem)
        prompt = REVIEW.format(question=problem.question, response=response.text)
        return prompt, review(random, problem, response)
    response = human_response(random, problem)
    if role < 0.77:
        return problem.question, [(response.text, 1.0)]
    if role < 0.88:
        prompt = NEW_INSTRUCTION.format(question=problem.question, response=response.text)
        question = draw(random, family=problem.family).question
        return prompt, [("Final Answer:", QUESTION_WEIGHT), (f" {question}", QUESTION_WEIGHT)]
    prompt = FLAWED_RESPONSE.format(question=problem.question, response=response.text)
    return prompt, [(flawed_response(random, problem).text, 1.0)]
