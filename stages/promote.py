"""promote: copy the best iteration's model to best/ and write its model card. `python -m stages.promote`

The best iteration is chosen on validation, never on test, so that nothing was chosen on the items of the reported test
score. Of equals it is the earliest, which may be the warm start.
"""

import shutil
from pathlib import Path

from stages.core.command import run
from stages.core.params import read_params
from stages.core.progress import say
from stages.core.records import Record, write_json
from stages.models.adapters import full_weights
from stages.reporting import card
from stages.reporting.summary import collect

OUT = Path("best")


def leftovers(iterations: Record) -> list[str]:
    """Folders of iterations that params.yaml no longer has. dvc does not delete them, and `promote`, `dataset` and
    `report` depend on the folders around them."""
    folders = [path for parent in ("iterations", "results") for path in Path(parent).iterdir() if path.is_dir()]
    return [str(folder) for folder in sorted(folders) if folder.name not in {"0", *iterations}]


def main() -> None:
    """Write best/."""
    params = read_params("promote")
    summary, scores = collect(params["iterations"])
    best = summary["best"]
    if folders := leftovers(params["iterations"]):
        say(f"promote: params.yaml has no iteration for {', '.join(folders)}; remove them, or clones rerun this stage")
    shutil.copytree(full_weights(Path("iterations", best, "model")), OUT, dirs_exist_ok=True)
    write_json(OUT / "iteration.json", {"iteration": best, "validation": round(scores.validation(best), 4)})
    (OUT / "README.md").write_text(card.model(summary, params), encoding="utf-8")
    say(f"promote: iteration {best} is best on validation ({scores.validation(best):.1f} %); its model is in {OUT}/")


if __name__ == "__main__":
    run(main)
