"""check: read all of params.yaml, and the files it names, before anything runs. `python -m stages.check`

It depends on every parameter and every prompt, but its out never changes: a valid change reruns nothing, an invalid one
stops the run before any work is done. Integer keys of iterations, which dvc silently drops, are an error here.
"""

from pathlib import Path
from typing import Any

from stages.core import launcher, prompts
from stages.core.command import run
from stages.core.errors import UserError
from stages.core.params import PARAMS_FILE, load
from stages.core.schema import check_params
from stages.evaluation import suite
from stages.inference import engines
from stages.models import hub

OUT = Path("iterations/params.valid")
MICROWORLD = Path("stages/microworld")  # its data and model are made by stages


def read_valid_params() -> dict[str, Any]:
    """All of params.yaml. Raises `UserError` if anything in it, or in what it names, would stop a run."""
    params: dict[str, Any] = load(PARAMS_FILE)
    check_params(params)
    check_spread(params)
    check_files(params)
    prompts.check(params["prompts"], params["generate"]["shots"])
    suite.load(params["evaluate"]["suite"])
    launcher.check(params["runtime"]["launch"])
    engines.resolve(params["runtime"]["engine"])
    if params["model"]["hub"] and not hub.is_materialised(params["model"]):
        hub.check_available(params["model"])
    return params


def check_spread(params: dict[str, Any]) -> None:
    """Raise `UserError` if `select.max_spread` needs several verdicts of a row where the judge gives one."""
    estimator, samples = params["review"]["estimator"], params["review"]["samples"]
    if params["select"]["max_spread"] is not None and (estimator != "sampled" or samples < 2):
        given = f"estimator: {estimator}" if estimator != "sampled" else f"samples: {samples}"
        raise UserError(
            f"params.yaml: select.max_spread: needs several verdicts of a row, and review.{given} gives one; set it to "
            "null, or review.estimator: sampled with review.samples of 2 or more"
        )


def check_files(params: dict[str, Any]) -> None:
    """Raise `UserError` if a file or folder that a parameter names does not exist; one that a stage makes need not."""
    paths = {
        "prompts": Path("prompts", params["prompts"]),
        "seed.path": Path(params["seed"]["path"]),
        "seed.reviews": Path(params["seed"]["reviews"]),
        "review.checks": Path(params["review"]["checks"]),
        "model.name": Path(params["model"]["name"]),
    }
    for name, path in paths.items():
        if not path.exists() and MICROWORLD not in path.parents:
            raise UserError(f"params.yaml: {name}: {path} does not exist; create it or correct the path")


def main() -> None:
    """Check the parameters."""
    read_valid_params()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("valid\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
