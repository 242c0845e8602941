"""base: the base model, in the dtype of the run, with all that a conversation needs. `python -m stages.base`

It is a folder (`model.name`) or a model of the Hugging Face hub at a pinned commit (`model.hub`). From here on nothing
asks the hub.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.command import run
from stages.core.errors import UserError
from stages.core.params import declared
from stages.core.progress import prepare_transformers, say
from stages.models import chat, chat_setup, hub

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBE = "Why?"


def loaded(source: Path, dtype: str, trust: bool) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A model folder's weights in `dtype`, and its tokenizer. Raises `UserError` where it cannot be used: no
    safetensors, an architecture that transformers does not know, weights that are missing or not finite."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust)
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=getattr(torch, dtype),
            trust_remote_code=trust,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # safetensors, torch and transformers each raise their own
        raise UserError(
            f"it cannot be loaded ({type(error).__name__}: {error}); correct or replace it, or, if it brings code of "
            "its own, read that and set model.trust_remote_code: true"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"its weights lack {missing[0]} and {len(missing) - 1} more; fetch or copy it again")
    broken = [name for name, values in model.named_parameters() if not values.isfinite().all()]
    if broken:
        raise UserError(
            f"its weights {broken[0]} are not finite in {dtype}; fetch it again, or set another model.dtype"
        )
    read = tokenizer.decode(tokenizer(PROBE)["input_ids"])
    if PROBE not in read:  # transformers makes a tokenizer of nothing where its file is missing
        raise UserError(f"it has no tokenizer that reads text ('{PROBE}' becomes {read!r}); add its tokenizer's files")
    chat.context_length(model.config)
    try:
        model.generation_config.validate(strict=True)
    except ValueError:  # a temperature without sampling, as some are published: such a file is read, but not written
        model.generation_config.do_sample = True
    return model, tokenizer


def materialised(source: Path, dtype: str, out: Path, trust: bool = False) -> Path:
    """The model folder `out`: the source's weights in `dtype`, and its tokenizer, ready for a conversation."""
    prepare_transformers()
    try:
        model, tokenizer = loaded(source, dtype, trust)
        chat_setup.prepare(model, tokenizer)
    except UserError as error:
        raise UserError(f"model {source}: {error}") from error
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    say(f"base: {source}, {model.num_parameters():,} parameters in {dtype}")
    return out


def main() -> None:
    model = declared("base")["model"]
    source = hub.fetched(model) if model["hub"] else Path(model["name"])
    if not (source / "config.json").exists():
        raise UserError(f"model.name {source} is not a model folder (no config.json); correct the path")
    materialised(source, model["dtype"], hub.OUT, model["trust_remote_code"])
    if model["hub"]:
        hub.note(model)


if __name__ == "__main__":
    run(main)
