"""promote: the best iteration's model, in one fixed place, with its model card. `python -m stages.promote`

Best by validation, never by test: the test score that is reported is then that of an item set on which nothing was
chosen. Of equals the earliest; the warm start itself, if no iteration is better.
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
    """Folders of iterations that params.yaml no longer has; dvc leaves them where they are, and this stage, `dataset`
    and `report` depend on the whole folders."""
    places = [path for folder in ("iterations", "results") for path in Path(folder).iterdir() if path.is_dir()]
    return [str(path) for path in sorted(places) if path.name not in {"0", *iterations}]


def main() -> None:
    params = read_params("promote")
    summary, scores = collect(params["iterations"])
    best = summary["best"]
    if left := leftovers(params["iterations"]):
        say(f"promote: {', '.join(left)} belong to no iteration of params.yaml; remove them, or clones rerun this")
    shutil.copytree(full_weights(Path("iterations", best, "model")), OUT, dirs_exist_ok=True)
    write_json(OUT / "iteration.json", {"iteration": best, "validation": round(scores.validation(best), 4)})
    (OUT / "README.md").write_text(card.model(summary, params), encoding="utf-8")
    say(f"promote: iteration {best} is best on validation ({scores.validation(best):.1f} %); its model is in {OUT}/")


if __name__ == "__main__":
    run(main)
