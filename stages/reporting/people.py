"""What people's labels say of the judge, in words and tables. `run`: the counts of all iterations together."""

from stages.core.counts import Agreement, Correlation, Interval, PeopleCounts
from stages.core.records import Record
from stages.reporting.summary import IterationRow

AGREEMENT = (
    "The judge against people's labels, with 95 % intervals. Rank correlation (Spearman) of the labelled rows: 1 is "
    "the same order, 0 is chance; they are drawn evenly over the judge's scores, and over all rows it is lower. V and "
    "SFT score: how often the judge and people put a row on the same side of threshold and of select.min_sft_score. "
    "Pairs in order: how often people prefer the response that the judge does, of pairs above select.min_margin; a tie "
    "counts half. The shares weigh each label by the rows that it stands for. Between people: "
    "the same of two people."
)
BOUNDS = (
    "Where the judge's bound would agree best with what people put above the present one: the highest lower end of the "
    "interval. The best of many bounds is rather too good: take it if the whole interval of the gain is above 0. Rows: "
    "seeds above V, which yield flawed responses instead of new instructions; SFT rows and pairs before "
    "select.max_sft, max_pairs, agreement and max_spread."
)
NAMES = {"threshold": "threshold (V)", "min_sft_score": "select.min_sft_score", "min_margin": "select.min_margin"}
ROWS = {"threshold": "seeds", "min_sft_score": "SFT rows", "min_margin": "pairs"}


def agreement_table(rows: dict[str, IterationRow], run: PeopleCounts) -> list[list[str]]:
    """A header and a line for each iteration, for all of them, and for people among themselves."""
    counts = {key: row["measure"]["people"] for key, row in rows.items() if "people" in row.get("measure", {})}
    lines = [line(key, one["judge"], one) for key, one in counts.items()]
    if len(counts) > 1:
        lines.append(line("all", run["judge"], run))
    if run["between"]:
        lines.append(line("between people", run["between"]))
    header = ["iteration", "labelled rows", "labelled pairs", "rank correlation"]
    return [[*header, "right at V %", "right at the SFT score %", "pairs in order %"], *lines]


def line(title: str, agreement: Agreement, counts: PeopleCounts | None = None) -> list[str]:
    """A line of the table of agreement."""
    sizes = [f"{len({row['id'] for row in counts['rows']}):,}", f"{len(counts['pairs']):,}"] if counts else ["", ""]
    shares = agreement["threshold"], agreement["min_sft_score"], agreement["min_margin"]
    return [title, *sizes, correlation_text(agreement["rank"]), *map(share_text, shares)]


def bounds_table(run: PeopleCounts) -> list[list[str]]:
    """A header and a line for each bound: where the judge would agree best with people, and what that costs."""
    lines = []
    for name, best in run["best"].items():
        above, there = best["rows"]
        low, high = best["low"], best["high"]
        ends = "no interval" if low is None or high is None else f"{low:+.1f}, {high:+.1f}"
        gain = "–" if best["points"] is None else f"{best['points']:+.1f} [{ends}]"
        lines.append(
            [
                NAMES[name],
                f"{run['bounds'][name]['now']:g}",
                share_text(best["now"]),
                f"{best['bound']:g}",
                share_text(best["agreement"]),
                gain,
                f"{above:,} → {there:,} {ROWS[name]}",
            ]
        )
    header = ["parameter", "now", "agreement now %", "best", "agreement there %", "gain, points", "rows above it"]
    return [header, *lines] if lines else []


def note(run: PeopleCounts) -> str:
    """Who labelled how much, and what the table says."""
    number = run["elsewhere"]
    rows = "is of a row" if number == 1 else "are of rows"
    elsewhere = f" {number:,} of them {rows} that this run does not have." if number else ""
    people = "1 person" if run["people"] == 1 else f"{run['people']} people"
    return f"{run['labels']:,} labels; {people} labelled rows of this run.{elsewhere} {AGREEMENT}"


def metrics(run: PeopleCounts) -> Record:
    """For report/metrics.json: the judge's agreement with people in all iterations, and people's with each other."""
    record = {"labels": run["labels"], "elsewhere": run["elsewhere"], **numbers(run["judge"])}
    return {**record, "between": numbers(run["between"])} if run["between"] else record


def numbers(agreement: Agreement) -> Record:
    """A rank correlation with its interval, and shares in percent."""
    rank = agreement["rank"]
    return {
        "rank": rank["rank"],
        "low": rank["low"],
        "high": rank["high"],
        "right_at_v": agreement["threshold"]["percent"],
        "right_at_sft_score": agreement["min_sft_score"]["percent"],
        "pairs_in_order": agreement["min_margin"]["percent"],
    }


def correlation_text(correlation: Correlation) -> str:
    """A rank correlation with its interval, and of how many rows; a dash if there is none."""
    if correlation["rank"] is None:
        return "–"
    low, high = correlation["low"], correlation["high"]
    ends = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    return f"{correlation['rank']:.2f}{ends} of {correlation['of']:,}"


def share_text(share: Interval) -> str:
    """A share with its interval, and what it is of; a dash if it is of nothing."""
    if share["percent"] is None:
        return "–"
    ends = "" if share["low"] is None else f" [{share['low']:.1f}, {share['high']:.1f}]"
    return f"{share['percent']:.1f}{ends} of {share['of']:,}"
