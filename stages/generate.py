"""generate: from the reviewed seed set, what the model can still learn from (paper, section 3.3).

    python -m stages.generate --rows iterations/1/review.jsonl --model iterations/0/model
        --out iterations/1/generated.jsonl

A seed scored ≤ V gives K new instructions and K responses to each; one scored above V gives K deliberately flawed
responses to its own instruction.
"""

import re
from pathlib import Path
from string import Template
from typing import Annotated

from typer import Option

from stages.core import cost
from stages.core.command import run
from stages.core.params import Params, declared, read_runtime
from stages.core.progress import say
from stages.core.prompts import answer_pattern, fill, generation_templates, system
from stages.core.records import Record, Tally, content_id, counts_file, read, write, write_json
from stages.inference.client import Client
from stages.inference.engines import Sampling


def route(
    reviewed: list[Record], threshold: float, max_low: int, max_high: int, parent: str, tally: Tally
) -> tuple[list[Record], list[Record]]:
    """The low and the high seeds to generate from, chosen by the hash of their content and of the parent's name: a
    changed threshold or a grown seed set keeps the choice, and the next iteration makes another."""
    by_content = sorted(reviewed, key=lambda row: content_id(parent, row["id"]))
    scored = [row for row in by_content if row["score"] is not None]
    low = [row for row in scored if row["score"] <= threshold]
    high = [row for row in scored if row["score"] > threshold]
    tally.drop("unscored", len(reviewed) - len(scored))
    tally.drop("over generate.max_low", max(0, len(low) - max_low))
    tally.drop("over generate.max_high", max(0, len(high) - max_high))
    return low[:max_low], high[:max_high]


def final_answer(completion: str, answer: re.Pattern[str]) -> str | None:
    """The text that the model was asked for, without what it wrote around it; None where it is not there."""
    found = answer.search(completion)
    return found["answer"].strip() or None if found else None


class Writer:
    """Ask the model one kind of text for many records, and keep what can be read."""

    def __init__(self, client: Client, prompt_set: str, samples: int, sampling: Sampling) -> None:
        self.client, self.samples, self.sampling = client, samples, sampling
        self.prompt_set, self.system = prompt_set, system(prompt_set)

    def ask(self, name: str, kind: str, sources: list[Record], prompts: list[str]) -> tuple[list[Record], Record]:
        """`samples` texts for each source, as {source, prompt_hash, draw, text}, and their tally."""
        rule = answer_pattern(self.prompt_set, kind)
        tally = Tally(len(sources) * self.samples)
        drawn = self.client.complete(name, prompts, self.system, self.samples, self.sampling)
        texts = []
        for source, prompt, completions in zip(sources, prompts, drawn, strict=True):
            for draw, completion in enumerate(completions):
                text = final_answer(completion.text, rule)
                if completion.finish == "too long":
                    tally.drop("does not fit the context")
                elif completion.finish == "length":
                    tally.drop("truncated")
                elif text is None:
                    tally.drop("unreadable")
                else:
                    texts.append({"source": source, "prompt_hash": content_id(prompt), "draw": draw, "text": text})
        return texts, tally.counts(len(texts))


def new_record(response: Record) -> Record:
    """A response to a new instruction, with the lineage of both."""
    instruction = response["source"]
    seed = instruction["source"]
    made = {"instruction": _draw(instruction), "response": _draw(response)}
    return _record("new", instruction["text"], response["text"], seed, made)


def flawed_record(response: Record) -> Record:
    """A flawed response to a seed's own instruction."""
    seed = response["source"]
    return _record("flawed", seed["prompt"], response["text"], seed, {"response": _draw(response)})


def _draw(text: Record) -> Record:
    return {"prompt_hash": text["prompt_hash"], "draw": text["draw"]}


def _record(kind: str, prompt: str, response: str, seed: Record, made: Record) -> Record:
    return {
        "id": content_id(prompt, response),
        "route": kind,
        "prompt": prompt,
        "response": response,
        "seed": {field: seed[field] for field in ("id", "prompt", "response", "score")},
        "lineage": {"seed": seed["id"], **made},
    }


def filled(template: Template, rows: list[Record]) -> list[str]:
    return [fill(template, instruction=row["prompt"], response=row["response"]) for row in rows]


def ask(
    client: Client, name: str, params: Params, low: list[Record], high: list[Record]
) -> tuple[list[Record], list[Record], Record]:
    """Responses to new instructions from the low seeds, flawed responses to the high ones, and how many of each."""
    settings, prompt_set = params["generate"], params["prompts"]
    sampling = Sampling(settings["temperature"], settings["top_p"], settings["max_tokens"], params["random_state"])
    instruction_prompt, flawed_prompt = generation_templates(prompt_set)
    writer = Writer(client, prompt_set, params["samples"], sampling)

    instructions, instruction_counts = writer.ask(
        f"{name} new instructions", "instruction", low, filled(instruction_prompt, low)
    )
    responses, response_counts = writer.ask(
        f"{name} responses", "response", instructions, [each["text"] for each in instructions]
    )
    flawed, flawed_counts = writer.ask(f"{name} flawed responses", "flawed", high, filled(flawed_prompt, high))
    counts = {
        "new_instructions": instruction_counts,
        "responses": response_counts,
        "flawed_responses": flawed_counts,
    }
    return responses, flawed, counts


def main(
    rows: Annotated[Path, Option(help="the reviewed seed set")],
    model: Annotated[Path, Option(help="model folder that writes, iterations/PARENT/model")],
    out: Annotated[Path, Option(help="generated rows, iterations/ITERATION/generated.jsonl")],
) -> None:
    """Write new pairs from low seeds and flawed responses to high ones."""
    iteration, parent = out.parent.name, model.parent.name
    params, name = declared("generate"), f"generate@{iteration}"
    settings = params["generate"]
    client = Client(model, name, params["max_overlong"], read_runtime())
    reviewed = read(rows)
    routed = Tally(len(reviewed))
    low, high = route(reviewed, params["threshold"], settings["max_low"], settings["max_high"], parent, routed)
    responses, flawed, written = ask(client, name, params, low, high)

    write(out, [new_record(each) for each in responses] + [flawed_record(each) for each in flawed])
    counts = {"seed": {**routed.counts(len(low) + len(high)), "low": len(low), "high": len(high)}, **written}
    write_json(counts_file("generate", iteration), counts)
    cost.write("generate", iteration, cost.of_completions(client.completions.values(), client.gpus()))
    say(f"{name}: {len(low):,} low, {len(high):,} high seeds gave {len(responses):,} new pairs, {len(flawed):,} flawed")


if __name__ == "__main__":
    run(main)
