"""The rows of a run that people may label, and what the page shows of them."""

from pathlib import Path
from typing import TypeVar

from stages.core.errors import UserError
from stages.core.params import Params
from stages.core.prompts import ReviewPrompt, final_answer_rule, read_tags
from stages.core.records import Record, content_id, read
from stages.core.rows import JudgedCandidate, ReviewedSeed
from stages.data.drawing import JudgedPair, JudgedResponse, evenly, judged_pairs, judged_responses

Judged = TypeVar("Judged", JudgedResponse, JudgedPair)


def run_rows(params: Params) -> list[tuple[str, list[ReviewedSeed], list[JudgedCandidate]]]:
    """(iteration, its reviewed seeds, its assessed candidates), of those that ran. Raises `UserError` if none did."""
    rows = []
    for iteration in params["iterations"]:
        folder = Path("iterations", iteration)
        reviewed, assessed = folder / "review.jsonl", folder / "assess.jsonl"
        if reviewed.is_file() and assessed.is_file():
            rows.append((iteration, read(reviewed, ReviewedSeed), read(assessed, JudgedCandidate)))
    if not any(seeds or candidates for _, seeds, candidates in rows):
        raise UserError("iterations/ has no rows that a judge has scored; run dvc repro first")
    return rows


def drawn(params: Params, responses: int, pairs: int) -> list[JudgedResponse | JudgedPair]:
    """What people are shown: responses, then pairs, each drawn evenly. Raises `UserError` if there are none."""
    rows, scale, state = run_rows(params), params["review.scale"], params["random_state"]
    rule = params["select.pairs"], final_answer_rule(params["prompts"]).read
    scored = [response for row in rows for response in judged_responses(*row, scale)]
    compared = [pair for row in rows for pair in judged_pairs(*row, scale, *rule)]
    rows_drawn: list[JudgedResponse | JudgedPair] = [*evenly(scored, responses, state), *evenly(compared, pairs, state)]
    if not rows_drawn:
        raise UserError(
            f"no row to label: a judge has scored {len(scored):,} responses of this run, which make {len(compared):,} "
            f"pairs (review.by: {params['review.by']}); ask for more with --rows or --pairs, or run with a judge"
        )
    return rows_drawn


def shown(row: JudgedResponse | JudgedPair) -> Record:
    """What the page gets of a row: its texts and their ids, the two of a pair in an order that says nothing."""
    if isinstance(row, JudgedResponse):
        texts = [(row.id, row.response)]
    else:
        texts = [(row.chosen_id, row.chosen), (row.rejected_id, row.rejected)]
        texts.sort(key=lambda text: content_id("shown", *row.key, text[0]))
    return {"shown": [key for key, _ in texts], "prompt": row.prompt, "responses": [text for _, text in texts]}


def guide(prompt_set: str) -> Record:
    """What the judge is told before it reads a row, and the parts that its score consists of, if there are several."""
    prompt, tags = ReviewPrompt(prompt_set), read_tags(prompt_set)
    parts = [f"{part.label} (0–{part.highest})" for part in prompt.verdict.parts]
    rubric = prompt.render("", "").partition(f"<{tags.instruction}>")[0].strip()
    return {"guide": rubric, "parts": parts if len(parts) > 1 else []}
