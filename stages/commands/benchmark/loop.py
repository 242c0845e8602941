"""The loop's own model calls, on the embedded default's seeds and with an empty completion store."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from stages import generate, review
from stages.core.params import Params, read_runtime
from stages.core.records import Tally, content_id, read
from stages.core.rows import Pair, ReviewablePair, ReviewedPair, ReviewedSeed
from stages.data.routing import Sources, route
from stages.inference.client import Client
from stages.inference.engines import Completion, Sampling

SEED_FILE = Path("stages/microworld/data/seeds.jsonl")
SEEDS = 256
JUDGE = "0"  # the name of the judge's iteration

PARAMS: dict[str, Any] = {
    "prompts": "micro",
    "samples": 4,
    "random_state": 0,
    "review": {"estimator": "sampled", "samples": 3, "temperature": 0.7, "top_p": 0.9, "max_tokens": 48},
    "generate": {
        "max_own": 0,
        "own_samples": 4,
        "shots": 1,
        "rationale": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 48,
    },
}
REVIEWS = Sampling(temperature=0.7, top_p=0.9, max_tokens=48, random_state=0)


class Call(NamedTuple):
    """The arguments of a client's call."""

    prompts: list[str]  # rendered
    draws: int
    sampling: Sampling


class RecordingClient(Client):
    """A client that keeps the arguments of its calls, so that a baseline can make them again."""

    calls: list[Call]

    def complete_rendered(
        self, task: str, rendered: Sequence[str], draws: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """The completions, as `Client.complete_rendered` gives them."""
        self.calls.append(Call(list(rendered), draws, sampling))
        return super().complete_rendered(task, rendered, draws, sampling)


@contextmanager
def fresh_client(model: Path) -> Iterator[RecordingClient]:
    """A client with an empty completion store. Its first call loads the weights."""
    with TemporaryDirectory() as folder:
        runtime = read_runtime()
        store = runtime.store.model_copy(update={"path": str(Path(folder, "completions.sqlite"))})
        client = RecordingClient(model, "benchmark", 1.0, runtime.model_copy(update={"store": store}))
        client.calls = []
        yield client


def seeds(limit: int | None = SEEDS) -> list[ReviewablePair]:
    """The embedded default's seed pairs with their identity, the first `limit` of them."""
    rows = read(SEED_FILE, Pair)[:limit]
    return [
        {"id": content_id(row["prompt"], row["response"]), "prompt": row["prompt"], "response": row["response"]}
        for row in rows
    ]


def review_rows(
    client: Client, rows: list[ReviewablePair], settings: dict[str, Any] = PARAMS["review"]
) -> list[ReviewedPair]:
    """The rows with their scores, by the code of the stage `review` with these settings."""
    params = _params({**PARAMS, "review": settings})
    verdicts = review.review(client, "review", params, rows)
    return [review.reviewed(row, reviews, JUDGE) for row, reviews in zip(rows, verdicts, strict=True)]


def reviewed_seed(row: ReviewedPair) -> ReviewedSeed:
    """A reviewed row of the seed set S_0."""
    return {
        "id": row["id"],
        "prompt": row["prompt"],
        "response": row["response"],
        "iteration": "0",
        "score": row["score"],
        "judge": row["judge"],
        "reviews": row["reviews"],
    }


def construct(client: Client, threshold: float = 7.0) -> None:
    """Review the seeds, generate from all of them and assess the result, by the stages' own code; no filter."""
    rows = [reviewed_seed(row) for row in review_rows(client, seeds())]
    low, high = route(rows, threshold, SEEDS, SEEDS, JUDGE, Tally(len(rows)))
    sources = Sources(low, own=[], high=high, shots={})
    candidates, _ = generate.generate(client, client, "generate", _params(PARAMS), sources)
    review_rows(client, [{"id": row["id"], "prompt": row["prompt"], "response": row["response"]} for row in candidates])


def _params(values: dict[str, Any]) -> Params:
    return Params("benchmark", list(values), values)
