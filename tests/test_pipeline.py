"""Caching is exact: each stage declares the code that it runs, and each change reruns exactly what it can change."""

import ast
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from conftest import IN_GIT, ROOT, Project, merged

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
STAGES = {name: entry.get("do", entry) for name, entry in PIPELINE.items()}

# A stage depends on its own file and on each wing that it imports from, a folder. A wing may hold more than the stage
# uses (core/ also has the look of the terminal and the wording of errors): a change there reruns it, and ends where its
# outs are the same. The stages of the embedded world, whose result is in git, name their modules one by one instead,
# since a quarter of an hour of training is too much for that; and microworld/ holds their outs, so that no stage can
# depend on all of it.
MICROWORLD = Path("stages/microworld")
HARMLESS = {
    "stages/__init__.py",
    "stages/core/__init__.py",
    "stages/core/command.py",
    "stages/core/counts.py",
    "stages/core/errors.py",
    "stages/core/params.py",
    "stages/core/progress.py",
    "stages/core/rows.py",
    "stages/core/schema.py",
    "stages/microworld/__init__.py",
}

# ---- code ------------------------------------------------------------------------------------------------------------


@cache
def imports(module: str) -> frozenset[str]:
    """The project's files that a module names in its imports, those inside functions included."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            for path in (Path(*name.split(".")).with_suffix(".py"), Path(*name.split("."), "__init__.py")):
                if name.startswith("stages") and (ROOT / path).is_file():
                    found.add(str(path))
    return frozenset(found)


def imported(module: str) -> set[str]:
    """A module's imports, transitively."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        new = imports(waiting.pop()) - found
        found |= new
        waiting += new
    return found


def module_of(stage: str) -> str:
    words = STAGES[stage]["cmd"].split()
    return words[words.index("-m") + 1].replace(".", "/") + ".py"


def code_of(stage: str) -> set[str]:
    """The files and wings that a stage's code is in."""
    modules = {module_of(stage), *imported(module_of(stage))}
    if stage in IN_GIT:
        return modules - HARMLESS
    wings = {Path(*Path(module).parts[:2]) for module in modules if len(Path(module).parts) > 2} - {MICROWORLD}
    alone = {module for module in modules if Path(module).parent in (Path("stages"), MICROWORLD)}
    return {str(wing) for wing in wings} | (alone - HARMLESS)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_its_own_file_and_on_the_wings_that_it_imports_from(stage):
    declared = {dep for dep in STAGES[stage]["deps"] if dep.startswith("stages/")}
    assert declared == code_of(stage)


LOOP = ("sft-0", "evaluate-0", "review", "generate", "filter", "assess", "select", "sft", "dpo", "evaluate")


@pytest.mark.parametrize("stage", LOOP)
def test_the_loop_cannot_reach_the_worlds_oracle(stage):
    assert not any(module.startswith("stages/microworld") for module in imported(module_of(stage)))


# ---- parameters and prompts ------------------------------------------------------------------------------------------

ITERATION = ("review", "generate", "filter", "assess", "select", "sft", "dpo", "evaluate", "measure")
KEYS = ("1", "2", "3")


def iterations(*keys: str) -> set[str]:
    return {f"{stage}@{key}" for stage in ITERATION for key in keys}


END = {"promote", "dataset", "report"}


def since(first: str) -> set[str]:
    """A stage of the loop in iteration 1 and all that follows from it, in every iteration."""
    of_the_first = {
        "review": iterations("1"),
        "generate": iterations("1") - {"review@1"},
        "filter": {f"{stage}@1" for stage in ("filter", "assess", "select", "sft", "dpo", "evaluate", "measure")},
        "assess": {f"{stage}@1" for stage in ("assess", "select", "sft", "dpo", "evaluate", "measure")},
        "select": {f"{stage}@1" for stage in ("select", "sft", "dpo", "evaluate", "measure")},
        "sft": {f"{stage}@1" for stage in ("sft", "dpo", "evaluate")},
        "dpo": {f"{stage}@1" for stage in ("dpo", "evaluate")},
        "evaluate": {"evaluate@1"},
    }[first]
    return of_the_first | iterations("2", "3") | END


WARM_START = {"sft-0", "evaluate-0"} | since("review")
SEEDS = {"prepare", "judgebench"} | WARM_START
EVERYTHING = {"base"} | SEEDS

# parameter: (another valid value, what reruns). `check` looks at every change, and its out never changes.
TABLE = {
    "iterations.1.parent": (None, set()),  # a root can have no other parent than 0
    "iterations.1.judge": (None, set()),  # and no other judge
    "iterations.1.writer": (None, set()),  # or writer
    "iterations.2.parent": ("0", iterations("2", "3") | END),
    "iterations.2.judge": ("1", iterations("2", "3") | END),
    "iterations.2.writer": ("0", iterations("2", "3") - {"review@2"} | END),
    "iterations.3.parent": ("1", iterations("3") | END),
    "iterations.3.judge": ("2", iterations("3") | END),
    "iterations.3.writer": ("0", iterations("3") - {"review@3"} | END),
    "threshold": (6.0, since("generate")),
    "samples": (2, since("generate")),
    "max_overlong": (0.9, since("review")),
    "random_state": (1, WARM_START),
    "prompts": ("lance", SEEDS),
    "model.name": ("another_model", {"base"} | WARM_START),
    "model.hub": ({"id": "Qwen/Qwen2-7B", "revision": 40 * "0"}, {"base"} | WARM_START),
    "model.trust_remote_code": (True, {"base"} | WARM_START),
    "model.dtype": ("bfloat16", {"base"} | WARM_START),
    "seed.path": ("another.jsonl", SEEDS),
    "seed.hub": ({"id": "a/b", "config": None, "split": "train", "revision": "0" * 40}, SEEDS),
    "seed.reviews": ("another.jsonl", SEEDS),
    "seed.columns": ({"prompt": "question", "response": "answer"}, SEEDS),
    "seed.on_bad": ("drop", SEEDS),
    "seed.limit": (100, SEEDS),
    "seed.random_state": (1, SEEDS),
    "review.estimator": ("expected", since("review")),
    "review.samples": (1, since("review")),
    "review.temperature": (0.5, since("review")),
    "review.top_p": (0.8, since("review")),
    "review.max_tokens": (40, since("review")),
    "review.max_unparsed": (0.5, since("review")),
    "review.shuffled": (True, since("review")),
    "review.scale": ("quantile", since("generate")),
    "review.by": ("both", since("review")),
    "review.checks": ("stages/__init__.py", since("review")),
    "generate.max_low": (50, since("generate")),
    "generate.max_high": (50, since("generate")),
    "generate.max_own": (50, since("generate")),
    "generate.own_samples": (2, since("generate")),
    "generate.shots": (3, since("generate")),
    "generate.people_shots": (0.5, since("generate")),
    "generate.rationale": (False, since("generate")),
    "generate.temperature": (0.5, since("generate")),
    "generate.top_p": (0.8, since("generate")),
    "generate.max_tokens": (40, since("generate")),
    "filter.min_instruction_words": (4, since("filter")),
    "filter.max_instruction_words": (50, since("filter")),
    "filter.min_response_words": (2, since("filter")),
    "filter.max_response_words": (50, since("filter")),
    "filter.max_instruction_rouge_l": (0.5, since("filter")),
    "filter.max_response_rouge_l": (0.5, since("filter")),
    "filter.max_cosine": (0.9, since("filter")),
    "filter.benchmark_overlap": (0.5, SEEDS),
    "select.min_sft_score": (7.0, since("select")),
    "select.pairs": ("extremes", since("select")),
    "select.min_margin": (1.0, since("select")),
    "select.agreement": ([0.5, 0.9], since("select")),
    "select.max_spread": (1.5, since("select")),
    "select.max_sft": (100, since("select")),
    "select.max_pairs": (100, since("select")),
    "select.accumulate": (True, since("select")),
    "select.max_judge": (50, since("select")),
    "sft.enabled": (False, since("sft")),
    "sft.start": ("base", since("sft")),
    "sft.learning_rate": (1.0e-4, WARM_START),
    "sft.epochs": (1, WARM_START),
    "sft.batch_size": (8, WARM_START),
    "dpo.enabled": (False, since("dpo")),
    "dpo.start": ("base", since("dpo")),
    "dpo.learning_rate": (1.0e-5, since("dpo")),
    "dpo.epochs": (2, since("dpo")),
    "dpo.batch_size": (8, since("dpo")),
    "dpo.beta": (0.2, since("dpo")),
    "dpo.nll": (0.1, since("dpo")),
    "dpo.reference": ("warm_start", since("dpo")),
    "dpo.loss": ("sigmoid_norm", since("dpo")),
    "dpo.label_smoothing": (0.1, since("dpo")),
    "dpo.weight": ("margin", since("dpo")),
    "average": (0.25, since("dpo")),
    "training.lora": ({"rank": 4, "alpha": 8, "dropout": 0.0}, WARM_START),
    "training.autocast": ("bfloat16", WARM_START),
    "training.four_bit": (True, WARM_START),
    "evaluate.suite": ("another", {"benchmark"} | SEEDS),
    # An evaluation may stop the chain, so that the next iteration follows it; while it does not, dvc stops there
    # (tests/test_end_to_end.py).
    "evaluate.limit": (10, WARM_START - {"sft-0"}),
    "evaluate.stop_on": ("decline", WARM_START - {"sft-0"}),
    "evaluate.stop_confidence": (0.9, WARM_START - {"sft-0"}),
    "alarms.decline": (0.9, {"report"}),
    "alarms.oscillation": (3, {"report"}),
    "alarms.slow": (1.0, {"report"}),
    "alarms.judge_spread": (0.5, {"report"}),
    "alarms.judge_same": (0.8, {"report"}),
    "alarms.duplicates": (0.9, {"report"}),
    "alarms.max_length_ratio": (2.0, {"report"}),
    "alarms.min_parsed": (0.5, {"report"}),
    "alarms.min_pairs": (10, {"report"}),
    "alarms.rewards_fall": (0.5, {"report"}),
    "report.price_per_row": (2.0, {"report"}),
    "report.price_per_hour": (2.0, {"report"}),
    "microworld.steps": (10, {"pretrain"} | {"base"} | WARM_START),
    "microworld.batch_size": (8, {"pretrain"} | {"base"} | WARM_START),
    "microworld.learning_rate": (1.0e-4, {"pretrain"} | {"base"} | WARM_START),
    "microworld.hidden": (64, {"pretrain"} | {"base"} | WARM_START),
    "microworld.layers": (2, {"pretrain"} | {"base"} | WARM_START),
    "microworld.heads": (2, {"pretrain"} | {"base"} | WARM_START),
    "microworld.random_state": (1, {"pretrain"} | {"base"} | WARM_START),
    "runtime.engine": ("transformers", set()),
    "runtime.batch_rows": (8, set()),
    "runtime.store.path": ("elsewhere.sqlite", set()),
    "runtime.store.max_gb": (1, set()),
    "runtime.checkpoint_minutes": (1, set()),
    "runtime.training.rows_at_once": (4, set()),
    "runtime.training.gradient_checkpointing": (True, set()),
    "runtime.training.precompute_reference": (True, set()),
    "runtime.training.processes": (2, set()),
    "runtime.training.sharding": ("fsdp", set()),
    "runtime.training.config": ("accelerate.yaml", set()),
    "runtime.vllm.tensor_parallel_size": (2, set()),
    "runtime.vllm.pipeline_parallel_size": (2, set()),
    "runtime.vllm.data_parallel_size": (2, set()),
    "runtime.vllm.gpu_memory_utilization": (0.5, set()),
    "runtime.server.url": ("http://elsewhere:8000/v1", set()),
    "runtime.server.concurrency": (8, set()),
    "runtime.server.timeout": (60, set()),
    "runtime.server.retries": (0, set()),
}

PROMPTS = {
    "micro/system.md": WARM_START,
    "micro/tags.yaml": SEEDS,
    "micro/final_answer.yaml": since("review"),
    "micro/review/prompt.md": SEEDS,
    "micro/review/verdict.yaml": SEEDS,
    "micro/review/constitution.yaml": SEEDS,
    "micro/generate/instruction.md": since("generate"),
    "micro/generate/shot.md": since("generate"),
    "micro/generate/flawed.md": since("generate"),
    "micro/generate/answers.yaml": since("generate"),
    "lance/system.md": set(),
    "lance/tags.yaml": set(),
    "lance/final_answer.yaml": set(),
    "lance/review/prompt.md": set(),
    "lance/review/verdict.yaml": set(),
    "lance/review/constitution.yaml": set(),
    "lance/generate/instruction.md": set(),
    "lance/generate/shot.md": set(),
    "lance/generate/flawed.md": set(),
    "lance/generate/answers.yaml": set(),
}


def leaves(values: dict, prefix: str = "") -> set[str]:
    found = set()
    for name, value in values.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}"}
    return found


def test_the_table_has_every_parameter_and_every_prompt_file():
    assert leaves(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))) == set(TABLE)
    prompts = ROOT / "prompts"
    assert {str(path.relative_to(prompts)) for path in prompts.rglob("*") if path.is_file()} == set(PROMPTS)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that DVC takes for completely run: every out is there, with placeholder content."""
    project = Project(tmp_path_factory.mktemp("done") / "project")
    shutil.copytree(project.folder / "evaluation/micro", project.folder / "evaluation/another")
    shutil.copytree(project.folder / "stages/microworld/base", project.folder / "another_model")
    shutil.copy(project.folder / "stages/microworld/data/seeds.jsonl", project.folder / "another.jsonl")
    from dvc.repo import Repo

    with Repo(str(project.folder)) as repo:
        for out in repo.index.outs:
            path = Path(out.fs_path)
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{out.def_path}\n")
    project.run("dvc", "commit", "-f", "-q")
    assert reruns(project) == set()
    return project


def following(repo: "Repo", changed: Iterable["Stage"]) -> set[str]:
    """The changed stages and what follows from them in DVC's graph. `check` looks at every parameter, but its out never
    changes, so nothing follows from it."""
    from networkx import ancestors

    graph = repo.index.graph  # its edges lead from a stage to those that it depends on
    stages = {stage for stage in changed if stage.name != "check"}
    return {stage.name for stage in stages.union(*(ancestors(graph, stage) for stage in stages))}


def reruns(project: Project) -> set[str]:
    """What `dvc repro` would run now."""
    from dvc.repo import Repo

    with chdir(project.folder), Repo() as repo:
        return following(repo, repo.reproduce(dry=True))


@pytest.fixture(scope="module")
def loaded(done) -> Iterator["Repo"]:
    """The same project as DVC has it in memory."""
    from dvc.repo import Repo

    with Repo(str(done.folder)) as repo:
        yield repo


def reruns_after(repo: "Repo", path: Path) -> set[str]:
    """What `dvc repro` would run after an edit of this file that leaves the paths and commands of dvc.yaml as they are.
    DVC compares each dependency that the file is, or is in, with dvc.lock; it neither loads the pipeline again nor
    compares anything else, which takes most of a dry run's time."""
    from dvc.dependency import param

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(param, "load_path", cache(param.load_path))  # one reading of params.yaml for all stages
        dependencies = [(stage, dep) for stage in repo.index.stages for dep in stage.deps]
        return following(
            repo, {stage for stage, dep in dependencies if path.is_relative_to(dep.fs_path) and dep.status()}
        )


def test_experiments_are_shown_with_the_columns_that_are_asked_for(done):
    """dvc loses its way where a dependency is called like a parameter."""
    shown = done.run("dvc", "exp", "show", "--drop", ".*", "--keep", "Experiment|.*threshold").stdout
    assert "threshold" in shown
    assert "random_state" not in shown


@contextmanager
def changed(project: Project, parameter: str) -> Iterator[Path]:
    """params.yaml with this parameter's other value of TABLE, until the block ends."""
    path = project.folder / "params.yaml"
    before = path.read_bytes()
    change, _ = TABLE[parameter]
    for part in reversed(parameter.split(".")):
        change = {part: change}
    if parameter.startswith("iterations"):  # replaced whole
        change = {"iterations": merged(project.params["iterations"], change["iterations"])}
    try:
        project.change(change)
        assert project.params != yaml.safe_load(before)
        yield path
    finally:
        path.write_bytes(before)


@contextmanager
def edited(project: Project, prompt: str) -> Iterator[Path]:
    """A file of prompts/ with another line, until the block ends."""
    path = project.folder / "prompts" / prompt
    before = path.read_bytes()
    try:
        path.write_bytes(before + b"# edited\n")
        yield path
    finally:
        path.write_bytes(before)


# Parameters that dvc.yaml puts into a path or a command. For these DVC loads the pipeline again and makes a dry run.
TEMPLATED = tuple(re.findall(r"\$\{(?!item|key)([\w.]+)\}", (ROOT / "dvc.yaml").read_text(encoding="utf-8")))


@pytest.mark.slow
@pytest.mark.parametrize("parameter", [name for name, (value, _) in TABLE.items() if value is not None])
def test_a_changed_parameter_reruns_exactly_what_it_can_change(done, loaded, parameter):
    with changed(done, parameter) as path:
        stages = reruns(done) if parameter.startswith(TEMPLATED) else reruns_after(loaded, path)
    assert stages == TABLE[parameter][1]


@pytest.mark.slow
@pytest.mark.parametrize("prompt", PROMPTS)
def test_an_edited_prompt_reruns_exactly_the_stages_that_use_it(loaded, done, prompt):
    with edited(done, prompt) as path:
        assert reruns_after(loaded, path) == PROMPTS[prompt]


@pytest.mark.slow
def test_a_label_reruns_the_measure_and_what_shows_it(loaded, done):
    path = done.folder / "labels/ana.jsonl"
    path.write_text('{"shown": ["0123456789abcdef"], "label": 7}\n')
    try:
        assert reruns_after(loaded, path) == {f"measure@{key}" for key in KEYS} | END
    finally:
        path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "name"),
    [
        (changed, "threshold"),
        (changed, "evaluate.limit"),
        (changed, "training.lora"),
        (changed, "microworld.steps"),
        (changed, "alarms.slow"),
        (changed, "runtime.store.path"),
        (edited, "micro/review/verdict.yaml"),
        (edited, "micro/generate/flawed.md"),
        (edited, "lance/system.md"),
    ],
)
def test_what_is_found_to_rerun_is_what_dvc_would_run(loaded, done, change, name):
    """The tests above against dry runs of `dvc repro`, for a change of each kind."""
    with change(done, name) as path:
        assert reruns_after(loaded, path) == reruns(done)
