"""What the fields of a seed row are, by their names; and which of them a row may not have beside what was read.

A name counts whatever its case: "answerKey", "Answer key" and "answer_key" are one.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from stages.data.seeds.source import shown
from stages.data.seeds.text import is_blank, is_empty

Role = Literal[
    "task", "context", "response", "conversation", "choices", "option", "key", "gold", "check", "lost", "verdict"
]

NAMES: dict[Role, str] = {
    "task": "instruction prompt question query problem inputs user human question_stem",
    "context": (  # goes with the task
        "input context passage paragraph document article story background support hint hints premise hypothesis "
        "evidence facts dialogue dialog transcript table schema body"
    ),
    "response": "response completion output answer target targets assistant gpt bot solution",
    "conversation": "messages conversations conversation",
    "choices": "choices options answer_choices endings",
    "key": "answer_key answerkey answer_idx answer_index correct_option correct_choice cop",  # of the right choice
    "gold": (  # the right answer, beside another one or by itself
        "correct_answer gold gold_answer golden_answer reference_answer expected_answer expected_output ground_truth "
        "groundtruth best_answer ideal_answer right_answer true_answer"
    ),
    "check": "check",  # by which a program checks a response
    "lost": (  # belongs to a question, but is none of the above
        "history chat_history chathistory conversation_history dialogue_history dialog_history message_history "
        "previous_messages past_messages prior_turns turns documents contexts passages paragraphs additional_context "
        "extra_context input_text source_text ctx files attachment attachments media starter_code code_snippet snippet "
        "excerpt persona definition preamble systemprompt sysprompt sys examples few_shot demonstrations candidates "
        "custom_instruction custom_instructions user_input user_message recipient reasoningcontent scratchpad"
    ),
    "verdict": "correct true false accepted good bad selected train trainable training mask masked error errors loss",
}
SECOND = {"user", "human", "assistant", "gpt", "bot"}  # beside another task or response, this may be who said it
ROLES = {name: role for role, names in NAMES.items() for name in names.split()}
MEDIA = set("image images imageurl img picture photo screenshot pixel audio audios video videos".split())
LOST = MEDIA | set(  # a name with one of these words in it is part of a question that this loop cannot ask
    "system tool tools function functions reasoning thinking thought thoughts cot distractor distractors".split()
)
ABOUT = set(  # ... unless another of its words says that it is a remark on it: reasoning_tokens, system_id
    "id type kind name category tokens token length len count num number effort fingerprint level lang language model "
    "version choice used has time cost topic mode enable".split()
)
VERDICTS = set(  # a name with one of these words in it judges the row
    "score scores scored rating ratings rated rank ranking reward rewards quality label labels verdict verdicts "
    "judgement judgment judge judged preference preferred winner won vote votes upvote upvotes downvote downvotes "
    "likes karma elo grade grades helpfulness correctness coherence verbosity faithfulness relevance accuracy "
    "completeness truthfulness honesty chosen rejected weight toxicity feedback critique evaluation eval approval "
    "thumb thumbs hallucination refusal stars dislikes confidence points".split()
)
GOOD = set(  # in these, too; true and 1 speak for the row
    "correct right true accepted accept good best better selected train trainable trained training safe valid passed "
    "pass approved verified acceptable truthful faithful factual harmless helpful useful usable keep include use "
    "success succeeded successful resolved loss exact".split()
)
BAD = set(  # and in these they speak against it
    "incorrect wrong false bad poor broken mask masked toxic toxicity harmful offensive hateful biased flagged flag "
    "unsafe deleted invalid refusal refused spam nsfw reject discarded removed redacted truncated hallucination "
    "hallucinated disliked failed failure error errors drop skip hide hidden exclude excluded unusable".split()
)
SURE = set(  # of these, the words that judge the row whatever is in the field; others do with yes, no, 1 and 0
    "safe valid passed approved verified acceptable truthful faithful factual harmless wrong incorrect invalid toxic "
    "harmful offensive hateful flagged unsafe deleted refusal refused spam nsfw reject discarded removed excluded "
    "redacted truncated hallucination hallucinated disliked".split()
)
ALONE = {"keep", "drop", "skip", "hide", "include", "exclude", "use", "flag", "pass"}  # skip_formatting is no verdict
STATES = {"status", "outcome", "review", "annotation", "result", "finish", "stop"}  # with one of the words below
TOPICS = set(  # a label or score with one of these words in its name is about the subject, not the answer
    "language lang topic domain category split subject dataset difficulty level intent name type file id".split()
)
TRUTHS = {"true": True, "yes": True, "false": False, "no": False}
PRAISE = set(
    "ok okay good correct right passed pass accepted approved valid success succeeded completed complete finished done "
    "resolved verified positive keep safe stop end_turn eos none".split()
)
BLAME = set(
    "bad wrong incorrect failed fail failure rejected discarded removed deleted invalid error timeout negative poor "
    "flagged unsafe length max_tokens content_filter truncated incomplete drop".split()
)
WEIGHTS = {"weight", "loss_weight", "sample_weight"}  # 1: a row as any other
LEARNT = {"weight", "loss", "train", "trainable", "training", "trained", "mask", "masked"}  # whether a turn is learnt
NOTHING = ("[]", "{}", "null", "none", "nan", "false", "no", "0", "n/a")  # an empty field as text, in a CSV file
GROUPS = 100  # of a list that are looked into
LOSES, JUDGES, BAD_ANSWER = "would be lost", "is a verdict on the row", "says that the answer is a bad one"
LONGEST_NOTHING = max(map(len, NOTHING))

_LETTERED = re.compile(r"(?:op|opt|options?|choices?|answer)_?([a-h])")
_IDENTIFIER = re.compile(r"[\w.@:+/-]{1,64}", re.ASCII)
_NUMBERED_OPTION = re.compile(r"(?:option|choice|answer|ending|sol|solution|distractor)s?_?\d+")
_NUMBERED = re.compile(
    r"(?:response|output|completion|instruction|prompt|question|input|context|passage|paragraph|document|article"
    r"|sentence|premise|message)s?_?\d+"
)


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
    is_topic = bool(words & TOPICS)
    is_score = bare.endswith(("score", "scores")) and not bare.endswith(("underscore", "underscores"))
    if not is_topic and (is_score or words & (VERDICTS | SURE) or ROLES.get(bare.removeprefix("is_")) == "verdict"):
        return "verdict"
    if words & LOST and not (words & ABOUT and not words & MEDIA):
        return "lost"
    return "lost" if _NUMBERED_OPTION.fullmatch(bare) or _NUMBERED.fullmatch(bare) else None


def is_choice(name: str) -> bool:
    """Whether a field has to do with choices, or with the right one of them."""
    return role(name) in ("choices", "option", "key") or _NUMBERED_OPTION.fullmatch(plain(name)) is not None


def option_label(name: str) -> str | None:
    """The letter of a column that has one of the answers to choose from: "B", "option_b", "opb"; None for others."""
    match = _LETTERED.fullmatch(plain(name))
    return match[1].upper() if match else name if re.fullmatch("[A-H]", name) else None


def filled(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that hold something."""
    return {name: value for name, value in fields.items() if not _is_nothing(name, value)}


def _is_nothing(name: str, value: Any) -> bool:
    """An empty group or list is nothing, but where a text should be, it is a wrong value. In a field that would be
    lost, a word for nothing, a truth value or a number is nothing either; of images, 0 and false are."""
    if isinstance(value, str) and len(value) > LONGEST_NOTHING:
        return value.isspace()
    if value is None or is_blank(value):
        return True
    what = role(name)
    if what != "lost":
        is_missing = isinstance(value, float) and value != value  # NaN, as pandas writes it
        return (is_missing or is_empty(value)) and what not in ("task", "context", "response")
    text = str(value).strip().lower() if isinstance(value, str | int | float) else ""
    is_remark = value is True or (text.isdecimal() and type(value) is not str)
    return is_empty(value) or text in NOTHING or (is_remark and not MEDIA.intersection(plain(name).split("_")))


@lru_cache(1000)
def by_role(fields: tuple[str, ...]) -> dict[Role | None, list[str]]:
    """The names of fields by what they are."""
    groups: dict[Role | None, list[str]] = {}
    for name in fields:
        groups.setdefault(role(name), []).append(name)
    return groups


def speakers(fields: dict[str, Any]) -> list[str]:
    """The fields such as `user` that name who said it: an identifier, beside another task or response."""
    return [name for name in _second(tuple(fields)) if _IDENTIFIER.fullmatch(str(fields[name]))]


@lru_cache(1000)
def _second(fields: tuple[str, ...]) -> list[str]:
    """The fields that are in SECOND, beside others of their kind."""
    groups = by_role(fields)
    return [
        name
        for what in ("task", "response")
        for name in groups.get(what, ())
        if plain(name) in SECOND
        and ("conversation" in groups or any(plain(other) not in SECOND for other in groups[what]))
    ]


def names(fields: Iterable[str]) -> str:
    """The names of fields, for a message."""
    listed = list(map(shown, fields))
    return ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "") or "none"


class Against(NamedTuple):
    """What speaks against using a row: a field of it, or one within a group."""

    name: str  # of the field in the row
    path: str  # metadata.score
    value: Any
    problem: str


def against(name: str, value: Any) -> Iterator[Against]:
    """What a field says against using the row though it was not read: that it belongs to the question, or what it
    judges. A truth value or weight that speaks for the row does not. The fields of a group of no known meaning count as
    those of the row."""
    yield from _against(name, name, name, value)


def _against(top: str, path: str, name: str, value: Any) -> Iterator[Against]:
    if role(name) is None and isinstance(value, dict | list):
        for group in value[:GROUPS] if isinstance(value, list) else [value]:
            for inner, its_value in group.items() if isinstance(group, dict) else ():
                if role(str(inner)) in (None, "lost", "verdict") and not _is_nothing(str(inner), its_value):
                    yield from _against(top, f"{path}.{inner}", str(inner), its_value)
    elif role(name) not in (None, "verdict"):
        yield Against(top, path, value, LOSES)
    elif problem := _verdict(name, value):
        yield Against(top, path, value, problem)


def _verdict(name: str, value: Any) -> str | None:
    """What a field says against the row if it judges it."""
    bare = plain(name).removeprefix("is_")
    words = set(bare.split("_"))
    if len(words) > 1 and not words & LEARNT:
        words -= ALONE
    judges = role(name) == "verdict"
    if judges or (words & (GOOD | BAD | STATES) and not words & TOPICS):
        speaks_for = _truth(value, numbers=bare != "label")  # a label of 1 may be anything
        if speaks_for is not None and words & (GOOD | BAD):
            is_negative = bool(words & BAD) != bool(words & {"no", "not"})
            return BAD_ANSWER if speaks_for == is_negative else None
        text = str(value).strip().lower()
        if text in PRAISE | BLAME or (words & (STATES | {"label"}) and text in TRUTHS):
            return None if speaks_for or text in PRAISE else BAD_ANSWER
        if bare in WEIGHTS and speaks_for:
            return None
    return JUDGES if judges else None


def _truth(value: Any, numbers: bool) -> bool | None:
    """Whether a value says yes or no; None: neither. `numbers`: 1 and 0 do."""
    text = str(value).strip().lower() if isinstance(value, str | int | float) else ""
    if numbers and text in ("1", "1.0", "0", "0.0"):
        return text[0] == "1"
    return TRUTHS.get(text)
