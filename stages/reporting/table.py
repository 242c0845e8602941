"""The iterations as a table, in the terminal, in report/summary.md and on the page."""

from typing import NamedTuple

from stages.core.counts import BenchmarkScore
from stages.reporting import people
from stages.reporting.alarms import Alarm
from stages.reporting.people import share_text
from stages.reporting.summary import (
    IterationRow,
    Run,
    funnel,
    gain_of,
    judged_right,
    listed,
    scale_in_force,
    with_interval,
)

COLUMNS = (
    "iteration", "from", "test %", "gain", "validation %", "judging %",
    "seeds", "generated", "kept", "SFT rows", "pairs", "judge right %", "pairs in order %",
)  # fmt: skip
JUDGING = (
    "How often the iteration's own model scores the better of two responses higher, by kind of pair, in percent; 50 is "
    "chance. All: the mean over the kinds, with its 95 % interval. Another's response and half a response: of the seed "
    "set; the others: right and wrong answers to the benchmark's items."
)
VERIFIERS = (
    "By the checks of the seed rows, in percent with the 95 % interval. Judge: of two responses to a prompt, of which "
    "one passes and one fails, its own reviews score the former higher; 50 is chance."
)
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


class Detail(NamedTuple):
    """A further table: its title, its rows with the header first, and a note on it."""

    title: str
    rows: list[list[str]]
    note: str


def details(summary: Run) -> list[Detail]:
    """The tables that follow the iterations', without empty ones."""
    rows = summary["iterations"]
    tables = [Detail("Judging", judging(rows), JUDGING), Detail("Verifiers", verifiers(rows), VERIFIERS)]
    if "people" in summary:
        run = summary["people"]
        tables += [
            Detail("The judge and people", people.agreement_table(rows, run), people.note(run)),
            Detail("Bounds that would agree best with people", people.bounds_table(run), people.BOUNDS),
        ]
    tables.append(Detail("Other metrics", other_metrics(rows), OTHER_METRICS))
    return [table for table in tables if table.rows]


def judging(rows: dict[str, IterationRow]) -> list[list[str]]:
    """A header and a line for each iteration: how its model judges pairs. Empty if the suite has judging benchmarks of
    its own."""
    scores = {key: row["judging"] for key, row in rows.items() if row["judging"] and "chance" in row["judging"]}
    kinds = list(dict.fromkeys(kind for score in scores.values() for kind in score["benchmarks"]))
    header = ["iteration", "all", *(kind.removeprefix("judging ") for kind in kinds)]
    lines = [
        [key, judged_right(score), *(score_text(score["benchmarks"].get(kind)) for kind in kinds)]
        for key, score in scores.items()
    ]
    return [header, *lines] if lines else []


def verifiers(rows: dict[str, IterationRow]) -> list[list[str]]:
    """A header and a line for each iteration: what the verifiers know. Empty if no candidate has a check."""
    counts = {key: row["measure"]["verifiers"] for key, row in rows.items() if "verifiers" in row.get("measure", {})}
    header = ["iteration", "judge in order", "SFT rows passing", "pairs in order", "not carried out"]
    lines = [
        [
            key,
            *map(share_text, (row["judge_in_order"], row["sft_rows_passing"], row["pairs_in_order"])),
            listed(row["problems"]) or "–",
        ]
        for key, row in counts.items()
    ]
    return [header, *lines] if lines else []


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
        *(line for detail in details(summary) for line in detail_lines(detail)),
        "## Alarms",
        "",
        *(f"- {line}" for line in alarms),
    ]
    lines += ["", "## Warnings", "", *(f"- {line}" for line in summary["warnings"] or ["none"]), "", "## Funnel", ""]
    for key, row in summary["iterations"].items():
        lines += funnel_lines(key, row)
    return "\n".join(lines).rstrip() + "\n"


def detail_lines(detail: Detail) -> list[str]:
    """A further table in Markdown."""
    header, *lines = ("| " + " | ".join(cells) + " |" for cells in detail.rows)
    return [f"## {detail.title}", "", header, "|" + " ---: |" * len(detail.rows[0]), *lines, "", detail.note, ""]


def funnel_lines(key: str, row: IterationRow) -> list[str]:
    """The rows of an iteration that each step took in, gave out and dropped, as a Markdown table."""
    lines = [f"### Iteration {key}", "", "| step | in | out | dropped |", "| --- | ---: | ---: | --- |"]
    for step, tally in funnel(row).items():
        lines.append(f"| {step} | {tally['in']:,} | {tally['out']:,} | {listed(tally['dropped']) or '–'} |")
    return [*lines, ""]
