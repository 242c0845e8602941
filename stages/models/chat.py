"""The one chat format: generation, SFT, DPO and evaluation all build their messages here."""

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from stages.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
PROBE = "LANCE"  # stands for the text of a turn


def defused(text: str, markers: list[str]) -> str:
    """The text with every marker (a chat token, what begins a turn) broken by a space: untrusted data cannot speak as
    structure. A marker that begins like a word, as "User:", is none within another word."""
    for marker in markers:
        begins = r"(?<!\w)" if marker[0].isalnum() else ""
        text = re.sub(begins + re.escape(marker), lambda found: f"{found[0][0]} {found[0][1:]}", text)
    return text


@cache
def markers(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Everything that is structure and not text: the special tokens, and what the template writes between turns."""
    return [*special_tokens(tokenizer), *_written_turns(tokenizer)]


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Every token that is structure and not text; some tokenizers name only a few of them as their special ones."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return list(dict.fromkeys([*tokenizer.all_special_tokens, *added]))


def _written_turns(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """What begins or ends a turn in plain text, such as Llama 2's "[INST]" or Zephyr's "<|user|>", piece by piece. A
    mere word is none: the "user" behind a special token needs that token. Nor are think tags, the assistant's own."""
    roles = ("system", "user", "assistant", "user")
    said = tokenizer.apply_chat_template([{"role": role, "content": PROBE} for role in roles], tokenize=False)
    before, *between = said.split(PROBE)
    opening = before[before.rstrip("\n").rfind("\n") + 1 :]
    opening = "" if opening.endswith("\n\n") else opening  # no turn's beginning, but a text of the template
    apart = "|".join(["\n", "</?think>", *map(re.escape, special_tokens(tokenizer))])
    found: list[str] = []
    for piece in sorted(re.split(apart, "\n".join([opening, *between])), key=len):
        for known in found:
            piece = piece.replace(known, "")
        text = piece.strip()
        if re.search(r"\w", text) and not text.isalnum():
            found.append(text)
    return found


def messages(tokenizer: "PreTrainedTokenizerBase", prompt: str, system: str = "") -> list[Message]:
    """The conversation up to the assistant's turn; an empty system prompt is left out."""
    opening = [{"role": "system", "content": system}] if system else []
    return [*opening, {"role": "user", "content": defused(prompt, markers(tokenizer))}]


def answer(tokenizer: "PreTrainedTokenizerBase", completion: str) -> list[Message]:
    """The assistant's turn."""
    return [{"role": "assistant", "content": defused(completion, markers(tokenizer))}]


def rendered(tokenizer: "PreTrainedTokenizerBase", prompt: str, system: str = "") -> str:
    """The text that the model continues."""
    conversation = messages(tokenizer, prompt, system)
    return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))


def context_length(config: Any) -> int:
    """How many tokens a conversation may have; a model of several parts, such as one that also sees, has its text's."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(length, int):
        raise UserError("its config.json has no max_position_embeddings, the length of its context; add it there")
    return length
