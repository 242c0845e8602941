"""Addresses of rows.html: what the report's numbers and plots lead to."""

from urllib.parse import urlencode

NOTHING_MADE = "nothing new or flawed was made from it"  # why a seed row falls in the routing
STEPS = (
    "seed rows", "judge-training rows", "review", "routing", "filter", "assess", "select candidates", "select sft",
    "select pairs", "select seed",
)  # fmt: skip
ROUTES = {"responses": "new", "flawed responses": "flawed", "own responses": "own"}  # of the steps of generate


def link(**filters: str | list[str] | None) -> str:
    """The address of the page with these filters: iteration, route, step, reason (also several), min, max, row."""
    return "rows.html#" + urlencode({name: value for name, value in filters.items() if value is not None}, doseq=True)


def funnel_link(iteration: str, step: str, reasons: list[str]) -> str | None:
    """The address of the rows in a bar of the funnel: those that have one of these reasons, or that were "kept". None
    where no file has them, as a completion that could not be read."""
    kept = reasons == ["kept"]
    if step in ROUTES:
        return link(iteration=iteration, route=ROUTES[step]) if kept else None
    if step not in STEPS or (iteration == "0" and not kept):
        return None
    if step == "routing" and not kept:
        reasons = [reason if reason == "unscored" else NOTHING_MADE for reason in reasons]
    return link(iteration=iteration, step=step, reason=list(dict.fromkeys(reasons)))


def score_link(iteration: str, score: int) -> str:
    """The address of the candidates whose score lies nearest to a whole one."""
    low, high = max(0.0, score - 0.5), min(10.0, score + 0.4999)
    return link(iteration=iteration, step="assess", reason="kept", min=f"{low:g}", max=f"{high:g}")
