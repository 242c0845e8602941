"""report.html: one self-contained page, without scripts or network. Every text of the data is escaped."""

from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).parent / "templates/page.html"

PLOTS = {
    "scores": "Chosen by validation, reported on test. Judging: how often the model's verdict is the known one.",
    "reviews": "A judge that is worth listening to uses both ends.",
    "diversity": "Falling distance or distinct-n, or rising repetition: the model turns in circles.",
    "length": "Iteration 0 is the seed set.",
    "loss": "As trl logs it.",
    "rewards": "The chosen response's implicit reward over the rejected one's, and how often it is the higher.",
    "funnel": "Every row is kept or dropped for a reason.",
}


def render(**content: Any) -> str:
    """The page; `content` is what stages/report.py hands over."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["signed"] = lambda value: f"{value:+.1f}"
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(notes=PLOTS, **content)
