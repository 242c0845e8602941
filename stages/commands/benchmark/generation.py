"""Model calls: the loop against one prompt at a time, the engines against their libraries, and what the store saves."""

from collections.abc import Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from stages.commands.benchmark.loop import PARAMS, REVIEWS, SEEDS, construct, fresh_client, seeds
from stages.commands.benchmark.measurement import Measurement, at_most, best_of, speedup, timed
from stages.core.params import read_runtime
from stages.core.prompts import ReviewPrompt
from stages.inference import engines
from stages.inference.engines import Request, Sampling
from stages.inference.engines.transformers import TransformersEngine
from stages.inference.store import Store
from stages.models import chat

TIMED = 8  # of the first baseline's prompts, one in so many is timed
BATCHES = (16, 32, 64, 128, 256)  # sizes that the second baseline may choose from


def construction(base: Path) -> Iterator[Measurement]:
    """review, generate and assess, against the reference code's pattern: one prompt per `generate` call."""
    with fresh_client(base) as client:
        client.complete("warm-up", [seeds()[0]["prompt"]], "", 1, Sampling(0, 1.0, 1, 0))  # loads the weights
        client.calls.clear()
        ours = timed(lambda: construct(client))
    baseline, reference = Baseline(base), 0.0
    for prompts, draws, sampling in filter(itemgetter(0), client.calls):  # a route without prompts takes no time
        sample = prompts[::TIMED]
        reference += timed(partial(baseline.one_at_a_time, sample, draws, sampling)) * len(prompts) / len(sample)
    completions = sum(len(prompts) * draws for prompts, draws, _ in client.calls)
    what = f"review + generate + assess of {SEEDS} seeds ({completions:,} completions)"
    against = f"one prompt per generate call (every {TIMED}th timed: {reference:.0f} s)"
    yield speedup(what, against, ours, reference, 8)


def engine_speed(base: Path) -> Iterator[Measurement]:
    """The transformers engine, against `generate` in batches of the best size."""
    engine = TransformersEngine(base, read_runtime().batch_rows)
    requests = review_requests(engine, 3)
    ours = best_of(3, lambda: list(engine.complete(requests, REVIEWS)))
    prompts = sorted({request.prompt for request in requests}, key=len)
    baseline = Baseline(base)
    reference, size = min((best_of(2, partial(baseline.in_batches, prompts, size)), size) for size in BATCHES)
    against = f"batched generate, best of {len(BATCHES)} sizes ({size}: {reference:.1f} s)"
    yield speedup(f"engine, {len(requests)} reviews", against, ours, reference, 1.5)


def order_independence(base: Path) -> Iterator[Measurement]:
    """How many texts change with the batch's size and the requests' order; padding can cause ties in floats."""
    engine = TransformersEngine(base, None)
    requests = review_requests(engine, 18)
    changed = changed_texts(engine, requests, REVIEWS, (7, 100, 384))
    what = f"texts that change, of {len(requests):,}"
    against = "batches of 7, 100 and 384 rows, requests in either order"
    yield Measurement(what, against, changed, "", changed / len(requests), "0", not changed)


def changed_texts(
    engine: TransformersEngine, requests: Sequence[Request], sampling: Sampling, sizes: Sequence[int]
) -> int:
    """How many requests get another text in batches of another size and in the other order."""
    texts = []
    for index, engine.batch_rows in enumerate(sizes):
        completions = dict(engine.complete(requests[:: (-1) ** (index + 1)], sampling))
        texts.append([completions[request].text for request in requests])
    return sum(len(set(versions)) > 1 for versions in zip(*texts, strict=True))


def sweep(base: Path) -> Iterator[Measurement]:
    """Model calls of a sweep over the threshold, and of a repeated experiment."""
    calls = []
    with fresh_client(base) as client:
        for threshold in (7.0, 7.0, 6.0, 8.0):
            construct(client, threshold)
            calls.append(int(Store.from_settings(client.runtime.store).totals()["completions"]))
    first, again, _, total = calls
    yield at_most("threshold = 6, 7, 8, model calls", f"one threshold, {first:,} calls", total, first, 1.5, "calls")
    against = f"the first time, {first:,}"
    made = again - first
    yield Measurement("the same experiment again, model calls", against, made, "calls", made / first, "0", not made)


def vllm_speed(base: Path) -> Iterator[Measurement]:
    """The vLLM engine, against `LLM.generate`. Raises `UserError` where vLLM is not installed (docs/engines.md)."""
    engines.resolve("vllm")
    from stages.inference.engines.vllm import LEAST_CONTEXT, VllmEngine, sampling_params

    settings = PARAMS["generate"]
    sampling = Sampling(settings["temperature"], settings["top_p"], settings["max_tokens"], random_state=0)
    engine = VllmEngine(base, read_runtime().vllm)
    engine.start(LEAST_CONTEXT)
    requests = render_requests(engine.tokenizer, [f"{row['prompt']}\n" for row in seeds()], 3)
    prompts = [{"prompt_token_ids": list(request.tokens)} for request in requests]
    params = [sampling_params(request, sampling) for request in requests]

    def ours() -> object:
        return list(engine.complete(requests, sampling))

    def theirs() -> object:
        return engine.llm.generate(prompts, params, use_tqdm=False)

    ours(), theirs()  # the first call compiles
    runs = [(timed(ours), timed(theirs)) for _ in range(5)]  # in turns
    best, reference = (min(times) for times in zip(*runs, strict=True))
    what, against = f"vllm engine, {len(requests)} completions", f"LLM.generate ({reference:.2f} s)"
    yield speedup(what, against, best, reference, 0.95)


def review_requests(engine: TransformersEngine, draws: int, limit: int = SEEDS) -> list[Request]:
    """`draws` reviews of each of the first `limit` seeds."""
    review = ReviewPrompt(PARAMS["prompts"])
    prompts = [review.render(row["prompt"], row["response"]) for row in seeds(limit)]
    return render_requests(engine.tokenizer, [chat.render(engine.tokenizer, prompt) for prompt in prompts], draws)


def render_requests(tokenizer: Any, prompts: list[str], draws: int) -> list[Request]:
    """`draws` requests for each rendered prompt."""
    tokens = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    return [
        Request(prompt, tuple(ids), draw) for prompt, ids in zip(prompts, tokens, strict=True) for draw in range(draws)
    ]


class Baseline:
    """`generate` of transformers."""

    def __init__(self, model: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self.model = AutoModelForCausalLM.from_pretrained(model).eval()

    def one_at_a_time(self, prompts: list[str], draws: int, sampling: Sampling) -> None:
        """A call for each prompt."""
        for prompt in prompts:
            self._generate([prompt], draws, sampling)

    def in_batches(self, prompts: list[str], size: int) -> None:
        """A call for each `size` prompts, three reviews of each."""
        for start in range(0, len(prompts), size):
            self._generate(prompts[start : start + size], 3, REVIEWS)

    @torch.inference_mode()
    def _generate(self, prompts: list[str], draws: int, sampling: Sampling) -> None:
        self.model.generate(
            **self.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False),
            do_sample=True,
            num_return_sequences=draws,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            max_new_tokens=sampling.max_tokens,
        )
