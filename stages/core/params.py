"""params.yaml as a stage sees it: the parameters that dvc.yaml declares for that stage, and nothing else.

DVC reruns a stage when a declared parameter changes. A stage that read one that it has not declared would keep a stale
result, so here such a parameter is not there at all.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.core.errors import UserError

if TYPE_CHECKING:
    from stages.core.schema import Runtime

PARAMS_FILE, PIPELINE_FILE = Path("params.yaml"), Path("dvc.yaml")


class Params:
    """The declared parameters of one stage, by their dotted name: `params["review.samples"]`."""

    def __init__(self, stage: str, declared: list[str], values: dict[str, Any]) -> None:
        self.stage, self.declared, self._values = stage, declared, values

    def __getitem__(self, name: str) -> Any:
        if not any(name == each or name.startswith(f"{each}.") for each in self.declared):
            raise UserError(
                f"stage '{self.stage}' reads the parameter '{name}', which {PIPELINE_FILE} does not declare for it; "
                f"add it under stages.{self.stage} → params, or its changes will not rerun the stage"
            )
        value: Any = self._values
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:
                raise UserError(f"{PARAMS_FILE} has no '{name}'; stage '{self.stage}' needs it")
            value = value[part]
        return value


def load(path: Path) -> Any:
    """A YAML file as dvc reads it: YAML 1.2, in which 1e-05 is a number. Raises `UserError` if it is missing or not
    YAML."""
    try:
        return YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise UserError(f"{path} is not in {Path.cwd()}; run this in the project's folder") from None
    except YAMLError as error:
        raise UserError(f"{path} is not YAML, restore it from git or correct it: {error}") from None


def declared(stage: str) -> Params:
    """The parameters of a stage of dvc.yaml (`review`, not `review@1`)."""
    entry = load(PIPELINE_FILE)["stages"][stage]
    return Params(stage, entry.get("do", entry).get("params", []), load(PARAMS_FILE))


def read_runtime() -> "Runtime":
    """The `runtime` section: how to compute, never what. No stage declares it, so changing it reruns nothing. A stage
    reads it once, in `main`, and passes it on."""
    from stages.core.schema import runtime_of

    return runtime_of(load(PARAMS_FILE))
