"""Which of a stage's model calls the completion store holds: the stage's own code, with a client that only looks.

The keys are the real ones, so what is found here is what the stage will find. No weights are loaded, nothing is written
and nothing counts as served.
"""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from stages import evaluate, generate, review
from stages.core.params import Params, read_params, read_runtime
from stages.core.prompts import read_system_prompt, verdict_rule
from stages.core.records import Record, read
from stages.core.rows import BenchmarkItem, ReviewablePair, ReviewedSeed
from stages.core.schema import REFERENCES
from stages.data.routing import sources_of
from stages.evaluation import answers, harness, judging, suite
from stages.inference.client import Client
from stages.inference.engines import Completion, Request, Sampling
from stages.inference.store import Reader, store_file
from stages.judging.scores import JUDGED
from stages.models.adapters import config_folder
from stages.models.chat import VARIABLES
from stages.models.fingerprint import digest, has_custom_code
from stages.planning.changes import Planned


class StoreOnly(Client):
    """The client of an iteration's model, which completes what the store holds and counts a planned stage's calls."""

    def __init__(self, iteration: str, planned: Planned) -> None:
        super().__init__(
            Path("iterations", iteration, "model"), planned.stage, max_overlong=1.0, runtime=read_runtime()
        )
        self.planned = planned

    def _look_up_or_compute(
        self, task: str, keys: dict[Request, bytes], sampling: Sampling
    ) -> dict[Request, Completion]:
        stored = Reader(store_file(self.runtime.store)).find(keys.values())
        missing = [request for request, key in keys.items() if key not in stored]
        self.planned.calls += len(keys)
        self.planned.stored = (self.planned.stored or 0) + len(keys) - len(missing)
        self.planned.read += sum(len(request.tokens) for request in missing)
        if task.endswith("new instructions"):
            self.planned.unwritten = len(missing)
        return {request: stored[key] for request, key in keys.items() if key in stored}


def look_up(planned: Planned, iterations: Record) -> None:
    """Count the model calls of a stage whose inputs are here. `iterations`: the tree of params.yaml."""
    name, _, key = planned.stage.partition("@")
    if name in ("evaluate", "evaluate-0"):
        _evaluate(planned, name, key or "0")
    if name not in ("review", "generate", "assess"):
        return
    parent, judge, writer = (str(iterations[key][role]) for role in REFERENCES)
    params = read_params(name)
    if name != "generate" and params["review.by"] not in JUDGED:
        return
    client = StoreOnly(parent if name == "generate" else judge, planned)
    if name == "generate":
        sources, _ = sources_of(params, read(Path("iterations", key, "review.jsonl"), ReviewedSeed), parent)
        generate.generate(client, StoreOnly(writer, planned), planned.stage, params, sources)
    else:
        source = Path("iterations", *((parent, "seed.jsonl") if name == "review" else (key, "filtered.jsonl")))
        stop = json.loads(Path("iterations", parent, "stop.json").read_text(encoding="utf-8"))["stopped"]
        rows = [] if stop and name == "review" else read(source, ReviewablePair)
        unscored = review.to_review(rows, judge)
        review.review(client, planned.stage, params, unscored)
        _add_elicited(planned, params, len(unscored))


def _add_elicited(planned: Planned, params: Params, rows: int) -> None:
    """Count the calls for the parts of a verdict behind one that is not scored yet. Where the judge writes a review
    first, nobody knows before how many verdicts have to be elicited."""
    if params["review.estimator"] == "elicited" and not params["review.max_tokens"]:
        unseen = rows * len(verdict_rule(params["prompts"]).parts) - planned.calls
        missing = planned.calls - (planned.stored or 0)
        if missing and unseen > 0:
            planned.read += round(unseen * planned.read / missing)
            planned.calls += unseen


def _evaluate(planned: Planned, name: str, key: str) -> None:
    """The requests that lm-eval builds from the suite's items, in its own chat format."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    params, folder = read_params(name), Path("iterations", key, "model")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=has_custom_code(config_folder(folder)))
    template = SimpleNamespace(tokenizer=tokenizer, chat_template_args=VARIABLES)
    chat = partial(HFLM.apply_chat_template, template)
    benchmarks = suite.load_tasks(params["evaluate.suite"], suite.load(params["evaluate.suite"]))
    items = read(Path("iterations/0/benchmark.jsonl"), BenchmarkItem)
    samples = evaluate.select_samples(items, params["evaluate.limit"])
    system_prompt, model, prompts = read_system_prompt(params["prompts"]) or None, digest(folder), dict[bytes, str]()
    for task_name, task in harness.merge_tasks(list(benchmarks.values()), samples)["tasks"].items():
        how = {"apply_chat_template": True, "fewshot_as_multiturn": True, "chat_template": chat}
        task.build_all_requests(samples=samples[task_name], system_instruction=system_prompt, **how)
        requests = [request for request in task.instances for _ in range(request.repeats)]
        for request, draw in zip(requests, answers.number_draws(requests), strict=True):
            prompts[answers.answer_key(model, request, draw)] = str(request.args[0])
    for request in judging.requests_of(evaluate.select_pairs(params["evaluate.limit"]), chat, system_prompt or ""):
        prompts[answers.answer_key(model, request, 0)] = str(request.args[0])
    stored = Reader(store_file(read_runtime().store)).find(prompts)
    missing = [prompt for request, prompt in prompts.items() if request not in stored]
    planned.calls, planned.stored = len(prompts), len(stored)
    planned.read = sum(len(tokenizer(prompt)["input_ids"]) for prompt in missing)
