"""An evaluation suite: a folder of evaluation/ whose suite.yaml names lm-eval tasks, with their few-shot counts.

Each item belongs to one of two parts, by the hash of its content: *validation* chooses the best iteration, *test* is
what is reported. Tasks are lm-eval's own or YAML files in the folder.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml.error import YAMLError

from stages.core.errors import UserError
from stages.core.params import load as load_yaml
from stages.core.records import content_id
from stages.core.rows import BenchmarkItem, Part

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks.manager import TaskDict, TaskManager

FOLDER = Path("evaluation")
PARTS: tuple[Part, Part] = ("validation", "test")
LEAST = 2  # items of a part: one has no standard error


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Benchmark(Section):
    """An lm-eval task or group, as a suite asks it."""

    shots: Annotated[int, Field(ge=0)]
    metric: Annotated[str, Field(pattern=r"^\w+,[\w-]+$")]  # as in lm-eval's results: the metric and the filter
    item: Annotated[str, Field(min_length=1)]  # template over lm-eval's document: the text to keep out of training data
    split: str | None = None  # likewise: items of one value belong to the same part; null: by `item`


class Suite(Section):
    validation: Annotated[float, Field(gt=0, lt=1)]  # share of the items
    tasks: Annotated[dict[str, Benchmark], Field(min_length=1)]
    judging: dict[str, Benchmark] = {}  # how well the model judges; no part of the suite's score
    apart: dict[str, Benchmark] = {}  # reported only; no part of it either

    @property
    def all(self) -> dict[str, Benchmark]:
        return {**self.tasks, **self.judging, **self.apart}


def load(name: str) -> Suite:
    """A suite's description; raises `UserError` where there is none or it cannot be read."""
    path = FOLDER / name / "suite.yaml"
    if not path.is_file():
        known = ", ".join(sorted(each.parent.name for each in FOLDER.glob("*/suite.yaml")))
        raise UserError(f"evaluate.suite: {path} does not exist; name one of {known}, or write it")
    try:
        return Suite.model_validate(load_yaml(path))
    except YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from None
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, each['loc']))}: {each['msg'].lower()}" for each in error.errors())
        raise UserError(f"{path}: {'; '.join(problems)}") from None


def part_of(key: str, validation: float) -> Part:
    """The part that an item belongs to: equal keys, the same part, in whatever task."""
    return PARTS[0] if int(content_id(key), 16) < validation * 16**16 else PARTS[1]


def manager(name: str, suite: Suite) -> "TaskManager":
    """lm-eval's index of the folder's tasks, and of its own where the suite names one (that takes 11 s)."""
    from lm_eval.tasks import TaskManager

    folder, named = str(FOLDER / name), set(suite.all)
    local = TaskManager(include_path=folder, include_defaults=False)
    found = local if named <= set(local.all_tasks) else TaskManager(include_path=folder)
    if missing := sorted(named - set(found.all_tasks)):
        raise UserError(f"evaluate.suite: {folder}/suite.yaml names {', '.join(missing)}, which lm-eval does not have")
    return found


def load_tasks(name: str, suite: Suite) -> "dict[str, TaskDict]":
    """lm-eval's tasks of each benchmark, with their data; raises `UserError` where the data is not on this machine."""
    index = manager(name, suite)
    loaded = {}
    for benchmark, settings in suite.all.items():
        try:
            loaded[benchmark] = index.load([benchmark])
        except ImportError as error:
            needed = f"{benchmark} needs a package that is not installed ({error}); pip install -e '.[{name}]'"
            raise UserError(f"evaluate.suite: {needed}") from error
        except Exception as error:  # whatever a data set's library says where its data is missing
            raise UserError(
                f"evaluate.suite: the data of {benchmark} is not here ({type(error).__name__}: {error}); on a machine "
                f"with network run lance suite {name}, which fetches it, and take its HF cache along"
            ) from error
        for task in loaded[benchmark]["tasks"].values():
            task.set_config(key="num_fewshot", value=settings.shots)
            task.set_fewshot_seed(seed=0)
            _need_metric(task, settings.metric, f"evaluate.suite: {FOLDER / name}/suite.yaml: {benchmark}")
    return loaded


def _need_metric(task: "Task", named: str, where: str) -> None:
    metric, by = named.split(",")
    metrics, filters = list(task.higher_is_better()), [each.name for each in task._filters]
    if metric not in metrics or by not in filters:
        raise UserError(
            f"{where} has no metric '{named}'; metrics: {', '.join(metrics)}; filters: {', '.join(filters)}"
        )


def items(suite: Suite, loaded: "dict[str, TaskDict]") -> list[BenchmarkItem]:
    """Every item of a suite: its task, its index there, its part, its text, and the group that it is drawn with.
    Raises `UserError` where a part of a benchmark is too small to have a standard error."""
    rows: list[BenchmarkItem] = []
    for benchmark, settings in suite.all.items():
        parts = dict.fromkeys(PARTS, 0)
        for task in loaded[benchmark]["tasks"].values():
            for index, document in enumerate(task.eval_docs):
                text = _filled(settings.item, document, benchmark)
                key = _filled(settings.split, document, benchmark) if settings.split else text
                part = part_of(key, suite.validation)
                parts[part] += 1
                rows.append(
                    {
                        "id": content_id(task.task_name, str(index), text),
                        "group": content_id(key),
                        "benchmark": benchmark,
                        "task": task.task_name,
                        "index": index,
                        "part": part,
                        "text": text,
                    }
                )
        if min(parts.values()) < LEAST:
            raise UserError(f"evaluate.suite: {benchmark} has {parts}, and a standard error needs {LEAST} of each part")
    return rows


def _filled(template: str, document: dict[str, Any], benchmark: str) -> str:
    from jinja2 import TemplateError
    from lm_eval.utils import apply_template

    try:
        return str(apply_template(template, document))
    except TemplateError as error:
        fields = ", ".join(document)
        raise UserError(
            f"evaluate.suite: {benchmark}: '{template}': {error}; an item has the fields {fields}"
        ) from None
