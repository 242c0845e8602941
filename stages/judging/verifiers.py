"""Verifiers: programs that check a response, beside the judge or in its place.

What a check asks for (core/checks.py) is carried out by checker.py in a process of its own, since a regular expression,
a schema or a user's function may run for ever, or end the process. Such a check, and one that raises an error, could
not be carried out: its outcome is neither a pass nor a fail.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from stages.core.counts import VerifierCounts
from stages.core.errors import UserError
from stages.core.progress import progress
from stages.core.rows import VERIFIER, Check, ReviewablePair, ReviewedPair
from stages.data.votes import FinalAnswer

SECONDS = 5  # of computing that a check may take
WAIT = 300  # seconds that it may take if it does not compute; many, since others may hold the processor
PASS, FAIL = 10.0, 0.0  # the scores


class Outcome(NamedTuple):
    """What a verifier says of a response."""

    passed: bool | None  # None: the check could not be carried out
    problem: str = ""  # why


class Request(NamedTuple):
    """A response to check."""

    check: Check
    prompt: str
    response: str
    answer: str | None = None  # its final answer; None: it has none


class Checker:
    """The process that checks. It is started when the first check comes, and again after it ended or was ended."""

    def __init__(self, functions: Path) -> None:
        """`functions`: the file with the user's functions."""
        self.functions = functions
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Checker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def check(self, request: Request) -> Outcome:
        """The outcome of a check. Raises `UserError` if a package or the file with the functions cannot be loaded."""
        process = self._process or self._start()
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.write(json.dumps(request._asdict()) + "\n")
            process.stdin.flush()
        except BrokenPipeError:  # it ended behind the last check, as by a thread that a function left
            self._end()
            return self.check(request)
        # in steps: if this process is stopped for a while, the other has had no less time
        if not any(select.select([process.stdout], [], [], 1)[0] for _ in range(WAIT)):
            self._end()
            return Outcome(None, f"{_named(request.check)}: not done after {WAIT} s")
        reply = process.stdout.readline()
        if not reply:
            status = self._end()
            too_long = status == -signal.SIGPROF
            how = f"not done after {SECONDS} s of computing" if too_long else f"ended its process with {status}"
            return Outcome(None, f"{_named(request.check)}: {how}")
        outcome = json.loads(reply)
        if "fatal" in outcome:
            raise UserError(outcome["fatal"])
        return Outcome(outcome["passed"], outcome["problem"])

    def _start(self) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "stages.judging.checker", str(self.functions), str(SECONDS)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", start_new_session=True
        )
        return self._process

    def _end(self) -> int | None:
        """End the process and what it started; returns its exit status."""
        process, self._process = self._process, None
        if process is None:
            return None
        assert process.stdin
        assert process.stdout
        process.stdout.close()
        with suppress(BrokenPipeError):  # what was not written
            process.stdin.close()
        if process.poll() is None:
            try:
                process.wait(1)  # without requests it ends by itself
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def _named(check: Check) -> str:
    """A check as a reason names it."""
    return f"{check['kind']} {check['function']}" if check["kind"] == "python" else str(check["kind"])


def verify(task: str, requests: Sequence[Request], functions: Path) -> list[Outcome]:
    """The outcome of each check. `task`: what the progress bar says; `functions`: the file with the user's functions.
    Raises `UserError` if a package or that file cannot be loaded."""
    with Checker(functions) as checker, progress(task, len(requests)) as advance:
        outcomes = []
        for request in requests:
            outcomes.append(checker.check(request))
            advance(1)
    return outcomes


def verify_rows(
    task: str, rows: Iterable[ReviewablePair], functions: Path, final_answer: FinalAnswer
) -> dict[str, Outcome]:
    """{id of a row: the outcome of its check}, of the rows that have one. `final_answer`: the prompt set's rule."""
    requests = {
        row["id"]: Request(row["check"], row["prompt"], row["response"], final_answer(row["response"]))
        for row in rows
        if "check" in row
    }
    return dict(zip(requests, verify(task, list(requests.values()), functions), strict=True))


def scored(row: ReviewablePair, outcome: Outcome | None) -> ReviewedPair:
    """The row with the verifier's score; `outcome`: None where it has no check."""
    score = PASS if outcome and outcome.passed else FAIL if outcome and outcome.passed is False else None
    unreviewed: ReviewedPair = {**row, "score": score, "judge": VERIFIER, "reviews": []}
    return unreviewed if outcome is None else {**unreviewed, "passed": outcome.passed}


def vetoed(row: ReviewedPair, outcome: Outcome | None) -> ReviewedPair:
    """A row that the judge has scored, with the score of a fail if its check fails."""
    if outcome is None:
        return row
    return {**row, "score": FAIL if outcome.passed is False else row["score"], "passed": outcome.passed}


def count(outcomes: Iterable[Outcome]) -> VerifierCounts:
    """How many checks passed, failed and could not be carried out."""
    outcomes = list(outcomes)
    passed = [outcome.passed for outcome in outcomes]
    return {"passed": passed.count(True), "failed": passed.count(False), "problems": problems(outcomes)}


def need_checks(stage: str, counts: VerifierCounts, max_unparsed: float) -> None:
    """Raise `UserError` if more than the allowed share of the checks could not be carried out."""
    unchecked = sum(counts["problems"].values())
    total = counts["passed"] + counts["failed"] + unchecked
    if total and unchecked / total > max_unparsed:
        most = max(counts["problems"], key=lambda problem: counts["problems"][problem])
        raise UserError(
            f"{stage}: {unchecked:,} of {total:,} checks could not be carried out (the most frequent: {most}) and "
            f"review.max_unparsed allows {max_unparsed:.0%}; correct the checks of the seed rows or the functions of "
            "review.checks, or raise review.max_unparsed"
        )


def problems(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Why checks could not be carried out, and how many."""
    return dict(sorted(Counter(outcome.problem for outcome in outcomes if outcome.passed is None).items()))
