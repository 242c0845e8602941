"""Conversations in a field of a seed row: what the user and the assistant say, in one turn each.

    [{"role": "user", "content": …}, {"role": "assistant", "content": …}]     content may be a list of text parts
    [{"from": "human", "value": …}, {"from": "gpt", "value": …}]
    ["Why?", "Because."]

What a message has besides its text is refused (tool calls, images, reasoning, a verdict) or told.
"""

from typing import Any

from stages.core.records import Record
from stages.data.seeds.fields import LEARNT, LOSES, against, filled, plain, role
from stages.data.seeds.json_files import list_in_text
from stages.data.seeds.source import RowError, shown
from stages.data.seeds.text import field_text, is_empty, response_text

SPEAKERS = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "chatgpt", "model"), "assistant"),
}
SPEAKER, SPOKEN = ("role", "from"), ("content", "value", "text")  # fields of a message
UNASKED = ("system", "developer")
TEXT_PARTS = ("text", "input_text", "output_text")
OF_PARTS = ("type", "text", "value")  # fields of a part of a message's content

Turns = dict[str, str]  # {"user": …, "assistant": …}, or one of them


def are_messages(value: Any) -> bool:
    """Whether a field that may be a text holds messages."""
    if isinstance(value, str):
        return False
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and any(key in first for key in SPEAKER)


def messages_of(value: Any, name: str) -> list[Record]:
    """A conversation as a list of messages. Raises `RowError` if it is none."""
    value = list_in_text(value, name)
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        if len({len(column) for column in value.values()}) > 1:
            raise RowError(f"the columns of the {name} differ in length")
        value = [dict(zip(value, message, strict=True)) for message in zip(*value.values(), strict=True)]
    messages = value if isinstance(value, list) else [value]
    if len(messages) > 1 and all(isinstance(message, str) for message in messages):
        speakers = [("user", "assistant")[number % 2] for number in range(len(messages))]
        return [{"role": who, "content": text} for who, text in zip(speakers, messages, strict=True)]
    if not messages or not all(isinstance(message, dict) for message in messages):
        raise RowError(f"{name} are not a list of role and content")
    return messages


def speaker(message: Record) -> str:
    """user, assistant, or another role as it stands there; "" if there is none."""
    key = next((key for key in SPEAKER if key in message), None)
    name = str(message[key]).strip().lower() if key else ""
    return SPEAKERS.get(name, name)


def turns_of(messages: list[Record], name: str, unread: list[str], notes: list[str]) -> Turns:
    """What each one says. A system message without text does not count. The names of other fields of a message are
    added to `unread`, what was done to texts to `notes`. Raises `RowError` unless there is one turn, of texts alone."""
    silent = [message for message in messages if speaker(message) in UNASKED and _is_silent(message)]
    spoken = [message for message in messages if not any(message is other for other in silent)]
    speakers = [speaker(message) for message in spoken]
    if speakers not in (["user"], ["assistant"], ["user", "assistant"]):
        listed = ", ".join(name or "?" for name in speakers[:4])
        raise RowError("not a single turn", listed + (", …" if len(speakers) > 4 else ""), _how_to_mend(speakers))
    for message in messages:
        _check_rest(message, name, unread)
    return {speaker(message): _said(message, name, notes) for message in spoken}


def _how_to_mend(speakers: list[str]) -> str:
    if len(speakers) == 3 and speakers[0] in UNASKED:
        return "write the system's text into the user's message, before the question"
    return "give one question of the user and its answer a row"


def _is_silent(message: Record) -> bool:
    return all(is_empty(message.get(key)) for key in SPOKEN)


def _check_rest(message: Record, name: str, unread: list[str]) -> None:
    """Raise `RowError` for what a message or a part of its content holds besides its text: tool calls, images,
    reasoning, a verdict. Whether a turn of another than the assistant is learnt does not matter."""
    contents = [message[key] for key in SPOKEN if isinstance(message.get(key), list)]
    parts = [part for content in contents for part in content if isinstance(part, dict)]
    for fields, its_own in [(message, (*SPEAKER, *SPOKEN)), *((part, OF_PARTS) for part in parts)]:
        for key, value in filled(fields).items():
            is_prompts = speaker(message) != "assistant" and LEARNT.intersection(plain(key).split("_"))
            if key in its_own or is_prompts or (key == "channel" and value == "final"):
                continue
            if key == "channel":  # of gpt-oss: analysis, commentary
                raise RowError(f"a message of another channel than final in the {name}", str(value))
            for one in against(key, value):
                lost = one.problem == LOSES
                raise RowError(f"'{name}.{shown(one.path)}' {one.problem}", "" if lost else str(one.value))
            if role(key) != "verdict":
                unread.append(f"{name}.{key}")


def _said(message: Record, name: str, notes: list[str]) -> str:
    """The text of a message; text parts are set apart by blank lines."""
    filled = [message[key] for key in SPOKEN if not is_empty(message.get(key))]
    if not filled:
        raise RowError(f"no text in the {name}")
    if any(other != filled[0] for other in filled[1:]):
        raise RowError(f"more than one text in a message of the {name}")
    parts = filled[0] if isinstance(filled[0], list) else filled[:1]
    read = response_text if speaker(message) == "assistant" else field_text
    return "\n\n".join(read(_part_text(part, name), name, notes) for part in parts)


def _part_text(part: Any, name: str) -> Any:
    """The text of a part of a message's content."""
    if not isinstance(part, dict):
        return part
    if part.get("type") not in TEXT_PARTS:
        raise RowError(f"a part of a message that is no text in the {name}", str(part.get("type")))
    return next((part[key] for key in ("text", "value") if not is_empty(part.get(key))), None)
