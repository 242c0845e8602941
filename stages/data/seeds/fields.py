"""What the fields of a seed row are, by their names; and which of them a row may not have beside what was read.

A name counts whatever its case: "answerKey", "Answer key" and "answer_key" are one.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal

from stages.data.seeds.source import shown
from stages.data.seeds.text import is_blank, is_empty

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
    "key": "answer_key answerkey answer_idx answer_index correct_option correct_answer gold cop",  # the right choice
    "lost": (  # belongs to a question, but is none of the above
        "history chat_history chathistory conversation_history dialogue_history dialog_history message_history "
        "previous_messages prior_turns turns documents contexts passages paragraphs additional_context extra_context "
        "input_text source_text ctx files attachment attachments media starter_code persona definition preamble "
        "systemprompt sysprompt"
    ),
    "verdict": "correct true false accepted good bad selected train trainable training mask masked",
}
SECOND = {"user", "human", "assistant", "gpt", "bot"}  # a task or response only where there is no other
ROLES = {name: role for role, names in NAMES.items() for name in names.split()}
LOST = set(  # a name with one of these words in it is part of a question that this loop cannot ask
    "system image images imageurl img picture photo screenshot pixel audio audios video videos tool tools function "
    "functions reasoning thinking thought thoughts cot distractor distractors".split()
)
VERDICTS = set(  # a name with one of these words in it judges the row
    "score scores rating ratings rank ranking reward rewards quality label labels verdict verdicts judgement judgment "
    "preference preferred winner vote votes upvotes downvotes likes grade helpfulness correctness coherence verbosity "
    "truthfulness honesty chosen rejected weight toxic toxicity harmful flagged unsafe deleted safe valid passed "
    "approved verified acceptable truthful wrong incorrect invalid refusal spam nsfw reject discarded removed excluded "
    "redacted truncated hallucination hallucinated stars grades thumb thumbs dislikes".split()
)
GOOD = set(  # true and 1 speak for the row
    "correct true accepted good selected train trainable training safe valid passed approved verified acceptable "
    "truthful".split()
)
BAD = set(  # they speak against it
    "false bad mask masked toxic harmful flagged unsafe deleted wrong incorrect invalid refusal spam nsfw reject "
    "discarded removed excluded redacted truncated hallucination hallucinated".split()
)
WEIGHTS = {"weight", "loss_weight", "sample_weight"}  # 1: a row as any other
NOTHING = ("[]", "{}", "null", "None")  # an empty field as text, in a CSV file

_LETTERED = re.compile(r"(?:op|opt|options?|choices?|answer)_?([a-h])")
_NUMBERED = re.compile(r"(?:option|choice|answer|ending|sol|solution|distractor)s?_?\d+")


@lru_cache(10_000)
def plain(name: str) -> str:
    """A name in lower case with underscores."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.replace("CoT", "Cot"))
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
    return {name: value for name, value in fields.items() if not _is_nothing(name, value)}


def _is_nothing(name: str, value: Any) -> bool:
    """An empty group or list is nothing, but where a text should be, it is a wrong value."""
    if isinstance(value, str):
        return is_blank(value) or (value in NOTHING and role(name) == "lost")
    return value is None or (is_empty(value) and role(name) not in ("task", "context", "response"))


@lru_cache(1000)
def by_role(fields: tuple[str, ...]) -> dict[Role | None, list[str]]:
    """The names of fields by what they are. Those in SECOND count only where no other one is the same."""
    groups: dict[Role | None, list[str]] = {}
    for name in fields:
        groups.setdefault(role(name), []).append(name)
    for what in ("task", "response"):
        first = [name for name in groups.get(what, ()) if plain(name) not in SECOND]
        if first or "conversation" in groups:
            groups[what] = first
    return groups


def names(fields: Iterable[str]) -> str:
    """The names of fields, for a message."""
    listed = list(map(shown, fields))
    return ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "") or "none"


def is_lost(name: str) -> bool:
    """Whether a field that was not read belongs to the question."""
    return role(name) not in (None, "verdict")


def verdict_against(name: str, value: Any) -> str | None:
    """What a field says against using the row, if it judges the row; None for others, and for a truth value or weight
    that speaks for it."""
    if role(name) != "verdict":
        return None
    bare = plain(name).removeprefix("is_")
    speaks_for = _truth(value, numbers=bare != "label")  # a label of 1 may be anything
    if bare in BAD and speaks_for is not None:
        speaks_for = not speaks_for
    if bare in GOOD | BAD | {"label"} and speaks_for is not None:
        return None if speaks_for else "says that the answer is a bad one"
    return None if bare in WEIGHTS and speaks_for else "is a verdict on the row"


def _truth(value: Any, numbers: bool) -> bool | None:
    """Whether a value says yes or no; None: neither. `numbers`: 1 and 0 do."""
    text = str(value).strip().lower()
    if numbers:
        text = {"1": "true", "1.0": "true", "0": "false", "0.0": "false"}.get(text, text)
    return {"true": True, "yes": True, "false": False, "no": False}.get(text)
