"""report: did the model get better, is it real, and what did it cost? `python -m stages.report`

A table in the terminal, report/report.html (one page, no network), summary.{md,json}, the data of the plots, and the
metrics that `dvc exp show` compares. What differs from run to run, the cost, has its own file, report/cost.json.
"""

from pathlib import Path

from stages.core.command import run
from stages.core.params import read_params
from stages.core.records import Record, write_json
from stages.reporting import alarms, page, plots, table
from stages.reporting.summary import collect, costs, verdict, warnings

OUT = Path("report")


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
        "distance": row["filter"]["diversity"]["distance"] if select else None,
        "sft": select["sft"]["total"] if select else row["sft"].get("rows", {}).get("out", 0),
        "pairs": select["pairs"]["total"] if select else 0,
    }


def cost_metrics(spent: Record) -> Record:
    return {"Mtokens": round(spent["tokens"] / 1e6, 3), f"{spent['device']}_hours": round(spent["hours"], 4)}


def show(summary: Record, spent: Record) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    drawn = Table(title="LANCE", header_style="bold")
    for column in table.COLUMNS:
        drawn.add_column(column, justify="right")
    for key, row in summary["iterations"].items():
        drawn.add_row(*table.cells(key, row), style="bold" if key == summary["best"] else "")
    console.print(drawn)
    for line in summary["warnings"]:
        console.print(f"warning: {line}", style="yellow", highlight=False)
    for each in summary["alarms"]:
        line = f"alarm: iteration {each['iteration']}, {each['name']}: {each['said']}. {each['advice']}"
        console.print(line, style="red", highlight=False)
    console.print(summary["verdict"], style="bold", highlight=False)
    console.print(f"{spent['hours']:.2f} {spent['device']}-hours; {OUT / 'report.html'}", highlight=False)


def main() -> None:
    params = read_params("report")
    summary, scores = collect(params["iterations"])
    rows = summary["iterations"]
    summary["rules"] = alarms.rules(params["alarms"])
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
    (OUT / "summary.md").write_text(table.markdown(summary), encoding="utf-8")
    (OUT / "report.html").write_text(page.html(summary, drawn, spent, params["report"]), encoding="utf-8")
    show(summary, spent)


if __name__ == "__main__":
    run(main)
