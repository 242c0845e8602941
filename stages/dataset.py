"""dataset: what the best iteration and its ancestors selected for training, to share. `python -m stages.dataset`

One file per set serves three readers: Hugging Face datasets by the front matter of the card, trl by the messages in
`prompt`, `completion`, `chosen` and `rejected`, and LLaMA-Factory, which reads text, by `dataset_info.json`. Every row
carries its lineage: seed → new instruction → response → verdicts → pair.
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

Side = Literal["chosen", "rejected"]

OUT = Path("dataset")
ORIGIN = ("seed", "instruction", "response")  # where a text comes from: its seed, and the draws that made it
JUDGED = (*ORIGIN, "score", "verdicts")
SIDES: tuple[Side, Side] = ("chosen", "rejected")

# dataset_info.json, in the format of LLaMA-Factory's data/README.md: {its name of a column: ours}.
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


def features(shots: int) -> "dict[str, Features]":
    """{set: its columns with their types}, so that a column is typed even if it is null in every row of a run. `shots`:
    generate.shots; only several leave a trace in the lineage."""
    from datasets import Features, List, Value

    text, number = Value("string"), Value("float64")
    draw = {"prompt_hash": text, "draw": Value("int64")}
    messages, verdicts = List({"role": text, "content": text}), List(number)
    origin = {"seed": text, "instruction": draw, "response": draw, **({"shots": List(text)} if shots > 1 else {})}
    judged = {**origin, "score": number, "verdicts": verdicts}
    made = {"id": text, "iteration": text, "iterations": List(text)}
    prompt = {"prompt": messages, "system": text, "instruction": text}
    return {
        "sft": Features(
            **made, kind=text, score=number, **prompt, completion=messages, response=text,
            lineage=judged,
        ),
        "preference": Features(
            **made, margin=number, **prompt, chosen=messages, rejected=messages, chosen_response=text,
            rejected_response=text, lineage={"chosen": judged, "rejected": judged},
        ),
        "seed": Features(
            id=text, iteration=text, prompt=text, response=text, score=number, judge=text, verdicts=verdicts,
            lineage=origin,
        ),
    }  # fmt: skip


def prompt_columns(instruction: str, system_prompt: str) -> Record:
    """The columns of a prompt, as messages and as text; without a system prompt there is no system message."""
    messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return {
        "prompt": [*messages, {"role": "user", "content": instruction}],
        "system": system_prompt,
        "instruction": instruction,
    }


def assistant(response: str) -> list[Record]:
    """A response as messages."""
    return [{"role": "assistant", "content": response}]


def complete(lineage: Lineage, fields: Iterable[str]) -> Record:
    """A lineage with all of these fields; those that it lacks are None. Beside them, the seeds that were shown."""
    return {field: lineage.get(field) for field in fields} | ({"shots": lineage["shots"]} if "shots" in lineage else {})


def sft_row(row: SftRow, system_prompt: str) -> Record:
    """A row of `sft` from a row of iterations/t/sft.jsonl."""
    return {
        "id": row["id"],
        "iteration": row["iteration"],
        "kind": row["kind"],
        "score": row["lineage"].get("score"),
        **prompt_columns(row["prompt"], system_prompt),
        "completion": assistant(row["completion"]),
        "response": row["completion"],
        "lineage": complete(row["lineage"], JUDGED),
    }


def preference_row(pair: PreferencePair, system_prompt: str) -> Record:
    """A row of `preference` from a pair of iterations/t/pairs.jsonl."""
    return {
        "id": pair["id"],
        "iteration": pair["iteration"],
        "margin": pair["margin"],
        **prompt_columns(pair["prompt"], system_prompt),
        **{side: assistant(pair[side]) for side in SIDES},
        **{f"{side}_response": pair[side] for side in SIDES},
        "lineage": {side: complete(pair["lineage"][side], JUDGED) for side in SIDES},
    }


def seed_row(row: SeedRow) -> Record:
    """A row of `seed` from a row of iterations/t/seed.jsonl."""
    fields = ("id", "iteration", "prompt", "response", "score", "judge", "verdicts")
    lineage: Lineage = row["lineage"] if "lineage" in row else {"seed": row["id"]}
    return {**{field: row.get(field) for field in fields}, "lineage": complete(lineage, ORIGIN)}


def merge(rows_of: dict[str, list[Record]]) -> list[Record]:
    """The rows of all iterations, given as {iteration: rows}: each row once, with the iterations that selected it.

    Those that the last iteration selected for the first time come first: they have a score, and readers that infer
    types look at the first rows.
    """
    order = list(rows_of)
    rows: dict[str, Record] = {}
    for iteration in order:
        for row in rows_of[iteration]:
            rows.setdefault(row["id"], {**row, "iterations": []})["iterations"].append(iteration)
    return sorted(rows.values(), key=lambda row: -order.index(row["iterations"][0]))


def collect_sets(iterations: list[str], system_prompt: str) -> dict[str, list[Record]]:
    """{set: its rows}, from the files of these iterations; the last one's seed set holds all earlier ones."""
    folders = {key: Path("iterations", key) for key in iterations}
    sft = {
        key: [sft_row(row, system_prompt) for row in read(path / "sft.jsonl", SftRow)] for key, path in folders.items()
    }
    pairs = {
        key: [preference_row(pair, system_prompt) for pair in read(path / "pairs.jsonl", PreferencePair)]
        for key, path in folders.items()
    }
    seed = [seed_row(row) for row in reversed(read(folders[iterations[-1]] / "seed.jsonl", SeedRow))]
    return {"sft": merge(sft), "preference": merge(pairs), "seed": seed}


def main() -> None:
    """Write dataset/."""
    params = read_params("dataset")
    summary, scores = collect(params["iterations"])
    rows = collect_sets(scores.ancestry(summary["best"]), read_system_prompt(params["prompts"]))
    for name in rows:
        if rows[name]:  # an empty file would not load
            write(OUT / f"{name}.jsonl", rows[name])
    described = {name: {"file_name": f"{name}.jsonl", **LLAMA_FACTORY[name]} for name in rows if rows[name]}
    write_json(OUT / "dataset_info.json", described)
    (OUT / "README.md").write_text(
        card.dataset(summary, params, rows, features(params["generate.shots"])), encoding="utf-8"
    )
    counts = ", ".join(f"{len(rows[name]):,} {name}" for name in rows)
    say(f"dataset: {counts} rows of iteration {summary['best']} and its ancestors; {OUT}/")


if __name__ == "__main__":
    run(main)
