"""Labels as judge-training rows: what people say, in the words of the judge's own reviews."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean

from stages.commands.label.rows import run_rows
from stages.core.errors import UserError
from stages.core.params import Params
from stages.core.progress import say
from stages.core.prompts import verdict_rule
from stages.core.records import write
from stages.core.rows import JudgedCandidate, JudgeTrainingPair, ReviewedSeed
from stages.core.verdict import Verdict
from stages.data.labels import read_labels

CLOSE = 0.5  # a review's score says the same as people's if it is no farther from it


class Reviews:
    """The judge's reviews of a run: of each row, and the closing words of all by their score."""

    def __init__(self, rows: Iterable[ReviewedSeed | JudgedCandidate], rule: Verdict) -> None:
        self.rows: dict[str, ReviewedSeed | JudgedCandidate] = {}
        self.of_row: dict[str, dict[str, float]] = {}
        self.closings: dict[str, float] = {}
        for row in rows:
            self.rows[row["id"]] = row
            for review in row["reviews"]:
                score = rule.total(review["text"])
                if score is None:
                    continue
                self.of_row.setdefault(row["id"], {})[review["text"]] = score
                parts = rule.read(review["text"])
                if not parts:
                    continue
                closing = review["text"][min(part.start for part in parts) :].strip()
                if rule.total(closing) == score:
                    self.closings[closing] = score

    def saying(self, row: str, score: float) -> str | None:
        """A review of the row that gives people's score, with the judge's reasons. Where the judge gave no such one its
        reasons argue for another score, so the verdict stands alone, in words that it closed another review with. None
        if it never gave such a score."""
        return _nearest(self.of_row.get(row, {}), score) or _nearest(self.closings, score)


def _nearest(texts: dict[str, float], score: float) -> str | None:
    """The text whose score is nearest to a score, the first by alphabet of equal ones; None if none is close."""
    close = [(abs(other - score), text) for text, other in texts.items() if abs(other - score) <= CLOSE]
    return min(close)[1] if close else None


def training_rows(people: dict[str, float], reviews: Reviews, left_out: Counter[str]) -> Iterator[JudgeTrainingPair]:
    """A judge-training row for each labelled response. `people`: their mean score by the row's id."""
    for key, score in sorted(people.items()):
        if key not in reviews.rows:
            left_out["of no row in this run"] += 1
        elif (review := reviews.saying(key, score)) is None:
            left_out["with a score that the judge never gave"] += 1
        else:
            row = reviews.rows[key]
            yield {"prompt": row["prompt"], "response": row["response"], "review": review}


def write_reviews(params: Params, path: Path) -> None:
    """Write the labelled responses of this run to a file for seed.reviews. Raises `UserError` if there are none, or if
    the file cannot be written."""
    scores: dict[str, list[float]] = {}
    for labels in read_labels().values():
        for label in labels.values():
            if isinstance(label.label, int):
                scores.setdefault(label.shown[0], []).append(label.label)
    if not scores:
        raise UserError("labels/ has no labels of responses; give some, with lance label")
    rows: list[ReviewedSeed | JudgedCandidate] = []
    for _, seeds, candidates in run_rows(params):
        rows += [*seeds, *candidates]
    left_out: Counter[str] = Counter()
    people = {key: fmean(of_row) for key, of_row in scores.items()}
    written = list(training_rows(people, Reviews(rows, verdict_rule(params["prompts"])), left_out))
    reasons = "".join(f"; {number:,} left out, {reason}" for reason, number in sorted(left_out.items()))
    if not written:
        raise UserError(f"--reviews {path}: no labelled response can be written, and the file is left alone{reasons}")
    try:
        write(path, written)
    except OSError as error:
        raise UserError(f"--reviews {path}: {error.strerror}; name a file") from None
    say(f"{path}: {len(written):,} judge-training rows from {len(people):,} labelled responses{reasons}")
