"""pretrain: the embedded default's base model, trained from scratch. `python -m stages.pretrain`

A quarter of an hour on two cores, and the same bytes each time on one kind of machine. The checkpoint is in git.
"""

from pathlib import Path

from stages.core.errors import run
from stages.core.params import declared
from stages.core.progress import progress, quiet_transformers
from stages.microworld.pretraining import train

OUT = Path("stages/microworld/base")


def main() -> None:
    settings = declared("pretrain")["microworld"]
    quiet_transformers()
    with progress("pretrain", settings["steps"]) as advance:
        train(OUT, **settings, on_step=lambda loss: advance(1))


if __name__ == "__main__":
    run(main)
