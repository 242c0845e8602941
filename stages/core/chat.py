"""The one chat format: generation, SFT, DPO and evaluation all build their messages here."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]


def defused(text: str, markers: list[str]) -> str:
    """The text with every marker (a chat token, a prompt's tag) broken by a space: untrusted data cannot speak as
    structure."""
    for marker in markers:
        text = text.replace(marker, f"{marker[0]} {marker[1:]}")
    return text


def messages(tokenizer: "PreTrainedTokenizerBase", prompt: str, system: str = "") -> list[Message]:
    """The conversation up to the assistant's turn; an empty system prompt is left out."""
    opening = [{"role": "system", "content": system}] if system else []
    return [*opening, {"role": "user", "content": defused(prompt, tokenizer.all_special_tokens)}]


def answer(tokenizer: "PreTrainedTokenizerBase", completion: str) -> list[Message]:
    """The assistant's turn."""
    return [{"role": "assistant", "content": defused(completion, tokenizer.all_special_tokens)}]


def rendered(tokenizer: "PreTrainedTokenizerBase", prompt: str, system: str = "") -> str:
    """The text that the model continues."""
    conversation = messages(tokenizer, prompt, system)
    return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))
