"""Grade answers to mathematical problems with math-verify, which compares them whatever their notation."""

from typing import TYPE_CHECKING, Any

from math_verify import parse, verify

if TYPE_CHECKING:
    from datasets import Dataset


def one_answer(documents: "Dataset") -> "Dataset":
    """lm-eval's hook `process_docs`: the problems of OlympiadBench that have a single answer."""
    return documents.filter(lambda document: not document["is_multiple_answer"])


def reference_answer(document: dict[str, Any]) -> str:
    """The right answer in LaTeX: a field of the document, or the solution that contains it in \\boxed{}."""
    final = document.get("final_answer") or document.get("answer") or document["solution"]
    return final[0] if isinstance(final, list) else str(final)


def process_results(document: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval's hook `process_results`: {"math_verify": 1.0 or 0.0} for a list of one completion."""
    reference = reference_answer(document)
    gold = parse(reference if "\\boxed" in reference else f"${reference.strip('$')}$")
    return {"math_verify": float(verify(gold, parse(results[0])))}
