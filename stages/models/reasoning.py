"""Reasoning that a model writes before its answer: "<think>…</think>" and other families' marks for it.

It is kept apart from the answer wherever a completion is read: it is never judged, trained on or published.
"""

import re
from typing import NamedTuple

MARKS = (  # before and behind the reasoning, as chat templates and vLLM's reasoning parsers have them
    ("<think>", "</think>"),  # Qwen3, DeepSeek-R1, GLM, Nemotron, SmolLM3, …
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
    ("◁think▷", "◁/think▷"),  # Kimi
)
_OPENING, _CLOSING = ("|".join(map(re.escape, marks)) for marks in zip(*MARKS, strict=True))
_BLOCK = "|".join(f"{re.escape(opening)}.*?{re.escape(closing)}" for opening, closing in MARKS)
BLOCKS = re.compile(rf"(?:\s*(?:{_BLOCK}))*", re.IGNORECASE | re.DOTALL)
OPENING = re.compile(rf"\s*(?:{_OPENING})", re.IGNORECASE)
CLOSING = re.compile(_CLOSING, re.IGNORECASE)
BEGUN = re.compile(rf"(?:{_OPENING})\s*\Z", re.IGNORECASE)
# Marks at the beginning or the end of a line; anywhere else, a text speaks about them.
OPENING_LINE = re.compile(rf"^[^\S\n]*(?:{_OPENING})", re.IGNORECASE | re.MULTILINE)
CLOSING_LINE = re.compile(rf"^[^\S\n]*(?:{_CLOSING})|(?:{_CLOSING})(?=[^\S\n]*$)", re.IGNORECASE | re.MULTILINE)
FENCE = re.compile(r"^[^\S\n]*(```|~~~).*?(?:^[^\S\n]*\1|\Z)", re.DOTALL | re.MULTILINE)  # of code
BLANK = re.compile(r"\s*\n|[^\S\n]*")  # between reasoning and answer; the answer keeps its indentation


class Parts(NamedTuple):
    """A text as its reasoning, with marks and the blanks behind it, and its answer: together they are the text."""

    reasoning: str  # empty: there is none
    answer: str
    fault: str | None = None  # why the answer cannot be told from the reasoning; there is no answer then


def split(text: str, begun: bool = False) -> Parts:
    """The reasoning at the beginning of a completion, and the answer behind it. `begun`: the prompt has begun the
    reasoning.

    A text without marks is an answer as it is. So is one that speaks about the marks, within a line or a code fence.
    """
    end = 0
    if begun:
        closing = CLOSING.search(text)
        if not closing:
            return Parts(text, "", "unfinished reasoning")
        end = closing.end()
    blocks = BLOCKS.match(text, end)
    end = blocks.end() if blocks else end
    if OPENING.match(text, end):
        return Parts(text, "", "unfinished reasoning")
    fences = [fence.span() for fence in FENCE.finditer(text, end)]
    marks = _outside(CLOSING_LINE, text, end, fences)
    if _outside(OPENING_LINE, text, end, fences):
        return Parts(text, "", "reasoning within the answer")
    end = marks[-1] if marks else end  # begun without a mark, or nested
    blank = BLANK.match(text, end) if end else None
    end = blank.end() if blank else end
    return Parts(text[:end], text[end:])


def _outside(mark: re.Pattern[str], text: str, start: int, fences: list[tuple[int, int]]) -> list[int]:
    """Where the marks behind `start` end that are in no code fence."""
    matches = mark.finditer(text, start)
    return [match.end() for match in matches if not any(first <= match.start() < last for first, last in fences)]


def is_begun(prompt: str) -> bool:
    """Whether a rendered prompt has begun the reasoning that the completion goes on with."""
    return bool(BEGUN.search(prompt))


def is_in(text: str) -> bool:
    """Whether there is reasoning in a text that should be an answer alone, such as the response of a seed."""
    return bool(split(text).reasoning)
