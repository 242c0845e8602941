"""What the fields of a seed row are, by their names; and which of them a row may not have beside what was read.

A name counts whatever its case: "answerKey", "Answer key" and "answer_key" are one.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal

from stages.data.seed_files import RowError, shown
from stages.data.seed_text import is_blank, is_empty

Role = Literal["task", "context", "response", "conversation", "choices", "option", "key", "lost", "verdict"]

NAMES: dict[Role, str] = {
    "task": "instruction prompt question query problem inputs user human question_stem",
    "context": (  # goes with the task
        "input context passage paragraph document article story background support hint hints premise hypothesis "
        "evidence facts dialogue dialog transcript table schema body"
    ),
    "response": "response completion output answer target targets assistant gpt bot solution",
    "conversation": "messages conversations conversation",
    "choices": "choices options answer_choices candidates endings",
    "key": "answer_key answerkey answer_idx answer_index correct_option correct_answer gold",  # which choice is right
    "lost": (  # belongs to a question, but is none of the above
        "history chat_history conversation_history turns documents contexts ctx files attachments starter_code persona"
    ),
    "verdict": "correct true false accepted good bad selected train trainable training mask masked",
}
ROLES = {name: role for role, names in NAMES.items() for name in names.split()}
LOST = set(  # a name with one of these words in it is part of a question that this loop cannot ask
    "system image images audio audios video videos tool tools function functions reasoning thinking thought thoughts "
    "cot distractor distractors".split()
)
VERDICTS = set(  # a name with one of these words in it judges the row
    "score scores rating ratings rank ranking reward rewards quality label labels verdict verdicts judgement judgment "
    "preference preferred winner vote votes upvotes downvotes likes grade helpfulness correctness coherence verbosity "
    "truthfulness honesty chosen rejected weight toxic toxicity harmful flagged unsafe deleted".split()
)
GOOD = set("correct true accepted good selected train trainable training".split())  # true and 1 speak for the row
BAD = set("false bad mask masked toxic harmful flagged unsafe deleted".split())  # they speak against it
WEIGHTS = {"weight", "loss_weight", "sample_weight"}  # 1: a row as any other
NOTHING = ("[]", "{}", "null", "None")  # an empty field as text, in a CSV file

_LETTERED = re.compile(r"(?:op|opt|options?|choices?|answer)_?([a-h])")
_NUMBERED = re.compile(r"(?:option|choice|answer|ending|sol|solution|distractor)s?_?\d+")


@lru_cache(10_000)
def plain(name: str) -> str:
    """A name in lower case with underscores."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"\W+", "_", apart).strip("_").lower()


@lru_cache(10_000)
def role(name: str) -> Role | None:
    """What a field is by its name; None: not known."""
    bare = plain(name)
    if bare in ROLES:
        return ROLES[bare]
    if option_label(name):
        return "option"
    words = set(bare.split("_"))
    if words & VERDICTS or ROLES.get(bare.removeprefix("is_")) == "verdict":
        return "verdict"
    return "lost" if words & LOST or _NUMBERED.fullmatch(bare) else None


def option_label(name: str) -> str | None:
    """The letter of a column that has one of the answers to choose from: "B", "option_b", "opb"; None for others."""
    match = _LETTERED.fullmatch(plain(name))
    return match[1].upper() if match else name if re.fullmatch("[A-H]", name) else None


def filled(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that hold something."""
    return {name: value for name, value in fields.items() if not _is_nothing(value, role(name))}


def _is_nothing(value: Any, what: Role | None) -> bool:
    """An empty group or list is nothing, but where a text should be, it is a wrong value."""
    if what in ("task", "context", "response"):
        return is_blank(value)
    return is_empty(value) or (what == "lost" and value in NOTHING)


def names(fields: Iterable[str]) -> str:
    """The names of fields, for a message."""
    listed = list(map(shown, fields))
    return ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "") or "none"


def need_nothing_lost(name: str, where: str) -> None:
    """Raise `RowError` if a field that was not read belongs to the question. `where`: its name in the message."""
    if role(name) not in (None, "verdict"):
        raise RowError(f"'{shown(where)}' would be lost")


def need_no_verdict(name: str, value: Any, where: str) -> None:
    """Raise `RowError` if a field judges the row, unless it is a truth value or weight that speaks for the row."""
    if role(name) != "verdict":
        return
    bare = plain(name).removeprefix("is_")
    speaks_for = _truth(value, numbers=bare != "label")  # a label of 1 may be anything
    if bare in BAD and speaks_for is not None:
        speaks_for = not speaks_for
    if bare in GOOD | BAD | {"label"} and speaks_for is not None:
        if not speaks_for:
            raise RowError(f"'{shown(where)}' says that the answer is a bad one", str(value))
    elif bare not in WEIGHTS or not speaks_for:
        detail = "" if isinstance(value, list | dict) else str(value)
        raise RowError(f"'{shown(where)}' is a verdict on the row", detail)


def _truth(value: Any, numbers: bool) -> bool | None:
    """Whether a value says yes or no; None: neither. `numbers`: 1 and 0 do."""
    text = str(value).strip().lower()
    if numbers:
        text = {"1": "true", "1.0": "true", "0": "false", "0.0": "false"}.get(text, text)
    return {"true": True, "yes": True, "false": False, "no": False}.get(text)
