"""How fast the project is: ratios to a baseline, measured in one run on the embedded default's base model.

    lance benchmark                 every part but those below; four minutes on two cores
    lance benchmark engine filter   only these parts
    lance benchmark speech          what words to the judge do to a wrong answer's score; two minutes
    lance benchmark plan            plans against the runs that follow; twenty minutes
    lance benchmark store --rows 1000000     the completion store with twice as many; five minutes
    lance benchmark real --model FOLDER      the engine on a real model, of any size
    HF_HUB_OFFLINE=0 lance benchmark texts   decontamination and length limits on real texts of the hub

It prints a table and writes it to report/benchmark.json. Run it on an idle machine, since it compares wall times; the
time to load a model is in none of them. docs/speed.md has the numbers of such a run.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from typer import Argument, Option

from stages.commands.benchmark.measurement import Measurement
from stages.core.errors import UserError
from stages.core.progress import prepare_transformers, say
from stages.core.records import write_json

BASE = Path("stages/microworld/base")
OUT = Path("report/benchmark.json")
WIDTH = 150  # of the table where there is no terminal
SPECIAL = (
    "plan",
    "speech",
    "texts",
    "store",
    "real",
)  # run only if named: they take long, need a model, or are not about speed
NAMES = ("construction", "engine", "order", "estimators", "sweep", "filter", "pipeline", "vllm", *SPECIAL)

Part = Callable[[Path], Iterator[Measurement]]


def parts(rows: int) -> dict[str, Part]:
    """Every part by its name; each takes the folder of the base model in 32 bits. `rows`: of the part store."""
    from stages.commands.benchmark import (
        completions,
        estimators,
        filtering,
        generation,
        pipeline,
        plans,
        real,
        speech,
        texts,
    )

    functions: tuple[Part, ...] = (
        generation.construction,
        generation.engine_speed,
        generation.order_independence,
        estimators.estimators,
        generation.sweep,
        filtering.filtering,
        pipeline.pipeline,
        generation.vllm_speed,
        plans.plans,
        speech.speech,
        texts.texts,
        partial(completions.completions, rows),
        real.real,
    )
    return dict(zip(NAMES, functions, strict=True))


def by_default() -> list[str]:
    """The parts that run if none is named; vllm only where it is installed."""
    return [name for name in NAMES if name not in SPECIAL and (name != "vllm" or find_spec("vllm"))]


def measure(names: list[str], model: Path | None, rows: int) -> list[Measurement]:
    """Run these parts, in this order; `model`: the folder of the real one; `rows`: of the part store."""
    from stages.base import materialise

    prepare_transformers()
    functions = parts(rows)
    with TemporaryDirectory() as folder:
        base = materialise(BASE, "float32", Path(folder))
        folders = {"real": model} if model else {}
        return [measurement for name in names for measurement in functions[name](folders.get(name, base))]


def as_record(row: Measurement) -> dict[str, Any]:
    """A row of report/benchmark.json."""
    ratio = None if row.ratio is None else round(row.ratio, 2)
    return {**asdict(row), "measured": round(row.measured, 3), "ratio": ratio}


def show(records: list[dict[str, Any]]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "against", "measured", "ratio", "must reach", "")
    for record in records:
        measured = f"{record['measured']:,} {record['unit']}".strip()
        ratio = "" if record["ratio"] is None else str(record["ratio"])
        mark = "✓" if record["met"] else "✗"
        table.add_row(record["what"], record["against"], measured, ratio, record["target"], mark)
    console = Console()
    (console if console.is_terminal else Console(width=WIDTH)).print(table)


def main(
    names: Annotated[
        list[str] | None, Argument(metavar="PART", help=f"{', '.join(NAMES)}; all of them if none is named")
    ] = None,
    model: Annotated[Path | None, Option(metavar="FOLDER", help="the model of the part real")] = None,
    rows: Annotated[int, Option(min=1000, help="completions that the part store pushes and pulls")] = 1_000_000,
) -> None:
    """Measure speed against baselines, and print the table."""
    if unknown := set(names or []) - set(NAMES):
        raise UserError(f"there is no part {', '.join(sorted(unknown))}; choose from {', '.join(NAMES)}")
    if "real" in (names or []) and not model:
        raise UserError("the part real needs a model; name its folder: lance benchmark real --model FOLDER")
    records = [as_record(row) for row in measure(names or by_default(), model, rows)]
    show(records)
    import torch

    machine = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    write_json(OUT, {"machine": machine, "rows": records})
    say(f"{machine['cores']} cores, {machine['threads']} threads, torch {machine['torch']}; also in {OUT}")
