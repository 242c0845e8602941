"""Reading an answer: the text that the model was asked for, out of a completion that may think aloud first.

Reasoning between marks, such as a think block, is taken off before (models/reasoning.py).
"""

import re
from dataclasses import dataclass
from functools import cached_property

_STYLE = r"[*_`]+"
_NO_QUOTE = r"[^\w\n\"'‘’“”„«»「」]*"  # bullets, # and the like


@dataclass(frozen=True)
class AnswerRule:
    """How completions of a kind are read."""

    marker: str  # the words after which the answer stands, such as "Final Answer:"; empty: it is the whole completion
    tag: str  # that encloses such a text in the prompt

    @cached_property
    def _marker(self) -> re.Pattern[str]:
        """The marker at the beginning of a line or sentence, in no quotation marks, with the markup around it."""
        words = r"[\s_]+".join(map(re.escape, re.findall(r"\w+", self.marker)))
        return re.compile(
            rf"(?:^{_NO_QUOTE}?|(?<=[.!?])[ \t]+)(?P<open>{_STYLE})?{words}(?P<mid>{_STYLE})?[ \t]*(?:[:：]+|$)"
            rf"(?P<close>{_STYLE}(?=\s)|(?P=open)|[ \t]+(?P=open)(?=\s))?",
            re.IGNORECASE | re.MULTILINE,
        )

    def read(self, completion: str) -> str | None:
        """The answer without what was written around it: what comes before the marker, its markup, the prompt's tags,
        blank lines. None if it is not there. A marker in a quotation begins no answer.

        Behind several markers must stand the same text, or nothing; else one may be a draft of another, or a part of
        it, and there is no answer.
        """
        if not self.marker:
            return trim(completion) or None
        markers = list(self._marker.finditer(completion))
        ends = [marker.start() for marker in markers[1:]] + [len(completion)]
        answers = {self._behind(marker, completion[:end]) for marker, end in zip(markers, ends, strict=False)} - {""}
        return answers.pop() if len(answers) == 1 else None

    def _behind(self, marker: re.Match[str], completion: str) -> str:
        """The text behind a marker, to the end of the completion; empty if there is none."""
        answer = completion[marker.end() :].lstrip(" \t")
        unclosed = "" if marker["mid"] or marker["close"] else marker["open"]
        return self._unwrapped(_without_style(answer, unclosed))

    def _unwrapped(self, answer: str) -> str:
        """The answer out of the prompt's tag, if it stands in one."""
        closing = rf"<\s*/\s*{self.tag}\s*>"
        before = re.split(closing, answer, flags=re.IGNORECASE)[0]
        opening = re.match(rf"\s*<\s*{self.tag}\s*>(?!\s*<\w)", before, re.IGNORECASE)
        if opening:
            return trim(before[opening.end() :])
        return trim(answer if re.search(rf"<\s*{self.tag}\b", before, re.IGNORECASE) else before)


def trim(text: str) -> str:
    """The text without blank lines before it and without blanks at its end. Its first line keeps its indentation; a
    single blank is none."""
    text = re.sub(r"\A(?:[^\S\n]*\n)+", "", text).rstrip()
    return text[1:] if re.match(r" \S", text) else text


def _without_style(answer: str, unclosed: str | None) -> str:
    """The answer without the end of markup that began before the marker, and without bold type around all of it."""
    if unclosed:
        return re.sub(rf"(?<=\S){re.escape(unclosed)}(?!\w)", "", answer, count=1)
    whole = re.fullmatch(r"\s*(\*\*|__)(?=\S)((?:(?!\1).)+)(?<=\S)\1\s*", answer, re.DOTALL)
    return whole[2] if whole else answer
