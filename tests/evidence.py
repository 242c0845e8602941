"""The loop over several seeds, with its controls, as the mean with its 95 % interval (Student's t over the seeds).

`python tests/evidence.py`                               all of them, 5 seeds, 3 iterations: hours on two cores
`python tests/evidence.py loop own-judge -i 10 -s 3`     two of them, 10 iterations, 3 seeds

Each run is an experiment of dvc with a name of its own, in a temporary copy: one that is there already is not run
again, and all of them share dvc's cache and the completion store.
"""

import argparse
import json
import subprocess
from statistics import fmean, stdev

RUNS = {  # name: (what it is, its changes to params.yaml)
    "loop": ("the loop", []),
    "no-dpo": ("without DPO", ["dpo.enabled=false"]),
    "no-sft": ("without SFT", ["sft.enabled=false"]),
    "random": ("scores dealt out at random", ["review.shuffled=true"]),
    "own-judge": ("each iteration's model judges", []),
    "adds-up": ("rows add up", ["select.accumulate=true"]),
    "paper": ("both, as in the paper", ["select.accumulate=true"]),
}
OWN_JUDGE = ("own-judge", "paper")
SHIPPED = 3  # iterations of params.yaml
SCORES = {"test": "test", "judging": "judging"}
TRUTHS = {  # of what the iteration made, by the world's ground truth
    "judge_right": "its judge's verdicts that are right",
    "instructions_well_posed": "new instructions that are well-posed",
    "sft_rows_correct": "SFT rows that are right",
    "pairs_in_order": "pairs in order",
}


def changes(name: str, seed: int, iterations: int) -> list[str]:
    """What `dvc exp run -S` is told."""
    found = [f"random_state={seed}", f"seed.random_state={seed}", *RUNS[name][1]]
    for t in range(1, iterations + 1):
        judge = t - 1 if name in OWN_JUDGE else 0
        if t > SHIPPED:
            found.append(f"+iterations.{t}={{parent: {t - 1}, judge: {judge}}}")
        elif judge:
            found.append(f"iterations.{t}.judge={judge}")
    return found


def experiment(name: str, seed: int, iterations: int) -> list[dict]:
    """A run's iterations as report/summary.json has them; it runs if it has not."""
    import dvc.api

    called = f"{name}-seed{seed}-{iterations}"
    known = subprocess.run(["dvc", "exp", "list", "--name-only"], capture_output=True, text=True, check=True).stdout
    if called not in known.split():
        settings = [word for change in changes(name, seed, iterations) for word in ("-S", change)]
        subprocess.run(["dvc", "exp", "run", "--quiet", "--temp", "-n", called, *settings], check=True)
    return list(json.loads(dvc.api.read("report/summary.json", rev=called))["iterations"].values())


def mean(values: list[float]) -> str:
    """The mean of the seeds with half of its 95 % interval."""
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{fmean(values):.1f} ± {half:.1f}"


def told(runs: list[list[dict]]) -> dict[str, list[str]]:
    """{row of the table: a cell per iteration}, from the iterations of every seed."""
    by_iteration = list(zip(*runs, strict=True))
    scores = {name: [mean([each[name]["score"] for each in seeds]) for seeds in by_iteration] for name in SCORES}
    gains = [mean([each["gain"]["points"] for each in seeds]) for seeds in by_iteration[1:]]
    truths = {
        said: [mean([each["measure"][name]["percent"] for each in seeds]) for seeds in by_iteration[1:]]
        for name, said in TRUTHS.items()
        if all(each["measure"][name]["percent"] is not None for seeds in by_iteration[1:] for each in seeds)
    }
    return {said: scores[name] for name, said in SCORES.items()} | {
        said: ["", *cells] for said, cells in ({"gain": gains} | truths).items()
    }


def against(runs: list[list[dict]], loop: list[list[dict]]) -> list[str]:
    """The test score less the loop's, seed by seed: a cell per iteration."""
    pairs = [list(zip(one, other, strict=True)) for one, other in zip(runs, loop, strict=True)]
    return [
        mean([one["test"]["score"] - other["test"]["score"] for one, other in seeds])
        for seeds in zip(*pairs, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RUNS))
    parser.add_argument("-i", "--iterations", type=int, default=SHIPPED)
    parser.add_argument("-s", "--seeds", type=int, default=5)
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(RUNS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; name some of {', '.join(RUNS)}")
    print("| run | percent |", " | ".join(f"M{t}" for t in range(asked.iterations + 1)), "|")
    print("| --- | --- |" + " ---: |" * (asked.iterations + 1))
    for name in asked.names or RUNS:
        runs = [experiment(name, seed, asked.iterations) for seed in range(asked.seeds)]
        rows = told(runs)
        if name != "loop":
            rows["test less the loop's"] = against(
                runs, [experiment("loop", s, asked.iterations) for s in range(asked.seeds)]
            )
        for said, cells in rows.items():
            print(f"| {RUNS[name][0]} | {said} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
