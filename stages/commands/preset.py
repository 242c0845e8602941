"""Presets: the parameters for one model and machine, each a file of stages/presets/ that says what it takes.

    lance preset            list them
    lance preset qwen2-7b   write its values into params.yaml, and print what changed

A preset names the parameters that it changes, and the rest of params.yaml stays as you have it; `micro` is all of
params.yaml as shipped.
"""

import io
import json
from pathlib import Path
from typing import Annotated, Any

from ruamel.yaml import YAML
from typer import Argument

from stages.core.errors import UserError
from stages.core.params import PARAMS_FILE, load
from stages.core.progress import say
from stages.core.schema import check

FOLDER = Path("stages/presets")
SHIPPED = "micro"
NULL = "tag:yaml.org,2002:null"  # ruamel would write nothing for it


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def applied(name: str, params: str) -> str:
    """The text of params.yaml with a preset's values in place, its comments kept; `params`: its text before. Raises
    `UserError` where there is no such preset."""
    if name not in names():
        raise UserError(f"there is no preset '{name}'; there are {', '.join(names())}")
    preset = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    if name == SHIPPED:
        return preset
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    yaml.representer.add_representer(type(None), lambda representer, _: representer.represent_scalar(NULL, "null"))
    values, out = yaml.load(params), io.StringIO()
    lay(values, yaml.load(preset))
    yaml.dump(values, out)
    return out.getvalue()


def lay(values: Any, changes: Any) -> None:
    """Put `changes` into `values`, section by section; the tree of iterations is replaced whole."""
    for name, change in changes.items():
        if name == "iterations":
            behind = values[name].ca.items.pop(list(values[name])[-1], None)
            values[name].clear()
            values[name].update(change)
            values[name].ca.items[list(change)[-1]] = behind
        elif isinstance(change, dict) and isinstance(values.get(name), dict):
            lay(values[name], change)
        else:
            values[name] = change


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every parameter by its dotted name."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def main(name: Annotated[str | None, Argument(help="the preset to write into params.yaml")] = None) -> None:
    """List the presets, or apply one."""
    if not name:
        for each in names():
            first = (FOLDER / f"{each}.yaml").read_text(encoding="utf-8").splitlines()[0]
            say(f"{each:18} {first.removeprefix('# ')}")
        return
    before = flat(load(PARAMS_FILE))
    text = applied(name, PARAMS_FILE.read_text(encoding="utf-8"))
    values = YAML(typ="safe").load(text)
    check(values)
    PARAMS_FILE.write_text(text, encoding="utf-8")
    after = flat(values)
    for parameter in sorted(before.keys() | after.keys()):
        old, new = before.get(parameter), after.get(parameter)
        if old != new:
            say(f"{parameter}: {json.dumps(old)} → {json.dumps(new)}")
    say(f"params.yaml has the preset {name}; what it takes stands in {FOLDER}/{name}.yaml")
