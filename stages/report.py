"""report: what the loop did, per iteration, as a table in the terminal and as report/summary.{json,md}.

`python -m stages.report`

Test scores are reported and validation scores shown beside them, so that nobody has to choose an iteration on the
number that is reported. ± is one standard error; a gain's treats its two scores as independent, which overstates it a
little, since both models answer the same items.
"""

import json
from pathlib import Path
from typing import Any

from stages.core.errors import UserError, run
from stages.core.params import declared
from stages.core.records import Record, write_json

OUT, RESULTS = Path("report"), Path("results")
WARM_START = ("prepare", "sft")
LOOP = ("review", "generate", "filter", "assess", "select", "sft", "dpo", "measure")


def counts_of(iteration: str, stage: str) -> Any:
    path = RESULTS / iteration / f"{stage}.json"
    if not path.exists():
        raise UserError(f"{path} is missing; run dvc repro to make it")
    return json.loads(path.read_text(encoding="utf-8"))


def gain(score: Record, baseline: Record) -> Record:
    """Points over the baseline, with the standard error of a difference of independent means."""
    return {
        "points": round(score["score"] - baseline["score"], 4),
        "stderr": round((score["stderr"] ** 2 + baseline["stderr"] ** 2) ** 0.5, 4),
    }


def row_of(iteration: str, parent: str | None, baseline: Record) -> Record:
    """Everything about one iteration: its scores and the counts of its stages."""
    evaluation = counts_of(iteration, "evaluate")
    stages = WARM_START if parent is None else LOOP
    return {
        "parent": parent,
        **{name: evaluation[name] for name in ("test", "validation", "judging")},
        "gain": gain(evaluation["test"], baseline["test"]),
        **{stage: counts_of(iteration, stage) for stage in stages},
    }


def warnings_of(iteration: str, row: Record) -> list[str]:
    """What the user should know before believing the iteration."""
    found = []
    for phase in ("sft", "dpo"):
        if "passed_on" in row.get(phase, {}):
            found.append(f"{phase} passed its model on, {row[phase]['passed_on']}")
        elif lost := row.get(phase, {}).get("rows", {}).get("dropped", {}).get("does not fit the context"):
            found.append(f"{lost:,} rows of {phase} did not fit the context")
    for stage in ("review", "assess"):
        if stage in row and (lost := sum(row[stage]["rows"]["dropped"].values())):
            reasons = ", ".join(f"{reason} {number:,}" for reason, number in row[stage]["rows"]["dropped"].items())
            found.append(f"{lost:,} of {row[stage]['rows']['in']:,} rows in {stage} have no score: {reasons}")
    if "filter" in row and not row["filter"]["rows"]["out"]:
        found.append("nothing was left after the filter")
    return [f"iteration {iteration}: {line}" for line in found]


def summary_of(iterations: Record) -> Record:
    baseline = counts_of("0", "evaluate")
    rows = {"0": row_of("0", None, baseline)}
    rows |= {key: row_of(key, str(iteration["parent"]), baseline) for key, iteration in iterations.items()}
    warnings = [line for key, row in rows.items() for line in warnings_of(key, row)]
    return {"iterations": rows, "warnings": warnings}


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
        f"{row['gain']['points']:+.1f} ± {row['gain']['stderr']:.1f}",
        *scores,
        *(f"{number:,}" for number in (select["seed"]["total"], rows["in"], rows["out"])),
        *(f"{select[name]['total']:,} (+{select[name]['new']:,})" for name in ("sft", "pairs")),
        *("–" if share is None else f"{share:.1f}" for share in truth),
    ]


def funnel_of(row: Record) -> Record:
    """{step: its tally}, in the order of the pipeline; a phase that passed its model on has none."""
    steps = {}
    if "prepare" in row:
        steps["prepare"] = row["prepare"]["seed"]
    if "review" in row:
        generate, select = row["generate"], row["select"]
        steps |= {"review": row["review"]["rows"], "routing": generate["seed"]}
        steps |= {name.replace("_", " "): generate[name] for name in generate if name != "seed"}
        steps |= {"filter": row["filter"]["rows"], "assess": row["assess"]["rows"]}
        steps |= {f"select {name}".replace("_", " "): tally for name, tally in select.items()}
    return steps | {phase: row[phase]["rows"] for phase in ("sft", "dpo") if "rows" in row.get(phase, {})}


def funnel_lines(key: str, row: Record) -> list[str]:
    """Where the rows of an iteration went, a line per step."""
    lines = [f"### Iteration {key}", "", "| step | in | out | dropped |", "| --- | ---: | ---: | --- |"]
    for name, tally in funnel_of(row).items():
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in tally["dropped"].items()) or "–"
        lines.append(f"| {name} | {tally['in']:,} | {tally['out']:,} | {reasons} |")
    return [*lines, ""]


def markdown(summary: Record) -> str:
    rows = summary["iterations"]
    lines = ["# Summary", "", "| " + " | ".join(COLUMNS) + " |", "|" + " ---: |" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells(key, row)) + " |" for key, row in rows.items()]
    lines += ["", "Scores are in percent ± one standard error; a gain is over iteration 0.", ""]
    lines += ["## Warnings", "", *(f"- {line}" for line in summary["warnings"] or ["none"]), "", "## Funnel", ""]
    for key, row in rows.items():
        lines += funnel_lines(key, row)
    return "\n".join(lines).rstrip() + "\n"


def show(summary: Record) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    table = Table(title="LANCE", header_style="bold")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for key, row in summary["iterations"].items():
        table.add_row(*cells(key, row))
    console.print(table)
    for line in summary["warnings"]:
        console.print(f"warning: {line}", style="yellow", highlight=False)


def metrics(summary: Record) -> Record:
    """What `dvc exp show` and `dvc metrics show` read: percent, and points over iteration 0."""
    rows = summary["iterations"]
    return {
        "test": {key: round(row["test"]["score"], 2) for key, row in rows.items()},
        "gain": {key: round(row["gain"]["points"], 2) for key, row in rows.items() if row["parent"] is not None},
    }


def main() -> None:
    summary = summary_of(declared("report")["iterations"])
    write_json(OUT / "summary.json", summary)
    write_json(OUT / "metrics.json", metrics(summary))
    (OUT / "summary.md").write_text(markdown(summary), encoding="utf-8")
    show(summary)


if __name__ == "__main__":
    run(main)
