"""report/report.html: one self-contained page, without scripts or network. Every text of the data is escaped."""

from pathlib import Path
from typing import Any

from stages.core.records import Record
from stages.reporting import plots
from stages.reporting.table import COLUMNS, cells

TEMPLATE = Path(__file__).parent / "templates/page.html"

STAGES = ("review", "generate", "assess", "sft", "dpo", "evaluate")  # what costs

PLOTS = {
    "scores": "Chosen by validation, reported on test. Judging: how often the iteration's own model gives the known "
    "verdict, on the benchmark's judging task.",
    "reviews": "A judge that is worth listening to uses both ends. Iteration 0, the warm start, has no new rows.",
    "diversity": "Falling distance or distinct-n, or rising repetition: the model turns in circles. The filter drops "
    "what repeats; the rest is measured after it.",
    "length": "Iteration 0 is the seed set.",
    "loss": "As trl logs it; iteration 0 is the warm start.",
    "rewards": "The chosen response's implicit reward over the rejected one's, and how often it is the higher: before "
    "the first update they are equal. Iteration 0, the warm start, has no DPO.",
    "funnel": "Every row is kept or dropped for a reason.",
}


def html(summary: Record, drawn: dict[str, list[Record]], spent: Record, prices: Record) -> str:
    """The page of a summary, with the data of its plots, what it cost, and the prices to compare that with."""
    rows = summary["iterations"]
    loop = {key: row for key, row in rows.items() if row["parent"] is not None}
    best = rows[summary["best"]]
    total = sum(made(row) for row in rows.values())
    dollars, by_hand = spent["hours"] * prices["price_per_hour"], total * prices["price_per_row"]
    return render(
        verdict=summary["verdict"],
        ran=f"{len(loop)} iteration{'' if len(loop) == 1 else 's'} after the warm start; "
        f"{best['test']['items']:,} test and {best['validation']['items']:,} validation items.",
        best=summary["best"],
        tiles=[
            (f"{best['test']['score']:.1f} %", f"test score of iteration {summary['best']}"),
            *([gain_tile(best["gain"])] if best["gain"] else []),
            *([judging_tile(best["judging"], summary["best"])] if best["judging"] else []),
            (f"{total:,}", "SFT rows and pairs made"),
            (rounded(spent["hours"], 2), f"{spent['device']}-hours, {spent['tokens'] / 1e6:,.1f} M tokens"),
            (rounded(dollars, 2, "$"), f"against ${by_hand:,.0f} by hand"),
        ],
        alarms=summary["alarms"],
        rules=summary["rules"],
        warnings=summary["warnings"],
        columns=COLUMNS,
        table=[(key, cells(key, row)) for key, row in rows.items()],
        pictures=plots.pictures(drawn),
        costs=spent,
        stages=STAGES,
        cost_table=[cost_line(key, row, spent["iterations"][key], prices) for key, row in rows.items()],
        **prices,
        examples=[(key, row["select"]["examples"]) for key, row in loop.items()],
        dropped=[(key, row) for key in loop for row in rows[key]["filter"]["examples"]],
    )


def gain_tile(gain: Record) -> tuple[str, str]:
    ends = f"between {gain['low']:+.1f} and {gain['high']:+.1f} (95 %)"
    return f"{gain['points']:+.1f}", f"points over the warm start, {ends}"


def judging_tile(judging: Record, iteration: str) -> tuple[str, str]:
    """Of the iteration's own model, whoever judged in the loop."""
    return f"{judging['score']:.1f} %", f"judging score of iteration {iteration}, on the benchmark's judging task"


def cost_line(key: str, row: Record, spent: Record, prices: Record) -> list[str]:
    hours = [rounded(spent["stages"][stage], 3) if stage in spent["stages"] else "" for stage in STAGES]
    dollars, by_hand = spent["hours"] * prices["price_per_hour"], made(row) * prices["price_per_row"]
    counts = [f"{spent['tokens']:,}", f"{made(row):,}"]
    return [key, rounded(spent["hours"], 3), *hours, *counts, rounded(dollars, 2), f"{by_hand:,.0f}"]


def rounded(value: float, digits: int, unit: str = "") -> str:
    """A number; where rounding would hide that it is above 0, what it is less than."""
    least = 10**-digits
    return f"< {unit}{least}" if 0 < value < least else f"{unit}{value:,.{digits}f}"


def made(row: Record) -> int:
    """New SFT rows and preference pairs: what people would have been paid for."""
    return 0 if row["parent"] is None else row["select"]["sft"]["new"] + row["select"]["pairs"]["new"]


def render(**content: Any) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(notes=PLOTS, **content)
