"""Presets: the parameters for one model and machine, each a file of stages/presets/ that says what it takes; and
methods, each a file of stages/presets/methods/, to put on top of one.

    lance preset                 list them
    lance preset qwen2-7b        write its values into params.yaml, and print what changed
    lance preset qwen2-7b spin   the same, for another method than LANCE

`extends: NAME` builds a preset on another one; its own values then come on top, section by section, and `iterations` as
a whole. All presets set the same parameters, so switching leaves nothing of the one before; only `lance`, the paper's
settings for any model, keeps your model. A method changes some of them, and the next preset takes that back. The rest
of params.yaml stays as you have it. `micro` is the embedded default.
"""

import io
import json
from pathlib import Path
from statistics import mode
from typing import Annotated, Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import CommentMark, YAMLError
from typer import Argument

from stages.core.errors import UserError
from stages.core.params import PARAMS_FILE, load
from stages.core.progress import say
from stages.core.schema import check_params

FOLDER = Path("stages/presets")
METHODS = FOLDER / "methods"
NULL = "tag:yaml.org,2002:null"  # ruamel would write nothing for it
TRAILING = 2  # where ruamel keeps the comment behind a value, in a key's list of comments


def names() -> list[str]:
    """The presets in stages/presets/."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def methods() -> list[str]:
    """The methods in stages/presets/methods/."""
    return sorted(path.stem for path in METHODS.glob("*.yaml"))


def applied(name: str, params: str, method: str | None = None) -> str:
    """The text of params.yaml with a preset's values in place, a method's on top, and its comments kept.

    `params` is its text before. Raises `UserError` where the preset or method does not exist or cannot be read.
    """
    yaml, out = _yaml(), io.StringIO()
    overlays = [*chain(name), *([read_method(method)] if method else [])]
    values = yaml.load(params)
    for overlay in overlays:
        lay(values, overlay)
    yaml.dump(values, out)
    return out.getvalue()


def chain(name: str) -> list[CommentedMap]:
    """The values of a preset and of those that it extends, the base first.

    Raises `UserError` for an unknown name, a cycle, or a file that is not a preset.
    """
    overlays: dict[str, CommentedMap] = {}
    base: Any = name
    while base is not None:
        origin = f"{_path(list(overlays)[-1])} extends '{base}': " if overlays else ""
        if base in methods() and base not in names():
            raise UserError(
                f"{base} is a method; name a preset before it, such as micro, or lance, which keeps your model: "
                f"lance preset lance {base}"
            )
        if base not in names():
            raise UserError(f"{origin}there is no preset '{base}'; there are {', '.join(names())}")
        if base in overlays:
            raise UserError(f"{origin}that is a cycle, {' → '.join([*overlays, base])}; remove one `extends`")
        overlays[base] = read(base)
        base = overlays[base].pop("extends", None)
    return list(reversed(overlays.values()))


def read_method(name: str) -> CommentedMap:
    """A method's values. Raises `UserError` if there is none of this name."""
    if name not in methods():
        raise UserError(f"there is no method '{name}'; there are {', '.join(methods())}")
    return _read(METHODS / f"{name}.yaml")


def read(name: str) -> CommentedMap:
    """A preset's own values, without the comments of its file."""
    return _read(_path(name))


def _read(path: Path) -> CommentedMap:
    try:
        overlay = _yaml().load(path)
    except YAMLError as error:
        raise UserError(f"{path} is not YAML, correct it: {error}") from None
    if not isinstance(overlay, CommentedMap):
        raise UserError(f"{path} holds no parameters; write them as in params.yaml, or delete the file")
    _strip_comments(overlay)
    return overlay


def lay(values: Any, changes: Any) -> None:
    """Put `changes` into `values`, section by section; the tree of iterations is replaced whole."""
    for name, change in changes.items():
        old = values.get(name)
        if not isinstance(change, CommentedMap) or not isinstance(old, CommentedMap):
            values[name] = change
        elif name == "iterations":
            replace(old, change)
        else:
            lay(old, change)
        if not isinstance(change, CommentedMap) or change.fa.flow_style():  # on one line, so a comment may follow
            align(values, name)


def replace(iterations: CommentedMap, tree: CommentedMap) -> None:
    """Replace the tree of iterations, keeping the comment that follows it."""
    comment = _pop_last_comment(iterations)
    iterations.clear()
    iterations.update(tree)
    if comment and tree:
        iterations.ca.items[list(tree)[-1]] = comment


def align(section: CommentedMap, name: str) -> None:
    """Move a comment that a long value has pushed to the right back into its section's column."""
    tokens = {key: comments[TRAILING] for key, comments in section.ca.items.items() if comments[TRAILING]}
    columns = [token.start_mark.column for token in tokens.values()]
    if name in tokens and columns.count(tokens[name].start_mark.column) == 1:
        tokens[name].start_mark = CommentMark(mode(columns))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every parameter by its dotted name."""
    parameters: dict[str, Any] = {}
    for name, value in values.items():
        parameters |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return parameters


def main(
    name: Annotated[str | None, Argument(help="the preset to write into params.yaml")] = None,
    method: Annotated[str | None, Argument(help="a method to put on top of it")] = None,
) -> None:
    """List the presets and methods, or apply one."""
    if not name:
        list_files()
        return
    before = flat(load(PARAMS_FILE))
    text = applied(name, PARAMS_FILE.read_text(encoding="utf-8"), method)
    values = YAML(typ="safe").load(text)
    check_params(values)
    PARAMS_FILE.write_text(text, encoding="utf-8")
    after = flat(values)
    for parameter in sorted(before.keys() | after.keys()):
        old, new = before.get(parameter), after.get(parameter)
        if old != new:
            say(f"{parameter}: {json.dumps(old)} → {json.dumps(new)}")
    on_top = f" and the method {method} ({METHODS / f'{method}.yaml'})" if method else ""
    say(f"params.yaml has the preset {name}{on_top}; what it takes stands in {_path(name)}")


def list_files() -> None:
    """Each preset and method with the first line of its file."""
    for path in [_path(name) for name in names()]:
        say(f"{path.stem:18} {_first_line(path)}")
    say("\nand to put on top of one, lance preset PRESET METHOD:\n")
    for path in [METHODS / f"{name}.yaml" for name in methods()]:
        say(f"{path.stem:18} {_first_line(path)}")


def _first_line(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def _path(name: str) -> Path:
    return FOLDER / f"{name}.yaml"


def _yaml() -> YAML:
    """A YAML reader and writer that keeps comments, quotes and long lines."""
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    yaml.representer.add_representer(type(None), lambda representer, _: representer.represent_scalar(NULL, "null"))
    return yaml


def _strip_comments(section: CommentedMap) -> None:
    section.ca.comment = None
    section.ca.items.clear()
    for value in section.values():
        if isinstance(value, CommentedMap):
            _strip_comments(value)


def _pop_last_comment(section: CommentedMap) -> Any:
    """Take out the comment behind a section's last entry, which ruamel ties to the innermost key there."""
    if not section:
        return None
    last = list(section)[-1]
    comment = section.ca.items.pop(last, None)
    return comment or (_pop_last_comment(section[last]) if isinstance(section[last], CommentedMap) else None)
