"""Which of a stage's model calls the completion store holds: the stage's own code, with a model that only looks.

The keys are the real ones, so that what is found here is what the stage will find. No weights are loaded, nothing is
written, and nothing counts as served. A stage that asks in steps (generate: instructions, then responses to them) is
followed as far as the store has the answers.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from stages import evaluate, generate, review
from stages.core.params import read_params, read_runtime
from stages.core.prompts import read_system_prompt
from stages.core.records import Tally, read
from stages.core.rows import BenchmarkItem, ReviewablePair, ReviewedSeed
from stages.evaluation import harness, suite
from stages.inference.client import Client
from stages.inference.engines import Completion, Request, Sampling
from stages.inference.store import Reader, store_file
from stages.models.adapters import config_folder
from stages.models.fingerprint import digest, has_custom_code


class Found(NamedTuple):
    """A stage's model calls as far as they are known, those of them that are stored, the prompts' tokens of the others,
    and how many prompts more it would ask, whose texts nobody knows yet."""

    calls: int
    stored: int
    read: int
    unknown: int = 0


class Looking(Client):
    """A model that answers what the store holds and nothing else."""

    def __init__(self, folder: Path, stage: str) -> None:
        super().__init__(folder, stage, max_overlong=1.0, runtime=read_runtime())
        self.store = Reader(store_file(self.runtime.store))
        self.tasks: dict[str, Found] = {}

    def _look_up_or_compute(
        self, task: str, keys: dict[Request, bytes], sampling: Sampling
    ) -> dict[Request, Completion]:
        stored = self.store.find(keys.values())
        found = {each: stored[key] for each, key in keys.items() if key in stored}
        missing = [each for each in keys if each not in found]
        self.tasks[task] = Found(len(keys), len(found), sum(len(each.tokens) for each in missing))
        return found

    def total(self, unknown: int = 0) -> Found:
        return Found(*(sum(column) for column in zip(Found(0, 0, 0), *self.tasks.values(), strict=True)))._replace(
            unknown=unknown
        )


def of_review(rows: Path, judge: Path, out: Path, stop: Path | None = None) -> Found:
    """`python -m stages.review` with these arguments."""
    if stop and json.loads(stop.read_text(encoding="utf-8"))["stopped"]:
        return Found(0, 0, 0)
    name = f"{out.stem}@{out.parent.name}"
    model = Looking(judge, name)
    review.review(model, name, read_params(out.stem), review.to_review(read(rows, ReviewablePair), judge.parent.name))
    return model.total()


def of_generate(rows: Path, model: Path, out: Path) -> Found:
    """`python -m stages.generate` with these arguments."""
    params, name = read_params("generate"), f"generate@{out.parent.name}"
    settings, parent = params["generate"], model.parent.name
    looking = Looking(model, name)
    reviewed = read(rows, ReviewedSeed)
    bounds = (params["threshold"], settings["max_low"], settings["max_high"])
    low, high = generate.route(reviewed, *bounds, parent, Tally(len(reviewed)))
    generate.generate(looking, name, params, low, high)
    instructions = looking.tasks[f"{name} new instructions"]
    return looking.total(unknown=instructions.calls - instructions.stored)


def of_evaluate(model: Path, parent: Path | None = None) -> Found:
    """`python -m stages.evaluate` with these arguments: the questions that lm-eval asks, each answered with nothing."""
    from lm_eval.api.model import LM, hash_args
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    class Listening(LM):  # type: ignore[misc]
        chat_template_args: ClassVar[dict[str, Any]] = {}
        apply_chat_template = HFLM.apply_chat_template

        def __init__(self, folder: Path) -> None:
            super().__init__()
            code = has_custom_code(config_folder(folder))
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=code)
            self.heard: dict[str, str] = {}  # lm-eval's hash of each request, and what the model would read

        @property
        def tokenizer_name(self) -> str:
            return str(self.tokenizer.name_or_path)

        def _hear(self, call: str, requests: list[Any], answer: Any) -> list[Any]:
            self.heard |= {hash_args(call, each.args): str(each.args[0]) for each in requests}
            return [answer] * len(requests)

        def generate_until(self, requests: list[Any]) -> list[Any]:
            return self._hear("generate_until", requests, "")

        def loglikelihood(self, requests: list[Any]) -> list[Any]:
            return self._hear("loglikelihood", requests, (0.0, False))

        def loglikelihood_rolling(self, requests: list[Any]) -> list[Any]:
            return self._hear("loglikelihood_rolling", requests, 0.0)

    params = read_params("evaluate" if parent else "evaluate-0")
    tasks = suite.load_tasks(params["evaluate.suite"], suite.load(params["evaluate.suite"]))
    samples = evaluate.select_samples(
        read(Path("iterations/0/benchmark.jsonl"), BenchmarkItem), params["evaluate.limit"]
    )
    lm, content = Listening(model), digest(model)
    harness.run_lm_eval(lm, harness.merge_tasks(list(tasks.values())), samples, read_system_prompt(params["prompts"]))
    keys = {harness.answer_key(content, request): context for request, context in lm.heard.items()}
    stored = Reader(store_file(read_runtime().store)).find(keys)
    missing = [context for each, context in keys.items() if each not in stored]
    return Found(len(keys), len(stored), sum(len(lm.tokenizer(context)["input_ids"]) for context in missing))


LOOKS: dict[str, Callable[..., Found]] = {
    "stages.review": of_review,
    "stages.generate": of_generate,
    "stages.evaluate": of_evaluate,
}


def look(command: str) -> Found | None:
    """The model calls of a stage, by its command in dvc.yaml; None where they cannot be known without running it."""
    _, _, module, *arguments = command.split()
    options = {
        name.removeprefix("--"): Path(value) for name, value in zip(arguments[::2], arguments[1::2], strict=True)
    }
    return LOOKS[module](**options) if module in LOOKS else None


def damaged() -> bool:
    """Whether the store is no longer the database that it was, so that a run puts it aside and begins anew."""
    reader = Reader(store_file(read_runtime().store))
    reader.find([b""])
    return reader.damaged
