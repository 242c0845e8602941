"""The loop and its controls over several seeds: means with 95 % intervals (Student's t over the seeds).

    lance evidence                               every run, 5 seeds, 3 iterations; hours on two cores
    lance evidence loop own-judge -i 10 -s 3     two runs, 10 iterations, 3 seeds

Each run is a dvc experiment with its own name, in a temporary copy of the project. An experiment that exists is not run
again. They share dvc's cache and the completion store. docs/results.md has the tables.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Annotated, NamedTuple

from typer import Argument, Option

from stages.core.errors import UserError
from stages.core.params import PARAMS_FILE, load
from stages.core.progress import say
from stages.core.records import Record

SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


class Run(NamedTuple):
    """A setting of the loop."""

    title: str
    changes: Sequence[str] = ()  # to params.yaml, as `dvc exp run -S` takes them
    own_judge: bool = False  # each iteration's parent judges, not the warm start


RUNS = {
    "loop": Run("the default"),
    "no-dpo": Run("without DPO", ["dpo.enabled=false"]),
    "no-sft": Run("without SFT", ["sft.enabled=false"]),
    "random": Run("scores shuffled", ["review.shuffled=true"]),
    "own-judge": Run("each iteration's model judges", own_judge=True),
    "accumulate": Run("rows accumulate", ["select.accumulate=true"]),
    "paper": Run("own judge and accumulated rows, as in the paper", ["select.accumulate=true"], own_judge=True),
}
SCORES = ("test", "judging")
TRUTHS = {  # counts of the stage `measure`, and their row in the table
    "judge_right": "verdicts that are right",
    "instructions_well_posed": "new instructions that are well-posed",
    "sft_rows_correct": "SFT rows that are right",
    "pairs_in_order": "pairs in order",
}


def changes(run: Run, seed: int, iterations: int, present: Sequence[str]) -> list[str]:
    """The arguments of `dvc exp run -S` that make a chain of `iterations` out of the ones in params.yaml."""
    chain = [str(number) for number in range(1, iterations + 1)]
    settings = [f"random_state={seed}", f"seed.random_state={seed}", *run.changes]
    settings += [f"~iterations.{key}" for key in present if key not in chain]
    for key in chain:
        parent = int(key) - 1
        judge = parent if run.own_judge else 0
        if key not in present:
            settings.append(f"+iterations.{key}={{parent: {parent}, judge: {judge}, writer: {parent}}}")
        elif judge:
            settings.append(f"iterations.{key}.judge={judge}")
    return settings


def experiment(name: str, seed: int, iterations: int) -> list[Record]:
    """The iterations of a run as report/summary.json has them. Raises `UserError` if the run fails."""
    import dvc.api

    experiment_name = f"{name}-seed{seed}-{iterations}"
    if experiment_name not in _dvc("exp", "list", "--name-only").split():
        present = list(load(PARAMS_FILE)["iterations"])
        settings = [f"--set-param={change}" for change in changes(RUNS[name], seed, iterations, present)]
        _dvc("exp", "run", "--quiet", "--temp", "-n", experiment_name, *settings)
    return list(json.loads(dvc.api.read("report/summary.json", rev=experiment_name))["iterations"].values())


def _dvc(*arguments: str) -> str:
    """What dvc prints; raises `UserError` if it fails."""
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError(f"dvc {' '.join(arguments)} failed; see its messages above, and run it again once it works")
    return done.stdout


def mean(values: Sequence[float], sign: str = "") -> str:
    """The mean over seeds with half of its 95 % interval, as text; without an interval if there is one seed."""
    from scipy.stats import t

    text = f"{fmean(values):{sign}.1f}"
    if len(values) > 1:
        text += f" ± {t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5:.1f}"
    return text.replace("-", "−")


def table(runs: Sequence[Sequence[Record]]) -> dict[str, list[str]]:
    """{row of the table: a cell per iteration}, from the iterations of every seed."""
    by_iteration = list(zip(*runs, strict=True))
    later = by_iteration[1:]  # the warm start has no gain and made no rows
    rows = {name: [mean([row[name]["score"] for row in seeds]) for seeds in by_iteration] for name in SCORES}
    rows["gain"] = ["", *(mean([row["gain"]["points"] for row in seeds]) for seeds in later)]
    for name, title in TRUTHS.items():
        shares = [[row["measure"][name]["percent"] for row in seeds] for seeds in later]
        if not any(share is None for seeds in shares for share in seeds):
            rows[title] = ["", *(mean(seeds) for seeds in shares)]
    return rows


def difference(runs: Sequence[Sequence[Record]], baseline: Sequence[Sequence[Record]]) -> list[str]:
    """The test score minus the baseline's, seed by seed: a cell per iteration."""
    points = [
        [row["test"]["score"] - other["test"]["score"] for row, other in zip(run, loop, strict=True)]
        for run, loop in zip(runs, baseline, strict=True)
    ]
    return [mean(seeds, "+") for seeds in zip(*points, strict=True)]


def main(
    names: Annotated[
        list[str] | None, Argument(metavar="NAME", help=f"{', '.join(RUNS)}; all of them if none is named")
    ] = None,
    iterations: Annotated[int, Option("-i", "--iterations", min=1, help="length of the chain")] = 3,
    seeds: Annotated[int, Option("-s", "--seeds", min=1, help="number of seeds, from 0 on")] = 5,
) -> None:
    """Run the loop and its controls over several seeds, and print the table of means."""
    if unknown := set(names or []) - set(RUNS):
        raise UserError(f"there is no run {', '.join(sorted(unknown))}; choose from {', '.join(RUNS)}")
    models = [f"M{str(number).translate(SUBSCRIPTS)}" for number in range(iterations + 1)]
    say(f"| run, {seeds} seeds | what | {' | '.join(models)} |")
    say("| --- | --- |" + " ---: |" * len(models))
    for name in names or RUNS:
        runs = [experiment(name, seed, iterations) for seed in range(seeds)]
        rows = table(runs)
        if name != "loop":
            loop = [experiment("loop", seed, iterations) for seed in range(seeds)]
            rows["test minus the loop's"] = difference(runs, loop)
        title = f"`{name}`: {RUNS[name].title}"
        for what, cells in rows.items():
            say(f"| {title} | {what} | {' | '.join(cells)} |")
            title = ""
