"""What a model needs to take turns, and a base model may lack: a chat template, an end of its turn, padding.

All of it lies in the model's folder afterwards, so that training, generation and lm-eval converse in the same way: a
model without a template gets ChatML, and a template that does not take a system prompt puts it into the first turn.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.errors import UserError
from stages.models.chat import PROBE, special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEMPLATES = Path(__file__).parent / "chat_templates"
MARKERS = ("<|im_start|>", "<|im_end|>")
PADS = ("<|finetune_right_pad_id|>", "<pad>", "[PAD]", "<|pad|>")  # the last one is added where a model has none


def prepare(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Give a model and its tokenizer what they lack of these, and change nothing else."""
    if not tokenizer.chat_template:
        _give_template(tokenizer)
    if not takes_system(tokenizer):
        tokenizer.chat_template = _template("system_in_first_turn") + tokenizer.get_chat_template()
    _end_the_turn(model, tokenizer)
    _give_padding(model, tokenizer)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        import torch

        torch.manual_seed(0)  # the new rows are drawn around the mean of the others
        model.resize_token_embeddings(len(tokenizer))


def _template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8").rstrip("\n")


def _give_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    """ChatML, after the token that the tokenizer itself puts before a text."""
    before = "{{ bos_token }}" if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else ""
    tokenizer.chat_template = before + _template("chatml")
    tokenizer.add_special_tokens({"extra_special_tokens": list(MARKERS)}, replace_extra_special_tokens=False)


def takes_system(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the template lets a system prompt through; some raise an error, some leave it out without a word."""
    from jinja2 import TemplateError

    asked = [{"role": "system", "content": PROBE}, {"role": "user", "content": "Why?"}]
    try:
        return PROBE in tokenizer.apply_chat_template(asked, tokenize=False)
    except TemplateError:
        return False


def end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The special token that the template puts behind the assistant's turn."""
    asked = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": PROBE}]
    behind = tokenizer.apply_chat_template(asked, tokenize=False).rpartition(PROBE)[2]
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(behind, add_special_tokens=False)["input_ids"])
    found = [token for token in tokens if token in special_tokens(tokenizer)]
    if not found:
        raise UserError(
            f"its chat template puts no special token behind the assistant's turn, but {behind!r}, so that no "
            "completion would end; add one in the template"
        )
    return str(found[0])


def _end_the_turn(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """The end of the assistant's turn ends a completion. A base model ends its texts with another token, and would have
    only truncated completions; that one stays an end too."""
    told = model.generation_config.eos_token_id
    ends = told if isinstance(told, list) else [] if told is None else [told]
    end = end_of_turn(tokenizer)
    token = tokenizer.convert_tokens_to_ids(end)
    if token not in ends:
        tokenizer.eos_token = end
        model.config.get_text_config().eos_token_id = token
        model.generation_config.eos_token_id = [token, *ends]


def _give_padding(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """A padding token that is not the end, which would then be masked where it must be learnt."""
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        known = tokenizer.get_vocab()
        named = [*PADS, tokenizer.unk_token]
        usable = (each for each in named if each in known and each != tokenizer.eos_token)
        tokenizer.add_special_tokens({"pad_token": next(usable, PADS[-1])})
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
