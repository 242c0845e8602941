"""The chat format: what a model continues at generation, and what it learns in SFT and DPO.

What is learnt is the rendered prompt, as at generation, and behind it the completion and the end of the turn. Only the
prompt comes from the chat template, since many templates change a completion: they strip it, or take what stands before
"</think>" out of it.
"""

import re
from datetime import date
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from stages.core.errors import UserError
from stages.models.reasoning import MARKS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]  # {"role", "content"}
PROBE = "LANCE"  # stands for the content of a message when a chat template is examined
QUESTION: Message = {"role": "user", "content": "Why?"}
ANSWER: Message = {"role": "assistant", "content": PROBE}
# Some templates write today's date into the system turn. Results would differ from day to day; this is the date that
# Llama 3.1's template has where none is given.
VARIABLES = {"strftime_now": date(2024, 7, 26).strftime}


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

    A single word is not a marker: the "user" after a special token means nothing without that token. Nor are the marks
    of reasoning, which the assistant may write.
    """
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": role, "content": PROBE} for role in roles]
    before, *between = render_messages(tokenizer, messages).split(PROBE)
    opening = before[before.rstrip("\n").rfind("\n") + 1 :]
    opening = "" if opening.endswith("\n\n") else opening  # a paragraph of the template, not the beginning of a turn
    separator = "|".join(map(re.escape, ["\n", *chain(*MARKS), *special_tokens(tokenizer)]))
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


def render(tokenizer: "PreTrainedTokenizerBase", prompt: str, system_prompt: str = "") -> str:
    """The prompt in the chat template, up to where the assistant's completion begins: the text the model continues."""
    return render_messages(tokenizer, prompt_messages(tokenizer, prompt, system_prompt), add_generation_prompt=True)


def trained_tokens(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, completion: str, system_prompt: str = ""
) -> tuple[list[int], list[int]]:
    """What is learnt of a pair: the rendered prompt's tokens, as at generation, and those of the completion with the
    end of the turn."""
    rendered, (before, after) = render(tokenizer, prompt, system_prompt), around_completion(tokenizer)
    completion = break_markers(completion, markers(tokenizer))
    text = before + completion + after
    prompt_tokens, tokens = _tokens(tokenizer, rendered), _tokens(tokenizer, rendered + text)
    follows = tokens[: len(prompt_tokens)] == prompt_tokens
    if follows and not completion[:1].isspace():
        return prompt_tokens, tokens[len(prompt_tokens) :]
    # A completion's first blanks may become one token with the prompt's last line break, which nobody can generate, or
    # be lost behind a special token, as in Phi-3.
    end = specials_in(tokenizer, after)[0]
    readings = [tokens[len(prompt_tokens) :]] if follows else []
    readings += [_tokens(tokenizer, end + text)[1:], _tokens(tokenizer, text)]
    whole = (tokens for tokens in readings if tokenizer.decode(tokens).startswith((before + completion, completion)))
    return prompt_tokens, next(whole, readings[0])


def _tokens(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@cache
def around_completion(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, str]:
    """What stands before a completion (nothing, or Llama 2's blank behind "[/INST]") and behind it: the template's end
    of the turn or, where that has no special token, the one that begins the user's next turn, as in GLM."""
    before, after = blank_before_answer(tokenizer, [QUESTION]) or "", end_of_turn(tokenizer)
    if specials_in(tokenizer, after):
        return before, after
    next_turn = render_messages(tokenizer, [QUESTION, ANSWER, QUESTION]).partition(PROBE)[2]
    return before, "".join(specials_in(tokenizer, next_turn)[:1])


def blank_before_answer(tokenizer: "PreTrainedTokenizerBase", context: list[Message]) -> str | None:
    """What the chat template writes between the prompt rendered for `context` and the assistant's message if that is
    nothing or a blank; None if it is anything else."""
    prompt = render_messages(tokenizer, context, add_generation_prompt=True)
    turn = render_messages(tokenizer, [*context, ANSWER])
    return next((blank for blank in ("", " ") if turn.startswith(prompt + blank + PROBE)), None)


def end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> str:
    """What the chat template writes behind the assistant's message."""
    return render_messages(tokenizer, [QUESTION, ANSWER]).rpartition(PROBE)[2]


def render_messages(
    tokenizer: "PreTrainedTokenizerBase", messages: list[Message], add_generation_prompt: bool = False
) -> str:
    """A conversation in the chat template. Raises `UserError` if the template cannot be rendered."""
    try:
        return str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, **VARIABLES
            )
        )
    except Exception as error:  # a template may raise anything
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"its chat template cannot render a conversation of {roles} ({type(error).__name__}: {error}); correct it, "
            "or use a model with another"
        ) from error


def specials_in(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[str]:
    """The special tokens of a text, in its order."""
    special = set(special_tokens(tokenizer))
    return [token for token in tokenizer.convert_ids_to_tokens(_tokens(tokenizer, text)) if token in special]


def context_length(config: Any) -> int:
    """The model's context length in tokens; for a multimodal model, that of its text model. Raises `UserError` if the
    configuration does not say."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(length, int):
        raise UserError("its config.json has no max_position_embeddings, its context length in tokens; add it there")
    return length
