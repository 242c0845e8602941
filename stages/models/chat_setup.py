"""Give a model what it needs for conversations, and a base model may lack: a chat template, an end of turn, padding.

All of it is saved in the model folder, so that training, generation and lm-eval use the same chat format. A model
without a template gets ChatML. A template without a system role puts the system prompt into the first user turn.

Where a model may reason before its answer, many templates end the prompt before the reasoning or in it, and write an
answer behind an empty block ("<think>\n\n</think>\n\n") or in a channel of its own: the model would learn to write what
it never writes at generation, or the other way round. The prompt then ends where the template writes an answer, or the
reasoning that it begins is ended in it.
"""

import json
import re
from collections.abc import Iterator
from itertools import chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.errors import UserError
from stages.models.chat import (
    ANSWER,
    PROBE,
    QUESTION,
    around_completion,
    blank_before_answer,
    end_of_turn,
    render_messages,
    specials_in,
)
from stages.models.reasoning import MARKS, end_of, is_begun

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEMPLATES = Path(__file__).parent / "chat_templates"
MARKERS = ("<|im_start|>", "<|im_end|>")  # ChatML's
SWITCHES = ("enable_thinking", "thinking")  # the variables with which templates turn reasoning off
CONTEXTS = ([QUESTION], [{"role": "system", "content": "Be kind."}, QUESTION], [QUESTION, ANSWER, QUESTION])
PADS = ("<|finetune_right_pad_id|>", "<pad>", "[PAD]", "<|pad|>")  # if a tokenizer has none of them, the last is added


def prepare(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Add what model and tokenizer lack, in place, and change nothing else. Raises `UserError` if the chat template
    does not end the assistant's turn with a special token, or writes an answer otherwise than behind the prompt."""
    if not tokenizer.chat_template:
        _add_chatml(tokenizer)
    if not accepts_system_prompt(tokenizer):
        tokenizer.chat_template = _read_template("system_in_first_turn") + tokenizer.get_chat_template()
    answer_behind_prompt(tokenizer)
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
    try:
        return PROBE in render_messages(tokenizer, [{"role": "system", "content": PROBE}, QUESTION])
    except UserError:
        return False


def answer_behind_prompt(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Make the rendered prompt end where the assistant's answer begins. A template in which it does stays as it is. In
    another, reasoning is switched off; if that is not enough, the generation prompt is replaced by what the template
    itself writes before an answer; and if that begins reasoning, it is ended. Raises `UserError` if nothing helps."""
    if _answer_follows(tokenizer):
        return
    published = str(tokenizer.get_chat_template())
    for template in _candidates(tokenizer, published):
        tokenizer.chat_template = template
        if _answer_follows(tokenizer):
            return
    tokenizer.chat_template = published
    end = end_of(render_messages(tokenizer, [QUESTION], add_generation_prompt=True))
    if not end or blank_before_answer(tokenizer, [QUESTION]) is None:
        raise UserError(_disagreement(tokenizer))
    tokenizer.chat_template = published + _at_the_end("add_generation_prompt", end)


def _answer_follows(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether an answer follows the rendered prompt, and not reasoning that the prompt has begun."""
    prompt = render_messages(tokenizer, [QUESTION], add_generation_prompt=True)
    follows = (blank_before_answer(tokenizer, context) is not None for context in CONTEXTS)
    return not is_begun(prompt) and all(follows)


def _candidates(tokenizer: "PreTrainedTokenizerBase", published: str) -> Iterator[str]:
    """Changed templates, the least change first."""
    names = [name for name in SWITCHES if re.search(rf"(?<![\w.'\"]){name}\b", published)]
    switched = [f"{{%- set {name} = false %}}{published}" for name in names]
    yield from switched
    for template in [*switched, published]:
        tokenizer.chat_template = template
        yield _up_to_answer(tokenizer, template)


def _up_to_answer(tokenizer: "PreTrainedTokenizerBase", template: str) -> str:
    """The tokenizer's template with what it writes before an answer in the place of its generation prompt."""
    question, turn = (render_messages(tokenizer, messages) for messages in ([QUESTION], [QUESTION, ANSWER]))
    beginning = turn.partition(PROBE)[0][len(question) :]
    keep = "{%- set answering = add_generation_prompt %}{%- set add_generation_prompt = false %}"
    return keep + template + _at_the_end("answering", beginning)


def _at_the_end(condition: str, text: str) -> str:
    """The end of a chat template that writes a text under a condition."""
    return f"{{%- if {condition} %}}{{{{ {json.dumps(text, ensure_ascii=False)} }}}}{{% endif %}}"


def _disagreement(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The line that refuses a chat template."""
    prompt = render_messages(tokenizer, [QUESTION], add_generation_prompt=True)
    before, answer, _ = render_messages(tokenizer, [QUESTION, ANSWER]).partition(PROBE)
    if not answer:
        return (
            "its chat template leaves out a message that is plain text (it may take lists of parts, as for images); "
            "use a model whose template takes texts"
        )
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, before, strict=False)))
    return (
        f"its chat template ends the prompt with {prompt[shared:]!r} and begins an answer with {before[shared:]!r}, so "
        "the model would learn another text than it is to continue; make them the same in the template"
    )


def _stop_at_end_of_turn(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Make the end of the assistant's turn end a completion. A base model that only stops at its end of text would run
    every completion into the token limit; that token stays a stop token too. Raises `UserError` if the turn ends with
    no special token."""
    stop = model.generation_config.eos_token_id
    stops = stop if isinstance(stop, list) else [] if stop is None else [stop]
    ending = end_of_turn(tokenizer)
    end = "".join(specials_in(tokenizer, around_completion(tokenizer)[1])[:1])
    end_id = tokenizer.convert_tokens_to_ids(end)
    if not end or (end not in ending and end_id not in stops):
        raise UserError(
            f"its chat template ends the assistant's turn with {ending!r} and no special token, so no completion would "
            "end; add one to the template"
        )
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


def show_reasoning(folder: Path) -> None:
    """Make the marks of reasoning plain tokens in a saved tokenizer. Where they are special, as in Magistral and Gemma
    4, every engine leaves them out of a completion's text, and nobody could tell the reasoning from the answer."""
    marks = list(chain(*MARKS))
    path = folder / "tokenizer.json"
    backend = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"added_tokens": []}
    special = [token for token in backend["added_tokens"] if token["special"] and token["content"] in marks]
    if not special:
        return
    for token in special:
        token["special"] = False
    _write(path, backend)
    path = folder / "tokenizer_config.json"
    config = {
        name: [token for token in value if _content(token) not in marks] if isinstance(value, list) else value
        for name, value in json.loads(path.read_text(encoding="utf-8")).items()
        if _content(value) not in marks
    }
    _write(path, config)


def _content(token: Any) -> Any:
    """A token's text, of one written as a text or with its properties."""
    return token.get("content") if isinstance(token, dict) else token


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
