"""report: did the model get better, is it real, and what did it cost? `python -m stages.report`

A table in the terminal, report/report.html (one page, no network), summary.{md,json}, the data of the plots, and the
metrics that `dvc exp show` compares. What differs from run to run, the cost, has its own file, report/cost.json.
"""

from pathlib import Path

from stages.core import alarms, page, plots
from stages.core.errors import run
from stages.core.params import declared
from stages.core.records import Record, write_json
from stages.core.summary import collect, costs, funnel, interval, verdict, warnings

OUT = Path("report")
COLUMNS = (
    "iteration", "from", "test %", "gain", "validation %", "judging %",
    "seeds", "generated", "kept", "SFT rows", "pairs", "judge right %", "pairs in order %",
)  # fmt: skip


def scored(score: Record | None) -> str:
    return "" if score is None else f"{score['score']:.1f} ± {score['stderr']:.1f}"


def cells(key: str, row: Record) -> list[str]:
    """One row of the table; the last two columns are the world's ground truth."""
    test, *scores = (scored(row[name]) for name in ("test", "validation", "judging"))
    if row["parent"] is None:
        return [key, "base", test, "", *scores, f"{row['prepare']['seed']['out']:,}", "", "", "", "", "", ""]
    select, rows = row["select"], row["filter"]["rows"]
    truth = [row["measure"][name]["percent"] for name in ("judge_right", "pairs_in_order")]
    return [
        key,
        row["parent"],
        test,
        interval(row["gain"]),
        *scores,
        *(f"{number:,}" for number in (select["seed"]["total"], rows["in"], rows["out"])),
        *(f"{select[name]['total']:,} (+{select[name]['new']:,})" for name in ("sft", "pairs")),
        *("–" if share is None else f"{share:.1f}" for share in truth),
    ]


def made(row: Record) -> int:
    """New SFT rows and preference pairs: what people would have been paid for."""
    return 0 if row["parent"] is None else row["select"]["sft"]["new"] + row["select"]["pairs"]["new"]


def metrics(summary: Record) -> Record:
    """What `dvc exp show` compares, of the best and the last iteration: percent, points over the warm start with the
    ends of the 95 % interval, and rows."""
    rows = summary["iterations"]
    last = list(rows)[-1]
    return {
        name: {"iteration": key, **measured(rows[key])} for name, key in (("best", summary["best"]), ("last", last))
    }


def measured(row: Record) -> Record:
    gain = row["gain"] or {"points": 0.0, "low": 0.0, "high": 0.0}
    select = row.get("select")
    return {
        "test": round(row["test"]["score"], 2),
        "gain": round(gain["points"], 2),
        "low": round(gain["low"], 2),
        "high": round(gain["high"], 2),
        "judge": round(row["judging"]["score"], 2) if row["judging"] else None,
        "kept": row["filter"]["rows"]["out"] if select else 0,
        "sft": select["sft"]["total"] if select else row["sft"].get("rows", {}).get("out", 0),
        "pairs": select["pairs"]["total"] if select else 0,
    }


def cost_metrics(spent: Record) -> Record:
    return {"Mtokens": round(spent["tokens"] / 1e6, 3), f"{spent['device']}_hours": round(spent["hours"], 4)}


def markdown(summary: Record) -> str:
    rows = summary["iterations"]
    lines = [f"# {summary['verdict']}", "", "| " + " | ".join(COLUMNS) + " |", "|" + " ---: |" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells(key, row)) + " |" for key, row in rows.items()]
    lines += ["", "Scores are in percent ± one standard error; a gain is over iteration 0, with its 95 % interval.", ""]
    told = [f"iteration {a['iteration']}, {a['name']}: {a['said']}. {a['advice']}" for a in summary["alarms"]]
    lines += ["## Alarms", "", *(f"- {line}" for line in told or ["none"]), ""]
    lines += ["## Warnings", "", *(f"- {line}" for line in summary["warnings"] or ["none"]), "", "## Funnel", ""]
    for key, row in rows.items():
        lines += funnel_lines(key, row)
    return "\n".join(lines).rstrip() + "\n"


def funnel_lines(key: str, row: Record) -> list[str]:
    """Where the rows of an iteration went, a line per step."""
    lines = [f"### Iteration {key}", "", "| step | in | out | dropped |", "| --- | ---: | ---: | --- |"]
    for name, tally in funnel(row).items():
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in tally["dropped"].items()) or "–"
        lines.append(f"| {name} | {tally['in']:,} | {tally['out']:,} | {reasons} |")
    return [*lines, ""]


def html(summary: Record, drawn: dict[str, list[Record]], spent: Record, prices: Record) -> str:
    rows = summary["iterations"]
    loop = {key: row for key, row in rows.items() if row["parent"] is not None}
    best = rows[summary["best"]]
    total = sum(made(row) for row in rows.values())
    dollars, by_hand = spent["hours"] * prices["price_per_hour"], total * prices["price_per_row"]
    stages = ["review", "generate", "assess", "sft", "dpo", "evaluate"]
    return page.render(
        verdict=summary["verdict"],
        ran=f"{len(loop)} iterations after the warm start; {best['test']['items']:,} test and "
        f"{best['validation']['items']:,} validation items.",
        best=summary["best"],
        tiles=[
            (f"{best['test']['score']:.1f} %", f"test score of iteration {summary['best']}"),
            *([gain_tile(best["gain"])] if best["gain"] else []),
            (f"{best['judging']['score']:.1f} %" if best["judging"] else "–", "of its verdicts are right"),
            (f"{total:,}", "SFT rows and pairs made"),
            (f"{spent['hours']:.2f}", f"{spent['device']}-hours, {spent['tokens'] / 1e6:.1f} M tokens"),
            (f"${dollars:,.2f}", f"against ${by_hand:,.0f} by hand"),
        ],
        alarms=summary["alarms"],
        warnings=summary["warnings"],
        columns=COLUMNS,
        table=[(key, cells(key, row)) for key, row in rows.items()],
        pictures=plots.pictures(drawn),
        costs=spent,
        stages=stages,
        cost_table=[cost_line(key, row, spent["iterations"][key], stages, prices) for key, row in rows.items()],
        **prices,
        examples=[(key, row["select"]["examples"]) for key, row in loop.items()],
        dropped=[(key, row) for key in loop for row in rows[key]["filter"]["examples"]],
    )


def gain_tile(gain: Record) -> tuple[str, str]:
    return f"{gain['points']:+.1f}", f"points over the warm start, between {gain['low']:+.1f} and {gain['high']:+.1f}"


def cost_line(key: str, row: Record, spent: Record, stages: list[str], prices: Record) -> list[str]:
    hours = [f"{spent['stages'][stage]:.3f}" if stage in spent["stages"] else "" for stage in stages]
    dollars, by_hand = spent["hours"] * prices["price_per_hour"], made(row) * prices["price_per_row"]
    counts = [f"{spent['tokens']:,}", f"{made(row):,}"]
    return [key, f"{spent['hours']:.3f}", *hours, *counts, f"{dollars:,.3f}", f"{by_hand:,.0f}"]


def show(summary: Record, spent: Record) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    table = Table(title="LANCE", header_style="bold")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for key, row in summary["iterations"].items():
        table.add_row(*cells(key, row), style="bold" if key == summary["best"] else "")
    console.print(table)
    for line in summary["warnings"]:
        console.print(f"warning: {line}", style="yellow", highlight=False)
    for each in summary["alarms"]:
        line = f"alarm: iteration {each['iteration']}, {each['name']}: {each['said']}. {each['advice']}"
        console.print(line, style="red", highlight=False)
    console.print(summary["verdict"], style="bold", highlight=False)
    console.print(f"{spent['hours']:.2f} {spent['device']}-hours; {OUT / 'report.html'}", highlight=False)


def main() -> None:
    params = declared("report")
    summary, scores = collect(params["iterations"])
    rows = summary["iterations"]
    summary["alarms"] = alarms.found(rows, scores, params["alarms"])
    summary["warnings"] = warnings(rows)
    declined = [alarm["iteration"] for alarm in summary["alarms"] if alarm["name"] == "decline"]
    summary["verdict"] = verdict(summary, declined)
    spent, drawn = costs(list(rows)), plots.data(rows)
    for name, records in drawn.items():
        write_json(OUT / "plots" / f"{name}.json", records)
    write_json(OUT / "summary.json", summary)
    write_json(OUT / "metrics.json", metrics(summary))
    write_json(OUT / "cost.json", cost_metrics(spent))
    (OUT / "summary.md").write_text(markdown(summary), encoding="utf-8")
    (OUT / "report.html").write_text(html(summary, drawn, spent, params["report"]), encoding="utf-8")
    show(summary, spent)


if __name__ == "__main__":
    run(main)
