"""report: whether the model got better, whether that may be chance, and what it cost. `python -m stages.report`

It prints a table and writes report/report.html (one page that needs no network), rows.html (another one, with every row
and its way), summary.md, summary.json, the plots' data, and the metrics that `dvc exp show` compares. The cost differs
from run to run, so it has a file of its own, report/cost.json.
"""

from pathlib import Path

from stages.core.command import run
from stages.core.counts import TrainingCounts
from stages.core.params import Params, read_params
from stages.core.records import Record, write_json
from stages.reporting import alarms, page, people, plots, table
from stages.reporting import rows as data_rows
from stages.reporting.costs import costs
from stages.reporting.summary import IterationRow, Run, collect, gain_of, interval_warnings, verdict, warnings
from stages.reporting.table import Summary

OUT = Path("report")
WIDTH = 180  # of the table where there is no terminal


def summarise(params: Params) -> Summary:
    """report/summary.json: {"best", "iterations", "rules", "alarms", "unmeasured", "warnings", "verdict"}."""
    summary, scores = collect(params["iterations"])
    raised = alarms.detect(summary["iterations"], scores, params["alarms"])
    declined = [alarm["iteration"] for alarm in raised if alarm["name"] == "decline"]
    return {
        **summary,
        "rules": alarms.rules(params["alarms"]),
        "alarms": raised,
        "unmeasured": alarms.unmeasured(summary["iterations"], scores),
        "warnings": warnings(summary["iterations"]) + interval_warnings(scores),
        "verdict": verdict(summary, declined),
    }


def metrics(summary: Run) -> Record:
    """report/metrics.json, which `dvc exp show` compares: the metrics of the best and of the last iteration, and how
    the judge agrees with people where they have labelled rows."""
    rows = summary["iterations"]
    keys = {"best": summary["best"], "last": list(rows)[-1]}
    record: Record = {name: {"iteration": key, **iteration_metrics(rows[key])} for name, key in keys.items()}
    return {**record, "people": people.metrics(summary["people"])} if "people" in summary else record


def iteration_metrics(row: IterationRow) -> Record:
    """An iteration's test score in percent, its gain in points with the ends of the 95 % interval, its judging score,
    and its numbers of rows."""
    gain = gain_of(row)
    low, high = (None if end is None else round(end, 2) for end in (gain["low"], gain["high"]))
    select = row.get("select")
    return {
        "test": round(row["test"]["score"], 2),
        "gain": round(gain["points"], 2),
        "low": low,
        "high": high,
        "judge": round(row["judging"]["score"], 2) if row["judging"] else None,
        "kept": row["filter"]["rows"]["out"] if select else 0,
        "distance": row["filter"]["diversity"]["distance"] if select else None,
        "sft": select["sft"]["total"] if select else trained_rows(row["sft"]),
        "pairs": select["pairs"]["total"] if select else 0,
        **verifier_metrics(row),
    }


def verifier_metrics(row: IterationRow) -> Record:
    """What the verifiers know of an iteration, in percent; nothing if no candidate has a check."""
    measured = row.get("measure")
    if not measured or "verifiers" not in measured:
        return {}
    verified = measured["verifiers"]
    return {
        "judge_in_order": verified["judge_in_order"]["percent"],
        "sft_passing": verified["sft_rows_passing"]["percent"],
        "pairs_in_order": verified["pairs_in_order"]["percent"],
    }


def trained_rows(counts: TrainingCounts) -> int:
    """The rows of a training; 0 if it copied its input model."""
    return counts["rows"]["out"] if "rows" in counts else 0


def cost_metrics(spent: Record) -> Record:
    """report/cost.json: millions of tokens, and hours of a GPU or CPU core."""
    return {"Mtokens": round(spent["tokens"] / 1e6, 3), f"{spent['device']}_hours": round(spent["hours"], 4)}


def show(summary: Summary, spent: Record) -> None:
    """Print the table of iterations, the warnings, the alarms and the verdict."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    grid = Table(title="LANCE", header_style="bold")
    for column in table.COLUMNS:
        grid.add_column(column, justify="right")
    for key, row in summary["iterations"].items():
        grid.add_row(*table.cells(key, row), style="bold" if key == summary["best"] else "")
    console.print(grid)
    for line in summary["warnings"]:
        console.print(f"warning: {line}", style="yellow", highlight=False)
    for alarm in summary["alarms"]:
        console.print(f"alarm: {table.alarm_line(alarm)}", style="red", highlight=False)
    console.print(summary["verdict"], style="bold", highlight=False)
    console.print(f"{spent['hours']:.2f} {spent['device']}-hours; {OUT / 'report.html'}", highlight=False)


def main() -> None:
    """Write and print the report."""
    params = read_params("report")
    summary = summarise(params)
    rows = summary["iterations"]
    spent, plot_data = costs(list(rows)), plots.data(rows)
    for name, records in plot_data.items():
        write_json(OUT / "plots" / f"{name}.json", records)
    write_json(OUT / "summary.json", summary)
    write_json(OUT / "metrics.json", metrics(summary))
    write_json(OUT / "cost.json", cost_metrics(spent))
    (OUT / "summary.md").write_text(table.markdown(summary), encoding="utf-8")
    (OUT / "report.html").write_text(page.html(summary, plot_data, spent, params["report"]), encoding="utf-8")
    (OUT / "rows.html").write_text(data_rows.html(list(params["iterations"]), summary["verdict"]), encoding="utf-8")
    show(summary, spent)


if __name__ == "__main__":
    run(main)
