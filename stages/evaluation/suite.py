"""Evaluation suites: folders of evaluation/ whose suite.yaml lists lm-eval tasks with shot counts and metrics.

Each item is in one of two parts, by the hash of its content: *validation* chooses the best iteration, *test* is what is
reported. A task is one of lm-eval's own or a YAML file in the folder.
"""

from collections import Counter
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from stages.core.errors import UserError
from stages.core.params import load as load_yaml
from stages.core.progress import say
from stages.core.records import content_id
from stages.core.rows import BenchmarkItem, Part
from stages.evaluation.generation import check_sampling

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks.manager import TaskDict, TaskManager

FOLDER = Path("evaluation")
PARTS: tuple[Part, Part] = ("validation", "test")
MIN_ITEMS = 2  # in each part of a benchmark: one item has no standard error
RENAMED = {"apart": "reported_only"}  # keys of suite.yaml that had another name in an earlier version


Metric = Annotated[str, Field(pattern=r"^[^,]+,[^,]+$")]  # as in lm-eval's results: metric,filter


class Section(BaseModel):
    """A section of suite.yaml. An unknown key and a value of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class KnownPair(Section):
    """Templates over lm-eval's documents: a question, a right answer, and a wrong one; null: the right one with another
    result."""

    question: Annotated[str, Field(min_length=1)]
    right: Annotated[str, Field(min_length=1)]
    wrong: str | None = None


class Benchmark(Section):
    """An lm-eval task, group or tag, and how it is used. `item`, `question` and `split` fill in a document."""

    shots: Annotated[int, Field(ge=0)]
    metric: Metric  # the benchmark's score
    also: list[Metric] = []  # reported beside it
    item: Annotated[str, Field(min_length=1)]  # the text that must not be in the training data
    question: str | None = None  # the item without its choices, if it lists them; kept out of the training data too
    split: str | None = None  # items with the same value are in the same part; null: the same as `item`
    pair: KnownPair | None = None  # answers that a judge should tell apart


class Suite(Section):
    """The content of a suite.yaml: benchmarks by their lm-eval names."""

    validation: Annotated[float, Field(gt=0, lt=1)]  # share of the items
    tasks: Annotated[dict[str, Benchmark], Field(min_length=1)]  # the suite's score is the mean of theirs
    judging: dict[str, Benchmark] = {}  # how well the model judges; not in the suite's score
    reported_only: dict[str, Benchmark] = {}  # not in the suite's score either
    extra: str | None = None  # the project's extra with the packages that its tasks need

    @property
    def all(self) -> dict[str, Benchmark]:
        """Every benchmark of the suite."""
        return {**self.tasks, **self.judging, **self.reported_only}


def load(name: str) -> Suite:
    """The suite of a folder. Raises `UserError` if there is none or its suite.yaml is wrong."""
    path = FOLDER / name / "suite.yaml"
    if not path.is_file():
        suites = ", ".join(sorted(file.parent.name for file in FOLDER.glob("*/suite.yaml")))
        raise UserError(f"evaluate.suite: {path} does not exist; choose one of {suites}, or write it")
    try:
        suite = Suite.model_validate(load_yaml(path))
    except ValidationError as error:
        raise UserError(f"{path}: {'; '.join(map(_describe, error.errors()))}") from None
    places = Counter([*suite.tasks, *suite.judging, *suite.reported_only])
    if twice := [benchmark for benchmark, times in places.items() if times > 1]:
        raise UserError(f"{path}: {', '.join(twice)} stands in two sections; list other metrics of it under `also`")
    return suite


def _describe(error: ErrorDetails) -> str:
    """A validation error in one line."""
    name = ".".join(map(str, error["loc"]))
    return f"{name}: is now called {RENAMED[name]}, rename it" if name in RENAMED else f"{name}: {error['msg'].lower()}"


def load_tasks(name: str, suite: Suite) -> "dict[str, TaskDict]":
    """lm-eval's tasks of each benchmark, with their data. Raises `UserError` if lm-eval has no such task or metric, two
    benchmarks share a task, a task's way to sample is unclear, or the data is not on this machine."""
    manager = task_manager(name, suite)
    loaded = {}
    for benchmark, settings in suite.all.items():
        try:
            loaded[benchmark] = manager.load([benchmark])
        except ImportError as error:
            install = f"pip install -e '.[{suite.extra}]'" if suite.extra else "install it"
            raise UserError(
                f"evaluate.suite: {benchmark} needs a package that is not installed ({error}); {install}"
            ) from error
        except Exception as error:  # the data's libraries raise various errors if it is missing
            raise UserError(
                f"evaluate.suite: the data of {benchmark} is not here ({type(error).__name__}: {error}); on a machine "
                f"with a network run lance suite {name}, and copy its Hugging Face cache to this machine"
            ) from error
        location = f"evaluate.suite: {FOLDER / name}/suite.yaml: {benchmark}"
        for task in loaded[benchmark]["tasks"].values():
            task.set_config(key="num_fewshot", value=settings.shots)
            task.set_fewshot_seed(seed=0)
            for metric in (settings.metric, *settings.also):
                _check_metric(task, metric, location)
            _check_sampling(task, location)
    owners = Counter(chain.from_iterable(loaded[benchmark]["tasks"] for benchmark in loaded))
    if shared := [task for task, benchmarks in owners.items() if benchmarks > 1]:
        raise UserError(f"evaluate.suite: {FOLDER / name}/suite.yaml: {', '.join(shared)} is in two benchmarks")
    return loaded


def task_manager(name: str, suite: Suite) -> "TaskManager":
    """lm-eval's index of the tasks in the suite's folder and, if the suite needs them, of lm-eval's own, which takes
    11 s. Raises `UserError` if the suite names a task that is in neither."""
    from lm_eval.tasks import TaskManager

    folder, benchmarks = str(FOLDER / name), set(suite.all)
    local = TaskManager(include_path=folder, include_defaults=False)
    manager = local if benchmarks <= set(local.all_tasks) else TaskManager(include_path=folder)
    if missing := sorted(benchmarks - set(manager.all_tasks)):
        raise UserError(f"evaluate.suite: {folder}/suite.yaml names {', '.join(missing)}, which lm-eval does not have")
    return manager


def _check_metric(task: "Task", metric_and_filter: str, location: str) -> None:
    metric, filter_name = metric_and_filter.split(",")
    metrics, filters = list(task.higher_is_better()), [task_filter.name for task_filter in task._filters]
    if metric not in metrics or filter_name not in filters:
        raise UserError(
            f"{location} has no metric '{metric_and_filter}'; metrics: {', '.join(metrics)}; "
            f"filters: {', '.join(filters)}"
        )


def _check_sampling(task: "Task", location: str) -> None:
    try:
        check_sampling(task.get_config("generation_kwargs") or {})
    except UserError as error:
        raise UserError(f"{location}: {task.task_name}: {error}") from None


def items(suite: Suite, loaded: "dict[str, TaskDict]") -> list[BenchmarkItem]:
    """Every item of a suite, in its part; of a benchmark's tasks with the same items, those of one. Raises `UserError`
    if a part of a benchmark is too small to have a standard error."""
    rows: list[BenchmarkItem] = []
    for benchmark, settings in suite.all.items():
        tasks, sizes = loaded[benchmark]["tasks"], dict.fromkeys(PARTS, 0)
        texts = {
            name: [render(settings.item, document, benchmark) for document in task.eval_docs]
            for name, task in tasks.items()
        }
        for name, original in copies(texts).items():
            say(f"{benchmark}: {name} is left out, since it has the items of {original}")
            del texts[name]
        for name in texts:
            for index, (document, text) in enumerate(zip(tasks[name].eval_docs, texts[name], strict=True)):
                key = render(settings.split, document, benchmark) if settings.split else text
                part = part_of(key, suite.validation)
                sizes[part] += 1
                row: BenchmarkItem = {
                    "id": content_id(name, str(index), text),
                    "group": content_id(key),
                    "benchmark": benchmark,
                    "task": name,
                    "index": index,
                    "part": part,
                    "text": text,
                }
                if settings.question:
                    row["question"] = render(settings.question, document, benchmark)
                rows.append(row)
        if min(sizes.values()) < MIN_ITEMS:
            raise UserError(
                f"evaluate.suite: {benchmark} has {sizes}, and a standard error needs {MIN_ITEMS} of each part"
            )
    return rows


def copies(texts: dict[str, list[str]]) -> dict[str, str]:
    """The tasks with the same items as another one that has a shorter name: {task: the other one}. A tag may hold such
    tasks, since one that includes another one's YAML file inherits its tags. `texts`: each task's items."""
    originals: dict[tuple[str, ...], str] = {}
    for name in sorted(texts, key=lambda name: (len(name), name)):
        originals.setdefault(tuple(sorted(texts[name])), name)
    pairs = {name: originals[tuple(sorted(items))] for name, items in texts.items()}
    return {name: original for name, original in pairs.items() if original != name}


def part_of(key: str, validation: float) -> Part:
    """The part of an item: equal keys are in the same part, in any task. `validation`: that part's share of all."""
    return PARTS[0] if int(content_id(key), 16) < validation * 16**16 else PARTS[1]


def render(template: str, document: dict[str, Any], benchmark: str) -> str:
    """A template of suite.yaml, filled with a document's fields. Raises `UserError` if the template has others."""
    from jinja2 import TemplateError
    from lm_eval.utils import apply_template

    try:
        return str(apply_template(template, document))
    except TemplateError as error:
        fields = ", ".join(document)
        raise UserError(
            f"evaluate.suite: {benchmark}: '{template}': {error}; an item has the fields {fields}"
        ) from None
