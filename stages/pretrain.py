"""pretrain: the embedded default's base model, trained from scratch. `python -m stages.pretrain`

A quarter of an hour on two cores, and the same bytes each time on any x86-64 machine with AVX2: what decides which
instructions are used decides the order of the sums, and so is fixed. The checkpoint is in git.
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
    settings = read_params("pretrain")["microworld"]
    os.environ.update(INSTRUCTIONS)  # before torch is imported, which reads them
    prepare_transformers()
    with progress("pretrain", settings["steps"]) as advance:
        train(OUT, **settings, on_step=lambda loss: advance(1))


if __name__ == "__main__":
    run(main)
