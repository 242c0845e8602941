"""review and assess: the judge scores pairs of instruction and response 0–10 (paper, section 3.2).

    python -m stages.review --rows iterations/0/seed.jsonl --judge iterations/0/model --stop iterations/0/stop.json
        --out iterations/1/review.jsonl       the seed set
    python -m stages.review --rows iterations/1/filtered.jsonl --judge iterations/0/model
        --out iterations/1/assess.jsonl       what was generated from it

The judge is the model of the iteration that `iterations.t.judge` names (the paper: the parent, which is also the model
that generated). A pair that this judge has already scored keeps its score.

With `review.estimator: sampled` each pair gets `review.samples` reviews, and its score is the mean of their readable
verdicts; with `expected` it gets one, and its score is the mean under the judge's own probabilities; with `elicited`
the same, and a verdict's words are put behind a review without one. An unreadable verdict is missing and counted, and
an error above `review.max_unparsed`; the reference code counts it as 0.

With `review.by: verifier` no model is loaded: a row that passes its check scores 10, one that fails 0, and one without
a check has no score. With `both` the judge scores, and a failed check makes it 0. Neither is used by `votes`, the share
of the responses that have the same final answer, and `origin`, 10 for people's rows and 0 for the model's.
"""

import json
import random
from collections import Counter
from pathlib import Path
from statistics import fmean, pstdev
from typing import Annotated

from typer import Option

from stages.core import cost
from stages.core.checks import check_of
from stages.core.command import run
from stages.core.counts import ReviewCounts, Scores
from stages.core.errors import UserError
from stages.core.params import Params, read_params, read_runtime
from stages.core.progress import say
from stages.core.prompts import ReviewPrompt, final_answer_rule, read_system_prompt
from stages.core.records import Tally, counts_file, read, write, write_json
from stages.core.rows import ORIGIN, VOTES, Candidate, Review, ReviewablePair, ReviewedPair, SeedOrCandidate
from stages.inference.client import Client
from stages.judging import scores, verifiers
from stages.judging.judge import Verdict, mean_score, reviews_of

JUDGING = ("estimator", "samples", "temperature", "top_p", "max_tokens")  # of params.yaml's `review`, for the judge


def to_review(rows: list[ReviewablePair], judge: str) -> list[ReviewablePair]:
    """The rows without a score by this judge: all of them if each iteration has another judge (the paper)."""
    return [row for row in rows if row.get("score") is None or row.get("judge") != judge]


def reviewed(row: ReviewablePair, verdicts: list[Verdict], judge: str) -> ReviewedPair:
    """The row with the judge's reviews and their mean score."""
    reviews: list[Review] = [
        {"text": verdict.completion.text, "score": verdict.score, "written": verdict.written}
        for verdict in verdicts
        if verdict.completion.finish != "too long"
    ]
    score = mean_score([verdict.score for verdict in verdicts])
    return {**row, "score": score, "judge": judge, "reviews": reviews}


def with_check(row: SeedOrCandidate) -> ReviewablePair:
    """The row with its check: its own, or that of the seed that it comes from."""
    check = check_of(row)
    if check is not None:
        row["check"] = check
    return row


def scored_rows(
    params: Params,
    rows: list[ReviewablePair],
    judge: str,
    verdicts: list[list[Verdict]] | None,
    outcomes: dict[str, verifiers.Outcome],
    generated: list[Candidate],
) -> dict[str, ReviewedPair]:
    """{id: the row with its score}. `verdicts`: the judge's of each row, None without a judge; `outcomes`: the
    verifiers', by the id of the row; `generated`: the candidates before the filter, which vote."""
    if params["review.by"] == ORIGIN:
        return scores.by_origin(rows)
    if params["review.by"] == VOTES:
        return scores.by_votes(rows, generated, final_answer_rule(params["prompts"]).read)
    if verdicts is None:
        return {row["id"]: verifiers.scored(row, outcomes.get(row["id"])) for row in rows}
    return {
        row["id"]: verifiers.vetoed(reviewed(row, reviews, judge), outcomes.get(row["id"]))
        for row, reviews in zip(rows, verdicts, strict=True)
    }


def unchanged(row: ReviewablePair) -> ReviewedPair:
    """A row that this judge has already scored."""
    return {**row, "score": row["score"], "judge": row["judge"], "reviews": []}


def shuffle_scores(rows: list[ReviewedPair], random_state: int) -> list[ReviewedPair]:
    """The control experiment: permute the scores so that they carry no signal."""
    scores = [row["score"] for row in rows]
    random.Random(random_state).shuffle(scores)
    return [{**row, "score": score} for row, score in zip(rows, scores, strict=True)]


def count(rows: list[ReviewedPair], reviewed: int, samples: int) -> ReviewCounts:
    """Rows in and out, and how many verdicts could be read; `reviewed` rows got `samples` reviews each."""
    tally = Tally(len(rows))
    for row in rows:
        if row["score"] is None:
            tally.drop(scores.why_unscored(row))
    verdicts = [review["score"] for row in rows for review in row["reviews"]]
    means = [row["score"] for row in rows if row["score"] is not None]
    return {
        "rows": tally.counts(len(means)),
        "reviewed": reviewed,
        "verdicts": {
            "asked": reviewed * samples,
            "written": len(verdicts),
            "readable": sum(verdict is not None for verdict in verdicts),
        },
        "scores": distribution(means),
    }


def distribution(scores: list[float]) -> Scores | None:
    """The distribution of scores; None without any."""
    if not scores:
        return None
    nearest = Counter(int(score + 0.5) for score in scores)
    return {
        "mean": round(fmean(scores), 4),
        "spread": round(pstdev(scores), 4),
        "nearest": [nearest[score] for score in range(11)],
    }


def need_readable(stage: str, counts: ReviewCounts, max_unparsed: float) -> None:
    """Raise `UserError` if more than the allowed share of the verdicts is unreadable, or no prompt fits the context."""
    written, readable = counts["verdicts"]["written"], counts["verdicts"]["readable"]
    overlong = counts["rows"]["dropped"].get("does not fit the context", 0)
    unparsed = 1 - readable / written if written else float(counts["reviewed"] > 0)
    if unparsed > max_unparsed:
        raise UserError(
            f"{stage}: {unparsed:.0%} of the verdicts are unreadable ({readable:,} of {written:,} can be read, "
            f"{overlong:,} rows do not fit the context) and review.max_unparsed allows {max_unparsed:.0%}; make the "
            "model end its review with the verdict of prompts/<set>/review/verdict.yaml (adapt the prompt, or train "
            "the judge on more seed.reviews), set review.estimator: elicited, which puts the verdict's words into its "
            "mouth, or raise review.max_unparsed"
        )


def review(client: Client, name: str, params: Params, rows: list[ReviewablePair]) -> list[list[Verdict]]:
    """The judge's reviews of each row."""
    template, prompts = ReviewPrompt(params["prompts"]), params["prompts"]
    system_prompt = read_system_prompt(prompts)
    rendered = [client.render(template.render(row["prompt"], row["response"]), system_prompt) for row in rows]
    settings = {name: params[f"review.{name}"] for name in JUDGING}
    return reviews_of(client, name, rendered, prompts, settings, params["random_state"])


def with_claims(prompt: ReviewPrompt, rows: list[ReviewablePair]) -> int:
    """How many rows hold something that the judge does not read, since it could be taken for a verdict."""
    return sum(any(map(prompt.speaks_for_the_judge, (row["prompt"], row["response"]))) for row in rows)


def main(
    rows: Annotated[Path, Option(help="pairs to score: the seed set, or what the filter kept")],
    judge: Annotated[Path, Option(help="model folder of the judge, iterations/ITERATION/model")],
    out: Annotated[Path, Option(help="the pairs with scores, iterations/ITERATION/review.jsonl or assess.jsonl")],
    stop: Annotated[Path | None, Option(help="stop.json of the parent: whether the chain was stopped")] = None,
) -> None:
    """Score pairs of instruction and response."""
    stage, iteration = out.stem, out.parent.name
    params, name = read_params(stage), f"{stage}@{iteration}"
    by, max_unparsed = params["review.by"], params["review.max_unparsed"]
    judge_name = judge.parent.name if by in scores.JUDGED else by
    client = Client(judge, name, params["max_overlong"], read_runtime()) if by in scores.JUDGED else None
    stopped = stop is not None and json.loads(stop.read_text(encoding="utf-8"))["stopped"]
    pairs: list[ReviewablePair] = (
        [] if stopped else [with_check(row) for row in read(rows, SeedOrCandidate)]
    )  # without rows, the next stages have nothing to do
    unscored = to_review(pairs, judge_name)
    outcomes = {}
    if by in scores.VERIFIED:
        functions, final_answer = Path(params["review.checks"]), final_answer_rule(params["prompts"]).read
        outcomes = verifiers.verify_rows(f"{name} checks", unscored, functions, final_answer)
    verdicts = review(client, name, params, unscored) if client else None
    votes = by == VOTES and stage == "assess"
    generated = read(rows.with_name("generated.jsonl"), Candidate) if votes else []
    scored = scored_rows(params, unscored, judge_name, verdicts, outcomes, generated)
    result = [scored.get(row["id"]) or unchanged(row) for row in pairs]
    samples = params["review.samples"] if params["review.estimator"] == "sampled" else 1
    counts = count(result, len(unscored), samples if client else 0)
    if client:
        need_readable(name, counts, max_unparsed)
    if by in scores.VERIFIED:
        counts["verified"] = verifiers.count(outcomes.values())
        verifiers.need_checks(name, counts["verified"], max_unparsed)
    if stage == "review" and by == "verifier" and pairs and not any("check" in row for row in pairs):
        raise UserError(
            f"{name}: review.by: verifier, and none of the {len(pairs):,} seed rows has a field `check`; give seed "
            "rows that have one (docs/data.md), or set review.by: judge"
        )
    if params["review.shuffled"]:
        result = shuffle_scores(result, params["random_state"])
    write(out, result)
    on_scores = [verdict.on_scores for (verdict, *_) in verdicts or [] if verdict.on_scores is not None]
    if on_scores:
        counts["on_scores"] = round(fmean(on_scores), 4)
    if client and (claims := with_claims(ReviewPrompt(params["prompts"]), unscored)):
        counts["claims"] = claims
    if stopped:
        counts["stopped"] = True
    if client and (reasoning := client.reasoning()):
        counts["reasoning"] = reasoning
    write_json(counts_file(stage, iteration), counts)
    spent = cost.of_completions(client.completions.values(), client.gpus()) if client else cost.of_completions([], 0)
    cost.write(stage, iteration, spent)
    say(f"{name}: {summary(counts, len(pairs))}")


def summary(counts: ReviewCounts, pairs: int) -> str:
    """The closing line."""
    verdicts, scores = counts["verdicts"], counts["scores"]
    parts = [f"{counts['reviewed']:,} of {pairs:,} rows scored anew"]
    if verdicts["asked"] or "verified" not in counts:
        parts.append(f"{verdicts['readable']:,} of {verdicts['written']:,} verdicts readable")
    if "on_scores" in counts:
        parts.append(f"{counts['on_scores']:.0%} of the probability on scores")
    if "verified" in counts:
        verified = counts["verified"]
        parts.append(f"{verified['passed']:,} checks passed, {verified['failed']:,} failed")
        parts += [f"{number:,} not carried out ({problem})" for problem, number in verified["problems"].items()]
    if scores:
        parts.append(f"mean score {scores['mean']:.2f}")
    if "claims" in counts:
        parts.append(f"{counts['claims']:,} rows read without what could be taken for a verdict")
    return ", ".join(parts)


if __name__ == "__main__":
    run(main, launch="generate")
