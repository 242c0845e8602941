"""What `dvc repro` would run now, and why: dvc's comparison of the workspace with dvc.lock, followed through the graph.

Nothing is run or written. As dvc does, a stage that changed but ran like this before is taken from the run cache. One
that only follows others may not run after all: they may make the bytes that they made before.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stages.core.errors import UserError
from stages.core.params import load

if TYPE_CHECKING:
    from dvc.dependency.base import Dependency
    from dvc.repo import Repo
    from dvc.stage import PipelineStage
    from dvc_data.hashfile.hash_info import HashInfo

SAME = "check"  # its out never changes, so that nothing follows from it
ABSENT = "(not there)"


class Reason(NamedTuple):
    """`kind`: never ran, parameter, command, prompt, code, data, out or follows; `what`: its name; `old` and `new`: the
    values of a parameter or a command."""

    kind: str
    what: str = ""
    old: Any = None
    new: Any = None

    def __str__(self) -> str:
        if self.kind in ("parameter", "command"):
            return f"{self.what}: {_short(self.old)} → {_short(self.new)}"
        return " ".join(part for part in (self.kind, self.what) if part)


class Change(NamedTuple):
    """A stage that would run, or (`restored`) whose outs would come from dvc's cache instead."""

    stage: str
    command: str
    reasons: list[Reason]
    restored: bool
    present: bool  # whether all that it depends on is here
    ready: bool  # and is what it will be when the stage runs

    @property
    def at_most(self) -> bool:
        """Whether it only follows others: it runs only if one of them makes something else than before."""
        return all(reason.kind == "follows" for reason in self.reasons)


def _short(value: Any) -> str:
    """A value as params.yaml writes it."""
    if value == ABSENT:
        return ABSENT
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_short(each)}" for name, each in value.items()) + "}"
    return str(value) if isinstance(value, str) else json.dumps(value)


def changes() -> dict[str, Change]:
    """The stages that would run or be restored, in the order of the pipeline. Raises `UserError` where dvc cannot read
    its files."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            return _Follow(repo).changes()
    except DvcException as error:
        raise UserError(f"dvc: {error}; run it in the project's folder, after git init and dvc init") from None


class _Follow:
    """A walk through dvc's graph, from the sources on."""

    def __init__(self, repo: "Repo") -> None:
        self.repo, self.graph = repo, repo.index.graph  # its edges lead from a stage to those that it depends on
        self.found: dict[str, Change] = {}
        self.hashes: dict[str, HashInfo] = {}  # of the outs that will be the same as in an earlier run, by path
        self.tree: tuple[dict[str, Any], dict[str, Any]] = ({}, {})  # the tree of iterations when it last ran, and now

    def changes(self) -> dict[str, Change]:
        from networkx import lexicographical_topological_sort

        order = lexicographical_topological_sort(self.graph.reverse(), key=lambda stage: stage.addressing)
        for stage in order:
            if stage.addressing == SAME:
                self.tree = _trees(stage)
            if reasons := list(self._reasons(stage)):
                restored = self._restored(stage, reasons)
                present = all(dep.exists for dep in self._inputs(stage))
                ready = present and self._settled(stage)
                change = Change(stage.addressing, stage.cmd, reasons, restored, present, ready)
                self.found[change.stage] = change
        return self.found

    def _reasons(self, stage: "PipelineStage") -> Iterator[Reason]:
        if not any(out.hash_info for out in stage.outs):
            yield Reason("never ran")
            return
        settings = [*self._command(stage), *self._parameters(stage)]
        yield from settings
        for dep in stage.deps:
            named_anew = settings and not dep.hash_info  # by one of these
            if dep not in stage.params and not named_anew and (reason := self._file(stage, dep)):
                yield reason
        for out in stage.outs:
            if state := out.workspace_status():
                yield Reason("out", f"{out.def_path} is {state[str(out)]}")
            elif out.use_cache and out.changed_cache():
                yield Reason("out", f"{out.def_path} is not in dvc's cache")
        followed = dict.fromkeys(each for dep in stage.deps for each in self._unknown(stage, dep))
        yield from (Reason("follows", name) for name in followed)

    def _parameters(self, stage: "PipelineStage") -> Iterator[Reason]:
        for param in stage.params:
            for name, (old, new) in _differences(param.hash_info.value or {}, param.read_params()).items():
                yield Reason("parameter", name, old, new)

    def _command(self, stage: "PipelineStage") -> Iterator[Reason]:
        """The tree of iterations is in the commands, and not among the parameters of a stage."""
        if not stage.cmd_changed:
            return
        key = stage.addressing.partition("@")[2]
        old, new = ({key: tree[key]} if key in tree else {} for tree in self.tree)
        moved = _differences(old, new)
        for name, (before, after) in moved.items():
            yield Reason("parameter", f"iterations.{name}", before, after)
        if not moved:
            yield Reason("command", "its command", _locked_command(stage), stage.cmd)

    def _made_by(self, stage: "PipelineStage", dep: "Dependency") -> list["PipelineStage"]:
        """The stages whose outs are this dependency, or lie in it."""
        makers = self.graph.successors(stage)
        return [maker for maker in makers if any(_overlap(out.fs_path, dep.fs_path) for out in maker.outs)]

    def _changed_makers(self, stage: "PipelineStage", dep: "Dependency") -> list["PipelineStage"]:
        return [maker for maker in self._made_by(stage, dep) if maker.addressing in self.found and maker.name != SAME]

    def _unknown(self, stage: "PipelineStage", dep: "Dependency") -> list[str]:
        """The stages that make this dependency anew, so that nobody knows yet what it will be."""
        if dep.fs_path in self.hashes:
            return []
        makers = self._changed_makers(stage, dep)
        return [
            maker.addressing
            for maker in makers
            if any(
                self.hashes.get(out.fs_path) != out.hash_info
                for out in maker.outs
                if _overlap(out.fs_path, dep.fs_path)
            )
        ]

    def _file(self, stage: "PipelineStage", dep: "Dependency") -> Reason | None:
        """Why a dependency that nothing remakes differs from when the stage last ran."""
        if dep.fs_path in self.hashes:
            state = "" if self.hashes[dep.fs_path] == dep.hash_info else "changed"
        elif self._changed_makers(stage, dep) or dep not in self._inputs(stage):
            state = ""
        else:
            state = dep.workspace_status().get(str(dep), "").replace("modified", "changed")
        return Reason(_kind(dep.def_path), f"{dep.def_path} {state}") if state else None

    def _inputs(self, stage: "PipelineStage") -> list["Dependency"]:
        """What a stage depends on, without the out of the stage that only looks at the parameters."""
        return [dep for dep in stage.deps if [maker.name for maker in self._made_by(stage, dep)] != [SAME]]

    def _settled(self, stage: "PipelineStage") -> bool:
        """Whether what a stage depends on is what it will be."""
        return not any(
            self._unknown(stage, dep) or (dep.fs_path in self.hashes and self.hashes[dep.fs_path] != dep.get_hash())
            for dep in self._inputs(stage)
        )

    def _restored(self, stage: "PipelineStage", reasons: list[Reason]) -> bool:
        """Whether dvc would take the outs from its cache. If so, or if the stage only has to make its outs again, what
        they will be is known."""
        if any(reason.kind == "follows" for reason in reasons):
            return False
        again = all(reason.kind == "out" for reason in reasons)
        cached = stage if again else self._in_the_run_cache(stage)
        restored = bool(cached and cached.outs_cached() and not any(out.persist for out in stage.outs))
        if cached:
            self.hashes |= {out.fs_path: out.hash_info for out in cached.outs if restored or _decided(out.def_path)}
        return restored

    def _in_the_run_cache(self, stage: "PipelineStage") -> "PipelineStage | None":
        """The stage as it ran before with what it depends on now, if it did."""
        from dvc.stage.cache import _get_cache_hash
        from dvc.stage.serialize import to_single_stage_lockfile

        if not all(dep.fs_path in self.hashes or dep.exists for dep in stage.deps):
            return None
        before = {dep: dep.hash_info for dep in stage.deps}
        now = {dep.def_path: self.hashes.get(dep.fs_path) or dep.get_hash() for dep in stage.deps}
        for dep in stage.deps:
            dep.hash_info = now[dep.def_path]
        lock = to_single_stage_lockfile(stage)
        for dep, info in before.items():
            dep.hash_info = info
        for entry in lock["deps"]:
            entry["md5"] = now[entry["path"]].value  # dvc has put that of the last run in its place
        key = _get_cache_hash(lock, key=True)
        runs = self.repo.stage_cache
        kept = sorted(Path(runs._get_cache_dir(key)).glob("*"), key=lambda path: path.stat().st_mtime)
        cache = runs._load_cache(key, kept[-1].name) if kept else None
        return runs._create_stage(cache, wdir=stage.wdir) if cache else None


def _decided(path: str) -> bool:
    """Whether an out is decided by what its stage depends on; what a run cost differs from run to run."""
    return not path.startswith("costs/")


def _overlap(one: str, other: str) -> bool:
    return Path(one).is_relative_to(other) or Path(other).is_relative_to(one)


def _kind(path: str) -> str:
    if path.startswith("prompts/"):
        return "prompt"
    made = path.startswith("stages/microworld/") and not path.endswith(".py")
    return "code" if path.startswith("stages/") and not made else "data"


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """{dotted name: (old, new)} of every parameter that differs, at the deepest place at which both have a section."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in [*old, *(name for name in new if name not in old)]:
        before, after = old.get(name, ABSENT), new.get(name, ABSENT)
        if isinstance(before, dict) and isinstance(after, dict):
            found |= _differences(before, after, f"{prefix}{name}.")
        elif before != after:
            found[f"{prefix}{name}"] = (before, after)
    return found


def _trees(check: "PipelineStage") -> tuple[dict[str, Any], dict[str, Any]]:
    """The tree of iterations when the stage that looks at all parameters last ran, and now."""
    (params,) = check.params
    return (params.hash_info.value or {}).get("iterations", {}), params.read_params()["iterations"]


def _locked_command(stage: "PipelineStage") -> str:
    return str(load(Path("dvc.lock"))["stages"][stage.addressing]["cmd"])
