"""generate: new pairs from the reviewed seed set, where the model can still learn (paper, section 3.3).

    python -m stages.generate --rows iterations/1/review.jsonl --model iterations/0/model --writer iterations/0/model
        --out iterations/1/generated.jsonl

A seed scored V or less yields K new instructions and K responses to each; one scored above V yields K deliberately
flawed responses to its own instruction. With `review.scale: quantile` V is compared with the score's rank. With
`generate.max_own` the model also answers people's own seeds.

The new instructions are written by the model of the iteration that `iterations.t.writer` names, everything else by the
parent's.
"""

from collections import Counter
from pathlib import Path
from typing import Annotated, NamedTuple

from typer import Option

from stages.core import cost
from stages.core.command import run
from stages.core.counts import GenerateCounts, SampleCounts
from stages.core.params import Params, read_params, read_runtime
from stages.core.progress import say
from stages.core.prompts import InstructionPrompt, flawed_template
from stages.core.records import content_id, counts_file, read, write, write_json
from stages.core.rows import Candidate, Lineage, ReviewedSeed, Route, ScoredSeed
from stages.data.routing import Sources, sources_of
from stages.data.scale import ranks
from stages.inference.client import Client
from stages.inference.engines import Sampling
from stages.inference.sampler import Sampler, Text

Instruction = Text[ScoredSeed]
Response = Text[Instruction]


class Generated(NamedTuple):
    """The pairs made of what the model wrote, and the counts of each step."""

    candidates: list[Candidate]
    counts: SampleCounts


def new_candidate(response: Response, shots: list[ReviewedSeed]) -> Candidate:
    """A response to a new instruction, with the lineage of both; `shots`: the seeds shown before its own."""
    instruction = response.source
    lineage: Lineage = {"seed": instruction.source["id"], "instruction": instruction.draw, "response": response.draw}
    if shots:
        lineage["shots"] = [shot["id"] for shot in shots]
    return candidate("new", instruction.text, response.text, instruction.source, lineage)


def seed_candidate(route: Route, response: Text[ScoredSeed]) -> Candidate:
    """A response to a seed's own prompt: the model's own, or a flawed one."""
    seed = response.source
    return candidate(route, seed["prompt"], response.text, seed, {"seed": seed["id"], "response": response.draw})


def candidate(route: Route, prompt: str, response: str, seed: ScoredSeed, lineage: Lineage) -> Candidate:
    """A generated pair with its identity."""
    return {
        "id": content_id(prompt, response),
        "route": route,
        "prompt": prompt,
        "response": response,
        "seed": seed,
        "lineage": lineage,
    }


def generate(client: Client, writer: Client, name: str, params: Params, sources: Sources) -> Generated:
    """New instructions from the low seeds, which `writer` writes, and responses to them; own and flawed responses to
    seeds' own prompts."""
    settings, prompt_set, low = params["generate"], params["prompts"], sources.low
    sampling = Sampling(settings["temperature"], settings["top_p"], settings["max_tokens"], params["random_state"])
    prompt, flawed_prompt = InstructionPrompt(prompt_set, settings["shots"]), flawed_template(prompt_set)

    def sampler(model: Client, samples: int) -> Sampler:
        return Sampler(model, prompt_set, samples, sampling, settings["rationale"])

    texts, own_texts = sampler(client, params["samples"]), sampler(client, settings["own_samples"])
    instructed = [prompt.render(seed, sources.shots.get(seed["id"], [])) for seed in low]
    instructions, instruction_counts = sampler(writer, params["samples"]).write(
        f"{name} new instructions", "instruction", low, instructed
    )
    if writer is not client:
        writer.release()
    responses, response_counts = texts.write(
        f"{name} responses", "response", instructions, [instruction.text for instruction in instructions]
    )
    asked = [seed["prompt"] for seed in sources.own]
    own, own_counts = own_texts.write(f"{name} own responses", "response", sources.own, asked)
    spoiled = [flawed_prompt.fill(seed["prompt"], seed["response"]) for seed in sources.high]
    flawed, flawed_counts = texts.write(f"{name} flawed responses", "flawed", sources.high, spoiled)
    counts: SampleCounts = {
        "new_instructions": instruction_counts,
        "responses": response_counts,
        "flawed_responses": flawed_counts,
    }
    if settings["max_own"]:
        counts["own_responses"] = own_counts
    new = [new_candidate(text, sources.shots.get(text.source.source["id"], [])) for text in responses]
    seeds_own = [seed_candidate("own", text) for text in own]
    return Generated(new + seeds_own + [seed_candidate("flawed", text) for text in flawed], counts)


def client_of(writer: Path, client: Client, params: Params) -> Client:
    """The client of the model that writes the new instructions: the same one where it is the same model."""
    if writer == client.folder:
        return client
    other = Client(writer, client.stage, params["max_overlong"], client.runtime)
    return client if other.digest == client.digest else other


def main(
    rows: Annotated[Path, Option(help="the reviewed seed set")],
    model: Annotated[Path, Option(help="model folder that answers, iterations/PARENT/model")],
    writer: Annotated[Path, Option(help="model folder that writes new instructions, iterations/WRITER/model")],
    out: Annotated[Path, Option(help="generated pairs, iterations/ITERATION/generated.jsonl")],
) -> None:
    """Write new pairs from low seeds, own responses, and flawed responses to high seeds."""
    iteration, parent = out.parent.name, model.parent.name
    params, name = read_params("generate"), f"generate@{iteration}"
    settings = params["generate"]
    client = Client(model, name, params["max_overlong"], read_runtime())
    instructor = client_of(writer, client, params)
    reviewed = read(rows, ReviewedSeed)
    sources, routed = sources_of(params, reviewed, parent)
    candidates, written = generate(client, instructor, name, params, sources)

    write(out, candidates)
    counts: GenerateCounts = {
        "seed": routed["seed"],
        "new_instructions": written["new_instructions"],
        "responses": written["responses"],
        "flawed_responses": written["flawed_responses"],
    }
    if settings["max_own"]:
        counts["own_seed"], counts["own_responses"] = routed["own_seed"], written["own_responses"]
    if ranked := ranks(params["review.scale"], (seed["score"] for seed in reviewed)):
        counts["ranks"] = ranked
    client.completions |= instructor.completions
    if reasoning := client.reasoning():
        counts["reasoning"] = reasoning
    write_json(counts_file("generate", iteration), counts)
    cost.write("generate", iteration, cost.of_completions(client.completions.values(), client.gpus()))
    say(f"{name}: {summary(sources, candidates)}")


def summary(sources: Sources, candidates: list[Candidate]) -> str:
    """The closing line."""
    made = Counter(candidate["route"] for candidate in candidates)
    own = f", {made['own']:,} own ones to {len(sources.own):,} seeds" if sources.own else ""
    seeds = f"{len(sources.low):,} low, {len(sources.high):,} high seeds"
    return f"{seeds} gave {made['new']:,} new pairs, {made['flawed']:,} flawed{own}"


if __name__ == "__main__":
    run(main, launch="generate")
