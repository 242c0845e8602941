"""What `select` leaves out before it makes its sets: instructions by `select.agreement`, rows by `select.max_spread`.

An instruction of which too few responses agree is likely ill-posed, or beyond the model; one of which all agree teaches
nothing. A row whose verdicts lie far apart is one that the judge cannot decide.
"""

from collections.abc import Mapping, Sequence
from statistics import pstdev
from typing import Any

from stages.core.counts import AgreementCounts, ScreeningCounts, SpreadCounts
from stages.core.records import Tally
from stages.core.rows import Candidate, JudgedCandidate
from stages.data.lineage import verdicts
from stages.data.preference_pairs import Response
from stages.data.votes import FinalAnswer, agreements

BELOW = "agreement below select.agreement"
ABOVE = "agreement above select.agreement"
UNDECIDED = "judge undecided (select.max_spread)"


def spread(verdicts: Sequence[float | None]) -> float | None:
    """The standard deviation of the verdicts (of the population, as everywhere), 0–5; None if fewer than two of them
    can be read."""
    readable = [verdict for verdict in verdicts if verdict is not None]
    return round(pstdev(readable), 4) if len(readable) > 1 else None


def outside(agreement: float | None, band: Sequence[float]) -> str | None:
    """Why an instruction is dropped; None: it is kept. The band's ends lie within it, and so does what is unknown."""
    low, high = band
    if agreement is None or low <= agreement <= high:
        return None
    return BELOW if agreement < low else ABOVE


def agreeing(
    candidates: list[JudgedCandidate], agreements: Mapping[str, float | None], band: Sequence[float], tally: Tally
) -> tuple[list[JudgedCandidate], AgreementCounts]:
    """The candidates to instructions whose agreement lies in the band or is not known, and how many instructions do
    not. An instruction is dropped with all its candidates, flawed ones too."""
    known = {row["prompt"]: agreements[row["prompt"]] for row in candidates if row["prompt"] in agreements}
    reasons = {prompt: reason for prompt, share in known.items() if (reason := outside(share, band))}
    for row in candidates:
        if row["prompt"] in reasons:
            tally.drop(reasons[row["prompt"]], [row])
    dropped = list(reasons.values())
    counts: AgreementCounts = {
        "instructions": len(known),
        "below": dropped.count(BELOW),
        "above": dropped.count(ABOVE),
        "unknown": list(known.values()).count(None),
    }
    return [row for row in candidates if row["prompt"] not in reasons], counts


def decided(
    candidates: list[JudgedCandidate], max_spread: float, tally: Tally
) -> tuple[list[JudgedCandidate], SpreadCounts]:
    """The candidates whose verdicts spread by at most `max_spread` or an unknown amount, and how many do not."""
    spreads = [spread(verdicts(row)) for row in candidates]
    wide = [row for row, width in zip(candidates, spreads, strict=True) if width is not None and width > max_spread]
    tally.drop(UNDECIDED, wide)
    kept = [row for row, width in zip(candidates, spreads, strict=True) if width is None or width <= max_spread]
    return kept, {"rows": len(candidates), "undecided": len(wide), "unknown": spreads.count(None)}


def screened(
    candidates: list[JudgedCandidate],
    generated: list[Candidate],
    settings: dict[str, Any],
    final_answer: FinalAnswer,
    tally: Tally,
) -> tuple[list[JudgedCandidate], ScreeningCounts | None]:
    """The candidates that `select.agreement` and then `select.max_spread` keep, and the counts; None where both are
    null. `generated`: the candidates before the filter."""
    band, max_spread = settings["agreement"], settings["max_spread"]
    if band is None and max_spread is None:
        return candidates, None
    kept, of_agreement, of_spread = candidates, None, None
    if band is not None:
        kept, of_agreement = agreeing(kept, agreements(generated, final_answer), band, tally)
    if max_spread is not None:
        kept, of_spread = decided(kept, max_spread, tally)
    counts: ScreeningCounts = {"candidates": tally.counts(len(kept))}
    if of_agreement is not None:
        counts["agreement"] = of_agreement
    if of_spread is not None:
        counts["spread"] = of_spread
    return kept, counts


def decided_pools(pools: dict[str, list[Response]], max_spread: float, tally: Tally) -> dict[str, list[Response]]:
    """The pools without seeds' own responses of which the judge is undecided; the candidates are decided already."""

    def is_wide(row: Response) -> bool:
        return (spread(row["lineage"]["verdicts"]) or 0) > max_spread

    tally.drop(UNDECIDED, [row for pool in pools.values() for row in pool if is_wide(row)])
    return {prompt: [row for row in pool if not is_wide(row)] for prompt, pool in pools.items()}
