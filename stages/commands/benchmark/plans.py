"""How close a plan comes to the run that follows it: a first run, another threshold after it, an appended iteration.

Each case is planned and then run by `dvc repro`, in a temporary clone of the repository as it is committed. Model calls
and tokens are counted in the completion store, without the prompts of evaluations, whose length lm-eval does not tell,
and tokens trained on in costs/. Seconds are wall time.
"""

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from stages.commands.benchmark.measurement import Measurement
from stages.core.errors import UserError
from stages.core.params import PARAMS_FILE, load
from stages.core.records import Record

QUANTITIES = {  # what each is, and its unit
    "stages": ("stages that run", ""),
    "made": ("model calls", "calls"),
    "read": ("prompt tokens", "tokens"),
    "written": ("tokens written", "tokens"),
    "trained": ("tokens trained on", "tokens"),
    "seconds": ("start to end", "s"),
}


def called(folder: Path, *command: str) -> str:
    """The output of a command; raises `UserError` with its last line if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {(done.stderr.splitlines() or ['failed'])[-1]}")
    return done.stdout


def planned(folder: Path) -> dict[str, float]:
    """The totals of `lance plan`."""
    plan = json.loads(called(folder, sys.executable, "-m", "stages.commands.lance", "plan", "--json"))
    evaluated = sum(stage["read"] for stage in plan["stages"] if stage["stage"].startswith("evaluate"))
    return {name: plan["total"][name] - (evaluated if name == "read" else 0) for name in QUANTITIES}


def measured(folder: Path) -> dict[str, float]:
    """The same quantities of `dvc repro`."""
    before, started = completions(folder), time.monotonic()
    output, ended = called(folder, sys.executable, "-m", "dvc", "repro"), time.monotonic()
    stages = re.findall(r"^Running stage '([^']+)'", output, re.MULTILINE)
    made = [completion for key, completion in completions(folder).items() if key not in before]
    names = (re.fullmatch(r"(sft|dpo)(?:-0)?(?:@(.+))?", stage) for stage in stages)
    costs = [folder / "costs" / (name[2] or "0") / f"{name[1]}.json" for name in names if name]
    return {
        "stages": len(stages),
        "made": len(made),
        "read": sum(completion["prompt_tokens"] for completion in made),
        "written": sum(completion["tokens"] for completion in made),
        "trained": sum(json.loads(path.read_text(encoding="utf-8"))["tokens"] for path in costs),
        "seconds": ended - started,
    }


def completions(folder: Path) -> dict[bytes, Record]:
    """Everything in the completion store, by its keys."""
    path = folder / ".dvc/completions.sqlite"
    if not path.exists():
        return {}
    with closing(sqlite3.connect(path)) as db:
        return {key: json.loads(value) for key, value in db.execute("SELECT key, value FROM calls")}


def compare(folder: Path, case: str, params: Record) -> Iterator[Measurement]:
    """Plan a case, run it, and give each quantity with the ratio planned : measured."""
    (folder / PARAMS_FILE).write_text(json.dumps(params, indent=2), encoding="utf-8")  # JSON is YAML too
    plan, run = planned(folder), measured(folder)
    for name, (what, unit) in QUANTITIES.items():
        against, ratio = f"planned {plan[name]:,.0f}", plan[name] / max(1, run[name])
        yield Measurement(f"plan, {case}: {what}", against, round(run[name], 1), unit, ratio, "", True)


def plans(_: Path) -> Iterator[Measurement]:
    """Compare plans with the runs that follow, with the settings of params.yaml; the default's take twenty minutes."""
    params = load(PARAMS_FILE)
    last = list(params["iterations"])[-1]
    with TemporaryDirectory() as work:
        folder = Path(work, "clone")
        called(Path(), "git", "clone", "--quiet", ".", str(folder))
        yield from compare(folder, "a first run", params)
        params["threshold"] -= 1
        yield from compare(folder, "then another threshold", params)
        params["iterations"]["next"] = {"parent": last, "judge": "0", "writer": last}
        yield from compare(folder, "then one more iteration", params)
