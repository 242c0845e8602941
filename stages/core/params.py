"""params.yaml as a stage sees it: the parameters that dvc.yaml declares for the stage, and nothing else.

DVC reruns a stage when a declared parameter changes. A stage that read an undeclared one would keep a stale result, so
reading one is an error.
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
    """A stage's declared parameters, by dotted name: `params["review.samples"]`, or a section: `params["review"]`."""

    def __init__(self, stage: str, declared: list[str], values: dict[str, Any]) -> None:
        """`declared`: the names in dvc.yaml; a section's name declares all of its parameters. `values`: params.yaml."""
        self.stage, self.declared, self._values = stage, declared, values

    def __getitem__(self, name: str) -> Any:
        """The value of a parameter or section. Raises `UserError` if it is not declared, or not in params.yaml."""
        if not any(name == parameter or name.startswith(f"{parameter}.") for parameter in self.declared):
            raise UserError(
                f"stage '{self.stage}' reads the parameter '{name}', which {PIPELINE_FILE} does not declare for it; "
                f"add it under stages.{self.stage} → params, or changing it will not rerun the stage"
            )
        value: Any = self._values
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:
                raise UserError(f"{PARAMS_FILE} has no '{name}', which stage '{self.stage}' needs; restore it from git")
            value = value[part]
        return value


def load(path: Path) -> Any:
    """The content of a YAML file, read as dvc does: in YAML 1.2, where 1e-05 is a number. Raises `UserError` if the
    file is missing or not YAML."""
    try:
        return YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise UserError(f"{path} is not in {Path.cwd()}; run this in the project's folder") from None
    except YAMLError as error:
        raise UserError(f"{path} is not YAML, restore it from git or correct it: {error}") from None


def read_params(stage: str) -> Params:
    """The parameters that dvc.yaml declares for a stage (`review`, not `review@1`)."""
    entry = load(PIPELINE_FILE)["stages"][stage]
    return Params(stage, entry.get("do", entry).get("params", []), load(PARAMS_FILE))


def read_runtime() -> "Runtime":
    """The section `runtime`: how to compute, never what. No stage declares it, so changing it reruns nothing. A stage
    reads it once, in `main`, and passes it on. Raises `UserError` if a value is wrong."""
    from stages.core.schema import parse_runtime

    return parse_runtime(load(PARAMS_FILE))
