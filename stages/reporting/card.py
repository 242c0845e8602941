"""The cards of best/ and dataset/: what they are, what they were made from, how they were chosen, and all parameters.

The front matter follows the Hugging Face hub's format. The same results give the same bytes.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from stages.core.counts import BenchmarkScore, SuiteScore
from stages.core.params import Params
from stages.core.records import Record
from stages.reporting.summary import IterationRow, Run, verdict, with_interval
from stages.reporting.table import score_text

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TEMPLATES = Path(__file__).parent / "cards"
TAGS = ["lance", "self-training", "synthetic"]


def model(summary: Run, params: Params) -> str:
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
    return render("model.md", data.to_yaml(), name=name, **provenance(summary, params))


def dataset(summary: Run, params: Params, rows: dict[str, list[Record]], features: Record) -> str:
    """The data set's card. `rows` and `features` are {set: its rows}, {set: its columns}; the front matter leaves out
    sets without rows."""
    from datasets.info import DatasetInfo, DatasetInfosDict
    from huggingface_hub import DatasetCardData

    base, names = base_name(params), [name for name in rows if rows[name]]
    data = DatasetCardData(
        pretty_name=f"{base}-lance-{summary['best']}",
        task_categories=["text-generation"],
        tags=[*TAGS, "trl"],
        configs=[{"config_name": name, "data_files": f"{name}.jsonl"} for name in names],
    )
    DatasetInfosDict({name: DatasetInfo(features=features[name]) for name in names}).to_dataset_card_data(data)
    counts = {name: len(rows[name]) for name in rows}
    return render("dataset.md", data.to_yaml(), name=base, counts=counts, **provenance(summary, params))


def render(template: str, front_matter: str, **content: Any) -> str:
    """A template of cards/ with its content, below the front matter. Raises `jinja2.UndefinedError` if some content is
    missing."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    text = environment.from_string((TEMPLATES / template).read_text(encoding="utf-8")).render(**content)
    return f"---\n{front_matter}\n---\n{text}"


def provenance(summary: Run, params: Params) -> Record:
    """What both cards state: base model, data, scores, iterations and parameters."""
    rows = summary["iterations"]
    best, prepared = rows[summary["best"]], rows["0"]["prepare"]
    return {
        "best": summary["best"],
        "verdict": verdict(summary, []),
        "gain": best["gain"] and with_interval(best["gain"]),
        "has_interval": best["gain"] and best["gain"]["low"] is not None,
        "base": pinned(params["model.hub"]) or params["model.name"],
        "dtype": params["model.dtype"],
        "seed": {"path": pinned(params["seed.hub"]) or params["seed.path"], "rows": prepared["seed"]["out"]},
        "reviews": {"path": params["seed.reviews"], "rows": prepared["judge"]["out"]},
        "suite": params["evaluate.suite"],
        "items": {"validation": best["validation"]["items"], "test": best["test"]["items"]},
        "table": [cells(key, row, params["iterations"]) for key, row in rows.items()],
        "shots": params["generate.shots"],
        "parameters": parameters(params),
    }


def cells(key: str, row: IterationRow, iterations: Record) -> list[str]:
    """One iteration in the card's table: iteration, parent, judge, test, gain, validation."""
    judge = str(iterations[key]["judge"]) if key in iterations else ""
    gain = with_interval(row["gain"]) if row["gain"] else ""
    return [key, row["parent"] or "base", judge, score_text(row["test"]), gain, score_text(row["validation"])]


def parameters(params: Params) -> str:
    """The parameters that dvc.yaml declares for the stage, as YAML: everything that decides a result, and neither
    `runtime` nor the settings of the report."""
    return yaml.safe_dump({name: params[name] for name in params.declared}, sort_keys=False, allow_unicode=True).rstrip(
        "\n"
    )


def eval_results(test: SuiteScore, suite: str) -> "list[EvalResult]":
    """The test scores of the suite and of each of its benchmarks, in percent."""
    from huggingface_hub import EvalResult

    scores: list[tuple[str, str, BenchmarkScore]] = [(suite, f"mean of the suite {suite}", test)]
    for name, score in test["benchmarks"].items():
        scores += [
            (name, name, score),
            *((name, f"{name} by {by}", other) for by, other in score.get("also", {}).items()),
        ]
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=name,
            dataset_name=f"{title}, test part",
            dataset_split="test",
            metric_type="score",
            metric_name=f"percent, with a standard error of {score['stderr']:.1f} on {score['items']:,} items",
            metric_value=round(score["score"], 1),
        )
        for name, title, score in scores
    ]


def base_name(params: Params) -> str:
    """The base model's name without its owner or folder. For a folder called base or model, it is the parent's name."""
    path = Path(params["model.hub"]["id"] if params["model.hub"] else params["model.name"])
    return (path.parent if path.name in ("base", "model") and path.parent.name else path).name


def pinned(hub: Record | None) -> str | None:
    """ID@COMMIT of what came from the hub; None for a file or folder."""
    return f"{hub['id']}@{hub['revision']}" if hub else None
