"""lm-eval on a model, with the completion store as its cache.

An evaluation that was killed resumes, and a model that was evaluated before (by an iteration that passed its model on)
is not run again.
"""

import hashlib
import json
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.progress import prepare_transformers, progress
from stages.core.records import Record
from stages.core.schema import Runtime, Vllm
from stages.inference import engines
from stages.inference.engines import Completion
from stages.inference.store import Store
from stages.models import adapters, chat, reasoning
from stages.models.fingerprint import digest, has_custom_code

if TYPE_CHECKING:
    from lm_eval.api.model import LM, CachingLM

BATCH_ROWS = 64  # if `runtime.batch_rows` is not set
REQUESTS_PER_CALL = 512  # answers are stored after each call, so a killed evaluation loses at most that many
CALLS = ("generate_until", "loglikelihood", "loglikelihood_rolling")  # lm-eval's kinds of requests
KEY_VERSION = "evaluate 1"  # changes if the same key would mean another answer


def evaluate_model(
    name: str, model: Path, benchmarks: list[Any], samples: dict[str, list[int]], system_prompt: str, runtime: Runtime
) -> tuple[Record, list[Completion]]:
    """Evaluate a model folder on samples of the benchmarks' tasks ({task: indices of its items}). `name`: what the
    progress bar says. Returns lm-eval's results, and every answer that they rest on, stored or new."""
    tasks = merge_tasks(benchmarks)
    with progress(name, count_calls(tasks["tasks"], samples)) as advance:
        lm, answers = load_lm(model, runtime, advance)
        results = run_lm_eval(lm, tasks, samples, system_prompt)
    return results, answers.used


def merge_tasks(benchmarks: list[Any]) -> Any:
    """The tasks and groups of several benchmarks in one lm-eval `TaskDict`."""
    merged: Any = {kind: {} for kind in ("tasks", "groups", "group_map")}
    for benchmark in benchmarks:
        for kind in merged:
            merged[kind] |= benchmark.get(kind, {})
    return merged


def count_calls(tasks: dict[str, Any], samples: dict[str, list[int]]) -> int:
    """How many model calls the samples take: one per item or, in multiple choice, one per choice."""
    total = 0
    for name, task in tasks.items():
        multiple_choice, documents = task.OUTPUT_TYPE == "multiple_choice", task.eval_docs
        total += sum(len(task.doc_to_choice(documents[index])) if multiple_choice else 1 for index in samples[name])
    return total


def run_lm_eval(lm: "LM", tasks: Any, samples: dict[str, list[int]], system_prompt: str) -> Record:
    """lm-eval's results of a loaded model, in the chat format and with closed-form standard errors."""
    from lm_eval import evaluate
    from lm_eval import utils as lm_eval_utils

    templates = lm_eval_utils.env
    templates.from_string = cache(templates.from_string)  # lm-eval compiles the same template for every item
    results: Record = evaluate(
        lm,
        tasks,
        samples=samples,
        bootstrap_iters=1,  # with 0 there are no standard errors, not even those that need no bootstrap
        system_instruction=system_prompt or None,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
    )
    return results


def load_lm(model: Path, runtime: Runtime, advance: Callable[[int], None]) -> "tuple[CachingLM, AnswerCache]":
    """The model for lm-eval, on the engine of `runtime`, with the completion store as its cache. `advance` is called
    with 1 for each answer. Raises `UserError` if the model cannot be loaded."""
    prepare_transformers()
    from lm_eval.api.model import CachingLM

    class StoredLM(CachingLM):  # type: ignore[misc]
        """lm-eval's caching model, which stores the answers of a call when it ends; so its calls are made smaller."""

        def __init__(self, lm: "LM", answers: AnswerCache) -> None:
            self.lm, self.cache_db, self.dbdict = lm, "the completion store", answers

        def __getattr__(self, name: str) -> Any:
            attribute = super().__getattr__(name)
            if name == "generate_until":
                attribute = without_reasoning(attribute)
            return in_batches(attribute) if name in CALLS else attribute

    weights = adapters.full_weights(model)
    lm = _vllm(weights, runtime.vllm) if engine(runtime) == "vllm" else _transformers(weights, runtime.batch_rows)
    for name in CALLS:  # these draw progress bars unless they are called so
        setattr(lm, name, partial(getattr(lm, name), disable_tqdm=True))
    answers = AnswerCache(digest(model), lm.tok_encode, Store.from_settings(runtime.store), advance)
    return StoredLM(lm, answers), answers


class AnswerCache:
    """The completion store in the form of lm-eval's cache for one model, a mapping from lm-eval's hash of a request to
    its answer: a text, or (log-probability, whether greedy decoding gives it)."""

    def __init__(
        self, model: str, tokenize: Callable[[str], list[int]], store: Store, advance: Callable[[int], None]
    ) -> None:
        """`model`: its digest. `advance`: called with 1 for each answer, stored or new."""
        self._model, self._tokenize, self._store, self._advance = model, tokenize, store, advance
        self._answers: dict[str, Any] = {}  # of this process
        self.used: list[Completion] = []  # every answer given to lm-eval
        self._last_time = time.monotonic()

    def __contains__(self, request: str) -> bool:
        """Whether there is an answer. lm-eval always asks this before it reads one."""
        if request not in self._answers and (stored := self._store.find([answer_key(self._model, request)])):
            (completion,) = stored.values()
            answer = json.loads(completion.text)
            self._remember(request, tuple(answer) if isinstance(answer, list) else answer, completion)
        return request in self._answers

    def __getitem__(self, request: str) -> Any:
        """The answer to a request that the cache contains."""
        return self._answers[request]

    def __setitem__(self, request: str, answer: Any) -> None:
        """Store a new answer; a second one to the same request is dropped."""
        if request in self._answers:
            return
        now = time.monotonic()
        tokens = len(self._tokenize(answer)) if isinstance(answer, str) else 0
        seconds = round(now - self._last_time, 6)  # a call's whole time counts for its first answer
        completion = Completion(json.dumps(answer), "stop", tokens=tokens, seconds=seconds)
        self._store.put(answer_key(self._model, request), completion)
        self._last_time = now
        self._remember(request, answer, completion)

    def commit(self) -> None:
        """Part of lm-eval's interface; every answer is already in the store."""

    def _remember(self, request: str, answer: Any, completion: Completion) -> None:
        self._answers[request] = answer
        self.used.append(completion)
        self._advance(1)


def answer_key(model: str, request: str) -> bytes:
    """An answer's key in the completion store. `model`: its digest; `request`: lm-eval's hash of it."""
    return hashlib.sha256(json.dumps([KEY_VERSION, model, request]).encode()).digest()


def without_reasoning(call: Callable[[list[Any]], list[str]]) -> Callable[[list[Any]], list[str]]:
    """The same function of a list of requests, whose answers have no reasoning; the store keeps it."""

    def call_and_split(requests: list[Any]) -> list[str]:
        return [
            reasoning.split(answer, begun=reasoning.is_begun(request.args[0])).answer
            for request, answer in zip(requests, call(requests), strict=True)
        ]

    return call_and_split


def in_batches(call: Callable[[list[Any]], list[Any]]) -> Callable[[list[Any]], list[Any]]:
    """The same function of a list of requests, called for `REQUESTS_PER_CALL` of them at a time."""

    def call_in_batches(requests: list[Any]) -> list[Any]:
        starts = range(0, len(requests), REQUESTS_PER_CALL)
        return [answer for start in starts for answer in call(requests[start : start + REQUESTS_PER_CALL])]

    return call_in_batches


def engine(runtime: Runtime) -> str:
    """The engine that evaluates: "transformers" or "vllm". A server does not answer all of lm-eval's requests, so with
    `runtime.engine: server` it is the one that "auto" means on this machine."""
    return engines.resolve("auto" if runtime.engine == "server" else runtime.engine)


def gpus(runtime: Runtime) -> int | None:
    """The number of GPUs that the evaluation uses."""
    return engines.gpus(engine(runtime), runtime.vllm)


def _model_args(model: Path) -> dict[str, Any]:
    """What both engines are told about a model: `add_bos_token` is off, since the chat template writes BOS itself."""
    return {
        "trust_remote_code": has_custom_code(model),
        "add_bos_token": False,
        "chat_template_args": dict(chat.VARIABLES),
    }


def _transformers(model: Path, batch_rows: int | None) -> "LM":
    import torch
    from lm_eval.models.huggingface import HFLM

    rows = batch_rows or BATCH_ROWS
    device = "cuda" if torch.cuda.is_available() else "cpu"  # by default, lm-eval wants cuda on any machine
    lm: LM = HFLM(pretrained=str(model), batch_size=rows, dtype="auto", device=device, **_model_args(model))
    lm.model.generation_config.repetition_penalty = 1.0  # the model's own default is ignored, as by the other engines
    return lm


def _vllm(model: Path, settings: Vllm) -> "LM":
    from lm_eval.models.vllm_causallms import VLLM

    from stages.inference.engines.vllm import cannot_start, end_with_this_process

    try:
        lm = VLLM(
            pretrained=str(model),
            dtype=engines.dtype(model),
            batch_size=REQUESTS_PER_CALL,
            **_model_args(model),
            **settings.model_dump(),
        )
    except Exception as error:  # vLLM, torch and safetensors each raise their own
        raise cannot_start(model, error) from error
    if settings.data_parallel_size == 1:  # otherwise Ray owns the processes
        end_with_this_process(lm.model)
    return lm


def write_results(folder: Path, results: Record) -> None:
    """Write lm-eval's results and samples in its own formats and under its own file names. Changes `results`."""
    from lm_eval.utils import handle_non_serializable, sanitize_list

    folder.mkdir(parents=True, exist_ok=True)
    for task, samples in results.pop("samples").items():
        for sample in samples:
            sample["arguments"] = {
                f"gen_args_{number}": {f"arg_{position}": argument for position, argument in enumerate(request)}
                for number, request in enumerate(sample["arguments"])
            }
            sample |= {name: sanitize_list(sample[name]) for name in ("resps", "filtered_resps")}
            sample["target"] = str(sample["target"])
        lines = (json.dumps(sample, default=handle_non_serializable, ensure_ascii=False) + "\n" for sample in samples)
        (folder / f"samples_{task}.jsonl").write_text("".join(lines), encoding="utf-8")
    text = json.dumps(results, indent=2, default=handle_non_serializable, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
