"""What params.yaml may hold: each parameter with its type and range, and the tree of iterations."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from stages.core.errors import UserError

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Score = Annotated[float, Field(ge=0, le=10)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0)]
Temperature = Annotated[float, Field(ge=0, le=10)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
RandomState = Annotated[int, Field(ge=0, lt=2**32)]
Confidence = Annotated[float, Field(ge=0.5, lt=1)]
Text = Annotated[str, Field(min_length=1)]

# The description of a pattern completes the error message "… is not …".
COMMIT = "a commit of 40 hexadecimal digits; copy one from ID/commits/main on the hub, since a branch changes"
Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$", description=COMMIT)]

# An example of each section that may be null, since params.yaml may then show none of its values.
EXAMPLES = {
    "model.hub": {"id": "Qwen/Qwen2-7B", "revision": "COMMIT"},
    "seed.hub": {"id": "openai/gsm8k", "config": "main", "split": "train", "revision": "COMMIT"},
    "seed.columns": {"prompt": "COLUMN", "response": "COLUMN"},
    "training.lora": {"rank": "16", "alpha": "32", "dropout": "0.0"},
}

# Parameters that had another name in an earlier version: {old name: new name}.
RENAMED = {
    "max_unfit": "max_overlong",
    "filter.instruction_rouge_l": "filter.max_instruction_rouge_l",
    "filter.response_rouge_l": "filter.max_response_rouge_l",
    "filter.embedding": "filter.max_cosine",
    "filter.ngram_overlap": "filter.benchmark_overlap",
    "select.sft_score": "select.min_sft_score",
    "select.margin": "select.min_margin",
    "alarms.length": "alarms.max_length_ratio",
    "alarms.readable": "alarms.min_parsed",
    "alarms.pairs": "alarms.min_pairs",
}


class Section(BaseModel):
    """A section of params.yaml. An unknown name, a value of another type, infinity and NaN are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Iteration(Section):
    """An iteration: whose model and seed set it starts from, whose model judges, and whose writes the new instructions.
    "0" is the warm start."""

    parent: str | int  # dvc writes a number for `-S '+iterations.4={parent: 3, judge: 0, writer: 3}'`
    judge: str | int
    writer: str | int


class Hub(Section):
    """A model of the Hugging Face hub, at a commit."""

    id: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$", description="of the form OWNER/NAME")]
    revision: Commit


class Model(Section):
    """The base model: a folder, or a model of the hub; and the dtype of its weights."""

    name: Text
    hub: Hub | None
    trust_remote_code: bool
    dtype: Literal["float32", "bfloat16"]


class Columns(Section):
    """Which columns of the seed file make the prompt and the response, each a name, several with a blank line between
    them, or a template such as "{instruction}\\n\\n{context}"; and those that need not be read."""

    prompt: Any
    response: Any
    ignore: Any = []

    @field_validator("prompt", "response")
    @classmethod
    def check_names(cls, columns: Any, info: ValidationInfo) -> Any:
        """Raises `ValueError` unless it names columns, or if a response is a rejected one."""
        if not (isinstance(columns, str) and columns) and not _are_names(columns, 1):
            raise ValueError(
                "is neither a column, nor a list of columns, nor a template such as '{question} {choices}'"
            )
        if info.field_name == "response" and "rejected" in str(columns).lower():
            raise ValueError("names a rejected answer, which is never a seed; name another column")
        return columns

    @field_validator("ignore")
    @classmethod
    def check_ignored(cls, columns: Any) -> Any:
        """Raises `ValueError` unless it is a list of names."""
        if not _are_names(columns, 0):
            raise ValueError("is not a list of columns")
        return columns


def _are_names(columns: Any, least: int) -> bool:
    names = isinstance(columns, list) and all(isinstance(name, str) and name for name in columns)
    return names and len(columns) >= least


class SeedHub(Section):
    """A data set of the Hugging Face hub, at a commit."""

    id: Text
    config: str | None
    split: Text
    revision: Commit


class Seed(Section):
    """The seed set, the judge-training rows, and what to do with a bad row."""

    path: Text
    hub: SeedHub | None
    reviews: Text
    columns: Columns | None
    on_bad: Literal["fail", "drop"]
    limit: Positive | None
    random_state: RandomState


class Review(Section):
    """How the judge scores a pair of instruction and response."""

    estimator: Literal["sampled", "expected", "elicited"]
    samples: Positive
    temperature: Temperature
    top_p: PositiveShare
    max_tokens: Count
    max_unparsed: Share
    shuffled: bool
    scale: Literal["absolute", "quantile"]
    by: Literal["judge", "verifier", "both", "votes", "origin"]
    checks: Text

    @field_validator("max_tokens")
    @classmethod
    def check_max_tokens(cls, max_tokens: int, info: ValidationInfo) -> int:
        """Raises `ValueError` for a review of no tokens, unless its verdict is elicited."""
        if max_tokens == 0 and info.data.get("estimator") in ("sampled", "expected"):
            raise ValueError("needs review.estimator: elicited, which alone can do without a written review")
        return max_tokens


class Generate(Section):
    """How many seeds to generate from, what is shown of them, and how to sample the new texts."""

    max_low: Count
    max_high: Count
    max_own: Count
    own_samples: Positive
    shots: Positive
    people_shots: Share
    rationale: bool
    temperature: Temperature
    top_p: PositiveShare
    max_tokens: Positive


class Filter(Section):
    """What generated rows are dropped for: length in words, similarity, benchmark overlap."""

    min_instruction_words: Count
    max_instruction_words: Positive
    min_response_words: Count
    max_response_words: Positive
    max_instruction_rouge_l: Share
    max_response_rouge_l: Share
    max_cosine: Annotated[float, Field(ge=-1, le=1)]
    benchmark_overlap: PositiveShare


class Select(Section):
    """Which rows and pairs are trained on."""

    min_sft_score: Score | None
    pairs: Literal["all", "extremes"]
    min_margin: Score
    agreement: list[float] | None  # shares, low and high
    max_spread: Annotated[float, Field(ge=0, le=5)] | None
    max_sft: Count
    max_pairs: Count
    accumulate: bool
    max_judge: Count

    @field_validator("agreement", mode="before")
    @classmethod
    def check_band(cls, band: Any) -> Any:
        """Raises `ValueError` unless it is null or two shares, the lower first."""
        two = isinstance(band, list) and [type(share) in (int, float) for share in band] == [True, True]
        if band is not None and not (two and 0 <= band[0] <= band[1] <= 1):
            raise ValueError("is neither null nor two shares from 0 to 1, the lower one first, such as [0.5, 0.9]")
        return band


class Sft(Section):
    """Supervised fine-tuning."""

    enabled: bool
    start: Literal["parent", "warm_start", "base"]
    learning_rate: LearningRate
    epochs: Positive
    batch_size: Positive


class Dpo(Section):
    """Direct preference optimization."""

    enabled: bool
    start: Literal["sft", "parent", "warm_start", "base"]
    learning_rate: LearningRate
    epochs: Positive
    batch_size: Positive
    beta: Annotated[float, Field(gt=0)]
    reference: Literal["sft", "warm_start"]
    nll: NotNegative
    loss: Literal["sigmoid", "sigmoid_norm"]
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)]
    weight: Literal["none", "margin"]


class Lora(Section):
    """LoRA adapters."""

    rank: Positive
    alpha: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Training(Section):
    """What SFT and DPO have in common."""

    lora: Lora | None
    autocast: Literal["bfloat16"] | None
    four_bit: bool

    @field_validator("four_bit")
    @classmethod
    def check_lora(cls, four_bit: bool, info: ValidationInfo) -> bool:
        """Raises `ValueError` for `four_bit` without `lora`."""
        if four_bit and not info.data.get("lora", True):
            raise ValueError("needs training.lora, since 4-bit weights cannot be trained")
        return four_bit


class Evaluate(Section):
    """The benchmark suite, and when to stop the chain of iterations."""

    suite: Text
    limit: Annotated[int, Field(ge=2)] | None  # one item has no standard error
    stop_on: Literal["decline"] | None
    stop_confidence: Confidence


class Alarms(Section):
    """The thresholds of the report's alarms."""

    decline: Confidence
    oscillation: Positive
    slow: NotNegative
    judge_spread: NotNegative
    judge_same: PositiveShare
    duplicates: Share
    max_length_ratio: Annotated[float, Field(gt=1)]
    min_parsed: Share
    min_pairs: Count
    rewards_fall: NotNegative


class Report(Section):
    """The prices in the report."""

    price_per_row: NotNegative
    price_per_hour: NotNegative


class Microworld(Section):
    """The pre-training of the embedded default's base model."""

    steps: Positive
    batch_size: Positive
    learning_rate: LearningRate
    hidden: Positive
    layers: Positive
    heads: Positive
    random_state: RandomState

    @field_validator("heads")
    @classmethod
    def check_head_size(cls, heads: int, info: ValidationInfo) -> int:
        """Raises `ValueError` unless the attention heads divide the hidden size."""
        if info.data.get("hidden", heads) % heads:
            raise ValueError("must divide hidden")
        return heads


class Store(Section):
    """The completion store: its file, relative to the repository, and its size."""

    path: Text
    max_gb: Annotated[float, Field(gt=0)]


class Vllm(Section):
    """Arguments of `vllm.LLM`; any others are passed on too."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    tensor_parallel_size: Positive
    pipeline_parallel_size: Positive
    data_parallel_size: Positive
    gpu_memory_utilization: PositiveShare


class Server(Section):
    """A server with an OpenAI-compatible API; `timeout` in seconds."""

    url: Annotated[str, Field(pattern="^https?://", description="an address that begins with http:// or https://")]
    concurrency: Positive
    timeout: Annotated[float, Field(gt=0)]
    retries: Count


class TrainingRuntime(Section):
    """How to train: memory, processes, sharding."""

    rows_at_once: Positive | None
    gradient_checkpointing: bool
    precompute_reference: bool
    processes: Positive
    sharding: Literal["fsdp", "zero3"] | None
    config: str | None

    @field_validator("sharding")
    @classmethod
    def check_processes(cls, sharding: str | None, info: ValidationInfo) -> str | None:
        """Raises `ValueError` for sharding over a single process."""
        if sharding and info.data.get("processes", 2) == 1:
            raise ValueError("needs runtime.training.processes above 1")
        return sharding


class Runtime(Section):
    """How to compute: nothing here changes a result, and no stage declares it."""

    engine: Literal["auto", "transformers", "vllm", "server"]
    batch_rows: Positive | None
    store: Store
    checkpoint_minutes: NotNegative | None
    training: TrainingRuntime
    vllm: Vllm
    server: Server


class Parameters(Section):
    """All of params.yaml."""

    iterations: dict[str, Iteration]
    threshold: Score
    samples: Positive
    max_overlong: Share
    random_state: RandomState
    prompts: Text
    model: Model
    seed: Seed
    review: Review
    generate: Generate
    filter: Filter
    select: Select
    sft: Sft
    dpo: Dpo
    average: Annotated[float, Field(ge=0, lt=1)]
    training: Training
    evaluate: Evaluate
    alarms: Alarms
    report: Report
    microworld: Microworld
    runtime: Runtime


RESTORE = "restore it from git"
Location = Sequence[str | int]  # of a parameter, as pydantic gives it: the names of its sections, and its own


def check_params(values: Any) -> None:
    """Check all of params.yaml. Raises `UserError`, with every problem in one line, if anything is wrong."""
    if not isinstance(values, dict):
        raise UserError("params.yaml is empty or not a mapping; " + RESTORE)
    problems = iteration_problems(values.get("iterations"))
    try:
        problems += combination_problems(Parameters.model_validate(values))
    except ValidationError as error:
        errors = [details for details in error.errors() if details["loc"][0] != "iterations" or not problems]
        renamed = {RENAMED.get(_dotted(details["loc"])) for details in errors}
        # a renamed parameter is one problem: not also the lack of its new name
        problems += [
            _describe(details)
            for details in errors
            if details["type"] != "missing" or _dotted(details["loc"]) not in renamed
        ]
    if problems:
        raise UserError("params.yaml: " + "; ".join(problems))


def combination_problems(params: Parameters) -> list[str]:
    """Parameters that are valid one by one and senseless together, in a sentence each."""
    review, sft, dpo, average, problems = params.review, params.sft, params.dpo, params.average, []
    if review.scale == "quantile" and review.by not in ("judge", "both"):
        problems.append(
            f"review.scale: quantile ranks a judge's scores, where half of the rows may have the same one, and "
            f"review.by: {review.by} has few: a 10 may not be above 8; set review.scale: absolute"
        )
    if sft.start != "parent" and not sft.enabled:
        problems.append(f"sft.start: {sft.start} needs sft.enabled: true, set it or sft.start: parent")
    if dpo.start != "sft" and not dpo.enabled:
        problems.append(f"dpo.start: {dpo.start} needs dpo.enabled: true, set it or dpo.start: sft")
    if dpo.start != "sft" and sft.enabled:
        problems.append(
            f"dpo.start: {dpo.start} would leave what SFT trains unused, set sft.enabled: false or dpo.start: sft"
        )
    if average and params.training.lora:
        problems.append(
            f"average: {average} needs training.lora: null, since the mean of two adapters' updates has twice their "
            "rank; set average: 0.0"
        )
    return problems


def parse_runtime(values: Any) -> Runtime:
    """The section `runtime` of params.yaml. Raises `UserError` if it is wrong."""
    try:
        return Runtime.model_validate(values["runtime"])
    except ValidationError as error:
        problems = (_describe({**details, "loc": ("runtime", *details["loc"])}) for details in error.errors())
        raise UserError("params.yaml: " + "; ".join(problems)) from None


def _describe(error: ErrorDetails) -> str:
    """A validation error in one line: the parameter, what is wrong, and what to do."""
    location, kind = error["loc"], error["type"]
    name, key, section = _dotted(location), location[-1], _section_at(location[:-1])
    if kind == "extra_forbidden":
        return f"{name}: {_advice_on_unknown(name, section)}"
    if kind == "missing":
        examples = EXAMPLES.get(_dotted(location[:-1]))
        return f"{name}: missing, " + (f"add it, such as {key}: {examples[str(key)]}" if examples else RESTORE)
    value = {"None": "null", "True": "true", "False": "false"}.get(repr(error["input"]), repr(error["input"]))
    if kind == "model_type":
        example = ", ".join(f"{field}: {text}" for field, text in EXAMPLES.get(name, {}).items())
        return f"{name}: should be " + (f"null or {{{example}}}, not {value}" if example else f"a section, {RESTORE}")
    if kind == "value_error":
        return f"{name}: {value} {error['ctx']['error']}"
    field = section.model_fields.get(str(key))
    if kind == "string_pattern_mismatch" and field:
        return f"{name}: {value} is not {field.description}"
    expected = error["msg"].lower().replace("a valid boolean", "true or false")
    return f"{name}: {expected}{' or null' if field and NoneType in get_args(field.annotation) else ''}, not {value}"


def _advice_on_unknown(name: str, section: type[BaseModel]) -> str:
    """What to do about a parameter that does not exist."""
    if name in RENAMED:
        return f"is now called {RENAMED[name]}, rename it"
    close = get_close_matches(name.rpartition(".")[2], section.model_fields, 1)
    return "unknown parameter" + (f", did you mean '{close[0]}'?" if close else ", remove it")


def _dotted(location: Location) -> str:
    """A parameter's dotted name."""
    return ".".join(str(part) for part in location if part != "[key]")


def _section_at(location: Location) -> type[BaseModel]:
    """The class of the section at a location; for a location within a section that is no class, the one around it."""
    section: type[BaseModel] = Parameters
    for part in location:
        if field := section.model_fields.get(str(part)):
            types = (field.annotation, *get_args(field.annotation))
            sections = (kind for kind in types if isinstance(kind, type) and issubclass(kind, BaseModel))
            section = next(sections, section)
    return section


REFERENCES = ("parent", "judge", "writer")  # the parameters of an iteration that name another one
EXAMPLE = '{parent: "0", judge: "0", writer: "0"}'


def iteration_problems(iterations: Any) -> list[str]:
    """What is wrong with the tree of iterations, in a sentence per problem."""
    if not isinstance(iterations, dict) or not iterations:
        return [f'iterations: must name at least one iteration, such as "1": {EXAMPLE}']
    problems = [problem for key, iteration in iterations.items() if (problem := _entry_problem(key, iteration))]
    if problems:
        return problems
    tree = {key: {name: str(iteration[name]) for name in REFERENCES} for key, iteration in iterations.items()}
    existing = ["0", *tree]
    problems = [
        f"iterations.{key}.{name}: there is no iteration '{other}'; there are {', '.join(existing)}"
        for key, references in tree.items()
        for name, other in references.items()
        if other not in existing
    ]
    return problems or _cycles({key: list(references.values()) for key, references in tree.items()})


def _entry_problem(key: Any, iteration: Any) -> str | None:
    """What is wrong with one iteration, without regard to the others."""
    if not isinstance(key, str):
        return f'iterations: the key {key!r} must be quoted, "{key}", since dvc silently drops other keys'
    if not re.fullmatch(r"\w+", key) or key == "0":
        return f"iterations: '{key}' cannot name an iteration; use letters, digits and _ (0 is the warm start)"
    if not isinstance(iteration, dict):
        return f"iterations.{key}: must name its parent, its judge and its writer, such as {EXAMPLE}"
    if missing := [name for name in REFERENCES if not isinstance(iteration.get(name), str | int)]:
        return f"iterations.{key}: must name its {' and its '.join(missing)}, such as {EXAMPLE}"
    return None


def _cycles(models: dict[str, list[str]]) -> list[str]:
    """The problem, if there is one, that an iteration needs a model that needs the iteration itself. `models`:
    {iteration: the iterations whose models it needs}."""
    try:
        TopologicalSorter(models).prepare()
    except CycleError as error:
        cycle = " → ".join(reversed(error.args[1]))
        return [f"iterations: a cycle of parents, judges or writers, {cycle}; each iteration must lead back to 0"]
    return []
