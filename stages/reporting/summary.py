"""What the loop did: the counts and scores of every iteration in one record, and what follows from them in words."""

import json
from pathlib import Path
from typing import Literal, NotRequired, TypedDict, cast

from stages.core.counts import (
    BenchmarkScore,
    Counts,
    FilterCounts,
    GenerateCounts,
    MeasureCounts,
    PeopleCounts,
    PrepareCounts,
    ReviewCounts,
    SelectCounts,
    SuiteScore,
    TrainingCounts,
)
from stages.core.errors import UserError
from stages.core.records import Record, read
from stages.core.rows import ItemScore, Part
from stages.evaluation.bootstrap import Difference, difference, mean_score, of_one_group
from stages.evaluation.people import pooled

RESULTS = Path("results")
PARTS: tuple[Part, Part] = ("test", "validation")
WARM_START = ("prepare", "sft")
JUDGING: tuple[Literal["review", "assess"], ...] = ("review", "assess")
LEAST_ON_SCORES = 0.5  # of the probability behind elicited words
LOOP = ("review", "generate", "filter", "assess", "select", "sft", "dpo", "measure")


def load(path: Path) -> Record:
    """A JSON file that a stage wrote. Raises `UserError` if it is missing."""
    if not path.exists():
        raise UserError(f"{path} is missing; run dvc repro to make it")
    record: Record = json.loads(path.read_text(encoding="utf-8"))
    return record


class Gain(TypedDict):
    """Points over the warm start on the test items, with the ends of the 95 % interval; None: there is none."""

    points: float
    low: float | None
    high: float | None


class IterationRow(TypedDict):
    """Everything about one iteration: its scores and the counts of its stages."""

    parent: str | None  # None: the warm start, which has `prepare` and `sft` alone
    test: SuiteScore
    validation: SuiteScore
    judging: SuiteScore | None
    evaluate: NotRequired[Record]  # its counts of reasoning, if there was some
    gain: Gain | None
    prepare: NotRequired[PrepareCounts]
    review: NotRequired[ReviewCounts]
    generate: NotRequired[GenerateCounts]
    filter: NotRequired[FilterCounts]
    assess: NotRequired[ReviewCounts]
    select: NotRequired[SelectCounts]
    sft: TrainingCounts
    dpo: NotRequired[TrainingCounts]
    measure: NotRequired[MeasureCounts]


class Run(TypedDict):
    """All iterations of a run."""

    best: str  # by validation
    iterations: dict[str, IterationRow]
    people: NotRequired[PeopleCounts]  # what they say of all iterations' rows; missing without labels


class Scores:
    """The score of every item in every iteration, to compare iterations item by item."""

    def __init__(self, iterations: Record, benchmarks: set[str]) -> None:
        """Read results/ITERATION/scores.jsonl of the warm start and of these iterations. `benchmarks` are those that
        the suite's score is the mean of; items of others are ignored."""
        self.parents = {key: str(iteration["parent"]) for key, iteration in iterations.items()}
        self._rows = {key: read(RESULTS / key / "scores.jsonl", ItemScore) for key in ["0", *iterations]}
        self._benchmarks = benchmarks

    def items(self, iteration: str, part: Part) -> list[ItemScore]:
        """The scored items of a part, `validation` or `test`."""
        rows = self._rows[iteration]
        return [row for row in rows if row["part"] == part and row["benchmark"] in self._benchmarks]

    def ancestry(self, iteration: str) -> list[str]:
        """The chain from the warm start to this iteration, both included."""
        return ["0"] if iteration == "0" else [*self.ancestry(self.parents[iteration]), iteration]

    def leaves(self) -> list[str]:
        """The iterations that no other one continues."""
        return [key for key in self.parents if key not in self.parents.values()]

    def validation(self, iteration: str) -> float:
        """The suite's validation score, in percent."""
        return mean_score(self.items(iteration, "validation"))

    def best_of(self, iterations: list[str]) -> str:
        """The best iteration by validation; the earliest of equals."""
        return max(iterations, key=self.validation)

    def difference(self, iteration: str, baseline: str, part: Part, confidence: float = 0.95) -> Difference:
        """By how many points an iteration is better than another one on the same items, with the interval of a paired
        bootstrap."""
        return difference(self.items(iteration, part), self.items(baseline, part), confidence)

    def of_one_group(self, part: Part) -> list[str]:
        """The benchmarks whose items in this part are all of one group, so that differences have no interval."""
        return of_one_group(self.items("0", part))


def collect(iterations: Record) -> tuple[Run, Scores]:
    """The run, and the scores of all items.

    `iterations` is the tree of params.yaml. The warm start comes first, as "0". Raises `UserError` if a result is
    missing.
    """
    benchmarks = set(load(RESULTS / "0" / "evaluate.json")["test"]["benchmarks"])
    scores = Scores(iterations, benchmarks)
    rows = {"0": iteration_row("0", None, scores)}
    rows |= {key: iteration_row(key, scores.parents[key], scores) for key in iterations}
    run: Run = {"best": scores.best_of(list(rows)), "iterations": rows}
    if people := [row["measure"]["people"] for row in rows.values() if "people" in row.get("measure", {})]:
        run["people"] = pooled(people)
    return run, scores


def iteration_row(iteration: str, parent: str | None, scores: Scores) -> IterationRow:
    """Everything about one iteration: parent, scores, gain over the warm start in points of the test score, and the
    counts of its stages. The warm start has neither parent nor gain."""
    evaluation = load(RESULTS / iteration / "evaluate.json")
    stages = WARM_START if parent is None else LOOP
    row = {
        "parent": parent,
        **{name: evaluation[name] for name in ("test", "validation", "judging")},
        **({"evaluate": {"reasoning": evaluation["reasoning"]}} if "reasoning" in evaluation else {}),
        "gain": None if parent is None else vars(scores.difference(iteration, "0", "test")),
        **{stage: load(RESULTS / iteration / f"{stage}.json") for stage in stages},
    }
    return cast(IterationRow, row)


def verdict(summary: Run, declined: list[str]) -> str:
    """The result in one sentence: the best iteration by validation with its gain on test, the iterations that declined,
    and where the chain was stopped."""
    best, rows = summary["best"], summary["iterations"]
    if best == "0":
        sentence = "No iteration beats the warm start on validation"
    else:
        gain = gain_of(rows[best])
        chance = ", which may be chance" if may_be_chance(gain) else ""
        sentence = f"Iteration {best} is best on validation: test {with_interval(gain)} points over the warm start"
        sentence += chance
    if declined:
        sentence += f"; iteration{'s' if len(declined) > 1 else ''} {', '.join(declined)} declined"
    if stopped := [key for key, row in rows.items() if is_stopped(row)]:
        sentence += f"; the chain was stopped before {', '.join(stopped)}"
    return f"{sentence}."


def gain_of(row: IterationRow) -> Gain:
    """The gain of an iteration; the warm start's is 0."""
    return row["gain"] or {"points": 0.0, "low": 0.0, "high": 0.0}


def may_be_chance(gain: Gain) -> bool:
    """Whether the interval contains 0, or there is none."""
    return gain["low"] is None or gain["high"] is None or gain["low"] <= 0 <= gain["high"]


def is_stopped(row: IterationRow) -> bool:
    """Whether the chain was stopped before this iteration, so that it did not run."""
    return "review" in row and row["review"].get("stopped", False)


def with_interval(gain: Gain) -> str:
    """Points with their interval, such as +32.3 [+28.9, +35.8]."""
    if gain["low"] is None or gain["high"] is None:
        return f"{gain['points']:+.1f} [no interval]"
    return f"{gain['points']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]"


def funnel(row: IterationRow) -> dict[str, Counts]:
    """{step: its counts}, in the order of the pipeline. A phase of training that copied
    its input model has no step."""
    steps: dict[str, Counts] = {}
    if "prepare" in row:
        steps |= {"seed rows": row["prepare"]["seed"], "judge-training rows": row["prepare"]["judge"]}
    if "review" in row:
        steps |= {"review": row["review"]["rows"], "routing": row["generate"]["seed"]}
        samples = {
            name: counts for name, counts in row["generate"].items() if name not in ("seed", "ranks", "reasoning")
        }
        steps |= {name.replace("_", " "): cast(Counts, counts) for name, counts in samples.items()}
        steps |= {"filter": row["filter"]["rows"], "assess": row["assess"]["rows"]}
        if "screening" in row["select"]:
            steps["select candidates"] = row["select"]["screening"]["candidates"]
        others = ("screening", "ranks", "examples")
        selected = {name: counts for name, counts in row["select"].items() if name not in others}
        steps |= {f"select {name.replace('_', ' ')}": cast(Counts, counts) for name, counts in selected.items()}
    return steps | {phase: counts["rows"] for phase, counts in trainings(row).items() if "rows" in counts}


def scale_in_force(rows: dict[str, IterationRow]) -> str:
    """How scores were compared with the threshold, the SFT score and the margin (review.scale), as a sentence."""
    by_rank = any("ranks" in row["select"] for row in rows.values() if "select" in row)
    if not by_rank:
        return "Threshold, SFT score and margin are compared with the judge's scores, 0–10 (review.scale: absolute)."
    return (
        "Threshold, SFT score and margin are compared with ranks (review.scale: quantile): 10 times the share of the "
        "judge's scores in the iteration that are lower, so 7 means above 70 % of them."
    )


def trainings(row: IterationRow) -> dict[str, TrainingCounts]:
    """The counts of sft and, after the warm start, dpo."""
    return {"sft": row["sft"], **({"dpo": row["dpo"]} if "dpo" in row else {})}


def listed(reasons: dict[str, int]) -> str:
    """Reasons of drops with their numbers of rows, as text; empty if there are none."""
    return ", ".join(f"{reason} {rows:,}" for reason, rows in reasons.items())


def warnings(rows: dict[str, IterationRow]) -> list[str]:
    """What lessens the weight of a result: iterations and phases that did nothing, and rows lost for technical
    reasons."""
    return [f"iteration {key}: {line}" for key, row in rows.items() for line in _warnings(row)]


def interval_warnings(scores: Scores) -> list[str]:
    """What cannot be told from chance, since a benchmark has a single group of items."""
    unknown = {"test": "gains", "validation": "changes of validation"}
    of_part = {part: scores.of_one_group(part) for part in PARTS}
    return [
        f"{unknown[part]} have no interval: the {part} items of {', '.join(names)} are all of one group; raise "
        "evaluate.limit"
        for part, names in of_part.items()
        if names
    ]


def _warnings(row: IterationRow) -> list[str]:
    if is_stopped(row):
        return ["did not run, since the chain was stopped (evaluate.stop_on)"]
    judged = [*_judging_warnings(row), *_judge_warnings(row), *_elicited_warnings(row), *_reasoning_warnings(row)]
    lines = [*_training_warnings(row), *_text_warnings(row), *judged, *_screening_warnings(row)]
    if "filter" in row and not row["filter"]["rows"]["out"]:
        lines.append("the filter kept no rows")
    return lines


def _judging_warnings(row: IterationRow) -> list[str]:
    judging = row["judging"]
    if not judging or "chance" not in judging or _low(judging) > judging["chance"]:
        return []
    return [
        f"its model scores the better of two responses higher in {judged_right(judging)} % of the pairs whose better "
        f"one is known, which may be chance ({judging['chance']:.0f} %): its scores select at random"
    ]


def judged_right(score: BenchmarkScore) -> str:
    """A judging score in percent with its 95 % interval, such as 71.5 [60.2, 82.8]."""
    high = min(100.0, 2 * score["score"] - _low(score))
    return f"{score['score']:.1f} [{max(0.0, _low(score)):.1f}, {high:.1f}]"


def _low(score: BenchmarkScore) -> float:
    """The lower end of a score's 95 % interval, by its standard error."""
    return score["score"] - 1.96 * score["stderr"]


def _training_warnings(row: IterationRow) -> list[str]:
    lines = []
    for phase, counts in trainings(row).items():
        if "passed_on" in counts:
            lines.append(f"{phase} copied its input model: {counts['passed_on']}")
        elif lost := counts["rows"]["dropped"].get("does not fit the context"):
            lines.append(f"{lost:,} rows of {phase} did not fit the context")
    return lines


def _text_warnings(row: IterationRow) -> list[str]:
    """What was not read of a text, or was cut from it."""
    noted = row["prepare"].get("noted", {}) if "prepare" in row else {}
    claims = {stage: row[stage].get("claims", 0) for stage in ("review", "assess") if stage in row}
    return [
        *(f"{rows:,} rows of prepare: {remark}" for remark, rows in noted.items()),
        *(
            f"{rows:,} rows of {stage} were judged without something that could be taken for a verdict"
            for stage, rows in claims.items()
            if rows
        ),
    ]


def _judge_warnings(row: IterationRow) -> list[str]:
    if "review" not in row:
        return []
    tallies = {stage: row[stage]["rows"] for stage in JUDGING}
    lost = {stage: sum(tally["dropped"].values()) for stage, tally in tallies.items()}
    return [
        f"{lost[stage]:,} of {tally['in']:,} rows in {stage} have no score: {listed(tally['dropped'])}"
        for stage, tally in tallies.items()
        if lost[stage]
    ]


def _screening_warnings(row: IterationRow) -> list[str]:
    """Instructions and rows that were kept because nothing is known about them."""
    screening = row["select"].get("screening") if "select" in row else None
    of_agreement, of_spread = screening and screening.get("agreement"), screening and screening.get("spread")
    lines = []
    if of_agreement and of_agreement["unknown"]:
        lines.append(
            f"select.agreement did not decide about {of_agreement['unknown']:,} of {of_agreement['instructions']:,} "
            "instructions, with fewer than two final answers that can be read (final_answer.yaml)"
        )
    if of_spread and of_spread["unknown"]:
        lines.append(
            f"select.max_spread did not decide about {of_spread['unknown']:,} of {of_spread['rows']:,} rows, with "
            "fewer than two verdicts that can be read"
        )
    return lines


def _elicited_warnings(row: IterationRow) -> list[str]:
    if "review" not in row:
        return []
    shares = {stage: row[stage].get("on_scores", 1.0) for stage in JUDGING}
    return [
        f"in {stage} only {share:.0%} of the judge's probability behind the elicited words lies on scores, so the mean "
        "rests on little; let it write its reasons first (review.max_tokens), or adapt prompts/<set>/review"
        for stage, share in shares.items()
        if share < LEAST_ON_SCORES
    ]


def _reasoning_warnings(row: IterationRow) -> list[str]:
    counts = cast(dict[str, Record], row)
    reasoning = {
        stage: counts.get(stage, {}).get("reasoning") for stage in ("review", "generate", "assess", "evaluate")
    }
    return [
        f"{counted['completions']:,} completions of {stage} had reasoning before their answer, which is kept apart; "
        f"{counted['completions'] - counted['answers']:,} of them had no answer"
        for stage, counted in reasoning.items()
        if counted
    ]
