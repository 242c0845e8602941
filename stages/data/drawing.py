"""What people are shown: rows drawn evenly over the judge's scores, routes and iterations, and what a row stands for.

Rows of one iteration, route and rounded score are a stratum. Rare scores are drawn as often as frequent ones, so a
labelled row stands for as many rows as its stratum has for each labelled one: that is its weight.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from stages.core.counts import LabelledPair, LabelledRow
from stages.core.records import Tally, content_id
from stages.core.rows import WITHOUT_JUDGE, JudgedCandidate, ReviewedSeed
from stages.data.labels import Label, Labels
from stages.data.preference_pairs import pools, preference_pairs
from stages.data.scale import scale_of
from stages.data.votes import FinalAnswer

Stratum = tuple[str, str]


@dataclass(frozen=True)
class JudgedResponse:
    """A response that the judge has scored: a seed's, or a candidate's."""

    id: str
    prompt: str
    response: str
    iteration: str
    route: str  # "seed", or the candidate's
    score: float
    compared: float  # the score on `review.scale`

    @property
    def key(self) -> tuple[str, ...]:
        """Its id, as labels have it."""
        return (self.id,)

    @property
    def stratum(self) -> Stratum:
        """The route in its iteration, and the rounded score."""
        return f"{self.iteration} {self.route}", f"{self.score:.0f}"


@dataclass(frozen=True)
class JudgedPair:
    """Two responses to a prompt that the judge scores differently."""

    chosen_id: str
    rejected_id: str
    prompt: str
    chosen: str
    rejected: str
    iteration: str
    margin: float  # on `review.scale`

    @property
    def key(self) -> tuple[str, ...]:
        """Both ids, as labels have them."""
        return tuple(sorted((self.chosen_id, self.rejected_id)))

    @property
    def stratum(self) -> Stratum:
        """The iteration and the rounded margin."""
        return self.iteration, f"{self.margin:.0f}"


def is_judged(row: ReviewedSeed | JudgedCandidate) -> bool:
    """Whether a judge gave the row's score: not a check, which also vetoes a judge's, nor votes or origin."""
    return row.get("judge") not in (None, *WITHOUT_JUDGE) and row.get("passed") is not False


def judged_responses(
    iteration: str, seeds: Sequence[ReviewedSeed], candidates: Sequence[JudgedCandidate], scale: str
) -> list[JudgedResponse]:
    """The scored responses of an iteration: its reviewed seed set, and its assessed candidates. `scale`: review.scale,
    in the distributions in which generate and select compare."""
    of_seeds = [row["score"] for row in seeds]
    seed_scale = scale_of(scale, of_seeds)
    candidate_scale = scale_of(scale, [*of_seeds, *(row["score"] for row in candidates)])
    rows = [
        *((row, "seed", seed_scale) for row in seeds if is_judged(row)),
        *((row, row["route"], candidate_scale) for row in candidates if is_judged(row)),
    ]
    return [
        JudgedResponse(
            row["id"], row["prompt"], row["response"], iteration, route, row["score"], on_scale(row["score"])
        )
        for row, route, on_scale in rows
        if row["score"] is not None
    ]


def judged_pairs(
    iteration: str,
    seeds: list[ReviewedSeed],
    candidates: list[JudgedCandidate],
    scale: str,
    kind: Literal["all", "extremes"],
    final_answer: FinalAnswer,
) -> list[JudgedPair]:
    """The pairs of an iteration as select makes them (`kind`: select.pairs), whatever their margin is above 0."""
    on_scale = scale_of(scale, [row["score"] for row in [*seeds, *candidates]])
    rows = preference_pairs(pools(seeds, candidates), iteration, 0.0, Tally(0), on_scale, kind, final_answer)
    pairs = [
        JudgedPair(
            content_id(row["prompt"], row["chosen"]),
            content_id(row["prompt"], row["rejected"]),
            row["prompt"],
            row["chosen"],
            row["rejected"],
            iteration,
            row["margin"],
        )
        for row in rows
    ]
    judged = {row["id"] for row in seeds if is_judged(row)} | {row["id"] for row in candidates if is_judged(row)}
    return [pair for pair in pairs if judged.issuperset(pair.key)]


Drawable = TypeVar("Drawable", JudgedResponse, JudgedPair)


def evenly(rows: Iterable[Drawable], number: int, random_state: int) -> list[Drawable]:
    """At most `number` different rows, drawn one by one from the stratum whose route and score, or iteration and
    margin, were drawn least. A longer draw begins with a shorter one."""
    different = {row.key: row for row in reversed(list(rows))}.values()  # the first of equal ones
    strata: dict[Stratum, list[tuple[str, Drawable]]] = {}
    for row in different:
        strata.setdefault(row.stratum, []).append((content_id(str(random_state), *row.key), row))
    for ranked in strata.values():
        ranked.sort(key=lambda entry: entry[0], reverse=True)
    drawn: list[Drawable] = []
    levels: Counter[tuple[int, str]] = Counter()
    while strata and len(drawn) < number:
        least = min(
            strata, key=lambda stratum: (sum(levels[level] for level in enumerate(stratum)), strata[stratum][-1][0])
        )
        drawn.append(strata[least].pop()[1])
        levels.update(enumerate(least))
        if not strata[least]:
            del strata[least]
    return drawn


def labelled_rows(rows: Sequence[JudgedResponse], people: dict[str, Labels]) -> list[LabelledRow]:
    """The labelled ones of an iteration's responses, with people's scores."""
    return [
        {
            "id": row.id,
            "route": row.route,
            "score": row.score,
            "compared": round(row.compared, 4),
            "weight": weight,
            "labels": {name: int(label.label) for name, label in labels.items()},
        }
        for row, weight, labels in _labelled(rows, people)
    ]


def labelled_pairs(pairs: Sequence[JudgedPair], people: dict[str, Labels]) -> list[LabelledPair]:
    """The labelled ones of an iteration's pairs, with what people prefer."""
    return [
        {
            "chosen": pair.chosen_id,
            "rejected": pair.rejected_id,
            "margin": pair.margin,
            "weight": weight,
            "labels": {name: label.share_of(pair.chosen_id) for name, label in labels.items()},
        }
        for pair, weight, labels in _labelled(pairs, people)
    ]


def _labelled(
    rows: Sequence[Drawable], people: dict[str, Labels]
) -> Iterator[tuple[Drawable, float, dict[str, Label]]]:
    """Each row that people have labelled, with its weight and their labels."""
    words = [{name: labels[row.key] for name, labels in people.items() if row.key in labels} for row in rows]
    sizes = Counter(row.stratum for row in rows)
    numbers = Counter(row.stratum for row, labels in zip(rows, words, strict=True) if labels)
    for row, labels in zip(rows, words, strict=True):
        if labels:
            yield row, round(sizes[row.stratum] / numbers[row.stratum], 4), labels
