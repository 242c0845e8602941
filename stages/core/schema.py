"""What params.yaml may hold: every parameter with its type and range, and the tree of iterations."""

import re
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from stages.core.errors import UserError

Share = Annotated[float, Field(ge=0, le=1)]
Score = Annotated[float, Field(ge=0, le=10)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Temperature = Annotated[float, Field(ge=0, le=10)]
Mass = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
State = Annotated[int, Field(ge=0, lt=2**32)]
Confidence = Annotated[float, Field(ge=0.5, lt=1)]

# A pattern's description completes "… is not …".
COMMIT = "a commit of 40 hexadecimal digits, see ID/commits/main on the hub: a branch means other content one day"
Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$", description=COMMIT)]

# What a section holds that may be null: params.yaml then has no values to go by.
OPTIONAL = {
    "model.hub": {"id": "Qwen/Qwen2-7B", "revision": "COMMIT"},
    "seed.hub": {"id": "openai/gsm8k", "config": "main", "split": "train", "revision": "COMMIT"},
    "seed.columns": {"prompt": "COLUMN", "response": "COLUMN"},
    "training.lora": {"rank": "16", "alpha": "32", "dropout": "0.0"},
}

# Earlier names of parameters, and what they are called now.
RENAMED = {
    "max_unfit": "max_overlong",
    "filter.instruction_rouge_l": "filter.max_instruction_rouge_l",
    "filter.response_rouge_l": "filter.max_response_rouge_l",
    "filter.embedding": "filter.max_cosine",
    "select.sft_score": "select.min_sft_score",
    "select.margin": "select.min_margin",
    "alarms.length": "alarms.max_length_ratio",
    "alarms.readable": "alarms.min_parsed",
    "alarms.pairs": "alarms.min_pairs",
}


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Iteration(Section):
    parent: str | int  # dvc writes a number for `-S '+iterations.4={parent: 3, judge: 0}'`
    judge: str | int


class Hub(Section):
    id: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$", description="of the form OWNER/NAME")]
    revision: Commit


class Model(Section):
    name: Annotated[str, Field(min_length=1)]
    hub: Hub | None
    trust_remote_code: bool
    dtype: Literal["float32", "bfloat16"]


class Columns(Section):
    prompt: str
    response: str


class SeedHub(Section):
    id: Annotated[str, Field(min_length=1)]
    config: str | None
    split: Annotated[str, Field(min_length=1)]
    revision: Commit


class Seed(Section):
    path: Annotated[str, Field(min_length=1)]
    hub: SeedHub | None
    reviews: Annotated[str, Field(min_length=1)]
    columns: Columns | None
    on_bad: Literal["fail", "drop"]
    limit: Positive | None
    random_state: State


class Review(Section):
    estimator: Literal["sampled", "expected"]
    samples: Positive
    temperature: Temperature
    top_p: Mass
    max_tokens: Positive
    max_unparsed: Share
    shuffled: bool


class Generate(Section):
    max_low: Count
    max_high: Count
    temperature: Temperature
    top_p: Mass
    max_tokens: Positive


class Filter(Section):
    min_instruction_words: Count
    max_instruction_words: Positive
    min_response_words: Count
    max_response_words: Positive
    max_instruction_rouge_l: Share
    max_response_rouge_l: Share
    max_cosine: Annotated[float, Field(ge=-1, le=1)]
    ngram: Positive
    ngram_overlap: Rate


class Select(Section):
    min_sft_score: Score
    min_margin: Score
    max_sft: Count
    max_pairs: Count
    accumulate: bool
    max_judge: Count


class Sft(Section):
    enabled: bool
    learning_rate: Rate
    epochs: Positive
    batch_size: Positive


class Dpo(Section):
    enabled: bool
    learning_rate: Rate
    epochs: Positive
    batch_size: Positive
    beta: Annotated[float, Field(gt=0)]
    reference: Literal["sft", "warm_start"]
    nll: Annotated[float, Field(ge=0)]


class Lora(Section):
    rank: Positive
    alpha: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Training(Section):
    lora: Lora | None
    autocast: Literal["bfloat16"] | None
    four_bit: bool

    @field_validator("four_bit")
    @classmethod
    def have_adapter(cls, four_bit: bool, info: ValidationInfo) -> bool:
        if four_bit and not info.data.get("lora", True):
            raise ValueError("needs training.lora, since weights in 4 bits cannot be trained")
        return four_bit


class Evaluate(Section):
    suite: Annotated[str, Field(min_length=1)]
    limit: Annotated[int, Field(ge=2)] | None  # one item has no standard error
    stop_on: Literal["decline"] | None
    stop_confidence: Confidence


class Alarms(Section):
    decline: Confidence
    oscillation: Positive
    slow: Annotated[float, Field(ge=0)]
    judge_spread: Annotated[float, Field(ge=0)]
    judge_same: Mass
    duplicates: Share
    max_length_ratio: Annotated[float, Field(gt=1)]
    min_parsed: Share
    min_pairs: Count


class Report(Section):
    price_per_row: Annotated[float, Field(ge=0)]
    price_per_hour: Annotated[float, Field(ge=0)]


class Microworld(Section):
    steps: Positive
    batch_size: Positive
    learning_rate: Rate
    hidden: Positive
    layers: Positive
    heads: Positive
    random_state: State

    @field_validator("heads")
    @classmethod
    def divide_hidden(cls, heads: int, info: ValidationInfo) -> int:
        if info.data.get("hidden", heads) % heads:
            raise ValueError("must divide hidden")
        return heads


class Store(Section):
    path: Annotated[str, Field(min_length=1)]
    max_gb: Annotated[float, Field(gt=0)]


class Vllm(Section):
    """Arguments of `vllm.LLM`; those that are not named here are passed through too."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    tensor_parallel_size: Positive
    pipeline_parallel_size: Positive
    data_parallel_size: Positive
    gpu_memory_utilization: Rate


class Server(Section):
    url: Annotated[str, Field(pattern="^https?://", description="an address that begins with http:// or https://")]
    concurrency: Positive
    timeout: Annotated[float, Field(gt=0)]
    retries: Count


class TrainingRuntime(Section):
    rows_at_once: Positive | None
    gradient_checkpointing: bool
    precompute_reference: bool
    processes: Positive
    sharding: Literal["fsdp", "zero3"] | None
    config: str | None

    @field_validator("sharding")
    @classmethod
    def have_processes(cls, sharding: str | None, info: ValidationInfo) -> str | None:
        if sharding and info.data.get("processes", 2) == 1:
            raise ValueError("needs runtime.training.processes above 1")
        return sharding


class Runtime(Section):
    engine: Literal["auto", "transformers", "vllm", "server"]
    batch_rows: Positive | None
    store: Store
    checkpoint_minutes: Annotated[float, Field(ge=0)] | None
    training: TrainingRuntime
    vllm: Vllm
    server: Server


class Parameters(Section):
    iterations: dict[str, Iteration]
    threshold: Score
    samples: Positive
    max_overlong: Share
    random_state: State
    prompts: Annotated[str, Field(min_length=1)]
    model: Model
    seed: Seed
    review: Review
    generate: Generate
    filter: Filter
    select: Select
    sft: Sft
    dpo: Dpo
    training: Training
    evaluate: Evaluate
    alarms: Alarms
    report: Report
    microworld: Microworld
    runtime: Runtime


RESTORE = "restore it from git"


def check(values: Any) -> None:
    """Raise `UserError`, in one line with every problem, where params.yaml cannot be run."""
    if not isinstance(values, dict):
        raise UserError("params.yaml is empty or not a mapping; " + RESTORE)
    problems = check_iterations(values.get("iterations"))
    try:
        Parameters.model_validate(values)
    except ValidationError as error:
        found = [each for each in error.errors() if each["loc"][0] != "iterations" or not problems]
        renamed = {RENAMED.get(_name(each["loc"])) for each in found}  # these are missing for that reason alone
        problems += [_said(each) for each in found if each["type"] != "missing" or _name(each["loc"]) not in renamed]
    if problems:
        raise UserError("params.yaml: " + "; ".join(problems))


def runtime_of(values: Any) -> Runtime:
    """The `runtime` section of params.yaml; raises `UserError` where it is wrong."""
    try:
        return Runtime.model_validate(values["runtime"])
    except ValidationError as error:
        problems = (_said({**each, "loc": ("runtime", *each["loc"])}) for each in error.errors())
        raise UserError("params.yaml: " + "; ".join(problems)) from None


def _name(place: tuple[str | int, ...]) -> str:
    """A parameter's dotted name, from pydantic's place of it."""
    return ".".join(str(part) for part in place if part != "[key]")


def _said(error: Any) -> str:
    place, kind, value = error["loc"], error["type"], repr(error["input"])
    value = {"None": "null", "True": "true", "False": "false"}.get(value, value)
    name, section = _name(place), _name(place[:-1])
    fields = _section(place[:-1]).model_fields
    field = fields.get(place[-1])
    if kind == "extra_forbidden" and name in RENAMED:
        return f"{name}: is now called {RENAMED[name]}, rename it"
    if kind == "extra_forbidden":
        close = get_close_matches(str(place[-1]), fields, 1)
        return f"{name}: unknown parameter" + (f", did you mean '{close[0]}'?" if close else ", remove it")
    if kind == "missing":
        held = OPTIONAL.get(section)
        return f"{name}: missing, " + (f"add it, such as {place[-1]}: {held[place[-1]]}" if held else RESTORE)
    if kind == "model_type":
        whole = ", ".join(f"{each}: {example}" for each, example in OPTIONAL.get(name, {}).items())
        return f"{name}: should be " + (f"null or {{{whole}}}, not {value}" if whole else f"a section, {RESTORE}")
    if kind == "value_error":
        return f"{name}: {value} {error['ctx']['error']}"
    if kind == "string_pattern_mismatch" and field:
        return f"{name}: {value} is not {field.description}"
    said = error["msg"].lower().replace("a valid boolean", "true or false")
    return f"{name}: {said}{' or null' if field and NoneType in get_args(field.annotation) else ''}, not {value}"


def _section(place: tuple[str | int, ...]) -> type[BaseModel]:
    """The section at a place of params.yaml."""
    section: type[BaseModel] = Parameters
    for part in place:
        if field := section.model_fields.get(str(part)):
            types = (field.annotation, *get_args(field.annotation))
            section = next((each for each in types if isinstance(each, type) and issubclass(each, BaseModel)), section)
    return section


MODELS = ("parent", "judge")  # an iteration's, each another iteration's name


def check_iterations(iterations: Any) -> list[str]:
    """What is wrong with the tree of iterations, a sentence each."""
    if not isinstance(iterations, dict) or not iterations:
        return ['iterations: must name at least one iteration, such as "1": {parent: "0"}']
    problems = []
    for key, iteration in iterations.items():
        if not isinstance(key, str):
            problems.append(f'iterations: the key {key!r} must be quoted, "{key}": dvc drops others without a word')
        elif not re.fullmatch(r"\w+", key) or key == "0":
            problems.append(f"iterations: '{key}' cannot name an iteration; use letters, digits and _, and not 0")
        elif not isinstance(iteration, dict) or not all(isinstance(iteration.get(name), str | int) for name in MODELS):
            problems.append(
                f'iterations.{key}: must name its parent and its judge, such as {{parent: "0", judge: "0"}}'
            )
    if problems:
        return problems
    models = {key: {name: str(iteration[name]) for name in MODELS} for key, iteration in iterations.items()}
    for key, named in models.items():
        for name, model in named.items():
            if model != "0" and model not in models:
                known = ", ".join(["0", *models])
                problems.append(f"iterations.{key}.{name}: there is no iteration '{model}'; there are {known}")
    return problems or _cycles({key: list(named.values()) for key, named in models.items()})


def _cycles(needed: dict[str, list[str]]) -> list[str]:
    """Whether an iteration needs a model that needs the iteration itself; `needed`: {iteration: its models}."""
    try:
        TopologicalSorter(needed).prepare()
    except CycleError as error:
        cycle = " → ".join(reversed(error.args[1]))
        return [f"iterations: a cycle of parents or judges, {cycle}; each iteration must lead to 0"]
    return []
