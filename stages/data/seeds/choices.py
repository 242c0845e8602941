"""Questions with choices: the choices as lines of the prompt, and the right one as the response.

    {"question": …, "choices": ["Venus", "Mars"], "answer": "B"}            or its number from 0, or its text
    {"question": …, "choices": {"text": [… ], "label": ["A", "B"]}, …}       also {"A": …, "B": …} and {"label", "text"}
    {"question": …, "A": "Venus", "B": "Mars", "answer": "B"}                also option_a, opa, …

Raises `RowError` where the choices or the right one are not plain.
"""

import re
from decimal import Decimal
from typing import Any, NamedTuple

from stages.data.seeds.json_files import list_in_text
from stages.data.seeds.source import Number, RowError
from stages.data.seeds.text import EXACT, field_text, is_empty, response_text

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_OWN_LABEL = re.compile(r"\(?([A-Za-z])\s*[).:]\s*")  # before a choice: "A) Venus"
_KEY = re.compile(r"\(?\s*(\w{1,2})\s*[).:]?")  # "B", "(b)", "B.", "1"


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
        raise RowError(f"the {name} are not a list of 2 to {len(LETTERS)} answers")
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
    """The response that a field gives: the line of the choice whose label or number it is, or its text as written.

    Raises `RowError` if it is the key of no choice, or that of one and the text of another.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return response_text(value, name, notes)
    text = str(value).strip()
    key = _KEY.fullmatch(text)
    by_text = [choice for choice in choices if choice.text == text]
    by_key = [choice for choice in choices if key and choice.label.lower() == key[1].lower()]
    if not by_key and text.isdecimal():
        by_key = [choice for choice in choices if str(choice.number) == text]
        notes += [f"{name} taken for the number of a choice, from 0"] * bool(by_key)
    is_text = isinstance(value, str) and not isinstance(value, Number)
    if by_key and by_text and by_key != by_text and is_text:
        raise RowError(f"the {name} is the key of one choice and the text of another", text)
    if by_key:
        return by_key[0].line
    is_key = not is_text or text.lstrip("-").isdecimal() or (key and len(key[1]) == 1)
    if is_key and not by_text:
        raise RowError(f"the {name} is none of the choices", text)
    return response_text(value, name, notes)
