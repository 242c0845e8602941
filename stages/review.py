"""review and assess: the judge scores pairs of instruction and response 0–10 (paper, section 3.2).

    python -m stages.review --rows iterations/0/seed.jsonl --judge iterations/0/model --stop iterations/0/stop.json
        --out iterations/1/review.jsonl       the seed set
    python -m stages.review --rows iterations/1/filtered.jsonl --judge iterations/0/model
        --out iterations/1/assess.jsonl       what was generated from it

The judge is the model of the iteration that `iterations.t.judge` names (the paper: the parent, which is the model that
generated). A pair that this judge has scored before keeps its score.

By `review.estimator: sampled` each pair gets `review.samples` reviews, and its score is the mean of the readable
verdicts; by `expected` it gets one, and its score is the mean under the judge's own probabilities. An
unreadable verdict is missing, counted, and an error above `review.max_unparsed`; the reference code counts it as 0.
"""

import json
import random
from collections import Counter
from pathlib import Path
from statistics import fmean, pstdev
from typing import Annotated

from typer import Option

from stages.core import cost
from stages.core.command import run
from stages.core.errors import UserError
from stages.core.params import Params, declared, read_runtime
from stages.core.progress import say
from stages.core.prompts import Review, system
from stages.core.records import Record, Tally, counts_file, read, write, write_json
from stages.inference.client import Client
from stages.judging.judge import Reviewed, reviews
from stages.judging.verdict import mean_score


def to_review(rows: list[Record], judge: str) -> list[Record]:
    """The rows that have no score by this judge: all of them where each iteration has another one (the paper)."""
    return [row for row in rows if row.get("score") is None or row.get("judge") != judge]


def reviewed(row: Record, scored: list[Reviewed], judge: str) -> Record:
    """The row with the judge's reviews and their mean score."""
    kept = [each for each in scored if each.completion.finish != "too long"]
    told = [{"text": each.completion.text, "score": each.score, "written": each.written} for each in kept]
    return {**row, "score": mean_score([each.score for each in scored]), "judge": judge, "reviews": told}


def shuffle_scores(rows: list[Record], random_state: int) -> list[Record]:
    """The control experiment: the same scores, dealt out at random."""
    scores = [row["score"] for row in rows]
    random.Random(random_state).shuffle(scores)
    return [{**row, "score": each} for row, each in zip(rows, scores, strict=True)]


def count(rows: list[Record], asked: int, samples: int) -> Record:
    """Rows in and out, and how many of the verdicts could be read."""
    tally = Tally(len(rows))
    unscored = [row for row in rows if row["score"] is None]
    tally.drop("does not fit the context", sum(not row["reviews"] for row in unscored))
    tally.drop("no readable verdict", sum(bool(row["reviews"]) for row in unscored))
    verdicts = [review["score"] for row in rows for review in row.get("reviews", [])]
    read_ones = sum(verdict is not None for verdict in verdicts)
    scores = [row["score"] for row in rows if row["score"] is not None]
    return {
        "rows": tally.counts(len(scores)),
        "reviewed": asked,
        "verdicts": {"asked": asked * samples, "written": len(verdicts), "readable": read_ones},
        "scores": distribution(scores),
    }


def distribution(scores: list[float]) -> Record | None:
    """Mean, standard deviation, and how many scores lie nearest to 0, 1, …, 10; None without any."""
    if not scores:
        return None
    nearest = Counter(int(score + 0.5) for score in scores)
    spread = pstdev(scores)
    return {"mean": round(fmean(scores), 4), "spread": round(spread, 4), "nearest": [nearest[n] for n in range(11)]}


def need_readable(stage: str, counts: Record, max_unparsed: float) -> None:
    """Raise `UserError` where more than the allowed share of the verdicts is unreadable, or none could be asked for."""
    written, readable = counts["verdicts"]["written"], counts["verdicts"]["readable"]
    unfit = counts["rows"]["dropped"].get("does not fit the context", 0)
    unparsed = 1 - readable / written if written else float(counts["reviewed"] > 0)
    if unparsed > max_unparsed:
        raise UserError(
            f"{stage}: {unparsed:.0%} of the verdicts are unreadable ({readable:,} of {written:,} can be read, "
            f"{unfit:,} rows do not fit the context) and review.max_unparsed allows {max_unparsed:.0%}; make the model "
            "end its review as prompts/<set>/review/verdict.yaml reads it (adapt the prompt or train the judge on more "
            "seed.reviews), or raise review.max_unparsed"
        )


def ask(
    client: Client, name: str, params: Params, rows: list[Record], judge: str
) -> tuple[list[Record], list[list[Reviewed]]]:
    """The rows that this judge has not scored, and its reviews of each."""
    review, prompts = Review(params["prompts"]), params["prompts"]
    asked = to_review(rows, judge)
    rendered = [client.render(review.prompt(row["prompt"], row["response"]), system(prompts)) for row in asked]
    return asked, reviews(client, name, rendered, prompts, params["review"], params["random_state"])


def main(
    rows: Annotated[Path, Option(help="pairs to score: the seed set, or what the filter kept")],
    judge: Annotated[Path, Option(help="model folder of the judge, iterations/ITERATION/model")],
    out: Annotated[Path, Option(help="rows with their scores, iterations/ITERATION/STAGE.jsonl")],
    stop: Annotated[Path | None, Option(help="whether the chain was stopped; then nothing is reviewed")] = None,
) -> None:
    """Score pairs of instruction and response."""
    stage, iteration, judge_name = out.stem, out.parent.name, judge.parent.name
    params, name = declared(stage), f"{stage}@{iteration}"
    settings = params["review"]
    client = Client(judge, name, params["max_overlong"], read_runtime())
    stopped = stop is not None and json.loads(stop.read_text(encoding="utf-8"))["stopped"]
    pairs = [] if stopped else read(rows)  # without rows, the stages that follow have nothing to do
    asked, scored = ask(client, name, params, pairs, judge_name)
    done = {row["id"]: reviewed(row, each, judge_name) for row, each in zip(asked, scored, strict=True)}
    result = [done.get(row["id"], {**row, "reviews": []}) for row in pairs]
    counts = count(result, len(asked), 1 if settings["estimator"] == "expected" else settings["samples"])
    need_readable(name, counts, settings["max_unparsed"])
    counts |= {"stopped": True} if stopped else {}
    if settings["shuffled"]:
        result = shuffle_scores(result, params["random_state"])
    write(out, result)
    write_json(counts_file(stage, iteration), counts)
    cost.write(stage, iteration, cost.of_completions(client.completions.values(), client.gpus()))
    mean = f", mean score {counts['scores']['mean']:.2f}" if counts["scores"] else ""
    readable, written = (counts["verdicts"][kind] for kind in ("readable", "written"))
    verdicts = f"{readable:,} of {written:,} verdicts readable"
    say(f"{name}: {len(asked):,} of {len(pairs):,} rows scored anew, {verdicts}{mean}")


if __name__ == "__main__":
    run(main)
