"""dataset: what the best iteration and its ancestors selected to train on, for others. `python -m stages.dataset`

One file per set of rows serves three readers: Hugging Face datasets by the card's front matter, trl by the messages of
`prompt`, `completion`, `chosen` and `rejected`, and LLaMA-Factory, which wants text, by `dataset_info.json`. Each row
leads back to its seed: seed → new instruction → response → verdicts → pair.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stages.core.command import run
from stages.core.params import read_params
from stages.core.progress import say
from stages.core.prompts import read_system_prompt
from stages.core.records import Record, read, write, write_json
from stages.core.rows import Lineage, PreferencePair, SeedRow, SftRow
from stages.reporting import card
from stages.reporting.summary import collect

if TYPE_CHECKING:
    from datasets import Features

OUT = Path("dataset")
Side = Literal["chosen", "rejected"]
ORIGIN = ("seed", "instruction", "response")  # of a text: the seed that it was made from, and the draws that made it
JUDGED = (*ORIGIN, "score", "verdicts")

# LLaMA-Factory's description of each set: its names for our columns (its data/README.md).
LLAMA_FACTORY: Record = {
    "sft": {"columns": {"prompt": "instruction", "response": "response", "system": "system"}},
    "preference": {
        "ranking": True,
        "columns": {
            "prompt": "instruction",
            "chosen": "chosen_response",
            "rejected": "rejected_response",
            "system": "system",
        },
    },
    "seed": {"columns": {"prompt": "prompt", "response": "response"}},
}


def features() -> "dict[str, Features]":
    """The columns of each set: what is null in all rows of one run has its type all the same."""
    from datasets import Features, List, Value

    text, number = Value("string"), Value("float64")
    draw = {"prompt_hash": text, "draw": Value("int64")}
    messages, verdicts = List({"role": text, "content": text}), List(number)
    origin = {"seed": text, "instruction": draw, "response": draw}
    judged = {**origin, "score": number, "verdicts": verdicts}
    made = {"id": text, "iteration": text, "iterations": List(text)}
    asked = {"prompt": messages, "system": text, "instruction": text}
    return {
        "sft": Features(
            **made, kind=text, score=number, **asked, completion=messages, response=text,
            lineage=judged,
        ),
        "preference": Features(
            **made, margin=number, **asked, chosen=messages, rejected=messages, chosen_response=text,
            rejected_response=text, lineage={"chosen": judged, "rejected": judged},
        ),
        "seed": Features(
            id=text, iteration=text, prompt=text, response=text, score=number, judge=text, verdicts=verdicts,
            lineage=origin,
        ),
    }  # fmt: skip


def conversation(prompt: str, asked: str) -> Record:
    """A prompt and the system prompt, as messages and as text."""
    opening = [{"role": "system", "content": asked}] if asked else []
    return {"prompt": [*opening, {"role": "user", "content": prompt}], "system": asked, "instruction": prompt}


def said(response: str) -> list[Record]:
    return [{"role": "assistant", "content": response}]


def whole(lineage: Lineage, fields: Iterable[str]) -> Record:
    """A lineage with all of these fields."""
    return {field: lineage.get(field) for field in fields}


def sft_row(row: SftRow, asked: str) -> Record:
    lineage = row["lineage"]
    return {
        "id": row["id"],
        "iteration": row["iteration"],
        "kind": row["kind"],
        "score": lineage.get("score"),
        **conversation(row["prompt"], asked),
        "completion": said(row["completion"]),
        "response": row["completion"],
        "lineage": whole(lineage, JUDGED),
    }


def preference_row(pair: PreferencePair, asked: str) -> Record:
    sides: tuple[Side, Side] = ("chosen", "rejected")
    return {
        "id": pair["id"],
        "iteration": pair["iteration"],
        "margin": pair["margin"],
        **conversation(pair["prompt"], asked),
        **{side: said(pair[side]) for side in sides},
        **{f"{side}_response": pair[side] for side in sides},
        "lineage": {side: whole(pair["lineage"][side], JUDGED) for side in sides},
    }


def seed_row(row: SeedRow) -> Record:
    fields = ("id", "iteration", "prompt", "response", "score", "judge", "verdicts")
    lineage: Lineage = row["lineage"] if "lineage" in row else {"seed": row["id"]}
    return {**{field: row.get(field) for field in fields}, "lineage": whole(lineage, ORIGIN)}


def together(found: dict[str, list[Record]]) -> list[Record]:
    """The rows of all iterations, each row once, with the iterations that selected it. Those of the last iteration come
    first: they have a score, and readers that guess the types do so by the first rows."""
    rows: dict[str, Record] = {}
    for iteration in found:
        for row in found[iteration]:
            rows.setdefault(row["id"], {**row, "iterations": []})["iterations"].append(iteration)
    return sorted(rows.values(), key=lambda row: -list(found).index(row["iterations"][0]))


def main() -> None:
    params = read_params("dataset")
    summary, scores = collect(params["iterations"])
    path, asked = scores.path(summary["best"]), read_system_prompt(params["prompts"])
    here = {key: Path("iterations", key) for key in path}
    sft = {key: [sft_row(row, asked) for row in read(here[key] / "sft.jsonl", SftRow)] for key in path}
    pairs = {
        key: [preference_row(pair, asked) for pair in read(here[key] / "pairs.jsonl", PreferencePair)] for key in path
    }
    seed = [seed_row(row) for row in reversed(read(here[path[-1]] / "seed.jsonl", SeedRow))]
    rows = {"sft": together(sft), "preference": together(pairs), "seed": seed}
    for name in rows:
        if rows[name]:  # a file without rows would not load
            write(OUT / f"{name}.jsonl", rows[name])
    described = {name: {"file_name": f"{name}.jsonl", **LLAMA_FACTORY[name]} for name in rows if rows[name]}
    write_json(OUT / "dataset_info.json", described)
    (OUT / "README.md").write_text(card.dataset(summary, params, rows, features()), encoding="utf-8")
    counts = ", ".join(f"{len(rows[name]):,} {name}" for name in rows)
    say(f"dataset: {counts} rows of iteration {summary['best']} and its ancestors; {OUT}/")


if __name__ == "__main__":
    run(main)
