"""A model's answers to lm-eval's requests, from the completion store where they were ever computed.

lm-eval's own cache gives all repeats of a sampled request one answer, or keeps none of them. Here the draw's number is
part of the key, and of the seed: draws differ, and are the same in every run, whatever else was asked before.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from stages.core.counts import ReasoningCounts
from stages.evaluation.generation import settings_of
from stages.inference.engines import Completion, Sampling, seed_of
from stages.inference.store import Store
from stages.models import reasoning

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM

REQUESTS_PER_CALL = 512  # answers are stored after each call, so a killed evaluation loses at most that many
KEY_VERSION = "evaluate 2"  # changes if the same key would mean another answer

WithDraw: TypeAlias = "Callable[[Instance, int], Instance]"  # a sampled request, as an engine takes it for a draw


class StoredLM:
    """An lm-eval model whose answers are kept in the completion store: a text, or (log-probability, whether greedy
    decoding gives it). All else that lm-eval asks for is the model's."""

    def __init__(
        self,
        lm: "LM",
        with_draw: WithDraw,
        digest: str,
        store: Store,
        advance: Callable[[int], None],
    ) -> None:
        """`digest`: the model's. `advance`: called with the number of requests that were answered."""
        self.used: list[Completion] = []  # every answer given to lm-eval, once
        self.reasoning: ReasoningCounts = {"completions": 0, "answers": 0}  # of the texts given to it
        self._lm, self._with_draw, self._digest = lm, with_draw, digest
        self._store, self._advance = store, advance

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lm, name)

    def generate_until(self, requests: "list[Instance]") -> list[str]:
        """Texts, generated greedily or sampled, without reasoning; the store keeps it."""
        texts = [
            reasoning.split(answer, begun=reasoning.is_begun(request.args[0]))
            for request, answer in zip(requests, self._answers(requests), strict=True)
        ]
        self.reasoning["completions"] += sum(bool(text.reasoning) for text in texts)
        self.reasoning["answers"] += sum(bool(text.reasoning and text.answer) for text in texts)
        return [text.answer for text in texts]

    def loglikelihood(self, requests: "list[Instance]") -> list[tuple[float, bool]]:
        """The likelihood of a continuation."""
        return self._answers(requests)

    def loglikelihood_rolling(self, requests: "list[Instance]") -> list[float]:
        """The likelihood of a whole text."""
        return self._answers(requests)

    def _answers(self, requests: "list[Instance]") -> list[Any]:
        """The answers to requests of one kind, stored or new."""
        draws = number_draws(requests)
        keys = [answer_key(self._digest, request, draw) for request, draw in zip(requests, draws, strict=True)]
        times = Counter(keys)
        completions = self._store.find(times)
        self._advance(sum(times[key] for key in completions))
        missing = {
            key: (draw, request)
            for key, draw, request in zip(keys, draws, requests, strict=True)
            if key not in completions
        }
        for key, completion in self._compute(missing):
            completions[key] = completion
            self._store.put(key, completion)
            self._advance(times[key])
        self.used += completions.values()
        return [_decoded(completions[key]) for key in keys]

    def _compute(self, missing: "dict[bytes, tuple[int, Instance]]") -> Iterator[tuple[bytes, Completion]]:
        """New answers; a call has requests of as few draws as possible, since lm-eval puts one draw in a batch."""
        by_draw = sorted(missing, key=lambda key: missing[key][0])
        for start in range(0, len(by_draw), REQUESTS_PER_CALL):
            keys, before = by_draw[start : start + REQUESTS_PER_CALL], time.monotonic()
            answers = self._call([missing[key] for key in keys])
            seconds = time.monotonic() - before  # all of them count for the call's first answer
            for key, answer in zip(keys, answers, strict=True):
                tokens = len(self._lm.tok_encode(answer)) if isinstance(answer, str) else 0
                yield key, Completion(json.dumps(answer), "stop", tokens=tokens, seconds=round(seconds, 6))
                seconds = 0.0

    def _call(self, requests: "list[tuple[int, Instance]]") -> list[Any]:
        ready = [self._with_draw(request, draw) if is_sampled(request) else request for draw, request in requests]
        answers: list[Any] = getattr(self._lm, ready[0].request_type)(ready, disable_tqdm=True)
        return answers


def _decoded(completion: Completion) -> Any:
    answer = json.loads(completion.text)
    return tuple(answer) if isinstance(answer, list) else answer


def number_draws(requests: "Sequence[Instance]") -> list[int]:
    """Which draw each request is: of those of one task that read the same, its repeats among them, the first is 0, the
    second 1, …; 0 for all that do not sample."""
    before: Counter[tuple[str, str]] = Counter()
    draws = []
    for request in requests:
        if not is_sampled(request):
            draws.append(0)
            continue
        content = str(request.task_name), _content(request)
        draws.append(before[content])
        before[content] += 1
    return draws


def answer_key(model: str, request: "Instance", draw: int) -> bytes:
    """An answer's key in the completion store: the hash of all that decides it. `model`: its digest."""
    return hashlib.sha256(json.dumps([KEY_VERSION, model, _content(request), draw]).encode()).digest()


def _content(request: "Instance") -> str:
    """A request's kind, rendered texts and settings as JSON; 1 and 1.0 are the same."""
    arguments = list(request.args)
    if request.request_type == "generate_until":
        settings = settings_of(arguments[1])
        arguments[1] = {name: float(value) if type(value) is int else value for name, value in settings.items()}
    return json.dumps([request.request_type, *arguments], sort_keys=True)


def is_sampled(request: "Instance") -> bool:
    """Whether the answer depends on a draw."""
    return request.request_type == "generate_until" and bool(settings_of(request.args[1])["do_sample"])


def sampling_of(generation_kwargs: dict[str, Any]) -> Sampling | None:
    """How a request samples; None: greedily."""
    settings = settings_of(generation_kwargs)
    if not settings["do_sample"]:
        return None
    temperature, top_p = float(settings["temperature"]), float(settings.get("top_p", 1.0))
    return Sampling(temperature, top_p, int(settings["max_gen_toks"]), random_state=0)


def with_seed(request: "Instance", draw: int) -> "Instance":
    """The request with the seed of its draw, as vLLM takes it."""
    context, settings = request.args
    sampling = sampling_of(settings)
    assert sampling
    return replace(request, arguments=(context, settings | {"seed": seed_of(context, sampling, draw)}))
