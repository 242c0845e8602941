"""The iterations as a table: in the terminal, in report/summary.md and on the page."""

from stages.core.records import Record
from stages.reporting.summary import funnel, interval

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


def markdown(summary: Record) -> str:
    rows = summary["iterations"]
    lines = [f"# {summary['verdict']}", "", "| " + " | ".join(COLUMNS) + " |", "|" + " ---: |" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells(key, row)) + " |" for key, row in rows.items()]
    lines += ["", "Scores are in percent ± one standard error; a gain is over iteration 0, with its 95 % interval.", ""]
    told = [f"iteration {a['iteration']}, {a['name']}: {a['said']}. {a['advice']}" for a in summary["alarms"]]
    told = told or [f"none of {', '.join(summary['rules'])}"]
    lines += ["## Alarms", "", *(f"- {line}" for line in told), ""]
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
