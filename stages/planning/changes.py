"""Which stages `dvc repro` would run now, and why.

`dvc status` says what changed, dvc.lock and params.yaml hold the old and new values, and dvc's graph says what follows.
Stages are deterministic: one that only lost an out makes the same bytes again, and nothing follows it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from stages import check
from stages.core.errors import UserError
from stages.core.params import PARAMS_FILE, load
from stages.core.records import Record

CHECK = "check"  # the stage whose out never changes, so that nothing follows it
LOCK_FILE, PARAMS, ABSENT = Path("dvc.lock"), str(PARAMS_FILE), "(not there)"


@dataclass(frozen=True)
class Reason:
    """`kind`: never ran, parameter, command, prompt, code, data, new out, out or follows; `what`: its name; `old` and
    `new`: the values of a parameter or command."""

    kind: str
    what: str = ""
    old: Any = None
    new: Any = None

    def __str__(self) -> str:
        if self.kind not in ("parameter", "command"):
            return f"{self.kind} {self.what}".rstrip()
        old, new = (json.dumps(value, ensure_ascii=False).replace('"', "") for value in (self.old, self.new))
        return f"{self.what}: {old} → {new}"


@dataclass
class Planned:
    """A stage that would run, with what it needs as far as it is known: tokens, seconds and bytes."""

    stage: str
    reasons: list[Reason]
    only_follows: bool = False  # it runs only if a stage that it follows makes something other than last time
    ready: bool = False  # its inputs are here, as they will be when it runs
    calls: int = 0  # of a model
    stored: int | None = None  # calls in the completion store; None where the prompts are not known yet
    made: int = 0  # the other calls
    unwritten: int = 0  # instructions to be written first, which will be prompts
    read: int = 0  # tokens of calls to make, a prompt once for each draw; the filter reads without a call
    written: int = 0
    trained: int = 0  # in all epochs
    seconds: float = 0
    memory: float = 0  # on each device at the peak
    disk: float = 0  # of the outs


def changes() -> dict[str, Planned]:
    """The stages that would run, upstream first. Raises `UserError` where dvc cannot read its files."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from networkx import dfs_postorder_nodes

    try:
        with Repo() as repo:
            status, graph = repo.status(), repo.index.graph  # an edge leads from a stage to one that it depends on
    except DvcException as error:
        raise UserError(f"dvc: {error}; run this in the project's folder, after git init and dvc init") from None
    lock, params = load(LOCK_FILE)["stages"] if LOCK_FILE.exists() else {}, load(PARAMS_FILE)
    plan, remade = dict[str, Planned](), list[Path]()
    repeats, restored = {CHECK}, set[str]()  # with the same outs as before; of these, with outs in dvc's cache
    for stage in dfs_postorder_nodes(graph):
        name, upstream = stage.addressing, {other.addressing for other in graph.successors(stage)}
        deps, outs = _paths(status.get(name, []), "deps"), _paths(status.get(name, []), "outs")
        own = {path: state for path, state in deps.items() if not _overlaps(Path(path), remade)}
        follows = [Reason("follows", other) for other in plan if other in upstream - repeats]
        reasons = [*_reasons(stage, own, outs, lock, params), *follows] if name in lock else [Reason("never ran")]
        if reasons:
            ready = not follows and own == deps and "deleted" not in deps.values()
            plan[name] = Planned(name, reasons, reasons == follows, ready)
            remade += [Path(str(out)) for out in stage.outs if name != CHECK]
        if all(reason.kind == "out" for reason in reasons):
            repeats.add(name)
            if "not in cache" not in outs.values() and all(out.use_cache and not out.persist for out in stage.outs):
                restored.add(name)
    return {name: planned for name, planned in plan.items() if name not in restored}


def _paths(entries: list[Any], kind: str) -> dict[str, Any]:
    """{path: its state} of changed deps or outs, by a stage's entries in `dvc status`; without what `check` makes."""
    changed: dict[str, Any] = next((entry[f"changed {kind}"] for entry in entries if f"changed {kind}" in entry), {})
    return {path: state for path, state in changed.items() if path != str(check.OUT)}


def _overlaps(path: Path, others: list[Path]) -> bool:
    return any(path.is_relative_to(other) or other.is_relative_to(path) for other in others)


def _reasons(stage: Any, deps: dict[str, Any], outs: dict[str, str], lock: Record, params: Record) -> Iterator[Reason]:
    """What changed of dvc's stage itself since it last ran; of params.yaml, `deps` has {parameter: its state}."""
    then, settings = lock[stage.addressing], list[Reason]()
    for name in deps.get(PARAMS, {}):
        now = reduce(dict.__getitem__, name.split("."), params)
        settings += _differences(name, then["params"][PARAMS].get(name, ABSENT), now)
    if stage.cmd != then["cmd"]:  # as a rule by the tree of iterations, which is not among the stage's parameters
        key, old = stage.addressing.partition("@")[2], lock[CHECK]["params"][PARAMS]["iterations"]
        moved = _differences(f"iterations.{key}", old.get(key, ABSENT), params["iterations"].get(key, ABSENT))
        settings += moved or [Reason("command", "command", then["cmd"], stage.cmd)]
    yield from settings
    named = {entry["path"] for entry in [*then.get("deps", []), *then["outs"]]}
    for path, state in deps.items():
        if path != PARAMS and (path in named or not settings):  # a file that is named anew comes with the settings
            yield Reason(_kind(path), f"{path} {state.replace('modified', 'changed')}")
    for path, state in outs.items():
        yield Reason("out", f"{path} is {state}") if path in named else Reason("new out", path)


def _kind(path: str) -> str:
    code = path.endswith(".py") or Path(path).parent.name == "stages"
    return "prompt" if path.startswith("prompts/") else "code" if code else "data"


def _differences(name: str, old: Any, new: Any) -> list[Reason]:
    """A reason for each value that differs, at the deepest level where both are sections."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = {key: (old.get(key, ABSENT), new.get(key, ABSENT)) for key in old | new}
        return [reason for key, pair in pairs.items() for reason in _differences(f"{name}.{key}", *pair)]
    return [Reason("parameter", name, old, new)] if old != new else []
