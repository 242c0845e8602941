"""A field's text, as it was written: only what is not part of it goes, and what cannot be one is refused.

Blank lines before a text and blanks after it are left out, and the one space before a text of a single line; the
indentation of a first line stays. Marks that a tokenizer or chat template left at its ends are removed and noted.
"""

import re
import unicodedata
from decimal import Decimal
from typing import Any

from stages.core.folding import INVISIBLE
from stages.data.seeds.source import Number, RowError
from stages.models import reasoning

LONGEST_MARKER = 40
LONGEST = 100_000  # characters of a text; more is a broken file rather than a text
UNUSABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, surrogates
EXACT = (
    int,
    Decimal,
    Number,
)  # no bool, and no float: 3.10 would be 3.1, 0.1 in 32 bits 0.10000000149, and 42 may be 42.0
NO_INK = {"Cc", "Cf", "Co", "Cs", "Me", "Mn", "Zl", "Zp", "Zs"}  # Unicode's general categories

_BLANK_LINES = re.compile(r"(?:[^\S\n]*\n)+")
_PIPED = r"<\s*[|｜]\s*(?:{})\s*[|｜]\s*>"
# What models of all families end a text or turn with: GPT-2, ChatML, Llama, Gemma, Phi, Cohere, DeepSeek, EXAONE, T5 …
_END = re.compile(
    _PIPED.format(
        r"(?:\w+[_▁ -])?(?:end|eo[stmdpah])(?:[_▁ -]?of[\w▁ -]*|[_▁ -][\w▁ -]+)?|return|pad|/(?:user|assistant)"
    )
    + r"|<\s*(?:eo[stmdpah]|eos_token|pad|endoftext|end_of_(?:text|turn|utterance|sentence)|extra_id_1)\s*>"
    r"|\[(?:eos|pad|\|endofturn\|)\]",
    re.IGNORECASE,
)
_BEGIN = re.compile(
    _PIPED.format("(?:begin|start)[_▁]?of[_▁]?(?:text|sentence|solution|answer|response)|endoftext|bos|pad")
    + r"|<\s*(?:bos|bos_token|pad)\s*>|\[(?:bos|pad)\]",
    re.IGNORECASE,
)
_TURN = (  # what a turn begins with, rendered
    r"(?:<\|(?:im_start|start_header_id|start_of_role|start|user|system|assistant|observation)\|>|<start_of_turn>"
    r"|\[/?INST\]|<<SYS>>|<[|｜](?:User|Assistant)[|｜]>|<\|START_OF_TURN_TOKEN\|>)"
)
_RENDERED = re.compile(_TURN, re.IGNORECASE)
_NEXT_TURN = re.compile(  # at the beginning of a line, behind the end of another turn, or at the end of the text
    rf"^[^\S\n]*(?P<line>{_TURN})|(?:{_END.pattern}|</s>)\s*(?P<turn>{_TURN})"
    rf"|(?P<last>{_TURN}|\n[^\S\n]*(?:\#+[ ]*)?(?:Human|User)[ ]*:)\s*+(?:user|human|assistant|model)?\s*+\Z",
    re.IGNORECASE | re.MULTILINE,
)
_MEDIA = re.compile(r"<(image|audio)>(?!.*</\1>)", re.DOTALL | re.IGNORECASE)
_MESSAGES = re.compile(
    r"""\[\s*\{\s*['"](?:role|from|content|value)['"]:.*['"](?:role|from|content|value)['"]:""", re.DOTALL
)
_BLANK = re.compile(r"[^\S\n ]")  # other than a space or line break
_NO_INPUT = re.compile(
    r"<\s*(?:no[\s_-]*(?:input|context|output)|none|empty)\s*>\.?|no[ _-]?(?:input|context|output)\.?", re.IGNORECASE
)
_LIKE_NO_INPUT = re.compile(r"n/?a|none|null|nan|-{1,3}", re.IGNORECASE)


def is_blank(value: Any) -> bool:
    """Whether a field that should be a text is null or blank."""
    return value is None or (isinstance(value, str) and (not value or value.isspace()))


def is_empty(value: Any) -> bool:
    """Whether a field has nothing in it: null, blanks, an empty list or group, or one of nulls and empty texts."""
    if isinstance(value, dict):
        return all(part is None or part in ("", [], {}) for part in value.values())
    if isinstance(value, list):
        return all(part is None or part in ("", [], {}) for part in value)
    return is_blank(value)


def field_text(value: Any, name: str, notes: list[str], numbers: bool = False) -> str:
    """A field's text; what was removed from it is noted. With `numbers`, an exact number is one: its digits.

    Raises `RowError` if it is none.
    """
    if isinstance(value, RowError):
        raise value
    if numbers and isinstance(value, EXACT) and not isinstance(value, bool):
        value = f"{value:f}" if isinstance(value, Decimal) else str(value)
    if not isinstance(value, str) or isinstance(value, Number):
        raise _wrong_kind(value, name)
    if len(value) > LONGEST:
        raise RowError(f"absurdly long {name}", f"{len(value):,} characters")
    if match := UNUSABLE.search(value):
        character = match[0]
        if character >= "\ud800":
            raise RowError("not UTF-8" if "\udc80" <= character <= "\udcff" else "half of a surrogate pair")
        raise RowError("control characters", f"{character!r} in the {name}")
    text = _without_markers(_trimmed(value), name, notes)
    if not ("!" <= text[:1] <= "~" or _is_visible(text)):
        raise RowError(f"no text in the {name}")
    if text.lstrip()[0] in "<[":
        _need_no_rendering(text.lstrip(), name)
    return text


def _need_no_rendering(text: str, name: str) -> None:
    """Raise `RowError` for a text that is a whole conversation, rendered or messages, or has a place for an image."""
    if match := _MEDIA.match(text):
        raise RowError(f"a place for an {match[1].lower()} in the {name}")
    if match := _RENDERED.match(text):
        raise RowError(f"a rendered chat template in the {name}", match[0])
    if _MESSAGES.match(text[:1000]):
        raise RowError(f"messages written as a text in the {name}")


def need_no_reasoning(text: str, name: str) -> None:
    """Raise `RowError` for a text to be learnt that has reasoning before its answer."""
    if reasoning.is_in(text):
        raise RowError(f"reasoning in the {name}", "only the answer behind it is learnt; give that alone")


def _need_no_next_turn(text: str, name: str) -> None:
    """Raise `RowError` for a response that goes on with the next turn. Within a line of prose and in a code fence,
    marks of turns are what the text is about."""
    may_have_one = "<" in text or "[" in text or text.endswith(":")
    if may_have_one and (match := _NEXT_TURN.search(reasoning.FENCE.sub("", text))):
        raise RowError(f"a next turn in the {name}", match[0].strip())


def response_text(value: Any, name: str, notes: list[str]) -> str:
    """A response's text. Raises `RowError` if it is none, or has the reasoning before the answer or the next turn in
    it."""
    text = field_text(value, name, notes, numbers=True)
    need_no_reasoning(text, name)
    _need_no_next_turn(text, name)
    if _NO_INPUT.fullmatch(text):
        raise RowError(f"no text in the {name}", text)
    if len(text) < 5 and _LIKE_NO_INPUT.fullmatch(text):
        notes.append(f"'{text}' in {name} kept as text")
    return text


def context_text(value: Any, name: str, notes: list[str], numbers: bool = True) -> str:
    """The text of a field that goes with the question, or "" for a placeholder such as "<noinput>"."""
    text = field_text(value, name, notes, numbers)
    if _NO_INPUT.fullmatch(text):
        notes.append(f"'{text}' in {name} taken for no text")
        return ""
    if _LIKE_NO_INPUT.fullmatch(text):
        notes.append(f"'{text}' in {name} kept as text")
    return text


def comparable(text: str) -> str:
    """A text for finding duplicates: in Unicode's composed form (NFC), without invisible signs, each run of blanks in a
    line as one space. Line breaks and indentation count."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", INVISIBLE.sub("", text))
    if "  " not in text and " \n" not in text and not _BLANK.search(text):
        return text
    return "\n".join(map(_comparable_line, text.splitlines()))


def _comparable_line(line: str) -> str:
    words = line.split()
    indentation = line[: len(line) - len(line.lstrip())]
    return indentation + " ".join(words)


def _wrong_kind(value: Any, name: str) -> RowError:
    kinds = {bool: "truth value", float: "number", int: "number", Decimal: "number", Number: "number", dict: "group"}
    kind = kinds.get(type(value), type(value).__name__)
    if value is None:
        return RowError(f"no text in the {name}")
    detail = str(value) if kind in ("number", "truth value") else ""
    remedy = (
        "write the words of the answer, such as yes or no"
        if kind == "truth value"
        else "write a text there, or leave the field out"
    )
    return RowError(f"a {kind} instead of text in the {name}", detail, remedy)


def _trimmed(text: str) -> str:
    text = text.rstrip()
    if text[:1].isspace():
        if blank_lines := _BLANK_LINES.match(text):
            text = text[blank_lines.end() :]
        if "\n" not in text and text[:1] == " " and not text[1:2].isspace():
            text = text[1:]
    return text


def _without_markers(text: str, name: str, notes: list[str]) -> str:
    """The text without begin- and end-of-text markers at its ends; a text that has an end marker elsewhere is about
    them, and stays. Raises `RowError` where "<s>" and "</s>" may be either markers or a text that is struck out."""
    if text.startswith("<s>") and text.endswith("</s>"):
        raise RowError("'<s>' and '</s>' around a text", f"markers of a tokenizer or HTML, in the {name}")
    whole = text
    while text[-1:] in (">", "]") and (length := _end_marker(text)):
        text = text[:-length].rstrip()
    while text[:1] in ("<", "[") and (length := _begin_marker(text)):
        text = _trimmed(text[length:])
    if text != whole and _END.search(text) and not _RENDERED.match(text):
        return whole
    if text != whole:
        notes.append(f"a begin- or end-of-text marker removed from {name}")
    return text


def _end_marker(text: str) -> int:
    """The length of the marker at the end; 0 if there is none."""
    if text.endswith("</s>"):
        return 4 if text.count("</s>") > text.count("<s>") else 0
    start = max(text.rfind("<"), text.rfind("["))
    start = text.rfind("[|") if text.endswith("|]") else start
    length = len(text) - start
    return length if start >= 0 and length <= LONGEST_MARKER and _END.fullmatch(text, start) else 0


def _begin_marker(text: str) -> int:
    """The length of the marker at the beginning; 0 if there is none."""
    if text.startswith("<s>"):
        return 3 if text.count("<s>") > text.count("</s>") else 0
    match = _BEGIN.match(text[:LONGEST_MARKER])
    return match.end() if match else 0


def _is_visible(text: str) -> bool:
    return any(unicodedata.category(character) not in NO_INK for character in INVISIBLE.sub("", text))
