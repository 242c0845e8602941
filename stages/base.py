"""base: the base model, materialised in the dtype of the run. `python -m stages.base`"""

from pathlib import Path

from stages.core.errors import UserError, run
from stages.core.params import declared
from stages.core.progress import quiet_transformers, say

OUT = Path("iterations/0/base")


def materialised(source: Path, dtype: str, out: Path) -> Path:
    """The model folder `out`: the source's weights in `dtype`, and its tokenizer."""
    quiet_transformers()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    if not tokenizer.chat_template:
        raise UserError(f"model.name {source}: no chat template; add one to its tokenizer_config.json")
    model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    say(f"base: {source}, {model.num_parameters():,} parameters in {dtype}")
    return out


def main() -> None:
    params = declared("base")
    source = Path(params["model.name"])
    if not (source / "config.json").exists():
        raise UserError(f"model.name {source} is not a model folder (no config.json); correct the path")
    materialised(source, params["model.dtype"], OUT)


if __name__ == "__main__":
    run(main)
