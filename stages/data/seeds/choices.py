"""Questions with choices: the choices as lines of the prompt, and the right one as the response.

    {"question": …, "choices": ["Venus", "Mars"], "answer": "B"}            or its number from 0, or its text
    {"question": …, "choices": {"text": [… ], "label": ["A", "B"]}, …}       also {"A": …, "B": …} and {"label", "text"}
    {"question": …, "A": "Venus", "B": "Mars", "answer": "B"}                also option_a, opa, …

Raises `RowError` where the choices or the right one are not plain.
"""

import re
import unicodedata
from decimal import Decimal
from typing import Any, NamedTuple

from stages.data.seeds.json_files import list_in_text
from stages.data.seeds.source import Number, RowError
from stages.data.seeds.text import EXACT, context_text, field_text, is_empty, response_text

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
EXPLANATION = 4  # words of an answer that may name its choice anywhere; a shorter one begins with it
AS_TEXT = "write the question into `question`, its choices into `choices` as a list, and the right one into `answer`"

_OWN_LABEL = re.compile(r"\(?([A-Za-z])\s*[).:]\s*")  # before a choice: "A) Venus"
_SET_OFF = r"[\s()\[\]{}*`\"'$:：]*"  # brackets, bold type, a formula
_KEY = re.compile(  # "B", "(b)", "B.", "1", "option_b", "Answer: B", "\\boxed{B}"
    rf"{_SET_OFF}(?:(?:the\s+)?(?:(?:correct|right|best|final)\s+)?(?:answer|ans|option|opt|op|choice)(?:\s+is)?[\s_:：-]*)?"
    rf"{_SET_OFF}(?:\\(?:boxed|text|textbf|mathrm|mathbf){_SET_OFF})*(\w{{1,2}}){_SET_OFF}[.,。]?{_SET_OFF}",
    re.IGNORECASE,
)
_LINE = re.compile(r"\(?\s*(\w{1,2})\s*[).:]\s*(.+)", re.DOTALL)  # "B. Mars", "(b) Mars", "B: Mars"
_SAYS = re.compile(r"(?:answer|option|choice)\s+(?:is|would be)?\W*([a-z])\b|\\boxed\W*([a-z])\b", re.IGNORECASE)


class Choice(NamedTuple):
    """One of the answers to choose from."""

    label: str
    text: str
    line: str  # of the prompt, and the response where the row names the label
    number: int | None = None  # from 0, where the row lists texts without labels


def choices_of_field(value: Any, name: str, notes: list[str]) -> list[Choice]:
    """The choices in a field. Raises `RowError` if it has none, or one has no text."""
    labels, texts = _labels_and_texts(list_in_text(value, name))
    well_labelled = not labels or (len(labels) == len(texts) and all(map(_is_label, labels)))
    if not 2 <= len(texts) <= len(LETTERS) or not well_labelled:
        raise RowError(f"the {name} are not a list of 2 to {len(LETTERS)} answers", remedy=AS_TEXT)
    lines = [field_text(text, name, notes, numbers=True) for text in texts]
    if labels:
        return labelled({str(label).strip(): line for label, line in zip(labels, lines, strict=True)})
    own = [match for line in lines if (match := _OWN_LABEL.match(line))]
    if [match[1].upper() for match in own] == list(LETTERS[: len(lines)]):
        return [
            Choice(match[1].upper(), line[match.end() :], line, number)
            for number, (match, line) in enumerate(zip(own, lines, strict=True))
        ]
    if any(isinstance(text, EXACT) for text in texts):  # a number is one of these, not the number of one
        return labelled(dict(zip(LETTERS, lines, strict=False)))
    return [Choice(LETTERS[number], line, f"{LETTERS[number]}. {line}", number) for number, line in enumerate(lines)]


def labelled(texts: dict[str, str]) -> list[Choice]:
    """The choices from {label: text}."""
    return [Choice(label, text, f"{label}. {text}") for label, text in texts.items()]


def _labels_and_texts(value: Any) -> tuple[list[Any], list[Any]]:
    """The labels, if there are any, and the texts of choices in one of the common forms; no texts for another form."""
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        return value.get("label") or value.get("labels") or [], value["text"]
    if isinstance(value, dict):
        texts = {label: text for label, text in value.items() if not is_empty(text)}
        return list(texts), list(texts.values())
    if isinstance(value, list) and all(isinstance(choice, dict) for choice in value):
        labels = [choice.get("label", choice.get("key")) for choice in value]
        return labels, [choice.get("text", choice.get("value")) for choice in value]
    return [], value if isinstance(value, list) else []


def _is_label(label: Any) -> bool:
    return isinstance(label, str | int) and not isinstance(label, bool) and 0 < len(str(label).strip()) <= 3


def right_answer(value: Any, name: str, choices: list[Choice], notes: list[str]) -> str:
    """The response that a field gives: the line of the choice whose label or number it is; its text as written if it is
    that of a choice, or an explanation that names one.

    Raises `RowError` if it is none of the choices, or the key of one and the text of another.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return response_text(value, name, notes)
    text = unicodedata.normalize("NFKC", str(value)).strip()
    is_number = not isinstance(value, str) or isinstance(value, Number)
    by_text = [choice for choice in choices if _same(choice.text, text)]
    by_key = _by_key(text, name, choices, notes)
    if by_key and by_text and by_key[0] not in by_text and not is_number:
        raise RowError(f"the {name} is the key of one choice and the text of another", text, AS_TEXT)
    if by_key:
        return by_key[0].line
    if not by_text and (is_number or not _names_one(text, choices)):
        raise RowError(f"the {name} is none of the choices", text, AS_TEXT)
    return response_text(value, name, notes)


def line_of(value: Any, name: str, choices: list[Choice], notes: list[str]) -> str:
    """A part of a response beside others: the line of the choice whose label, number or text it is, or its text."""
    text = unicodedata.normalize("NFKC", str(value)).strip()
    by_text = [choice for choice in choices if _same(choice.text, text)]
    right = by_text or _by_key(text, name, choices, notes)
    return right[0].line if right else context_text(value, name, notes)


def _by_key(text: str, name: str, choices: list[Choice], notes: list[str]) -> list[Choice]:
    """The choice that a text has the label of, or the number from 0."""
    key = _KEY.fullmatch(text)
    by_label = [choice for choice in choices if key and choice.label.lower() == key[1].lower()]
    if not by_label and text.isdecimal():
        by_label = [choice for choice in choices if str(choice.number) == text]
        notes += [f"{name} taken for the number of a choice, from 0"] * bool(by_label)
    return by_label


def _same(text: str, other: str) -> bool:
    """Whether two texts of choices are one, but for case and a period at the end."""
    return text == other or text.strip().rstrip(".").casefold() == other.rstrip(".").casefold()


def _names_one(text: str, choices: list[Choice]) -> bool:
    """Whether a text is the line of a choice, written in whatever way, or an explanation that names a choice."""
    if line := _LINE.fullmatch(text):
        labelled_so = [choice for choice in choices if choice.label.lower() == line[1].lower()]
        if labelled_so:
            return line[2].casefold().startswith(labelled_so[0].text.rstrip(".").casefold())
    if len(text.split()) < EXPLANATION and text.isascii():
        return any(re.match(rf"{re.escape(choice.text.rstrip('.'))}\b", text, re.IGNORECASE) for choice in choices)
    labels = {choice.label.lower() for choice in choices}
    says = {(match[1] or match[2]).lower() for match in _SAYS.finditer(text)}
    return bool(says & labels) or any(_is_within(choice.text.rstrip("."), text) for choice in choices)


def _is_within(part: str, text: str) -> bool:
    return bool(part) and re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text, re.IGNORECASE) is not None
