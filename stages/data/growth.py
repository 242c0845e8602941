"""Sets that grow over the iterations: the earlier rows, then the new ones up to a bound, with their counts."""

from collections.abc import Sequence
from typing import TypeVar

from stages.core.counts import SetCounts
from stages.core.records import Tally
from stages.core.rows import Identified

Row = TypeVar("Row", bound=Identified)


def by_content(rows: Sequence[Row], limit: int) -> list[Row]:
    """At most `limit` rows, chosen by the hash of their content."""
    return sorted(rows, key=lambda row: row["id"])[:limit]


def added(earlier: list[Row], new: list[Row], limit: int, tally: Tally) -> list[Row]:
    """The earlier rows, then at most `limit` new ones chosen by their content; a row already present is not added."""
    present = {row["id"] for row in earlier}
    fresh = by_content([row for row in new if row["id"] not in present], len(new))
    tally.drop("there already", [row for row in new if row["id"] in present])
    tally.drop("over the bound", fresh[limit:])
    return earlier + fresh[:limit]


def counted(tally: Tally, earlier: int, total: int) -> SetCounts:
    """The tally of the new rows, and how many rows there are with the earlier iterations'."""
    new = total - earlier
    return {"new": new, "earlier": earlier, "total": total, **tally.counts(new)}
