"""generate: new pairs from the reviewed seed set, where the model can still learn (paper, section 3.3).

    python -m stages.generate --rows iterations/1/review.jsonl --model iterations/0/model
        --out iterations/1/generated.jsonl

A seed scored V or less yields K new instructions and K responses to each; one scored above V yields K deliberately
flawed responses to its own instruction. With `review.scale: quantile` V is compared with the score's rank.
"""

from pathlib import Path
from typing import Annotated, Generic, NamedTuple, TypeVar

from typer import Option

from stages.core import cost
from stages.core.checks import checked
from stages.core.command import run
from stages.core.counts import Counts, GenerateCounts, SampleCounts
from stages.core.params import Params, read_params, read_runtime
from stages.core.progress import say
from stages.core.prompts import PromptTemplate, answer_rule, generation_templates, read_system_prompt
from stages.core.records import Tally, content_id, counts_file, read, write, write_json
from stages.core.rows import Candidate, Draw, Lineage, ReviewedSeed, Route, ScoredSeed
from stages.data.scale import Scale, absolute, ranks, scale_of
from stages.inference.client import Client
from stages.inference.engines import Sampling

Source = TypeVar("Source")


class Text(NamedTuple, Generic[Source]):
    """A text that the model wrote, what it was written for, and the sample that it is."""

    source: Source
    text: str
    draw: Draw


Instruction = Text[ScoredSeed]
Response = Text[Instruction]


class Generated(NamedTuple):
    """What the model wrote: responses to new instructions, flawed responses to seeds, and the counts of each step."""

    responses: list[Response]
    flawed: list[Text[ScoredSeed]]
    counts: SampleCounts


def route(
    reviewed: list[ReviewedSeed],
    threshold: float,
    max_low: int,
    max_high: int,
    parent: str,
    tally: Tally,
    scale: Scale = absolute,
) -> tuple[list[ScoredSeed], list[ScoredSeed]]:
    """The low and the high seeds to generate from, chosen by the hash of their content and of the parent's name: they
    stay the same for another threshold or a grown seed set, and differ in the next iteration."""
    by_content = sorted(reviewed, key=lambda seed: content_id(parent, seed["id"]))
    scored: list[ScoredSeed] = [
        {
            "id": seed["id"],
            "prompt": seed["prompt"],
            "response": seed["response"],
            "score": seed["score"],
            **checked(seed),
        }
        for seed in by_content
        if seed["score"] is not None
    ]
    low = [seed for seed in scored if scale(seed["score"]) <= threshold]
    high = [seed for seed in scored if scale(seed["score"]) > threshold]
    tally.drop("unscored", len(reviewed) - len(scored))
    tally.drop("over generate.max_low", max(0, len(low) - max_low))
    tally.drop("over generate.max_high", max(0, len(high) - max_high))
    return low[:max_low], high[:max_high]


def scale_of_seeds(params: Params, reviewed: list[ReviewedSeed]) -> Scale:
    """On which the seeds' scores are compared with the threshold."""
    return scale_of(params["review.scale"], (seed["score"] for seed in reviewed))


class Writer:
    """Has the model write texts of one kind for many sources, and keeps those that can be read. Without `rationale`,
    the words before the text ("Final Answer:") are put into its mouth."""

    def __init__(
        self, client: Client, prompt_set: str, samples: int, sampling: Sampling, rationale: bool = True
    ) -> None:
        self.client, self.samples, self.sampling, self.rationale = client, samples, sampling, rationale
        self.prompt_set, self.system_prompt = prompt_set, read_system_prompt(prompt_set)

    def write(
        self, task: str, kind: str, sources: list[Source], prompts: list[str]
    ) -> tuple[list[Text[Source]], Counts]:
        """`samples` texts for each source by its prompt, read by the set's rule for `kind`, and their counts."""
        rule = answer_rule(self.prompt_set, kind)
        tally = Tally(len(sources) * self.samples)
        begun = "" if self.rationale else rule.marker
        samples = self.client.complete(task, prompts, self.system_prompt, self.samples, self.sampling, begun)
        texts = []
        for source, prompt, completions in zip(sources, prompts, samples, strict=True):
            for number, completion in enumerate(completions):
                text = rule.read(begun + completion.text)
                if completion.finish == "too long":
                    tally.drop("does not fit the context")
                elif completion.finish == "length":
                    tally.drop("truncated")
                elif completion.finish != "stop":  # no answer can be told from its reasoning
                    tally.drop(completion.finish)
                elif text is None:
                    tally.drop("unreadable")
                else:
                    texts.append(Text(source, text, {"prompt_hash": content_id(prompt), "draw": number}))
        return texts, tally.counts(len(texts))


def new_candidate(response: Response) -> Candidate:
    """A response to a new instruction, with the lineage of both."""
    instruction = response.source
    lineage: Lineage = {"seed": instruction.source["id"], "instruction": instruction.draw, "response": response.draw}
    return candidate("new", instruction.text, response.text, instruction.source, lineage)


def flawed_candidate(response: Text[ScoredSeed]) -> Candidate:
    """A flawed response to a seed's own instruction."""
    seed = response.source
    return candidate("flawed", seed["prompt"], response.text, seed, {"seed": seed["id"], "response": response.draw})


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


def filled(template: PromptTemplate, seeds: list[ScoredSeed]) -> list[str]:
    """A prompt for each seed."""
    return [template.fill(seed["prompt"], seed["response"]) for seed in seeds]


def generate(client: Client, name: str, params: Params, low: list[ScoredSeed], high: list[ScoredSeed]) -> Generated:
    """New instructions from the low seeds and responses to them, and flawed responses to the high ones."""
    settings, prompt_set = params["generate"], params["prompts"]
    sampling = Sampling(settings["temperature"], settings["top_p"], settings["max_tokens"], params["random_state"])
    instruction_template, flawed_template = generation_templates(prompt_set)
    writer = Writer(client, prompt_set, params["samples"], sampling, settings["rationale"])

    instructions, instruction_counts = writer.write(
        f"{name} new instructions", "instruction", low, filled(instruction_template, low)
    )
    responses, response_counts = writer.write(
        f"{name} responses", "response", instructions, [instruction.text for instruction in instructions]
    )
    flawed, flawed_counts = writer.write(f"{name} flawed responses", "flawed", high, filled(flawed_template, high))
    counts: SampleCounts = {
        "new_instructions": instruction_counts,
        "responses": response_counts,
        "flawed_responses": flawed_counts,
    }
    return Generated(responses, flawed, counts)


def main(
    rows: Annotated[Path, Option(help="the reviewed seed set")],
    model: Annotated[Path, Option(help="model folder that writes, iterations/PARENT/model")],
    out: Annotated[Path, Option(help="generated pairs, iterations/ITERATION/generated.jsonl")],
) -> None:
    """Write new pairs from low seeds and flawed responses to high ones."""
    iteration, parent = out.parent.name, model.parent.name
    params, name = read_params("generate"), f"generate@{iteration}"
    settings = params["generate"]
    client = Client(model, name, params["max_overlong"], read_runtime())
    reviewed = read(rows, ReviewedSeed)
    routed = Tally(len(reviewed))
    bounds, scale = (settings["max_low"], settings["max_high"]), scale_of_seeds(params, reviewed)
    low, high = route(reviewed, params["threshold"], *bounds, parent, routed, scale)
    responses, flawed, written = generate(client, name, params, low, high)

    write(out, [new_candidate(text) for text in responses] + [flawed_candidate(text) for text in flawed])
    counts: GenerateCounts = {
        "seed": {**routed.counts(len(low) + len(high)), "low": len(low), "high": len(high)},
        "new_instructions": written["new_instructions"],
        "responses": written["responses"],
        "flawed_responses": written["flawed_responses"],
    }
    if ranked := ranks(params["review.scale"], (seed["score"] for seed in reviewed)):
        counts["ranks"] = ranked
    if reasoning := client.reasoning():
        counts["reasoning"] = reasoning
    write_json(counts_file("generate", iteration), counts)
    cost.write("generate", iteration, cost.of_completions(client.completions.values(), client.gpus()))
    say(f"{name}: {len(low):,} low, {len(high):,} high seeds gave {len(responses):,} new pairs, {len(flawed):,} flawed")


if __name__ == "__main__":
    run(main)
