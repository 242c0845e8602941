"""report/report.html: one self-contained page without scripts. All text that comes from the data is escaped."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from stages.core.counts import BenchmarkScore
from stages.core.records import Record, content_id
from stages.reporting import plots
from stages.reporting.links import link
from stages.reporting.summary import Gain, IterationRow, Run, scale_in_force
from stages.reporting.table import COLUMNS, Summary, cells, details

TEMPLATE = Path(__file__).parent / "templates/page.html"
LONGEST = 3000  # characters of a text; rows.html and the files have more
STAGES = ("review", "generate", "assess", "sft", "dpo", "evaluate")  # that have a cost

CAPTIONS = {
    "scores": "The best iteration is chosen on validation and reported on test. Judging: how often the iteration's own "
    "model gives the known verdict, on the benchmark's judging task.",
    "reviews": "A useful judge uses both ends of the scale. Iteration 0, the warm start, has no new rows. A point "
    "leads to its rows.",
    "diversity": "If distance or distinct-n fall, or repetition rises, the model is going in circles. Repetition is "
    "measured before the filter drops it, the rest afterwards.",
    "length": "Iteration 0 is the seed set.",
    "loss": "As logged by trl. Iteration 0 is the warm start.",
    "rewards": "Margin: the implicit reward of the chosen response minus that of the rejected one. Accuracy: how often "
    "the chosen one's is higher. Before the first update they are equal. Iteration 0, the warm start, has no DPO.",
    "funnel": "Every row is either kept or dropped for a reason. A bar leads to its rows.",
}


def html(summary: Summary, plot_data: dict[str, list[Record]], spent: Record, prices: Record) -> str:
    """The page as text, from the summary, the plots' data, what the loop cost and the prices that turn it into
    dollars."""
    rows = summary["iterations"]
    loop = {key: row for key, row in rows.items() if row["parent"] is not None}
    return render(
        TEMPLATE,
        captions=CAPTIONS,
        verdict=summary["verdict"],
        size=run_size(summary),
        scale=scale_in_force(rows),
        best=summary["best"],
        tiles=tiles(summary, spent, prices),
        alarms=summary["alarms"],
        unmeasured=summary["unmeasured"],
        rules=summary["rules"],
        warnings=summary["warnings"],
        columns=COLUMNS,
        table=[(key, list(zip(cells(key, row), cell_links(key), strict=True))) for key, row in rows.items()],
        row_link=row_link,
        details=details(summary),
        pictures=plots.pictures(plot_data),
        costs=spent,
        stages=STAGES,
        cost_table=[cost_cells(key, row, spent["iterations"][key], prices) for key, row in rows.items()],
        **prices,
        examples=[(key, row["select"]["examples"]) for key, row in loop.items()],
        dropped=[(key, record) for key, row in loop.items() for record in row["filter"]["examples"]],
    )


LINKED = {  # columns of the table whose numbers lead to rows
    "generated": {"step": "filter"},
    "kept": {"step": "filter", "reason": "kept"},
    "SFT rows": {"step": "select sft", "reason": "kept"},
    "pairs": {"step": "select pairs", "reason": "kept"},
}


def cell_links(iteration: str) -> list[str | None]:
    """Where each cell of an iteration's line leads. The warm start has only its seeds."""
    filters = LINKED if iteration != "0" else {"seeds": {"step": "seed rows"}}
    return [link(iteration=iteration, **filters[name]) if name in filters else None for name in COLUMNS]


def row_link(iteration: str, prompt: str, response: str) -> str:
    """Where an example leads."""
    return link(row=f"{iteration}.{content_id(prompt, response)}")


def cut(text: str) -> str:
    """A text for the page, which has no room for all of a very long one."""
    left = len(text) - LONGEST
    return text if left <= 0 else f"{text[:LONGEST]} … ({left:,} more characters)"


def run_size(summary: Run) -> str:
    """How many iterations and benchmark items there are, as a sentence."""
    rows = summary["iterations"]
    iterations, best = len(rows) - 1, rows[summary["best"]]
    return (
        f"{iterations} iteration{'' if iterations == 1 else 's'} after the warm start; "
        f"{best['test']['items']:,} test and {best['validation']['items']:,} validation items."
    )


def tiles(summary: Run, spent: Record, prices: Record) -> list[tuple[str, str]]:
    """The numbers at the top of the page: (value, label)."""
    key = summary["best"]
    best = summary["iterations"][key]
    rows = sum(rows_made(row) for row in summary["iterations"].values())
    dollars, by_hand = spent["hours"] * prices["price_per_hour"], rows * prices["price_per_row"]
    return [
        (f"{best['test']['score']:.1f} %", f"test score of iteration {key}"),
        *([gain_tile(best["gain"])] if best["gain"] else []),
        *([judging_tile(best["judging"], key)] if best["judging"] else []),
        (f"{rows:,}", "SFT rows and pairs made"),
        (rounded(spent["hours"], 2), f"{spent['device']}-hours, {spent['tokens'] / 1e6:,.1f} M tokens"),
        (rounded(dollars, 2, "$"), f"compared with ${by_hand:,.0f} by hand"),
    ]


def gain_tile(gain: Gain) -> tuple[str, str]:
    """The gain with its interval."""
    if gain["low"] is None or gain["high"] is None:
        ends = "without an interval"
    else:
        ends = f"between {gain['low']:+.1f} and {gain['high']:+.1f} (95 %)"
    return f"{gain['points']:+.1f}", f"points over the warm start, {ends}"


def judging_tile(judging: BenchmarkScore, iteration: str) -> tuple[str, str]:
    """The judging score of the iteration's own model, no matter which model judged in the loop."""
    return f"{judging['score']:.1f} %", f"judging score of iteration {iteration}, on the benchmark's judging task"


def cost_cells(key: str, row: IterationRow, spent: Record, prices: Record) -> list[str]:
    """One iteration's cost: hours in all and by stage, tokens, rows made, dollars, dollars by hand."""
    hours = [rounded(spent["stages"][stage], 3) if stage in spent["stages"] else "" for stage in STAGES]
    dollars, by_hand = spent["hours"] * prices["price_per_hour"], rows_made(row) * prices["price_per_row"]
    counts = [f"{spent['tokens']:,}", f"{rows_made(row):,}"]
    return [key, rounded(spent["hours"], 3), *hours, *counts, rounded(dollars, 2), f"{by_hand:,.0f}"]


def rounded(value: float, digits: int, unit: str = "") -> str:
    """A number with so many digits; a smaller one above 0 is shown as less than the smallest that they can show."""
    least = 10**-digits
    return f"< {unit}{least}" if 0 < value < least else f"{unit}{value:,.{digits}f}"


def rows_made(row: IterationRow) -> int:
    """New SFT rows and preference pairs, which people would have been paid for."""
    return 0 if row["parent"] is None else row["select"]["sft"]["new"] + row["select"]["pairs"]["new"]


def render(template: Path, **content: Any) -> str:
    """The template with its content. Raises `jinja2.UndefinedError` if some is missing."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cut"] = cut
    text = template.read_text(encoding="utf-8")
    return environment.from_string(text).render(policy=policy(text), **content)


def policy(template: str) -> str:
    """The Content-Security-Policy of a page: nothing but the template's own styles and scripts, by their hashes."""
    parts = ["default-src 'none'", "base-uri 'none'", "form-action 'none'"]
    for directive, tag in (("style-src", "style"), ("script-src", "script")):
        codes = re.findall(rf"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode("ascii") for code in codes]
        parts += [" ".join([directive, *(f"'sha256-{digest}'" for digest in digests)])] if digests else []
    return "; ".join(parts)
