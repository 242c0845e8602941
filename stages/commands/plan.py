"""What `dvc repro` would run with the parameters as they stand, why, and what it would cost. Nothing runs.

    lance plan              a table
    lance plan --json       the same as JSON
    lance plan --gpu h100   hours and memory on another machine

Where a stage's inputs are here, its model calls are looked up in the completion store by their real keys. All else is
estimated, by the shares and rates of the last run if there was one, else by a probe of seconds with the model.
"""

import json
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from typer import Option

from stages.check import read_valid_params
from stages.core.errors import UserError
from stages.core.progress import say
from stages.core.records import Record
from stages.core.schema import parse_runtime
from stages.planning.changes import Planned, changes
from stages.planning.forecast import Forecast, LastRun, Texts
from stages.planning.lookup import look_up
from stages.planning.pricing import CHECKPOINTS, GPUS, ROW, Pricing, this_machine
from stages.planning.probe import measure

BASE = Path("iterations/0/base")
SHOWN = 2  # reasons in a row of the table
COLUMNS = ("stage", "why", "calls", "in store", "read", "written", "trained", "time", "memory")
BOUND = (
    "≤ runs only if its inputs change, and dvc restores what ran before with the same inputs: totals are upper bounds"
)


def plan(params: Record, gpu: str | None = None, measured: LastRun | None = None) -> tuple[list[Planned], Record]:
    """The stages that would run, and their total; `measured`: shares and tokens of a preview, instead of the last
    run's."""
    planned, last, texts = changes(), measured or LastRun.read(), Texts(params)
    stages = list(planned.values())
    for stage in (stage for stage in stages if stage.ready):
        look_up(stage, params["iterations"])
    Forecast(params, planned, last, texts).walk()
    pricing = Pricing(
        params, texts, GPUS[gpu] if gpu else this_machine(), None if gpu or measured or "base" in planned else last
    )
    has_rates = gpu or (pricing.last and pricing.last.costs)
    if not has_rates and any(map(computes, stages)) and (folder := model_folder(params["model"])):
        pricing.speed = measure(folder, parse_runtime(params))
    for stage in stages:
        pricing.price(stage)
    return stages, totals(stages, pricing)


def computes(stage: Planned) -> bool:
    """Whether a planned stage runs the model."""
    return bool(stage.read or stage.trained)


def model_folder(model: Record) -> Path | None:
    """The folder of the run's model, if its weights are here."""
    return next((folder for folder in (BASE, Path(model["name"])) if any(folder.glob("*.safetensors"))), None)


def totals(stages: list[Planned], pricing: Pricing) -> Record:
    """Sums, and `memory` at the peak; `disk` without dvc's cache, which keeps the same again, and the other two."""
    names = ("calls", "made", "read", "written", "trained", "seconds", "disk")
    sums = {name: round(sum(getattr(stage, name) for stage in stages)) for name in names}
    return {
        "stages": len(stages),
        **sums,
        "store": sums["made"] * ROW,
        "checkpoints": round(CHECKPOINTS * pricing.trained) if sums["trained"] else 0,
        "memory": round(max((stage.memory for stage in stages), default=0)),
        "device": pricing.device._asdict(),
    }


def notes(stages: list[Planned], total: Record) -> list[str]:
    """What the numbers alone do not say."""
    from rich.filesize import decimal

    lines, device = [BOUND], total["device"]
    if any(stage.stage.startswith("evaluate") and not stage.calls for stage in stages):
        lines.append("evaluate: its model calls are counted once the stage benchmark has split the suite")
    if total["memory"] > device["memory"]:
        peak, there = max(stages, key=lambda stage: stage.memory), decimal(device["memory"])
        lines.append(f"{peak.stage} needs {decimal(total['memory'])}, and {device['name']} has {there}")
    return lines


def show(stages: list[Planned]) -> None:
    """Print the table of stages."""
    from rich.console import Console
    from rich.filesize import decimal
    from rich.markup import escape
    from rich.table import Column, Table

    table = Table(*(Column(name, justify="left" if name in ("stage", "why") else "right") for name in COLUMNS))
    for stage in stages:
        more = [f"and {len(stage.reasons) - SHOWN} more"] if len(stage.reasons) > SHOWN else []
        why = ("≤ " if stage.only_follows else "") + ", ".join([*map(str, stage.reasons[:SHOWN]), *more])
        calls, *tokens = (f"{n:,.0f}" if n else "" for n in (stage.calls, stage.read, stage.written, stage.trained))
        stored = "" if stage.stored is None else f"{stage.stored:,}"
        time, memory = timedelta(seconds=round(stage.seconds)), decimal(int(stage.memory)) if stage.memory else ""
        table.add_row(stage.stage, escape(why), calls, stored, *tokens, f"{time}", memory)
    console = Console()
    (console if console.is_terminal else Console(width=150)).print(table)


def sums(total: Record) -> list[str]:
    """The totals."""
    from rich.filesize import decimal

    memory, outs, store, checkpoints = (decimal(total[name]) for name in ("memory", "disk", "store", "checkpoints"))
    return [
        f"{total['stages']} stages: {total['made']:,} of {total['calls']:,} model calls to make, which read "
        f"{total['read']:,} and write {total['written']:,} tokens, and {total['trained']:,} tokens to train on",
        f"about {timedelta(seconds=total['seconds'])} on {total['device']['name']}, memory {memory} at most",
        f"disk: {outs} of outs and as much in dvc's cache, {store} of completions, {checkpoints} of checkpoints",
    ]


def main(
    as_json: Annotated[bool, Option("--json", help="print JSON")] = False,
    gpu: Annotated[str | None, Option(help=f"another machine: {', '.join(GPUS)}")] = None,
) -> None:
    """What dvc repro would run, why, and what it would cost."""
    if gpu and gpu not in GPUS:
        raise UserError(f"--gpu {gpu}: no such GPU; choose one of {', '.join(GPUS)}")
    stages, total = plan(read_valid_params(), gpu)
    if as_json:
        record = {"stages": [asdict(stage) for stage in stages], "total": total, "notes": notes(stages, total)}
        say(json.dumps(record, indent=2, ensure_ascii=False))
    elif stages:
        show(stages)
        say("\n".join([*sums(total), *notes(stages, total)]))
    else:
        say("nothing would run")
