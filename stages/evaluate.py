"""evaluate: lm-eval on the suite's tasks, with its standard errors, in the chat format of training and generation.

`python -m stages.evaluate evaluate 1`   stage, iteration

A suite is a folder of evaluation/ with lm-eval tasks: the groups `SUITE_validation`, by which an iteration may be
chosen, and `SUITE_test`, which is reported, and apart from them how well the model judges, `SUITE_SPLIT_judging`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.errors import UserError, run
from stages.core.params import declared, runtime
from stages.core.progress import progress, quiet_transformers, say
from stages.core.prompts import system
from stages.core.records import write_json

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM

SPLITS = ("validation", "test")
BATCH_ROWS = 64  # where `runtime.batch_rows` is not set


def load(model: Path, batch_rows: int, advance: Callable[[int], None]) -> "HFLM":
    """lm-eval's own model class, reporting each batch."""
    import torch
    from lm_eval.models.huggingface import HFLM

    class ReportingHFLM(HFLM):  # type: ignore[misc]
        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().generate_until(requests, disable_tqdm=True)

        def _model_generate(self, context: Any, *arguments: Any, **settings: Any) -> Any:
            generated = super()._model_generate(context, *arguments, **settings)
            advance(len(context))
            return generated

    device = "cuda" if torch.cuda.is_available() else "cpu"  # lm-eval would ask for cuda on any machine
    return ReportingHFLM(pretrained=str(model), batch_size=batch_rows, dtype="auto", device=device)


def items(tasks: dict[str, Any], limit: int | None) -> int:
    """Items of all tasks, in the groups' nesting; at most `limit` of each."""
    return sum(
        items(task, limit) if isinstance(task, dict) else len(range(len(task.eval_docs))[:limit])
        for task in tasks.values()
    )


def result(results: dict[str, Any], name: str) -> dict[str, float]:
    """A task's or a group's exact match and its standard error, in percent."""
    found = results["results"][name]
    return {
        "exact_match": round(100 * found["exact_match,answer"], 4),
        "stderr": round(100 * found["exact_match_stderr,answer"], 4),
    }


def main(stage: str, iteration: str) -> None:
    params = declared(stage)
    suite = params["evaluate.suite"]
    folder = Path("evaluation", suite)
    if not list(folder.glob("*.yaml")):
        raise UserError(f"evaluate.suite: {folder} has no lm-eval tasks (*.yaml); correct the suite's name")

    quiet_transformers()
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager, get_task_dict

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    names = [f"{suite}_{split}{part}" for split in SPLITS for part in ("", "_judging")]
    if missing := [name for name in names if name not in manager.all_tasks]:
        raise UserError(f"evaluate.suite: {folder} has no task or group {', '.join(missing)}; add it or rename one")
    limit = params["evaluate.limit"]
    total = items(get_task_dict(names, manager), limit)
    with progress(f"evaluate@{iteration}", total) as advance:
        results = simple_evaluate(
            model=load(Path("iterations", iteration, "model"), runtime()["batch_rows"] or BATCH_ROWS, advance),
            tasks=names,
            task_manager=manager,
            apply_chat_template=True,
            system_instruction=system(params["prompts"]) or None,
            limit=limit,
            log_samples=False,
            bootstrap_iters=1,  # 0 would remove the standard errors, which have a closed form here
        )
    found: dict[str, Any] = {
        split: {
            **result(results, f"{suite}_{split}"),
            "tasks": {
                name: result(results, f"{suite}_{split}_{name}")
                for name in sorted(
                    each.removeprefix(f"{suite}_{split}_")
                    for each in results["results"]
                    if each.startswith(f"{suite}_{split}_")
                )
            },
        }
        for split in SPLITS
    }
    write_json(Path("results", iteration, "evaluate.json"), found)
    test, judge = found["test"], found["test"]["tasks"]["judging"]
    say(
        f"evaluate@{iteration}: test {test['exact_match']:.1f} ± {test['stderr']:.1f} %, "
        f"judging {judge['exact_match']:.1f} ± {judge['stderr']:.1f} %"
    )


if __name__ == "__main__":
    import sys

    run(main, *sys.argv[1:])
