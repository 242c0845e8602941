"""lm-eval's model, as the runtime has it, with every answer in the completion store: an evaluation that was killed goes
on where it was, and a model that was evaluated before (an iteration that passed its model on) is not asked again."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import engines
from stages.core.digest import digest
from stages.core.engines import Completion
from stages.core.params import runtime
from stages.core.progress import quiet_transformers
from stages.core.store import Store

if TYPE_CHECKING:
    from lm_eval.api.model import LM, CachingLM

BATCH_ROWS = 64  # where `runtime.batch_rows` is not set
ALL_AT_ONCE = 10**9
KEYS = "evaluate 1"  # the meaning of a key; another number where it changes


class Answers:
    """The store as lm-eval's cache of one model: by lm-eval's hash of a request, the answer, a text or
    (log-probability, whether it is the greedy one). `advance` is called once for each answer."""

    def __init__(self, model: str, tokens: Callable[[str], list[int]], advance: Callable[[int], None]) -> None:
        self._store, self._model, self._tokens, self._advance = Store.of_the_repository(), model, tokens, advance
        self._answers: dict[str, Any] = {}  # of this process
        self.used: list[Completion] = []  # every answer that was given out, stored or computed
        self._before = time.monotonic()

    def __contains__(self, request: str) -> bool:
        if request not in self._answers and (found := self._store.find([self._key(request)])):
            (completion,) = found.values()
            answer = json.loads(completion.text)
            self._remember(request, tuple(answer) if isinstance(answer, list) else answer, completion)
        return request in self._answers

    def __getitem__(self, request: str) -> Any:
        return self._answers[request]

    def __setitem__(self, request: str, answer: Any) -> None:
        if request in self._answers:  # lm-eval tells each one twice: as it finishes, and at the end
            return
        now = time.monotonic()
        written = len(self._tokens(answer)) if isinstance(answer, str) else 0
        seconds = round(now - self._before, 6)
        completion = Completion(json.dumps(answer), "stop", tokens=written, seconds=seconds)
        self._store.put(self._key(request), completion)
        self._before = now
        self._remember(request, answer, completion)

    def commit(self) -> None:
        """Nothing to do: an answer is safe as soon as it is kept."""

    def _remember(self, request: str, answer: Any, completion: Completion) -> None:
        self._answers[request] = answer
        self.used.append(completion)
        self._advance(1)

    def _key(self, request: str) -> bytes:
        return hashlib.sha256(json.dumps([KEYS, self._model, request]).encode()).digest()


def load(model: Path, advance: Callable[[int], None]) -> "tuple[CachingLM, Answers]":
    """The model in lm-eval, behind the store. An endpoint cannot be asked everything that a benchmark asks, so
    `runtime.engine: server` evaluates with the engine that this machine has."""
    os.environ["TQDM_DISABLE"] = "1"  # before lm-eval imports it
    quiet_transformers()
    from lm_eval.api.model import CacheHook, CachingLM

    class StoredLM(CachingLM):  # type: ignore[misc]
        def __init__(self, lm: "LM", answers: Answers) -> None:
            self.lm, self.cache_db, self.dbdict = lm, "the completion store", answers
            lm.set_cache_hook(CacheHook(self))

    configured = runtime()["engine"]
    engine = engines.chosen("auto" if configured == "server" else configured)
    lm = _vllm(model) if engine == "vllm" else _transformers(model)
    answers = Answers(digest(model), lm.tok_encode, advance)
    return StoredLM(lm, answers), answers


def _transformers(model: Path) -> "LM":
    import torch
    from lm_eval.models.huggingface import HFLM

    class QuietHFLM(HFLM):  # type: ignore[misc]
        """lm-eval draws its bars whatever the environment says."""

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().generate_until(requests, disable_tqdm=True)

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

    rows = runtime()["batch_rows"] or BATCH_ROWS
    device = "cuda" if torch.cuda.is_available() else "cpu"  # lm-eval would ask for cuda on any machine
    return QuietHFLM(pretrained=str(model), batch_size=rows, dtype="auto", device=device)


def _vllm(model: Path) -> "LM":
    from lm_eval.models.vllm_causallms import VLLM

    # lm-eval hands over so many requests at once, and draws no bar of vLLM's only where that is a number
    return VLLM(pretrained=str(model), dtype=engines.dtype(model), batch_size=ALL_AT_ONCE, **runtime()["vllm"])
