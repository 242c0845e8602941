"""base: make the base model's folder: weights in the run's dtype, tokenizer, chat template. `python -m stages.base`

The model is a folder (`model.name`) or comes from the Hugging Face hub at a pinned commit (`model.hub`). No later stage
contacts the hub.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.command import run
from stages.core.errors import UserError
from stages.core.params import read_params
from stages.core.progress import prepare_transformers, say
from stages.models import chat, chat_setup, hub

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBE = "Why?"  # a text that any tokenizer must encode and decode


def load_model(source: Path, dtype: str, trust: bool) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A model folder's weights in `dtype`, and its tokenizer. `trust`: run the model's own code.

    Raises `UserError` if the model cannot be used: no safetensors, an architecture that transformers does not have,
    weights that are missing or not finite, no tokenizer, or no context length.
    """
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
            f"it cannot be loaded ({type(error).__name__}: {error}); correct or replace it or, if it comes with its "
            "own code, read that code and set model.trust_remote_code: true"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"its weights lack {missing[0]} and {len(missing) - 1} more; download or copy it again")
    not_finite = [name for name, weights in model.named_parameters() if not weights.isfinite().all()]
    if not_finite:
        raise UserError(
            f"its weights {not_finite[0]} are not finite in {dtype}; download it again, or set another model.dtype"
        )
    decoded = tokenizer.decode(tokenizer(PROBE)["input_ids"])
    if PROBE not in decoded:  # without a tokenizer file, transformers makes an empty tokenizer
        raise UserError(f"it has no working tokenizer ('{PROBE}' is decoded as {decoded!r}); add its tokenizer's files")
    chat.context_length(model.config)
    try:
        model.generation_config.validate(strict=True)
    except ValueError:  # some models set a temperature without do_sample, which transformers reads but refuses to save
        model.generation_config.do_sample = True
    return model, tokenizer


def materialise(source: Path, dtype: str, out: Path, trust: bool = False) -> Path:
    """Write the model folder `out`: the source's weights in `dtype` and its tokenizer, ready for conversations. Returns
    `out`; raises `UserError` if the source cannot be used."""
    prepare_transformers()
    try:
        model, tokenizer = load_model(source, dtype, trust)
        chat_setup.prepare(model, tokenizer)
    except UserError as error:
        raise UserError(f"model {source}: {error}") from error
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    chat_setup.show_reasoning(out)
    say(f"base: {source}, {model.num_parameters():,} parameters in {dtype}")
    return out


def main() -> None:
    """Make the base model's folder."""
    model = read_params("base")["model"]
    source = hub.fetch(model) if model["hub"] else Path(model["name"])
    if not (source / "config.json").exists():
        raise UserError(f"model.name: {source} is not a model folder (it has no config.json); correct the path")
    materialise(source, model["dtype"], hub.OUT, model["trust_remote_code"])
    if model["hub"]:
        hub.write_source(model)


if __name__ == "__main__":
    run(main)
