"""Reasoning that a model writes before its answer: "<think>…</think>" and other families' marks for it.

It is kept apart from the answer wherever a completion is read: it is never judged, trained on or published.
"""

import re
from typing import Literal, NamedTuple

MARKS = (  # before and behind the reasoning, as chat templates and vLLM's reasoning parsers have them
    ("<think>", "</think>"),  # Qwen3, DeepSeek-R1, GLM, Nemotron, SmolLM3, …
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
    ("<|channel>", "<channel|>"),  # Gemma 4
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
    ("◁think▷", "◁/think▷"),  # Kimi
)
# A tag of the author's own is reasoning by its name: _THOUGHT where anything follows it, _WORK where a bare text or an
# answer's tag does. One that nothing follows, or that stands among others, is the answer.
_THOUGHT = (
    r"think(?:ing)?|thoughts?|reasoning|scratchpad|cot|chain[_-]of[_-]thought|inner[_-](?:monologue|thoughts)"
    r"""|details(?=\s+type="reasoning")"""
)
_WORK = "analysis|plan(?:ning)?|reason|reflection|rationale"
_ANSWER = r"(?:final[_-]?)?(?:answer|solution|response|output)\b"
_TAGGED = re.compile(
    rf"""\s* <\|?\s*
    (?: (?P<thought> {_THOUGHT} ) | (?P<work> {_WORK} ) )
    (?:\s[^>]*)? \|?>  .*?  <\|?\s*/\s* (?: (?P=thought) | (?P=work) ) \s*\|?>
    \s*+ (?(work) (?: [^<\s] | <{_ANSWER} ) | \S )
    """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_OPENING, _CLOSING = ("|".join(map(re.escape, marks)) for marks in zip(*MARKS, strict=True))
OPENING = re.compile(rf"\s*(?:{_OPENING})", re.IGNORECASE)
CLOSING = re.compile(_CLOSING, re.IGNORECASE)
BEGUN = re.compile(rf"(?P<mark>{_OPENING})(?P<blank>\s*)\Z")
# An answer's own marks stand within a line or a code fence; others begin or end a line.
LINE = re.compile(rf"^[^\S\n]*(?:{_OPENING}|{_CLOSING})|(?:{_CLOSING})(?=[^\S\n]*$)", re.IGNORECASE | re.MULTILINE)
FENCE = re.compile(r"^[^\S\n]*(```|~~~).*?(?:^[^\S\n]*\1|\Z)", re.DOTALL | re.MULTILINE)
_FIRST_SIGNS = {mark[0] for marks in MARKS for mark in marks}  # a text without these has no mark
BLANK = re.compile(r"\s*\n|[^\S\n]*")  # between reasoning and answer; the answer keeps its indentation


Fault = Literal["unfinished reasoning", "reasoning within the answer"]


class Parts(NamedTuple):
    """A text as its reasoning, with marks and the blanks behind it, and its answer: together they are the text."""

    reasoning: str  # empty: there is none
    answer: str
    fault: Fault | None = None  # why the answer cannot be told from the reasoning; there is no answer then


def split(text: str, begun: bool = False) -> Parts:
    """The reasoning at the beginning of a completion, and the answer behind it. `begun`: the prompt has begun the
    reasoning.

    A text without marks is an answer as it is. So is one that has them within a line or a code fence: it is about them.
    """
    end, is_open = 0, begun
    fences: list[range] | None = None
    while True:
        if is_open:
            closing = CLOSING.search(text, end)
            if not closing:
                return Parts(text, "", "unfinished reasoning")
            end, is_open = closing.end(), False
        elif opening := OPENING.match(text, end):
            end, is_open = opening.end(), True
        else:
            fences = [range(*fence.span()) for fence in FENCE.finditer(text, end)] if fences is None else fences
            mark = _mark(text, end, fences)
            if not mark:
                break
            if OPENING.match(mark[0]):
                return Parts(text, "", "reasoning within the answer")
            end = mark.end()  # of reasoning that began without a mark, or within other reasoning
    blank = BLANK.match(text, end) if end else None
    end = blank.end() if blank else end
    return Parts(text[:end], text[end:])


def _mark(text: str, start: int, fences: list[range]) -> re.Match[str] | None:
    """The first mark from `start` on that begins or ends a line outside of code fences."""
    marks = LINE.finditer(text, start)
    return next((mark for mark in marks if not any(mark.start() in fence for fence in fences)), None)


def is_begun(prompt: str) -> bool:
    """Whether a rendered prompt has begun the reasoning that the completion goes on with."""
    return bool(BEGUN.search(prompt))


def end_of(prompt: str) -> str:
    """What ends the reasoning that a rendered prompt has begun, so that it is empty; nothing if it has begun none."""
    begun = BEGUN.search(prompt)
    if not begun:
        return ""
    closing = dict(MARKS)[begun["mark"]]
    return closing if not begun["blank"] else f"{closing}\n\n" if "\n\n" in begun["blank"] else f"\n{closing}\n\n"


def ending(prompt: str, reasoning: str) -> str:
    """What ends the reasoning of a completion that a rendered prompt or the completion itself has begun; nothing where
    it has ended, or was never begun."""
    if not reasoning:
        return end_of(prompt)
    begun = BEGUN.search(prompt)
    last = CLOSING.split((begun["mark"] if begun else "") + reasoning)[-1]
    opened = re.search(_OPENING, last)
    return f"\n{dict(MARKS)[opened[0]]}\n\n" if opened else ""


def is_in(text: str) -> bool:
    """Whether there is reasoning in a text that should be an answer alone, such as the response of a seed."""
    if not any(sign in text for sign in _FIRST_SIGNS):
        return False
    return bool(split(text).reasoning or _TAGGED.match(text))
