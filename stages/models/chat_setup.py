"""Give a model what it needs for conversations, and a base model may lack: a chat template, an end of turn, padding.

All of it is saved in the model folder, so that training, generation and lm-eval use the same chat format. A model
without a template gets ChatML. A template without a system role puts the system prompt into the first user turn.

Where a model may reason before its answer, many templates end the prompt before the reasoning or in it, and write an
answer behind an empty block ("<think>\n\n</think>\n\n") or in a channel of its own: the model would learn to write what
it never writes at generation, or the other way round. The prompt then ends where the template writes an answer.
"""

import json
import re
from itertools import chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.errors import UserError
from stages.models.chat import (
    ANSWER,
    PROBE,
    QUESTION,
    around_completion,
    completion_frame,
    render_messages,
    specials_in,
)
from stages.models.reasoning import MARKS

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
    """Make the rendered prompt end where the chat template writes the assistant's answer. A template that does so stays
    as it is; in another, reasoning is switched off and, where that is not enough, the generation prompt is replaced by
    what the template itself writes before an answer. Raises `UserError` if neither helps."""
    if _agrees(tokenizer):
        return
    published = tokenizer.get_chat_template()
    switches = [name for name in SWITCHES if re.search(rf"(?<![\w.'\"]){name}\b", published)]
    switched = [f"{{%- set {name} = false %}}{published}" for name in switches]
    for template in switched:
        tokenizer.chat_template = template
        if _agrees(tokenizer):
            return
    for template in [*switched, published]:
        tokenizer.chat_template = template
        tokenizer.chat_template = _up_to_answer(tokenizer)
        if _agrees(tokenizer):
            return
    tokenizer.chat_template = published
    raise UserError(_disagreement(tokenizer))


def _agrees(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether nothing, or a blank, stands between a rendered prompt and the answer in the same conversation."""
    frames = [completion_frame(tokenizer, context) for context in CONTEXTS]
    return all(frame is not None and frame[0] in ("", " ") for frame in frames)


def _up_to_answer(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The chat template with what it writes before an answer in the place of its generation prompt."""
    question, turn = (render_messages(tokenizer, messages) for messages in ([QUESTION], [QUESTION, ANSWER]))
    beginning = json.dumps(turn.partition(PROBE)[0][len(question) :], ensure_ascii=False)
    return (
        "{%- set answering = add_generation_prompt %}{%- set add_generation_prompt = false %}"
        + str(tokenizer.get_chat_template())
        + f"{{%- if answering %}}{{{{ {beginning} }}}}{{% endif %}}"
    )


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
    _, ending = completion_frame(tokenizer, [QUESTION]) or ("", "")
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
