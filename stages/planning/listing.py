"""A plan as a table in the terminal, and to read by machine."""

from typing import TYPE_CHECKING

from stages.core.records import Record
from stages.planning.changes import Change
from stages.planning.forecast import Work
from stages.planning.pricing import Price

if TYPE_CHECKING:
    from rich.table import Table

Row = tuple[Change, Work, Price]
SHOWN = 2  # reasons of a stage
COLUMNS = ("stage", "why", "calls", "in store", "read", "written", "trained", "time", "memory", "from")


def size(number: float) -> str:
    unit, name = next(((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB")) if number >= unit), (1e3, "kB"))
    return f"{number / unit:,.1f} {name}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


def why(change: Change) -> str:
    told = [str(reason) for reason in change.reasons]
    more = f", and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    mark = "from dvc's cache: " if change.restored else "≤ " if change.at_most else ""
    return mark + ", ".join(told[:SHOWN]) + more


def cells(change: Change, work: Work, price: Price) -> list[str]:
    if change.restored:
        return [change.stage, why(change), *[""] * 8]
    counts = [
        f"{number:,.0f}" if number else ""
        for number in (work.calls, work.stored, work.read, work.written, work.trained)
    ]
    memory = size(price.memory) if price.memory else ""
    return [change.stage, why(change), *counts, duration(price.seconds + price.start), memory, work.basis]


def as_record(change: Change, work: Work, price: Price) -> Record:
    """Calls, tokens, seconds and bytes of a stage, and what they rest on."""
    return {
        "stage": change.stage,
        "reasons": [reason._asdict() for reason in change.reasons],
        "at_most": change.at_most,
        "restored": change.restored,
        **{name: round(value) for name, value in work._asdict().items() if name != "basis"},
        "seconds": round(price.seconds, 2),
        "start": price.start,
        "memory": round(price.memory),
        "disk": round(price.disk),
        "basis": {"work": work.basis, "seconds": price.basis if price.seconds else ""},
    }


def table(rows: list[Row]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    found = Table()
    for name in COLUMNS:
        found.add_column(name, justify="left" if name in ("stage", "why", "from") else "right")
    for row in rows:
        found.add_row(*map(escape, cells(*row)))
    return found
