"""The final answer of a response, in a form in which two wordings of one answer are equal: "$1,000.0$." and "1000".

Where it stands is said by the prompt set (final_answer.yaml). What is equal follows lm-eval's `hendrycks_math` and
`minerva_math`, by text alone: letter case, blanks, markup, LaTeX's wrappers, thousands separators, 3.0 and 3, 1/2 and
0.5, the full stop at the end, and a unit behind a number ("8 dollars"). What needs algebra, such as 2(x+1) and 2x+2, is
not equal.
"""

import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import regex

from stages.core.errors import UserError

TAIL = 4_000  # characters of a response, its last ones, in which the answer is looked for
MAX_SECONDS = 10.0  # for a pattern on one response; only a pattern that backtracks without end takes that long


@dataclass(frozen=True)
class FinalAnswerRule:
    """Where final answers stand: patterns of the package `regex`, the surest first, each with a group."""

    patterns: tuple[str, ...]  # empty: responses have no final answer

    @cached_property
    def _compiled(self) -> list["regex.Pattern[str]"]:
        return [regex.compile(pattern) for pattern in self.patterns]

    def read(self, response: str) -> str | None:
        """The first group of the last match of the first pattern that finds an answer, normalised; None: there is none.

        Raises `UserError` if a pattern takes longer than `MAX_SECONDS`.
        """
        for pattern in self._compiled:
            try:
                matches = list(pattern.finditer(response[-TAIL:], timeout=MAX_SECONDS))
            except TimeoutError:
                raise UserError(
                    f"final_answer.yaml: the pattern {pattern.pattern} takes more than {MAX_SECONDS:g} seconds on a "
                    "response; write it without repetitions inside of repetitions"
                ) from None
            answers = (normalised(match[1] or "") for match in reversed(matches))
            if answer := next(filter(None, answers), None):
                return answer
        return None


_WRAPPER = regex.compile(r"\\(?:boxed|fbox|mbox|text(?:bf|it|rm)?|math(?:bf|rm|it)|operatorname)\s*\{([^{}]*)\}")
_FRACTION = regex.compile(r"\\[dt]?frac\s*(?:\{\s*([^{}]+?)\s*\}\s*\{\s*([^{}]+?)\s*\}|(\d)(\d))")
_INKLESS = regex.compile(r"\\(?:left|right|displaystyle)(?![a-z])|\\[!,;:() \[\]]|\\?\$|\^\s*\{?\s*\\circ\s*\}?|°|\{\}")
_SIGNS = str.maketrans({"−": "-", "‐": "-", "‑": "-", "–": "-", "⁄": "/"})
_MARKUP = "*_`\"'‘’“”„«» \t\r\n"
_BEFORE = regex.compile(r"^(?:(?:[a-z]\w?\s*)?=\s*|(?:the|an?)\s+)(?=\S)")  # "x =", or an article
_LETTER = regex.compile(r"^\(([a-z])\)$|^([a-z])\)$")
_DIGITS = r"(?:\d{1,3}(?:[, ]\d{3}){1,12}|\d{1,40})"
_NO_UNIT = "am|pm|or|and|to|pi|dozen|hundred|thousand|[mbtr]+illions?"  # behind a number these change what it says
_UNIT = rf"(?:\s+(?!(?:{_NO_UNIT})\b)[^\W\d_]{{2,}}(?:/[^\W\d_]+)?){{0,2}}"
_NUMBER = regex.compile(rf"([-+]?)\s*[€£¥]?\s*({_DIGITS}?(?:\.\d{{0,40}})?)(?:\s*/\s*({_DIGITS}))?\s*[%€£¥]?{_UNIT}")


def normalised(answer: str) -> str:
    """The answer as it is compared; a number as a fraction, such as 5/2 for 2.50. Empty if nothing is left of it."""
    text = unicodedata.normalize("NFKC", answer).translate(_SIGNS).replace("{,}", ",").replace("\\%", "%")
    while (unwrapped := _WRAPPER.sub(r"\1", text)) != text:
        text = unwrapped
    text = _INKLESS.sub(" ", _FRACTION.sub(lambda match: "/".join(part for part in match.groups() if part), text))
    text = " ".join(text.casefold().split()).lstrip(_MARKUP).rstrip(_MARKUP + ".,;:")
    text = _BEFORE.sub("", text)
    letter = _LETTER.match(text)
    return (letter[1] or letter[2]) if letter else _number(text) or text


def _number(text: str) -> str | None:
    """A number in lowest terms; None if the text is none, or one divided by 0."""
    match = _NUMBER.fullmatch(text)
    if not match or not regex.search(r"\d", match[2]):
        return None
    sign, number, below = (regex.sub("[, ]", "", match[group] or "") for group in (1, 2, 3))
    below = below or "1"
    return None if int(below) == 0 else str(Fraction(f"{sign}{number}") / int(below))
