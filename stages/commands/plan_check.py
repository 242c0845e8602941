"""How close the plan comes to what then runs: a first run, another threshold after it, an appended iteration.

    python -m stages.commands.plan_check           the settings of params.yaml; the default's take twenty minutes
    python -m stages.commands.plan_check --small   two dozen seed rows and one iteration, in a few minutes

Each case is planned, and then run by `dvc repro`, in a temporary clone of the repository as it is committed. Model
calls and tokens are counted in the completion store, without the prompts of evaluations, whose length lm-eval does not
tell, and tokens trained on in costs/. Seconds are those of the clock: run it on an idle machine.
"""

import json
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

from typer import Option

from stages.core.command import run
from stages.core.errors import UserError
from stages.core.params import PARAMS_FILE, load
from stages.core.progress import say
from stages.core.records import Record

SMALL: dict[str, Record] = {
    "seed": {"limit": 24},
    "review": {"samples": 2},
    "generate": {"max_low": 8, "max_high": 6},
    "evaluate": {"limit": 4},
}
ROWS = {
    "stages": "stages that run",
    "made": "model calls",
    "read": "prompt tokens",
    "written": "tokens written",
    "trained": "tokens trained on",
    "seconds": "seconds from start to end",
}


def called(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {(done.stderr.splitlines() or ['failed'])[-1]}")
    return done.stdout


def planned(folder: Path) -> dict[str, float]:
    plan = json.loads(called(folder, sys.executable, "-m", "stages.commands.lance", "plan", "--json"))
    evaluated = sum(stage["read"] for stage in plan["stages"] if stage["stage"].startswith("evaluate"))
    return {name: plan["total"][name] - (evaluated if name == "read" else 0) for name in ROWS}


def measured(folder: Path) -> dict[str, float]:
    """What `dvc repro` does."""
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
        return {key: json.loads(value) for key, value in db.execute("SELECT key, value FROM completions")}


def compare(folder: Path, case: str, params: Record) -> None:
    (folder / PARAMS_FILE).write_text(json.dumps(params, indent=2), encoding="utf-8")  # which is YAML too
    plan, did = planned(folder), measured(folder)
    for name, what in ROWS.items():
        say(f"| {case} | {what} | {plan[name]:,.0f} | {did[name]:,.0f} | {plan[name] / max(1, did[name]):.2f} |")


def main(small: Annotated[bool, Option("--small", help="few seed rows and one iteration")] = False) -> None:
    """Compare plans with what then runs."""
    params = load(PARAMS_FILE)
    tree = params["iterations"]
    last = list(tree)[0 if small else -1]
    if small:
        params |= {name: params[name] | values for name, values in SMALL.items()} | {"iterations": {last: tree[last]}}
    say("| case | what | planned | measured | planned / measured |\n| --- | --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "clone"
        called(Path(), "git", "clone", "--quiet", ".", str(folder))
        compare(folder, "a first run", params)
        params["threshold"] -= 1
        compare(folder, "then another threshold", params)
        params["iterations"]["next"] = {"parent": last, "judge": "0"}
        compare(folder, "then one more iteration", params)


if __name__ == "__main__":
    run(main)
