"""Grading of mathematical answers: right if math-verify finds the given one equal to the right one, however written."""

from typing import TYPE_CHECKING, Any

from math_verify import parse, verify

if TYPE_CHECKING:
    from datasets import Dataset


def one_answer(documents: "Dataset") -> "Dataset":
    return documents.filter(lambda document: not document["is_multiple_answer"])


def answers(document: dict[str, Any]) -> str:
    """The right answer, in LaTeX: a field of its own, or what is boxed in the solution."""
    final = document.get("final_answer") or document.get("answer") or document["solution"]
    return final[0] if isinstance(final, list) else str(final)


def process_results(document: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval's hook: {"math_verify": 1.0 or 0.0} of one completion."""
    right = answers(document)
    gold = parse(right if "\\boxed" in right else f"${right.strip('$')}$")
    return {"math_verify": float(verify(gold, parse(results[0])))}
