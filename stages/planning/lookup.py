"""Which of a stage's model calls the completion store holds: the stage's own code, with a model that only looks.

The keys are the real ones, so what is found here is what the stage will find. No weights are loaded, nothing is written
and nothing counts as served.
"""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from stages import evaluate, generate, review
from stages.core.params import declared
from stages.core.prompts import system
from stages.core.records import Record, Tally, read
from stages.evaluation import evaluator, suite
from stages.inference.completions import Model
from stages.inference.engines import Completion, Request, Sampling
from stages.inference.store import Reader, place
from stages.models.adapters import base_of
from stages.models.digest import digest, own_code
from stages.planning.changes import Planned

ITERATIONS = Path("iterations")


class StoreOnly(Model):
    """The model of an iteration, which completes what the store holds and counts the calls of a planned stage."""

    def __init__(self, iteration: str, planned: Planned) -> None:
        super().__init__(ITERATIONS / iteration / "model", planned.stage, max_overlong=1.0)
        self.planned = planned

    def _found(self, task: str, keys: dict[Request, bytes], sampling: Sampling) -> dict[Request, Completion]:
        stored = Reader(place()).find(keys.values())
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
    parent, judge = (str(iterations[key][role]) for role in ("parent", "judge"))
    model, params = StoreOnly(parent if name == "generate" else judge, planned), declared(name)
    if name == "generate":
        rows, limits = read(ITERATIONS / key / "review.jsonl"), params["generate"]
        bounds = params["threshold"], limits["max_low"], limits["max_high"]
        low, high = generate.route(rows, *bounds, parent, Tally(len(rows)))
        generate.ask(model, planned.stage, params, low, high)
    else:
        source = ITERATIONS / (f"{parent}/seed.jsonl" if name == "review" else f"{key}/filtered.jsonl")
        stop = json.loads((ITERATIONS / parent / "stop.json").read_text(encoding="utf-8"))["stopped"]
        rows = [] if stop and name == "review" else read(source)
        review.ask(model, planned.stage, params, rows, judge)


def _evaluate(planned: Planned, name: str, key: str) -> None:
    """The requests that lm-eval builds from the suite's items, in its own chat format."""
    from lm_eval.api.model import hash_args
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    params, folder = declared(name), ITERATIONS / key / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=own_code(base_of(folder)))
    chat = partial(HFLM.apply_chat_template, SimpleNamespace(tokenizer=tokenizer, chat_template_args={}))
    benchmarks = suite.load_tasks(params["evaluate.suite"], suite.load(params["evaluate.suite"]))
    samples = evaluate.chosen(read(ITERATIONS / "0/benchmark.jsonl"), params["evaluate.limit"])
    asked, model, prompts = system(params["prompts"]) or None, digest(folder), dict[bytes, str]()
    for task_name, task in evaluator.together(list(benchmarks.values()))["tasks"].items():
        how = {"apply_chat_template": True, "fewshot_as_multiturn": True, "chat_template": chat}
        task.build_all_requests(samples=samples[task_name], system_instruction=asked, **how)
        for each in task.instances:
            prompts[evaluator.key(model, hash_args(each.request_type, each.args))] = str(each.args[0])
    stored = Reader(place()).find(prompts)
    missing = [prompt for request, prompt in prompts.items() if request not in stored]
    planned.calls, planned.stored = len(prompts), len(stored)
    planned.read = sum(len(tokenizer(prompt)["input_ids"]) for prompt in missing)
