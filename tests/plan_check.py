"""The plan against what then ran: a first run with an empty store, another threshold after it, an appended iteration.

`python tests/plan_check.py`           the default's settings: a quarter of an hour on two cores
`python tests/plan_check.py --small`   the tests' settings: three minutes

Each case is planned by `python -m stages.commands.plan --json` and then run by `dvc repro`, in a temporary copy of the
project. Calls and tokens are counted in the completion store, and those of training in costs/. Computing is the seconds
that the model calls and the trainings took by their own clocks. A busy machine makes those longer, and the plans that
rest on them; not a processor's seconds. On an idle one, with OMP_NUM_THREADS=1, the clock and the processor say the
same.
"""

import argparse
import json
import resource
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

from conftest import SMALL, Project, ran

NAMES = {
    "stages": "stages that run",
    "made": "model calls",
    "read": "prompt tokens",
    "written": "tokens written",
    "trained": "tokens trained on",
    "seconds": "computing, s",
    "clock": "start to end by the clock, s",
    "processor": "start to end by the processor, s",
}
LIMIT = 1.5


def stored(project: Project) -> dict[bytes, tuple[dict, float]]:
    """{key: (completion, seconds)} of every model call that was made so far."""
    path = project.folder / ".dvc/completions.sqlite"
    if not path.exists():
        return {}
    db = sqlite3.connect(path)
    rows = db.execute("SELECT key, value, seconds FROM completions").fetchall()
    db.close()
    return {key: (json.loads(value), seconds) for key, value, seconds in rows}


def planned(project: Project) -> dict[str, Any]:
    """What the plan says; lm-eval tells nothing of the prompts that it reads."""
    plan = json.loads(project.run("python", "-m", "stages.commands.plan", "--json").stdout)
    total = plan["total"]
    evaluated = sum(each["read"] for each in plan["stages"] if each["stage"].startswith("evaluate"))
    hours = 3600 * total["hours"]
    return {**total, "read": total["read"] - evaluated, "clock": hours, "processor": hours}


def measured(project: Project, before: set[bytes]) -> dict[str, Any]:
    """What `dvc repro` does."""
    before_it, started = processor(), time.monotonic()
    stages = ran(project.run("dvc", "repro").stdout)
    spent, clock = processor() - before_it, time.monotonic() - started
    new = [row for key, row in stored(project).items() if key not in before]
    trained = {"tokens": 0.0, "seconds": 0.0}
    for name in stages:
        stage, _, key = name.partition("@")
        if stage in ("sft", "dpo", "sft-0"):
            cost = json.loads(project.read(f"costs/{key or 0}/{stage.removesuffix('-0')}.json"))
            trained = {each: trained[each] + cost[each] for each in trained}
    return {
        "stages": len(stages),
        "made": len(new),
        "read": sum(completion["prompt_tokens"] for completion, _ in new),
        "written": sum(completion["tokens"] for completion, _ in new),
        "trained": trained["tokens"],
        "seconds": sum(seconds for _, seconds in new) + trained["seconds"],
        "clock": clock,
        "processor": spent,
    }


def processor() -> float:
    """Seconds that all processes of this one have computed so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ratio(one: float, other: float) -> float:
    return max(one, other) / min(one, other) if min(one, other) else float(one == other) or float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args().small
    print(f"| case | what | planned | measured | ratio (≤ {LIMIT}) |\n| --- | --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder) / "project", SMALL if small else {})
        compare(project, "a first run")
        project.change({"threshold": 6.0})
        compare(project, "then threshold=6.0")
        project.change({"threshold": 7.0})
        project.run("dvc", "repro")  # back, from dvc's cache
        tree = project.params["iterations"]
        last = max(map(int, tree))
        project.change({"iterations": {**tree, str(last + 1): {"parent": last, "judge": 0}}})
        compare(project, f"instead iteration {last + 1}")


def compare(project: Project, case: str) -> None:
    said = planned(project)
    done = measured(project, set(stored(project)))
    for name, what in NAMES.items():
        far = ratio(said[name], done[name])
        print(f"| {case} | {what} | {said[name]:,.0f} | {done[name]:,.0f} | {far:.2f} |", flush=True)


if __name__ == "__main__":
    main()
