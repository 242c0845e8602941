"""What select made of every row: the steps that it came to, and why it fell there."""

from collections.abc import Iterable, Mapping

from stages.core.records import Tally
from stages.core.rows import Identified, Outcome, PreferencePair
from stages.data.preference_pairs import Response


def outcomes(steps: Mapping[str, tuple[Iterable[Identified], Mapping[str, str]]]) -> list[Outcome]:
    """The outcomes of all rows. `steps`: {step: the rows that came to it, {id: why it fell}}."""
    reached: dict[str, dict[str, str | None]] = {}
    for step, (rows, reasons) in steps.items():
        for row in rows:
            reached.setdefault(row["id"], {})[step] = reasons.get(row["id"])
    return [{"id": name, "steps": taken} for name, taken in reached.items()]


def reasons_of_responses(
    pools: Mapping[str, list[Response]], pairs: Iterable[PreferencePair], tally: Tally
) -> dict[str, str]:
    """{id of a response: why it was not chosen}, from a tally of the pools' responses and of the pairs made of them: a
    pair that is dropped has the id of the pair."""
    responses = {(prompt, row["response"]): row["id"] for prompt, pool in pools.items() for row in pool}
    dropped = {
        responses[pair["prompt"], pair["chosen"]]: tally.reasons[pair["id"]]
        for pair in pairs
        if pair["id"] in tally.reasons
    }
    return tally.reasons | dropped
