"""lm-eval on a model, as the runtime has it, with every answer in the completion store: an evaluation that was killed
goes on where it was, and a model that was evaluated before (an iteration that passed its model on) is not asked again.
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
from stages.models import adapters
from stages.models.fingerprint import digest, own_code

if TYPE_CHECKING:
    from lm_eval.api.model import LM, CachingLM

BATCH_ROWS = 64  # where `runtime.batch_rows` is not set
AT_ONCE = 512  # requests of one call: what a killed evaluation loses at most
CALLS = ("generate_until", "loglikelihood", "loglikelihood_rolling")
KEYS = "evaluate 1"  # the meaning of a key; another number where it changes


class Answers:
    """The store as lm-eval's cache of one model: by lm-eval's hash of a request, the answer, a text or
    (log-probability, whether it is the greedy one). `advance` is called once for each answer."""

    def __init__(
        self, model: str, tokens: Callable[[str], list[int]], store: Store, advance: Callable[[int], None]
    ) -> None:
        self._store, self._model, self._tokens, self._advance = store, model, tokens, advance
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
        if request in self._answers:  # the same question twice: one answer, one cost
            return
        now = time.monotonic()
        written = len(self._tokens(answer)) if isinstance(answer, str) else 0
        seconds = round(now - self._before, 6)  # the first answer of a call has all of its time
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
        return key(self._model, request)


def key(model: str, request: str) -> bytes:
    """The store's key of an answer, by the model's digest and lm-eval's hash of the request."""
    return hashlib.sha256(json.dumps([KEYS, model, request]).encode()).digest()


def ask(
    name: str, model: Path, benchmarks: list[Any], samples: dict[str, list[int]], asked: str, runtime: Runtime
) -> tuple[Record, list[Completion]]:
    """lm-eval's results of a model on the `samples` of the benchmarks' tasks ({task: indices}), with `asked` as its
    system prompt; and the answers that they rest on."""
    tasks = together(benchmarks)
    with progress(name, calls(tasks["tasks"], samples)) as advance:
        lm, answers = load(model, runtime, advance)
        results = evaluated(lm, tasks, samples, asked)
    return results, answers.used


def together(benchmarks: list[Any]) -> Any:
    """The tasks and groups of all benchmarks, as lm-eval takes them."""
    tasks: Any = {kind: {} for kind in ("tasks", "groups", "group_map")}
    for benchmark in benchmarks:
        for kind in tasks:
            tasks[kind] |= benchmark.get(kind, {})
    return tasks


def evaluated(lm: "LM", tasks: Any, samples: dict[str, list[int]], asked: str) -> Record:
    """lm-eval's results of a model that is loaded."""
    from lm_eval import evaluate
    from lm_eval import utils as lm_eval_utils

    templates = lm_eval_utils.env
    templates.from_string = cache(templates.from_string)  # it would compile a template anew for each item
    results: Record = evaluate(
        lm,
        tasks,
        samples=samples,
        bootstrap_iters=1,  # 0 would remove the standard errors, which have a closed form here
        system_instruction=asked or None,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
    )
    return results


def calls(tasks: dict[str, Any], samples: dict[str, list[int]]) -> int:
    """Model calls: one an item, or one a choice."""
    total = 0
    for name, task in tasks.items():
        choices, documents = task.OUTPUT_TYPE == "multiple_choice", task.eval_docs
        total += sum(len(task.doc_to_choice(documents[index])) if choices else 1 for index in samples[name])
    return total


def write(folder: Path, results: Record) -> None:
    """lm-eval's results and samples in its own formats and under its own names."""
    from lm_eval.utils import handle_non_serializable, sanitize_list

    folder.mkdir(parents=True, exist_ok=True)
    for task, samples in results.pop("samples").items():
        for sample in samples:
            requests = enumerate(sample["arguments"])
            sample["arguments"] = {
                f"gen_args_{number}": {f"arg_{i}": each for i, each in enumerate(request)}
                for number, request in requests
            }
            sample |= {key: sanitize_list(sample[key]) for key in ("resps", "filtered_resps")}
            sample["target"] = str(sample["target"])
        lines = (json.dumps(each, default=handle_non_serializable, ensure_ascii=False) + "\n" for each in samples)
        (folder / f"samples_{task}.jsonl").write_text("".join(lines), encoding="utf-8")
    text = json.dumps(results, indent=2, default=handle_non_serializable, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")


def load(model: Path, runtime: Runtime, advance: Callable[[int], None]) -> "tuple[CachingLM, Answers]":
    """The model in lm-eval, behind the store."""
    prepare_transformers()
    from lm_eval.api.model import CachingLM

    class StoredLM(CachingLM):  # type: ignore[misc]
        """lm-eval's cache keeps the answers when a call ends, so each call has some of the requests only."""

        def __init__(self, lm: "LM", answers: Answers) -> None:
            self.lm, self.cache_db, self.dbdict = lm, "the completion store", answers

        def __getattr__(self, name: str) -> Any:
            found = super().__getattr__(name)
            return in_parts(found) if name in CALLS else found

    whole = adapters.full_weights(model)
    lm = _vllm(whole, runtime.vllm) if engine(runtime) == "vllm" else _transformers(whole, runtime.batch_rows)
    for name in CALLS:  # lm-eval draws bars whatever the environment says
        setattr(lm, name, partial(getattr(lm, name), disable_tqdm=True))
    answers = Answers(digest(model), lm.tok_encode, Store.from_settings(runtime.store), advance)
    return StoredLM(lm, answers), answers


def engine(runtime: Runtime) -> str:
    """An endpoint cannot be asked everything that a benchmark asks, so `runtime.engine: server` evaluates with what
    this machine has."""
    return engines.resolve("auto" if runtime.engine == "server" else runtime.engine)


def gpus(runtime: Runtime) -> int | None:
    return engines.gpus(engine(runtime), runtime.vllm)


def in_parts(call: Callable[[list[Any]], list[Any]]) -> Callable[[list[Any]], list[Any]]:
    """The same call, for AT_ONCE requests at a time."""

    def calls(requests: list[Any]) -> list[Any]:
        parts = (requests[start : start + AT_ONCE] for start in range(0, len(requests), AT_ONCE))
        return [answer for part in parts for answer in call(part)]

    return calls


def _as_given(model: Path) -> dict[str, bool]:
    """The model as it is; the chat template says whether a text begins with a token of its own, and nobody else."""
    return {"trust_remote_code": own_code(model), "add_bos_token": False}


def _transformers(model: Path, batch_rows: int | None) -> "LM":
    import torch
    from lm_eval.models.huggingface import HFLM

    rows = batch_rows or BATCH_ROWS
    device = "cuda" if torch.cuda.is_available() else "cpu"  # lm-eval would ask for cuda on any machine
    lm: LM = HFLM(pretrained=str(model), batch_size=rows, dtype="auto", device=device, **_as_given(model))
    lm.model.generation_config.repetition_penalty = (
        1.0  # nothing but what the request says, as the other engines have it
    )
    return lm


def _vllm(model: Path, settings: Vllm) -> "LM":
    from lm_eval.models.vllm_causallms import VLLM

    from stages.inference.engines.vllm import cannot_start, end_with_this_process

    try:
        given = _as_given(model)
        lm = VLLM(
            pretrained=str(model), dtype=engines.dtype(model), batch_size=AT_ONCE, **given, **settings.model_dump()
        )
    except Exception as error:  # vLLM, torch and safetensors each raise their own
        raise cannot_start(model, error) from error
    if settings.data_parallel_size == 1:  # else Ray has the processes
        end_with_this_process(lm.model)
    return lm
