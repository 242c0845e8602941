"""The transformers engine on a real model: against the engine of an earlier commit, against vLLM, and against what the
machine can do. `lance benchmark real --model FOLDER`; in vLLM's own environment (docs/engines.md) with vLLM."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import torch

from stages.base import materialise
from stages.commands.benchmark.generation import changed_texts, render_requests
from stages.commands.benchmark.measurement import Measurement, best_of, speedup, timed
from stages.core.errors import UserError
from stages.core.params import read_runtime
from stages.core.prompts import ReviewPrompt
from stages.core.records import read
from stages.core.rows import Pair
from stages.inference.engines import Completion, Request, Sampling
from stages.inference.engines.transformers import TransformersEngine
from stages.models import chat

SEEDS = Path("stages/presets/seeds.jsonl")
PAIRS = 64  # seeds, each with its own response and with another's
LONGER = {8: 5, 32: 16}  # of so many reviews, one is of a response with those to so many further seeds behind it
DRAWS = 2
REVIEWS = Sampling(temperature=0.7, top_p=0.9, max_tokens=200, random_state=0)
FIRST_TOKENS = replace(REVIEWS, max_tokens=1)
EARLIER = "117942e"  # the commit whose engine the first row compares with: one rectangle of rows, no shared prefix
EARLIER_SAMPLE = 3  # one in so many reviews for it: all of them would take it an hour
MANY_DRAWS, MANY_TOKENS, BATCHES = 16, 24, (96, 384)
PREFIX, OWN = 600, 150  # tokens that prompts share, and that each has behind them
LONE_TOKENS = 32  # of the row that is decoded alone
MATRIX = 4096  # rows and columns
MOVED = 2**28  # fp32 numbers: 1 GiB, larger than any cache
EARLIER_RUN = """
import json, sys, time
from pathlib import Path
from stages.core.engines import Completion, Request, Sampling
from stages.core.engines.transformers import TransformersEngine
work = json.load(sys.stdin)
engine = TransformersEngine(Path(work["model"]), work["rows"])
requests = [Request(prompt, tuple(tokens), draw) for prompt, tokens, draw in work["requests"]]
start = time.perf_counter()
written = sum(completion.tokens for _, completion in engine.complete(requests, Sampling(*work["sampling"])))
print(json.dumps([time.perf_counter() - start, written]))
"""


def real(model: Path) -> Iterator[Measurement]:
    """Every row of this part. Raises `UserError` if the earlier commit is not in this clone."""
    engine = TransformersEngine(model, read_runtime().batch_rows)
    requests = reviews(engine)
    yield against_earlier(model, engine, requests)
    seconds = best_of(3, lambda: list(engine.complete(requests, REVIEWS)))
    if find_spec("vllm"):
        yield against_vllm(model, requests, seconds)
    yield shared_prefix(engine)
    yield from shares_of_the_machine(engine, requests)
    yield order_independence(engine, requests)
    yield from in_bfloat16(model, requests, seconds)


def reviews(engine: TransformersEngine) -> list[Request]:
    """256 reviews by prompts/lance, of 700 to 2,300 tokens: of seeds with their response, and with the next seed's."""
    rows = read(SEEDS, Pair)
    review = ReviewPrompt("lance")
    prompts = []
    for index in range(2 * PAIRS):
        answered = index // 2 + index % 2
        further = max((longer for every, longer in LONGER.items() if index % every == every - 1), default=0)
        response = "\n\n".join(row["response"] for row in rows[answered : answered + further + 1])
        prompts.append(chat.render(engine.tokenizer, review.render(rows[index // 2]["prompt"], response)))
    return render_requests(engine.tokenizer, prompts, DRAWS)


def against_earlier(model: Path, engine: TransformersEngine, requests: Sequence[Request]) -> Measurement:
    """A part of the reviews, mixed in length as all of them."""
    sample = requests[EARLIER_SAMPLE - 1 :: EARLIER_SAMPLE]
    ours = best_of(3, lambda: list(engine.complete(sample, REVIEWS)))
    with TemporaryDirectory() as folder:
        worktree = Path(folder, "earlier")
        _git("worktree", "add", "--detach", str(worktree), EARLIER)
        try:
            work = {
                "model": str(model.resolve()),
                "rows": engine.batch_rows,
                "requests": [(request.prompt, request.tokens, request.draw) for request in sample],
                "sampling": [REVIEWS.temperature, REVIEWS.top_p, REVIEWS.max_tokens, REVIEWS.random_state],
            }
            run = subprocess.run(
                [sys.executable, "-c", EARLIER_RUN],
                input=json.dumps(work), stdout=subprocess.PIPE, text=True, cwd=worktree, check=True,
                env={**os.environ, "PYTHONPATH": str(worktree)},
            )  # fmt: skip
        finally:
            _git("worktree", "remove", "--force", str(worktree))
    earlier, _ = json.loads(run.stdout)
    what = f"{len(sample)} of {len(requests)} reviews"
    return speedup(what, f"the engine of commit {EARLIER} ({earlier:.0f} s)", ours, earlier, 10)


def against_vllm(model: Path, requests: Sequence[Request], seconds: float) -> Measurement:
    """All reviews, without the start-up of either."""
    from stages.inference.engines.vllm import VllmEngine, sampling_params

    engine = VllmEngine(model, read_runtime().vllm)
    engine.start(max(len(request.tokens) for request in requests) + REVIEWS.max_tokens)
    prompts = [{"prompt_token_ids": list(request.tokens)} for request in requests]
    params = [sampling_params(request, REVIEWS) for request in requests]
    theirs = best_of(3, lambda: engine.llm.generate(prompts, params, use_tqdm=False))
    return speedup(f"{len(requests)} reviews", f"vLLM's LLM.generate ({theirs:.0f} s)", seconds, theirs, 1)


def order_independence(engine: TransformersEngine, requests: Sequence[Request]) -> Measurement:
    """How many texts change with the batch's size and the requests' order, in the model's dtype."""
    many = [replace(request, draw=draw) for request in requests if not request.draw for draw in range(MANY_DRAWS)]
    changed = changed_texts(engine, many, replace(REVIEWS, max_tokens=MANY_TOKENS), BATCHES)
    engine.batch_rows = None
    what = f"texts of {MANY_TOKENS} tokens that change, of {len(many):,}, {engine.model.dtype}".replace("torch.", "")
    against = f"batches of {' and '.join(map(str, BATCHES))} rows, requests in either order"
    exact = engine.model.dtype == torch.float32
    return Measurement(what, against, changed, "", changed / len(many), "0" if exact else "", not (exact and changed))


def in_bfloat16(model: Path, requests: Sequence[Request], seconds: float) -> Iterator[Measurement]:
    """All reviews with `model.dtype: bfloat16`, and how many texts then depend on the batch."""
    with TemporaryDirectory() as folder:
        engine = TransformersEngine(materialise(model, "bfloat16", Path(folder)), None)
        fast = best_of(3, lambda: list(engine.complete(requests, REVIEWS)))
        ratio = seconds / fast
        yield Measurement(
            f"{len(requests)} reviews, bfloat16", f"float32 ({seconds:.0f} s)", fast, "s", ratio, "", True
        )
        yield order_independence(engine, requests)


def shared_prefix(engine: TransformersEngine) -> Measurement:
    """The first token behind prompts that begin alike, against prompts as long that do not."""
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(engine.config.vocab_size, (64, PREFIX + OWN), generator=random).tolist()
    alike = [[*tokens[0][:PREFIX], *own[PREFIX:]] for own in tokens]

    def run(prompts: list[list[int]]) -> Callable[[], object]:
        requests = [Request(str(index), tuple(prompt), 0) for index, prompt in enumerate(prompts)]
        return lambda: list(engine.complete(requests, FIRST_TOKENS))

    shared, apart = best_of(3, run(alike)), best_of(3, run(tokens))
    what = f"the first token of {len(alike)} prompts that share {PREFIX} of {PREFIX + OWN} tokens"
    return speedup(what, f"prompts that share none ({apart:.1f} s)", shared, apart, 3)


def shares_of_the_machine(engine: TransformersEngine, requests: Sequence[Request]) -> Iterator[Measurement]:
    """Prefill and a full batch's decoding in tokens per second, with the share of a large matrix product's rate; and of
    a row alone, with the share of the rate at which memory is read."""
    weights = sum(parameter.numel() for parameter in engine.model.parameters())
    flops, bandwidth = matrix_rate(engine), memory_rate(engine)
    prompts = [replace(request, draw=0) for request in requests if not request.draw]
    read = sum(len(request.tokens) for request in prompts)
    reading = best_of(3, lambda: list(engine.complete(prompts, FIRST_TOKENS)))
    yield _rate("prefill", read / reading, 2 * weights * read / reading / flops, "of the matrix rate, the prefix once")
    start = timed(lambda: list(engine.complete(requests, FIRST_TOKENS)))
    completions: list[tuple[Request, Completion]] = []
    writing = timed(lambda: completions.extend(engine.complete(requests, REVIEWS))) - start
    written = sum(completion.tokens for _, completion in completions) - len(requests)
    what = f"decoding, {len(requests)} rows, of {fmean(len(request.tokens) for request in requests):.0f} tokens"
    yield _rate(what, written / writing, 2 * weights * written / writing / flops, "of the matrix rate")
    alone = replace(REVIEWS, max_tokens=LONE_TOKENS)
    ends, engine.ends = engine.ends, set()
    seconds = timed(lambda: list(engine.complete(requests[:1], alone))) - timed(
        lambda: list(engine.complete(requests[:1], FIRST_TOKENS))
    )
    engine.ends = ends
    rate = (LONE_TOKENS - 1) / seconds
    size = weights * engine.model.dtype.itemsize
    yield _rate("decoding, one row", rate, rate * size / bandwidth, "of the memory rate")


def matrix_rate(engine: TransformersEngine) -> float:
    """Operations per second of a large product in the model's dtype."""
    matrix = torch.ones(MATRIX, MATRIX, dtype=engine.model.dtype, device=engine.device)
    return float(2 * MATRIX**3 / best_of(3, lambda: (matrix @ matrix)[0, 0].item()))


def memory_rate(engine: TransformersEngine) -> float:
    """Bytes per second at which memory is read."""
    numbers = torch.ones(MOVED, device=engine.device)
    return float(4 * MOVED / best_of(3, lambda: numbers.sum().item()))


def _rate(what: str, rate: float, share: float, against: str) -> Measurement:
    return Measurement(what, against, rate, "tokens/s", share, "", True)


def _git(*arguments: str) -> None:
    run = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if run.returncode:
        raise UserError(f"git {' '.join(arguments)}: {run.stderr.strip()}; run it in a whole clone")
