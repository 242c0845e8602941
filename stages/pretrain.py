"""pretrain: train the embedded default's base model from scratch. `python -m stages.pretrain`

It takes a quarter of an hour on two cores, and gives the same bytes on any x86-64 machine with AVX2: the instruction
set decides the order of sums, so it is fixed. The model is in git.
"""

import os
from pathlib import Path

from stages.core.command import run
from stages.core.params import read_params
from stages.core.progress import prepare_transformers, progress
from stages.microworld.pretraining import train

OUT = Path("stages/microworld/base")
INSTRUCTIONS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def main() -> None:
    """Train the base model."""
    settings = read_params("pretrain")["microworld"]
    os.environ.update(INSTRUCTIONS)  # torch reads them when it is imported
    prepare_transformers()
    with progress("pretrain", settings["steps"]) as advance:
        train(OUT, **settings, on_step=lambda loss: advance(1))


if __name__ == "__main__":
    run(main)
