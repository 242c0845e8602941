"""check: look at all of params.yaml before anything runs. `python -m stages.check`

Depends on every parameter and every prompt, but its out never changes: a valid change reruns nothing by itself, an
invalid one stops the run before any work is done. dvc drops integer iteration keys silently; here they are an error.
"""

from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from stages.core import prompts
from stages.core.command import run
from stages.core.errors import UserError
from stages.core.params import PARAMS_FILE, load
from stages.core.schema import check
from stages.evaluation import suite
from stages.inference import engines
from stages.models import hub

OUT = Path("iterations/params.valid")


def valid() -> dict[str, Any]:
    """All of params.yaml; raises `UserError` where it cannot be run."""
    try:
        values: dict[str, Any] = load(PARAMS_FILE)
    except YAMLError as error:
        raise UserError(f"params.yaml is not YAML: {error}") from None
    check(values)
    check_files(values)
    prompts.check(values["prompts"], values["review"]["estimator"])
    suite.load(values["evaluate"]["suite"])
    engines.resolve(values["runtime"]["engine"])
    if values["model"]["hub"] and not hub.is_materialised(values["model"]):
        hub.check_available(values["model"])
    return values


def main() -> None:
    valid()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("valid\n", encoding="utf-8")


def check_files(values: dict[str, dict[str, str]]) -> None:
    """The files and folders that the parameters name; those that a stage makes need not be there yet."""
    named = {
        "prompts": Path("prompts", str(values["prompts"])),
        "seed.path": Path(values["seed"]["path"]),
        "seed.reviews": Path(values["seed"]["reviews"]),
        "model.name": Path(values["model"]["name"]),
    }
    made = Path("stages/microworld")
    for name, path in named.items():
        if not path.exists() and made not in path.parents:
            raise UserError(f"params.yaml: {name}: {path} does not exist; create it or correct the path")


if __name__ == "__main__":
    run(main)
