"""What the loop did, iteration by iteration: the counts and scores of every stage, in one record."""

import json
from pathlib import Path

from stages.core.errors import UserError
from stages.core.records import Record, read
from stages.core.rows import ItemScore
from stages.evaluation.bootstrap import Difference, difference, mean_score

RESULTS, COSTS = Path("results"), Path("costs")
WARM_START = ("prepare", "sft")
LOOP = ("review", "generate", "filter", "assess", "select", "sft", "dpo", "measure")


def load(path: Path) -> Record:
    if not path.exists():
        raise UserError(f"{path} is missing; run dvc repro to make it")
    found: Record = json.loads(path.read_text(encoding="utf-8"))
    return found


class Scores:
    """The score of every item of every iteration, and what follows from comparing them item by item."""

    def __init__(self, iterations: Record, tasks: set[str]) -> None:
        self.parents = {key: str(iteration["parent"]) for key, iteration in iterations.items()}
        self._rows = {key: read(RESULTS / key / "scores.jsonl", ItemScore) for key in ["0", *iterations]}
        self._tasks = tasks

    def of(self, iteration: str, part: str) -> list[ItemScore]:
        """A part's items, those that the suite's score rests on."""
        return [row for row in self._rows[iteration] if row["part"] == part and row["benchmark"] in self._tasks]

    def path(self, iteration: str) -> list[str]:
        """From the warm start to this iteration."""
        return ["0"] if iteration == "0" else [*self.path(self.parents[iteration]), iteration]

    def leaves(self) -> list[str]:
        return [key for key in self.parents if key not in self.parents.values()]

    def validation(self, iteration: str) -> float:
        return mean_score(self.of(iteration, "validation"))

    def best_of(self, iterations: list[str]) -> str:
        """The best by validation; of equals the earliest."""
        return max(iterations, key=self.validation)

    def compared(self, iteration: str, baseline: str, part: str, confidence: float = 0.95) -> Difference:
        return difference(self.of(iteration, part), self.of(baseline, part), confidence)


def suite_tasks() -> set[str]:
    """The benchmarks that the suite's score rests on."""
    return set(load(RESULTS / "0" / "evaluate.json")["test"]["benchmarks"])


def row_of(iteration: str, parent: str | None, scores: Scores) -> Record:
    """Everything about one iteration: its scores, its gain over the warm start, and the counts of its stages."""
    evaluation = load(RESULTS / iteration / "evaluate.json")
    stages = WARM_START if parent is None else LOOP
    return {
        "parent": parent,
        **{name: evaluation[name] for name in ("test", "validation", "judging")},
        "gain": None if parent is None else vars(scores.compared(iteration, "0", "test")),
        **{stage: load(RESULTS / iteration / f"{stage}.json") for stage in stages},
    }


def collect(iterations: Record) -> tuple[Record, Scores]:
    """{"best": iteration, "iterations": {iteration: row}}, and the scores behind it."""
    scores = Scores(iterations, suite_tasks())
    rows = {"0": row_of("0", None, scores)}
    rows |= {key: row_of(key, scores.parents[key], scores) for key in iterations}
    return {"best": scores.best_of(list(rows)), "iterations": rows}, scores


def verdict(summary: Record, declined: list[str]) -> str:
    """The answer in one sentence: chosen by validation, reported on test."""
    best, rows = summary["best"], summary["iterations"]
    if best == "0":
        said = "No iteration is better on validation than the warm start"
    else:
        gain = rows[best]["gain"]
        chance = ", which may be chance" if gain["low"] <= 0 <= gain["high"] else ""
        said = f"Iteration {best} is best on validation: test {interval(gain)} points over the warm start{chance}"
    stopped = [key for key, row in rows.items() if row.get("review", {}).get("stopped")]
    fell = f"; iteration{'s' if len(declined) > 1 else ''} {', '.join(declined)} declined" if declined else ""
    return said + fell + (f"; the chain was stopped before {', '.join(stopped)}" if stopped else "") + "."


def interval(gain: Record) -> str:
    return f"{gain['points']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]"


def funnel(row: Record) -> Record:
    """{step: its tally}, in the order of the pipeline; a phase that passed its model on has none."""
    steps: Record = {}
    if "prepare" in row:
        steps |= {"seed rows": row["prepare"]["seed"], "judge-training rows": row["prepare"]["judge"]}
    if "review" in row:
        generate, select = row["generate"], row["select"]
        steps |= {"review": row["review"]["rows"], "routing": generate["seed"]}
        steps |= {name.replace("_", " "): generate[name] for name in generate if name != "seed"}
        steps |= {"filter": row["filter"]["rows"], "assess": row["assess"]["rows"]}
        named = {name: tally for name, tally in select.items() if name != "examples"}
        steps |= {f"select {name}".replace("_", " "): tally for name, tally in named.items()}
    return steps | {phase: row[phase]["rows"] for phase in ("sft", "dpo") if "rows" in row.get(phase, {})}


def warnings(rows: Record) -> list[str]:
    """What the user should know before believing an iteration: what was lost or had nothing to do."""
    return [f"iteration {key}: {line}" for key, row in rows.items() for line in _warnings(row)]


def _warnings(row: Record) -> list[str]:
    if row.get("review", {}).get("stopped"):
        return ["did not run, the chain was stopped (evaluate.stop_on)"]
    found = []
    for phase in ("sft", "dpo"):
        if "passed_on" in row.get(phase, {}):
            found.append(f"{phase} passed its model on, {row[phase]['passed_on']}")
        elif lost := row.get(phase, {}).get("rows", {}).get("dropped", {}).get("does not fit the context"):
            found.append(f"{lost:,} rows of {phase} did not fit the context")
    for stage in ("review", "assess"):
        if stage in row and (lost := sum(row[stage]["rows"]["dropped"].values())):
            reasons = ", ".join(f"{reason} {number:,}" for reason, number in row[stage]["rows"]["dropped"].items())
            found.append(f"{lost:,} of {row[stage]['rows']['in']:,} rows in {stage} have no score: {reasons}")
    if "filter" in row and not row["filter"]["rows"]["out"]:
        found.append("nothing was left after the filter")
    return found


def costs(iterations: list[str]) -> Record:
    """Of each iteration and in all: hours of a GPU or of a CPU core, and tokens read, written and trained on (of an
    evaluation: written). Model calls count what they took when they were made, even if this run found them stored. Of
    an endpoint nobody knows what it computes on: one GPU, or the warm start's cores, are assumed."""
    trained = load(COSTS / "0" / "sft.json")
    assumed = {"device": trained["device"], "devices": 1 if trained["device"] == "GPU" else trained["devices"]}
    files = {
        key: {path.stem: assumed | load(path) for path in sorted((COSTS / key).glob("*.json"))} for key in iterations
    }
    kinds = {cost["device"] for stages in files.values() for cost in stages.values()}
    found: Record = {"device": "+".join(sorted(kinds)), "assumed": assumed, "iterations": {}}
    for key, stages in files.items():
        seconds = {name: cost["seconds"] * cost["devices"] for name, cost in stages.items()}
        tokens = sum(cost["tokens"] + cost.get("prompt_tokens", 0) for cost in stages.values())
        found["iterations"][key] = {
            "hours": sum(seconds.values()) / 3600,
            "tokens": tokens,
            "stages": {name: round(each / 3600, 6) for name, each in seconds.items()},
        }
    for name in ("hours", "tokens"):
        found[name] = sum(each[name] for each in found["iterations"].values())
    return found
