"""The iterations as a table, in the terminal, in report/summary.md and on the page."""

from stages.core.counts import BenchmarkScore
from stages.reporting.alarms import Alarm
from stages.reporting.summary import IterationRow, Run, funnel, gain_of, listed, scale_in_force, with_interval

COLUMNS = (
    "iteration", "from", "test %", "gain", "validation %", "judging %",
    "seeds", "generated", "kept", "SFT rows", "pairs", "judge right %", "pairs in order %",
)  # fmt: skip
OTHER_METRICS = "Test scores by metrics that are reported beside a benchmark's own; they are not in the suite's score."
CAPTION = "Scores are in percent ± one standard error. A gain is in points over iteration 0, with its 95 % interval."


class Summary(Run):
    """report/summary.json"""

    rules: dict[str, str]  # when each alarm is raised
    alarms: list[Alarm]
    unmeasured: list[str]  # alarms that could not fire, and where
    warnings: list[str]
    verdict: str


def score_text(score: BenchmarkScore | None) -> str:
    """A score with its standard error; empty if there is none."""
    return "" if score is None else f"{score['score']:.1f} ± {score['stderr']:.1f}"


def cells(key: str, row: IterationRow) -> list[str]:
    """One iteration, a cell per column. The last two columns compare with the ground truth of the embedded world; on
    other data they are dashes."""
    test, *scores = map(score_text, (row["test"], row["validation"], row["judging"]))
    if row["parent"] is None:
        seeds = f"{row['prepare']['seed']['out']:,}"
        return [key, "base", test, "", *scores, seeds, "", "", "", "", "", ""]
    select, rows = row["select"], row["filter"]["rows"]
    truth = [row["measure"]["judge_right"]["percent"], row["measure"]["pairs_in_order"]["percent"]]
    return [
        key,
        row["parent"],
        test,
        with_interval(gain_of(row)),
        *scores,
        *(f"{number:,}" for number in (select["seed"]["total"], rows["in"], rows["out"])),
        *(f"{counts['total']:,} (+{counts['new']:,})" for counts in (select["sft"], select["pairs"])),
        *("–" if percent is None else f"{percent:.1f}" for percent in truth),
    ]


def other_metrics(rows: dict[str, IterationRow]) -> list[list[str]]:
    """A header and a line for each iteration: test scores of the benchmarks that are also scored by other metrics, by
    their own metric and by those. Empty if there are none."""
    scored = {key: row["test"]["benchmarks"] for key, row in rows.items()}
    names = {name: list(score["also"]) for name, score in scored["0"].items() if "also" in score}
    if not names:
        return []
    header = [
        "iteration",
        *(title for name, also in names.items() for title in (name, *(f"{name}: {by}" for by in also))),
    ]
    lines = [
        [key, *(score_text(score) for name in names for score in (scores[name], *scores[name]["also"].values()))]
        for key, scores in scored.items()
    ]
    return [header, *lines]


def alarm_line(alarm: Alarm) -> str:
    """An alarm and its advice in one line."""
    return f"iteration {alarm['iteration']}, {alarm['name']}: {alarm['finding']}. {alarm['advice']}"


def markdown(summary: Summary) -> str:
    """report/summary.md."""
    lines = [f"# {summary['verdict']}", "", "| " + " | ".join(COLUMNS) + " |", "|" + " ---: |" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells(key, row)) + " |" for key, row in summary["iterations"].items()]
    but = " that were measured" if summary["unmeasured"] else ""
    alarms = [alarm_line(alarm) for alarm in summary["alarms"]] or [f"none of {', '.join(summary['rules'])}{but}"]
    alarms += [f"not measured: {line}" for line in summary["unmeasured"]]
    lines += [
        "",
        CAPTION,
        scale_in_force(summary["iterations"]),
        "",
        *other_metrics_lines(summary["iterations"]),
        "## Alarms",
        "",
        *(f"- {line}" for line in alarms),
    ]
    lines += ["", "## Warnings", "", *(f"- {line}" for line in summary["warnings"] or ["none"]), "", "## Funnel", ""]
    for key, row in summary["iterations"].items():
        lines += funnel_lines(key, row)
    return "\n".join(lines).rstrip() + "\n"


def other_metrics_lines(rows: dict[str, IterationRow]) -> list[str]:
    """The table of `other_metrics` in Markdown."""
    if not (table := other_metrics(rows)):
        return []
    header, *lines = ("| " + " | ".join(cells) + " |" for cells in table)
    return ["## Other metrics", "", header, "|" + " ---: |" * len(table[0]), *lines, "", OTHER_METRICS, ""]


def funnel_lines(key: str, row: IterationRow) -> list[str]:
    """The rows of an iteration that each step took in, gave out and dropped, as a Markdown table."""
    lines = [f"### Iteration {key}", "", "| step | in | out | dropped |", "| --- | ---: | ---: | --- |"]
    for step, tally in funnel(row).items():
        lines.append(f"| {step} | {tally['in']:,} | {tally['out']:,} | {listed(tally['dropped']) or '–'} |")
    return [*lines, ""]
