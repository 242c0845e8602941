"""The chat format. Generation, SFT, DPO and evaluation all build their messages here, so that they agree."""

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from stages.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]  # {"role", "content"}
PROBE = "LANCE"  # stands for the content of a message when a chat template is examined


def break_markers(text: str, markers: list[str]) -> str:
    """The text with a space after the first character of every marker in it, so that untrusted text cannot begin or end
    a turn. A marker that begins with a letter or digit, such as "User:", counts only at the beginning of a word."""
    for marker in markers:
        begins = r"(?<!\w)" if marker[0].isalnum() else ""
        text = re.sub(begins + re.escape(marker), lambda match: f"{match[0][0]} {match[0][1:]}", text)
    return text


@cache
def markers(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Every string that structures a conversation: special tokens, and what the chat template writes between turns."""
    return [*special_tokens(tokenizer), *_turn_markers(tokenizer)]


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """All special tokens, including those that `all_special_tokens` lacks (Llama 3's header tokens, for example)."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return list(dict.fromkeys([*tokenizer.all_special_tokens, *added]))


def _turn_markers(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The plain text that begins or ends a turn, such as Llama 2's "[INST]" or Zephyr's "<|user|>".

    A single word is not a marker: the "user" after a special token means nothing without that token. Nor are think
    tags, which the assistant may write.
    """
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": role, "content": PROBE} for role in roles]
    before, *between = tokenizer.apply_chat_template(messages, tokenize=False).split(PROBE)
    opening = before[before.rstrip("\n").rfind("\n") + 1 :]
    opening = "" if opening.endswith("\n\n") else opening  # a paragraph of the template, not the beginning of a turn
    separator = "|".join(["\n", "</?think>", *map(re.escape, special_tokens(tokenizer))])
    turn_markers: list[str] = []
    for piece in sorted(re.split(separator, "\n".join([opening, *between])), key=len):
        for marker in turn_markers:
            piece = piece.replace(marker, "")
        text = piece.strip()
        if re.search(r"\w", text) and not text.isalnum():
            turn_markers.append(text)
    return turn_markers


def prompt_messages(tokenizer: "PreTrainedTokenizerBase", prompt: str, system_prompt: str = "") -> list[Message]:
    """The messages up to the assistant's turn; without a system message if the system prompt is empty."""
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": break_markers(prompt, markers(tokenizer))}]


def assistant_turn(tokenizer: "PreTrainedTokenizerBase", completion: str) -> list[Message]:
    """The completion as the assistant's message, in a list of one, as trl takes it."""
    return [{"role": "assistant", "content": break_markers(completion, markers(tokenizer))}]


def render(tokenizer: "PreTrainedTokenizerBase", prompt: str, system_prompt: str = "") -> str:
    """The prompt in the chat template, up to where the assistant's completion begins: the text the model continues."""
    messages = prompt_messages(tokenizer, prompt, system_prompt)
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def context_length(config: Any) -> int:
    """The model's context length in tokens; for a multimodal model, that of its text model. Raises `UserError` if the
    configuration does not say."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(length, int):
        raise UserError("its config.json has no max_position_embeddings, its context length in tokens; add it there")
    return length
