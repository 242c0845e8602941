"""What the loop cost: the files of costs/, added up per iteration."""

from pathlib import Path

from stages.core.records import Record
from stages.reporting.summary import load

COSTS = Path("costs")


def costs(iterations: list[str]) -> Record:
    """{"device", "assumed", "iterations": {iteration: {"hours", "tokens", "stages": {stage: hours}}}, "hours",
    "tokens"}.

    Hours are those of one GPU or one CPU core: seconds times the stage's devices. Model calls count the seconds they
    took when they were first made, even if this run found them in the store. Tokens are read, written and trained on;
    for an evaluation, written only. Raises `UserError` if the warm start's cost is missing.
    """
    assumed = assumed_devices()
    stages = {key: stage_costs(key, assumed) for key in iterations}
    devices = {cost["device"] for by_stage in stages.values() for cost in by_stage.values()}
    by_iteration = {key: iteration_cost(by_stage) for key, by_stage in stages.items()}
    return {
        "device": "+".join(sorted(devices)),
        "assumed": assumed,
        "iterations": by_iteration,
        "hours": sum(cost["hours"] for cost in by_iteration.values()),
        "tokens": sum(cost["tokens"] for cost in by_iteration.values()),
    }


def assumed_devices() -> Record:
    """{"device", "devices"} of a stage whose devices are unknown, since an endpoint does not tell: one GPU, or the CPU
    cores of the warm start's training."""
    trained = load(COSTS / "0" / "sft.json")
    return {"device": trained["device"], "devices": 1 if trained["device"] == "GPU" else trained["devices"]}


def stage_costs(iteration: str, assumed: Record) -> dict[str, Record]:
    """{stage: its cost}, from the files of costs/ITERATION."""
    return {path.stem: assumed | load(path) for path in sorted((COSTS / iteration).glob("*.json"))}


def iteration_cost(stages: dict[str, Record]) -> Record:
    """{"hours", "tokens", "stages": {stage: hours}} of one iteration."""
    seconds = {stage: cost["seconds"] * cost["devices"] for stage, cost in stages.items()}
    return {
        "hours": sum(seconds.values()) / 3600,
        "tokens": sum(cost["tokens"] + cost.get("prompt_tokens", 0) for cost in stages.values()),
        "stages": {stage: round(value / 3600, 6) for stage, value in seconds.items()},
    }
