"""What `dvc repro` would run with the parameters as they stand, why, and what it would cost; it runs nothing.

    lance plan              a table
    lance plan --json       the same as JSON
    lance plan --gpu h100   hours and memory on another machine

No stage of the DAG, and none depends on it. It takes a second, or a few to look into the store; it writes nothing, and
what it finds there does not count as served. Each number says what it rests on: *looked up* in the store by the real
keys, or an estimate from the counts of the *last run*, or from the *parameters* (planning/forecast.py). Seconds rest on
the last run of this model on this machine, else on the model's shape (planning/estimate.py).
"""

import json
from typing import Annotated

from typer import Option

from stages.check import read_valid_params
from stages.core.errors import UserError
from stages.core.params import read_runtime
from stages.core.progress import say
from stages.core.records import Record
from stages.inference.store import store_file
from stages.planning import estimate, forecast, lookup, pricing
from stages.planning.changes import Change, changes
from stages.planning.forecast import Forecast, Work
from stages.planning.last_run import last_run
from stages.planning.listing import Row, as_record, duration, size, table
from stages.planning.lookup import Found
from stages.planning.pricing import Pricing
from stages.planning.texts import texts

NOTHING = Work(basis="")
WIDTH = 160  # of the table where there is no terminal


def planned(params: Record, gpu: str | None) -> tuple[list[Row], list[Row], Pricing]:
    """The stages that would run or be restored, in their order, with what they cost: at most, and at least, where all
    that only follow others need not run."""
    changed = changes()
    surely = {name: each for name, each in changed.items() if not each.at_most}
    told, last = texts(params), last_run(params["iterations"])
    present = {name: each for name, each in changed.items() if each.present and not each.restored}
    wanted = {name: each for name, each in present.items() if each.ready or name in surely}
    here = {name: looked for name, each in wanted.items() if (looked := lookup.look(each.command))}
    ready = {name: looked for name, looked in here.items() if changed[name].ready}
    items = forecast.items(params, "benchmark" not in changed)
    device = estimate.GPUS[gpu] if gpu else estimate.this_machine()
    measured, pretrained = not gpu and "base" not in changed, "pretrain" in changed
    prices = Pricing(params, told, last, device, measured=measured, pretrained=pretrained)

    def priced(stages: dict[str, Change], found: dict[str, Found]) -> list[Row]:
        work = Forecast(params, stages, found, last, told, items).walk()
        rows = ((each, work.get(name, NOTHING)) for name, each in stages.items())
        return [(each, done, prices.price(each.stage, done)) for each, done in rows]

    return priced(changed, ready), priced(surely, here), prices


def totals(rows: list[Row], prices: Pricing) -> Record:
    """Of the stages that would run; dvc keeps an out twice, in the workspace and in its cache."""
    ran = [row for row in rows if not row[0].restored]
    names = ("calls", "stored", "made", "read", "written", "trained")
    sums: Record = {name: round(sum(getattr(work, name) for _, work, _ in ran)) for name in names}
    computing, start, outs = (sum(getattr(price, name) for _, _, price in ran) for name in ("seconds", "start", "disk"))
    longest = max((price.seconds for _, work, price in ran if work.trained), default=0.0)
    peak, stage = max(((price.memory, each.stage) for each, _, price in ran), default=(0.0, ""))
    disk = {
        "outs": outs,
        "cache": outs,
        "store": sums["made"] * pricing.ROW,
        "checkpoints": prices.checkpoints(longest),
    }
    return {
        "stages": len(ran),
        **sums,
        "seconds": round(computing, 1),
        "hours": round((computing + start) / 3600, 4),
        "disk": {name: round(size) for name, size in disk.items()},
        "memory": {"peak": round(peak), "stage": stage, "device": round(prices.device.memory)},
    }


def notes(rows: list[Row], total: Record, device: estimate.Device) -> list[str]:
    """What the numbers alone do not say."""
    found = []
    if any(each.at_most and not each.restored for each, _, _ in rows):
        found.append("≤ runs only if what it follows makes something else than before; the totals count all of it")
    if total["memory"]["peak"] > device.memory:
        needed, there = size(total["memory"]["peak"]), size(device.memory)
        found.append(f"{total['memory']['stage']} needs {needed}, and {device.name} has {there}")
    if any(each.stage.startswith("evaluate") and not work.calls for each, work, _ in rows if not each.restored):
        found.append("evaluate: the suite's items are counted once its stage `benchmark` ran")
    if lookup.damaged():
        found.append(
            f"completion store {store_file(read_runtime().store)} is damaged: a run puts it aside and makes its "
            "completions anew"
        )
    return found


def show(rows: list[Row], total: Record, least: Record, prices: Pricing) -> None:
    from rich.console import Console

    console = Console()
    (console if console.is_terminal else Console(width=WIDTH)).print(table(rows))
    disk, memory = total["disk"], total["memory"]
    spent, computing = duration(3600 * total["hours"]), duration(total["seconds"])
    checkpoints = f", for a while {size(disk['checkpoints'])} of checkpoints" if disk["checkpoints"] else ""
    say(
        f"{total['stages']} stages, {total['made']:,} of {total['calls']:,} model calls to make "
        f"({total['read']:,} tokens to read, {total['written']:,} to write), {total['trained']:,} tokens to train on"
    )
    say(
        f"about {spent} on {prices.device.name}, {computing} of it computing; memory at most {size(memory['peak'])}; "
        f"disk {size(disk['outs'])} of outs, the same in dvc's cache, and {size(disk['store'])} in the completion "
        f"store{checkpoints}"
    )
    if least["stages"] < total["stages"]:
        spent = duration(3600 * least["hours"])
        say(f"at least {least['stages']} stages, {least['made']:,} model calls, {spent}, where no other (≤) runs")
    for note in notes(rows, total, prices.device):
        say(note)


def main(
    as_json: Annotated[bool, Option("--json", help="print the plan as JSON")] = False,
    gpu: Annotated[str | None, Option(help=f"hours and memory on another machine: {', '.join(estimate.GPUS)}")] = None,
) -> None:
    """Print what dvc repro would run, why, and its cost."""
    if gpu and gpu not in estimate.GPUS:
        raise UserError(f"--gpu {gpu} is not known; choose one of {', '.join(estimate.GPUS)}")
    rows, surely, prices = planned(read_valid_params(), gpu)
    total, least = totals(rows, prices), totals(surely, prices)
    if as_json:
        stages, said = [as_record(*row) for row in rows], notes(rows, total, prices.device)
        plan = {"device": prices.device.name, "stages": stages, "total": total, "least": least, "notes": said}
        say(json.dumps(plan, indent=2, ensure_ascii=False))
    elif rows:
        show(rows, total, least, prices)
    else:
        say("nothing would run")
