"""base: the base model, materialised in the dtype of the run. `python -m stages.base`"""

from pathlib import Path

from stages.core.errors import UserError, run
from stages.core.params import declared
from stages.core.progress import quiet_transformers, say

OUT = Path("iterations/0/base")


def main() -> None:
    params = declared("base")
    source = Path(params["model.name"])
    if not (source / "config.json").exists():
        raise UserError(f"model.name {source} is not a model folder (no config.json); correct the path")
    quiet_transformers()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    if not tokenizer.chat_template:
        raise UserError(f"model.name {source}: no chat template; add one to its tokenizer_config.json")
    model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, params["model.dtype"]))
    model.save_pretrained(OUT)
    tokenizer.save_pretrained(OUT)
    say(f"base: {source}, {model.num_parameters():,} parameters in {params['model.dtype']}")


if __name__ == "__main__":
    run(main)
