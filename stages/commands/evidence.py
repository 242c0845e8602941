"""The loop, its controls and other methods over several seeds: means with 95 % intervals (Student's t over the seeds).

    lance evidence                               the loop and its controls, 5 seeds, 3 iterations; hours on two cores
    lance evidence loop own-judge -i 10 -s 3     two runs, 10 iterations, 3 seeds
    lance evidence loop spin scpo                two methods of stages/presets/methods/ beside the loop

A method runs with as many model calls as the loop makes, where it can use them (BUDGETS), and the table counts them.
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

from stages.commands import preset
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
    first_writer: bool = False  # the warm start writes all new instructions, not each iteration's parent


RUNS = {
    "loop": Run("the default"),
    "no-dpo": Run("without DPO", ["dpo.enabled=false"]),
    "no-sft": Run("without SFT", ["sft.enabled=false"]),
    "random": Run("scores shuffled", ["review.shuffled=true"]),
    "own-judge": Run("each iteration's model judges", own_judge=True),
    "accumulate": Run("rows accumulate", ["select.accumulate=true"]),
    "paper": Run("own judge and accumulated rows, as in the paper", ["select.accumulate=true"], own_judge=True),
}
BUDGETS = {  # changes to a method, by its name: about the loop's 17,500 calls in three iterations of the default
    "self-instruct": ["samples=4", "generate.max_low=300"],
    "i-sheep": ["samples=2", "generate.max_low=300"],
    "self-rewarding": ["generate.max_low=60"],
    "scpo": ["generate.own_samples=20"],
    "iterative-rpo": ["generate.own_samples=20", "seed.path=stages/microworld/data/checked.jsonl"],
}
SCORES = ("test", "judging")
TEXTS = ("new_instructions", "responses", "flawed_responses", "own_responses")  # counts of the stage `generate`
TRUTHS = {  # counts of the stage `measure`, and their row in the table
    "judge_right": "verdicts that are right",
    "instructions_well_posed": "new instructions that are well-posed",
    "sft_rows_correct": "SFT rows that are right",
    "pairs_in_order": "pairs in order",
}


def run_of(name: str) -> Run:
    """A run by its name: one of `RUNS`, or a method with its budget. Raises `UserError` if there is none."""
    if name in RUNS:
        return RUNS[name]
    if name not in preset.methods():
        raise UserError(f"there is no run {name}; choose from {', '.join([*RUNS, *preset.methods()])}")
    values = preset.read_method(name)
    chain = values.pop("iterations", {"2": {"judge": "0", "writer": "1"}})
    parameters = {
        f"{section}.{key}" if key else section: value
        for section, content in values.items()
        for key, value in (content.items() if isinstance(content, dict) else [("", content)])
    }
    settings = [f"{parameter}={_written(value)}" for parameter, value in parameters.items()]
    entry = chain["2"]
    return Run(name, [*settings, *BUDGETS.get(name, ())], entry["judge"] == "1", entry["writer"] == "0")


def _written(value: object) -> str:
    """A value as `dvc exp run -S` takes it."""
    return json.dumps(value).replace('"', "")


def changes(run: Run, seed: int, iterations: int, present: Sequence[str]) -> list[str]:
    """The arguments of `dvc exp run -S` that make a chain of `iterations` out of the ones in params.yaml."""
    chain = [str(number) for number in range(1, iterations + 1)]
    settings = [f"random_state={seed}", f"seed.random_state={seed}", *run.changes]
    settings += [f"~iterations.{key}" for key in present if key not in chain]
    for key in chain:
        parent = int(key) - 1
        judge, writer = parent if run.own_judge else 0, 0 if run.first_writer else parent
        if key not in present:
            settings.append(f"+iterations.{key}={{parent: {parent}, judge: {judge}, writer: {writer}}}")
            continue
        if judge:
            settings.append(f"iterations.{key}.judge={judge}")
        if writer != parent:
            settings.append(f"iterations.{key}.writer={writer}")
    return settings


def experiment(name: str, seed: int, iterations: int) -> list[Record]:
    """The iterations of a run as report/summary.json has them. Raises `UserError` if the run fails."""
    import dvc.api

    experiment_name = f"{name}-seed{seed}-{iterations}"
    if experiment_name not in _dvc("exp", "list", "--name-only").split():
        present = list(load(PARAMS_FILE)["iterations"])
        settings = [f"--set-param={change}" for change in changes(run_of(name), seed, iterations, present)]
        _dvc("exp", "run", "--quiet", "--temp", "-n", experiment_name, *settings)
    return list(json.loads(dvc.api.read("report/summary.json", rev=experiment_name))["iterations"].values())


def _dvc(*arguments: str) -> str:
    """What dvc prints; raises `UserError` if it fails."""
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError(f"dvc {' '.join(arguments)} failed; see its messages above, and run it again once it works")
    return done.stdout


def calls(row: Record) -> int:
    """Completions that an iteration took to make and to judge its data."""
    texts = sum(row["generate"][name]["in"] for name in TEXTS if name in row["generate"])
    verdicts: int = row["review"]["verdicts"]["asked"] + row["assess"]["verdicts"]["asked"]
    return int(texts) + verdicts


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
    rows["model calls"] = ["", *(f"{fmean(map(calls, seeds)):,.0f}" for seeds in later)]
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
        list[str] | None,
        Argument(metavar="NAME", help=f"{', '.join(RUNS)}, or a method; all but methods if none is named"),
    ] = None,
    iterations: Annotated[int, Option("-i", "--iterations", min=1, help="length of the chain")] = 3,
    seeds: Annotated[int, Option("-s", "--seeds", min=1, help="number of seeds, from 0 on")] = 5,
) -> None:
    """Run the loop and its controls over several seeds, and print the table of means."""
    titles = {name: run_of(name).title for name in names or RUNS}
    models = [f"M{str(number).translate(SUBSCRIPTS)}" for number in range(iterations + 1)]
    say(f"| run, {seeds} seeds | what | {' | '.join(models)} |")
    say("| --- | --- |" + " ---: |" * len(models))
    for name in titles:
        runs = [experiment(name, seed, iterations) for seed in range(seeds)]
        rows = table(runs)
        if name != "loop":
            loop = [experiment("loop", seed, iterations) for seed in range(seeds)]
            rows["test minus the loop's"] = difference(runs, loop)
        title = f"`{name}`: {titles[name]}"
        for what, cells in rows.items():
            say(f"| {title} | {what} | {' | '.join(cells)} |")
            title = ""
