"""The process in which checks are carried out. `python -m stages.judging.checker FUNCTIONS SECONDS`

It reads requests from its standard input, a line of JSON each, and writes outcomes. FUNCTIONS is the Python file that
the user names in `review.checks`; it is code of the user's own. A request says which function of it, and nothing else
that is run. A check that computes for longer than SECONDS ends the process by a signal, whatever it is doing.
"""

import inspect
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from stages.core.final_answer import normalised
from stages.core.ifeval import checkers

Record = dict[str, Any]

FENCE = re.compile(r"\s*```\w*\n(.*?)\n?```\s*", re.DOTALL)


class CheckError(Exception):
    """Why a check could not be carried out."""


def has_answer(check: Record, prompt: str, response: str, answer: str | None) -> bool:
    """Whether the response is the expected answer, or gives it: `answer` is its final one by the prompt set's rule. The
    same text or number, or the same formula as math-verify compares them."""
    from math_verify import parse, verify

    expected = str(check["expected"])
    if normalised(expected) in (normalised(response), answer):
        return True
    if not _is_mathematics(expected):
        return False
    gold = parse(f"${expected.strip('$')}$", parsing_timeout=None)  # its timeouts depend on the machine
    return bool(verify(gold, parse(response, parsing_timeout=None), timeout_seconds=None))


def _is_mathematics(expected: str) -> bool:
    """Whether an answer is a number or formula: in LaTeX, or without a word."""
    return "\\" in expected or "$" in expected or not re.search(r"[^\W\d_]{2}", expected)


def has_pattern(check: Record, prompt: str, response: str) -> bool:
    """Whether the pattern is found in the response."""
    return re.search(check["pattern"], response) is not None


def fits_schema(check: Record, prompt: str, response: str) -> bool:
    """Whether the response is JSON that fits the schema. What a schema refers to elsewhere is not fetched."""
    from jsonschema import validators
    from jsonschema_specifications import REGISTRY

    fenced = FENCE.fullmatch(response)
    try:
        value = json.loads(fenced[1] if fenced else response, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    kind = validators.validator_for(check["schema"], validators.Draft202012Validator)
    return bool(kind(check["schema"], registry=REGISTRY).is_valid(value))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def follows_instructions(check: Record, prompt: str, response: str) -> bool:
    """Whether the response follows all instructions, by lm-eval's strict checks of IFEval."""
    utils = checkers()
    example = utils.InputExample(0, check["ids"], prompt, check["kwargs"])
    return bool(utils.test_instruction_following_strict(example, response).follow_all_instructions)


class Functions:
    """The user's functions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._module: ModuleType | None = None

    def holds(self, check: Record, prompt: str, response: str) -> bool:
        """What a function says of the response. Raises `CheckError` if it is not one of the file's own, or if it fails
        or says neither true nor false."""
        name = check["function"]
        function = getattr(self.module(), name, None)
        if not inspect.isfunction(function) or function.__module__ != self.module().__name__:
            raise CheckError(f"{self.path} has no such function")
        try:
            outcome = function(prompt, response, **check.get("arguments", {}))
        except Exception as error:
            raise CheckError(f"raised {type(error).__name__}") from error
        if not isinstance(outcome, bool):
            raise CheckError(f"returned {type(outcome).__name__} instead of true or false")
        return outcome

    def module(self) -> ModuleType:
        """The file as a module. Raises what it raises."""
        if self._module is None:
            self._module = ModuleType("checks")
            exec(compile(self.path.read_bytes(), str(self.path), "exec"), vars(self._module))
        return self._module


def load(kind: str, functions: Functions) -> None:
    """Import what a kind of check needs, so that its time does not count."""
    if kind == "python":
        functions.module()
    elif kind == "instructions":
        checkers()
    elif kind == "json":
        import jsonschema_specifications  # noqa: F401
    elif kind == "answer":
        import math_verify  # noqa: F401

        logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of timeouts that are off


def outcome_of(request: Record, functions: Functions, seconds: float) -> Record:
    """A request's outcome: {"passed", "problem"}, or {"fatal"} if what it needs cannot be loaded."""
    check = request["check"]
    kinds: dict[str, Callable[[Record, str, str], bool]] = {
        "answer": partial(has_answer, answer=request["answer"]),
        "regex": has_pattern,
        "json": fits_schema,
        "instructions": follows_instructions,
        "python": functions.holds,
    }
    name = f"python {check['function']}" if check["kind"] == "python" else check["kind"]
    try:
        load(check["kind"], functions)
    except Exception as error:
        what = f"review.checks: {functions.path}" if check["kind"] == "python" else f"checks of kind {check['kind']}"
        return {"fatal": f"{what} cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())})"}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return {"passed": kinds[check["kind"]](check, request["prompt"], request["response"]), "problem": ""}
    except CheckError as error:
        return {"passed": None, "problem": f"{name}: {error}"}
    except Exception as error:
        return {"passed": None, "problem": f"{name}: raised {type(error).__name__}"}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Answer requests until there are no more."""
    functions, seconds = Functions(Path(sys.argv[1])), float(sys.argv[2])
    requests, outcomes = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what a function reads and prints is not between the two
    os.dup2(2, 1)
    for line in requests:
        outcomes.write(json.dumps(outcome_of(json.loads(line), functions, seconds)) + "\n")
        outcomes.flush()


if __name__ == "__main__":
    main()
