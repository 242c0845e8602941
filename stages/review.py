"""review and assess: the judge scores pairs of instruction and response 0–10 (paper, section 3.2).

`python -m stages.review review 1 iterations/0/seed.jsonl 0 iterations/0/stop.json`   the seed set, by the judge M_0
`python -m stages.review assess 1 iterations/1/filtered.jsonl 0`   what was generated from it

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

from stages.core import cost
from stages.core.errors import UserError, run
from stages.core.params import Params, declared
from stages.core.progress import say
from stages.core.prompts import Review, system
from stages.core.records import Record, Tally, read, write, write_json
from stages.inference.client import Model
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
    model: Model, name: str, params: Params, rows: list[Record], judge: str
) -> tuple[list[Record], list[list[Reviewed]]]:
    """The rows that this judge has not scored, and its reviews of each."""
    review, prompts = Review(params["prompts"]), params["prompts"]
    asked = to_review(rows, judge)
    rendered = [model.render(review.prompt(row["prompt"], row["response"]), system(prompts)) for row in asked]
    return asked, reviews(model, name, rendered, prompts, params["review"], params["random_state"])


def main(stage: str, iteration: str, source: str, judge: str, stop: str | None = None) -> None:
    params = declared(stage)
    stopped = bool(stop) and json.loads(Path(str(stop)).read_text(encoding="utf-8"))["stopped"]
    settings = params["review"]
    name = f"{stage}@{iteration}"
    model = Model(Path("iterations", judge, "model"), name, params["max_overlong"])
    rows = [] if stopped else read(Path(source))  # without rows, the stages that follow have nothing to do
    asked, scored = ask(model, name, params, rows, judge)
    done = {row["id"]: reviewed(row, each, judge) for row, each in zip(asked, scored, strict=True)}
    result = [done.get(row["id"], {**row, "reviews": []}) for row in rows]
    counts = count(result, len(asked), 1 if settings["estimator"] == "expected" else settings["samples"])
    need_readable(name, counts, settings["max_unparsed"])
    counts |= {"stopped": True} if stopped else {}
    if settings["shuffled"]:
        result = shuffle_scores(result, params["random_state"])
    write(Path("iterations", iteration, f"{stage}.jsonl"), result)
    write_json(Path("results", iteration, f"{stage}.json"), counts)
    cost.write(stage, iteration, cost.of_completions(model.used.values(), model.gpus()))
    mean = f", mean score {counts['scores']['mean']:.2f}" if counts["scores"] else ""
    readable, written = (counts["verdicts"][kind] for kind in ("readable", "written"))
    say(
        f"{name}: {len(asked):,} of {len(rows):,} rows scored anew, {readable:,} of {written:,} verdicts readable{mean}"
    )


if __name__ == "__main__":
    import sys

    run(main, *sys.argv[1:])
