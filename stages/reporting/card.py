"""The cards of what others may use, best/ and dataset/: what it is, of what it was made, how chosen, and by what.

The front matter is the Hugging Face hub's; the same results give the same bytes.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from stages.core.params import Params
from stages.core.records import Record
from stages.reporting.summary import interval, verdict
from stages.reporting.table import scored

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TEMPLATES = Path(__file__).parent / "cards"
TAGS = ["lance", "self-training", "synthetic"]


def model(summary: Record, params: Params) -> str:
    """The model card of the best iteration."""
    from huggingface_hub import ModelCardData

    name = base_name(params)
    data = ModelCardData(
        model_name=f"{name}-lance-{summary['best']}",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=TAGS,
        base_model=params["model.hub"]["id"] if params["model.hub"] else None,  # the hub refuses a folder's name
        eval_results=eval_results(summary["iterations"][summary["best"]]["test"], params["evaluate.suite"]),
    )
    return card("model.md", data.to_yaml(), name=name, **provenance(summary, params))


def dataset(summary: Record, params: Params, rows: dict[str, list[Record]], features: Record) -> str:
    """The data set's card: its sets of rows, those of them that are empty left out, each with its columns."""
    from datasets.info import DatasetInfo, DatasetInfosDict
    from huggingface_hub import DatasetCardData

    name, filled = base_name(params), [each for each in rows if rows[each]]
    data = DatasetCardData(
        pretty_name=f"{name}-lance-{summary['best']}",
        task_categories=["text-generation"],
        tags=[*TAGS, "trl"],
        configs=[{"config_name": each, "data_files": f"{each}.jsonl"} for each in filled],
    )
    DatasetInfosDict({each: DatasetInfo(features=features[each]) for each in filled}).to_dataset_card_data(data)
    counts = {each: len(rows[each]) for each in rows}
    return card("dataset.md", data.to_yaml(), name=name, counts=counts, **provenance(summary, params))


def card(template: str, front_matter: str, **content: Any) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    text = environment.from_string((TEMPLATES / template).read_text(encoding="utf-8")).render(**content)
    return f"---\n{front_matter}\n---\n{text}"


def provenance(summary: Record, params: Params) -> Record:
    """What both cards say: where it comes from, what was measured, and by which parameters."""
    rows = summary["iterations"]
    best, prepared = rows[summary["best"]], rows["0"]["prepare"]
    return {
        "best": summary["best"],
        "verdict": verdict(summary, []),
        "gain": best["gain"] and interval(best["gain"]),
        "base": pinned(params["model.hub"]) or params["model.name"],
        "dtype": params["model.dtype"],
        "seed": {"path": pinned(params["seed.hub"]) or params["seed.path"], "rows": prepared["seed"]["out"]},
        "reviews": {"path": params["seed.reviews"], "rows": prepared["judge"]["out"]},
        "suite": params["evaluate.suite"],
        "items": {part: best[part]["items"] for part in ("validation", "test")},
        "table": [line(key, row, params["iterations"]) for key, row in rows.items()],
        "parameters": parameters(params),
    }


def line(key: str, row: Record, iterations: Record) -> list[str]:
    """One row of the table of iterations."""
    judge = str(iterations[key]["judge"]) if key in iterations else ""
    gain = interval(row["gain"]) if row["gain"] else ""
    return [key, row["parent"] or "base", judge, scored(row["test"]), gain, scored(row["validation"])]


def parameters(params: Params) -> str:
    """The parameters that dvc.yaml declares for the stage as YAML, by the names that `dvc exp run -S` takes: all that
    decide a result, and nothing of how it is computed or what is said about it."""
    return yaml.safe_dump({name: params[name] for name in params.declared}, sort_keys=False, allow_unicode=True).rstrip(
        "\n"
    )


def eval_results(test: Record, suite: str) -> "list[EvalResult]":
    """The scores of the test part: of the suite, and of each of its benchmarks."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=name,
            dataset_name=f"{said}, test part",
            dataset_split="test",
            metric_type="score",
            metric_name=f"percent, with a standard error of {each['stderr']:.1f} on {each['items']:,} items",
            metric_value=round(each["score"], 1),
        )
        for name, said, each in (
            (suite, f"mean of the suite {suite}", test),
            *((name, name, each) for name, each in test["benchmarks"].items()),
        )
    ]


def base_name(params: Params) -> str:
    """The base model's name, without its owner or folder; of a folder that is called base or model, the one above."""
    path = Path(params["model.hub"]["id"] if params["model.hub"] else params["model.name"])
    return (path.parent if path.name in ("base", "model") and path.parent.name else path).name


def pinned(hub: Record | None) -> str | None:
    """What was taken from the hub, with its commit; None where it was a file or a folder."""
    return f"{hub['id']}@{hub['revision']}" if hub else None
