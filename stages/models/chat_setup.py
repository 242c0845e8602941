"""Give a model what it needs for conversations, and a base model may lack: a chat template, an end of turn, padding.

All of it is saved in the model folder, so that training, generation and lm-eval use the same chat format. A model
without a template gets ChatML. A template without a system role puts the system prompt into the first user turn.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.errors import UserError
from stages.models.chat import PROBE, special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEMPLATES = Path(__file__).parent / "chat_templates"
MARKERS = ("<|im_start|>", "<|im_end|>")  # ChatML's
PADS = ("<|finetune_right_pad_id|>", "<pad>", "[PAD]", "<|pad|>")  # if a tokenizer has none of them, the last is added


def prepare(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Add what model and tokenizer lack, in place, and change nothing else. Raises `UserError` if the chat template
    does not end the assistant's turn with a special token."""
    if not tokenizer.chat_template:
        _add_chatml(tokenizer)
    if not accepts_system_prompt(tokenizer):
        tokenizer.chat_template = _read_template("system_in_first_turn") + tokenizer.get_chat_template()
    _stop_at_end_of_turn(model, tokenizer)
    _add_padding_token(model, tokenizer)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        import torch

        torch.manual_seed(0)  # the new embeddings are drawn around the mean of the others
        model.resize_token_embeddings(len(tokenizer))


def _read_template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8").rstrip("\n")


def _add_chatml(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Set the ChatML template, after the BOS token if the tokenizer itself puts one before a text."""
    bos = "{{ bos_token }}" if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else ""
    tokenizer.chat_template = bos + _read_template("chatml")
    tokenizer.add_special_tokens({"extra_special_tokens": list(MARKERS)}, replace_extra_special_tokens=False)


def accepts_system_prompt(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template renders a system prompt. Of those that do not, some raise an error and some silently
    leave it out."""
    from jinja2 import TemplateError

    messages = [{"role": "system", "content": PROBE}, {"role": "user", "content": "Why?"}]
    try:
        return PROBE in tokenizer.apply_chat_template(messages, tokenize=False)
    except TemplateError:
        return False


def end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The special token that the chat template writes after the assistant's message. Raises `UserError` if there is
    none."""
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": PROBE}]
    ending = tokenizer.apply_chat_template(messages, tokenize=False).rpartition(PROBE)[2]
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(ending, add_special_tokens=False)["input_ids"])
    special = [token for token in tokens if token in special_tokens(tokenizer)]
    if not special:
        raise UserError(
            f"its chat template ends the assistant's turn with {ending!r} and no special token, so no completion would "
            "end; add one to the template"
        )
    return str(special[0])


def _stop_at_end_of_turn(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Make the end of the assistant's turn end a completion. A base model that only stops at its end of text would run
    every completion into the token limit; that token stays a stop token too."""
    stop = model.generation_config.eos_token_id
    stops = stop if isinstance(stop, list) else [] if stop is None else [stop]
    end = end_of_turn(tokenizer)
    end_id = tokenizer.convert_tokens_to_ids(end)
    if end_id not in stops:
        tokenizer.eos_token = end
        model.config.get_text_config().eos_token_id = end_id
        model.generation_config.eos_token_id = [end_id, *stops]


def _add_padding_token(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Set a padding token other than EOS: training ignores padding, and EOS must be learnt."""
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        vocabulary = tokenizer.get_vocab()
        candidates = [*PADS, tokenizer.unk_token]
        usable = (token for token in candidates if token in vocabulary and token != tokenizer.eos_token)
        tokenizer.add_special_tokens({"pad_token": next(usable, PADS[-1])})
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
