"""lm-eval on a model, with the completion store as its cache.

An evaluation that was killed resumes, and a model that was evaluated before (by an iteration that passed its model on)
is not run again.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.counts import ReasoningCounts
from stages.core.progress import prepare_transformers, progress
from stages.core.records import Record
from stages.core.rows import JudgingPair
from stages.core.schema import Runtime, Vllm
from stages.evaluation.answers import REQUESTS_PER_CALL, StoredLM, WithDraw, with_seed
from stages.evaluation.judging import preferences
from stages.inference import engines
from stages.inference.engines import Completion
from stages.inference.store import Store
from stages.models import adapters, chat
from stages.models.fingerprint import digest, has_custom_code

if TYPE_CHECKING:
    from lm_eval.api.model import LM

BATCH_ROWS = 64  # if `runtime.batch_rows` is not set


def evaluate_model(
    name: str,
    model: Path,
    benchmarks: list[Any],
    samples: dict[str, list[int]],
    pairs: list[JudgingPair],
    system_prompt: str,
    runtime: Runtime,
) -> tuple[Record, list[float], list[Completion], ReasoningCounts]:
    """Evaluate a model folder on samples of the benchmarks' tasks ({task: indices of its items}), and as the judge of
    pairs. `name`: what the progress bar says. Returns lm-eval's results, the model's preferences in the pairs,
    every answer that they rest on, stored or new, and how many texts had reasoning."""
    tasks = merge_tasks(benchmarks, samples)
    calls = count_calls(tasks["tasks"], samples) + sum(2 * (pair["highest"] + 1) for pair in pairs)
    with progress(name, calls) as advance:
        lm = load_lm(model, runtime, advance)
        results = run_lm_eval(lm, tasks, samples, system_prompt)
        preferred = preferences(lm, pairs, system_prompt)
    return results, preferred, lm.used, lm.reasoning


def merge_tasks(benchmarks: list[Any], samples: dict[str, list[int]]) -> Any:
    """The tasks of several benchmarks that are evaluated, and their groups, in one lm-eval `TaskDict`."""
    merged: Any = {"tasks": {}, "groups": {}}
    for benchmark in benchmarks:
        merged["tasks"] |= {name: task for name, task in benchmark["tasks"].items() if name in samples}
        merged["groups"] |= benchmark["groups"]
    for group in merged["groups"].values():
        for task in group.get_all_tasks(recursive=False):
            if task.task_name not in samples:
                group.pop(task.task_name)
    return merged


def count_calls(tasks: dict[str, Any], samples: dict[str, list[int]]) -> int:
    """How many model calls the samples take: a task's repeats per item or, in multiple choice, per choice."""
    total = 0
    for name, task in tasks.items():
        multiple_choice, documents = task.OUTPUT_TYPE == "multiple_choice", task.eval_docs
        calls = sum(len(task.doc_to_choice(documents[index])) if multiple_choice else 1 for index in samples[name])
        total += calls * task.get_config("repeats")
    return total


def run_lm_eval(lm: StoredLM, tasks: Any, samples: dict[str, list[int]], system_prompt: str) -> Record:
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


def load_lm(model: Path, runtime: Runtime, advance: Callable[[int], None]) -> StoredLM:
    """The model for lm-eval, on the engine of `runtime`, with the completion store as its cache. `advance` is called
    with numbers of answers. Raises `UserError` if the model cannot be loaded."""
    prepare_transformers()
    weights = adapters.full_weights(model)
    load = _vllm(weights, runtime.vllm) if engine(runtime) == "vllm" else _transformers(weights, runtime.batch_rows)
    return StoredLM(*load, digest(model), Store.from_settings(runtime.store), advance)


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


def _transformers(model: Path, batch_rows: int | None) -> tuple["LM", WithDraw]:
    import torch

    from stages.evaluation.transformers_lm import TransformersLM, with_draw

    rows = batch_rows or BATCH_ROWS
    device = "cuda" if torch.cuda.is_available() else "cpu"  # by default, lm-eval wants cuda on any machine
    lm: LM = TransformersLM(pretrained=str(model), batch_size=rows, dtype="auto", device=device, **_model_args(model))
    lm.model.generation_config.repetition_penalty = 1.0  # the model's own default is ignored, as by the other engines
    return lm, with_draw


def _vllm(model: Path, settings: Vllm) -> tuple["LM", WithDraw]:
    from lm_eval.models.vllm_causallms import VLLM
    from transformers import AutoConfig

    from stages.inference.engines.vllm import cannot_start, end_with, settings_for

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=has_custom_code(model))
        lm = VLLM(
            pretrained=str(model),
            dtype=engines.dtype(model),
            batch_size=REQUESTS_PER_CALL,
            **_model_args(model),
            **settings_for(settings, chat.context_length(config)),
        )
    except Exception as error:  # vLLM, torch and safetensors each raise their own
        raise cannot_start(model, error) from error
    if settings.data_parallel_size == 1:  # otherwise Ray owns the processes
        end_with(lm, lm.model)
    return lm, with_seed


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
