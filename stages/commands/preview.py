"""A few seeds through review, generate, filter and assess, before a run is paid for.

    lance preview          ten seeds, on the model of params.yaml
    lance preview -n 30

It shows each text that the model wrote, and how it was read or why it was not; then what the first run would cost, from
the tokens and shares that it measured. Each call is made once instead of `samples` and `review.samples` times. Nothing
becomes an out of the pipeline; the completion store keeps the calls. The model is the one of params.yaml as it is: the
run's own judge and writer learn from the seed set first. The filter's embeddings are not compared.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from typer import Option

from stages import filter as filtering
from stages import generate, prepare, review
from stages.base import materialise
from stages.check import read_valid_params
from stages.commands import plan
from stages.core import cost
from stages.core.errors import UserError
from stages.core.params import Params
from stages.core.progress import say
from stages.core.prompts import InstructionPrompt, ReviewPrompt, answer_rule, final_answer_rule
from stages.core.records import Record, read
from stages.core.rows import BenchmarkItem, Candidate, ReviewedPair, ReviewedSeed, SeedRow
from stages.core.schema import parse_runtime
from stages.data.decontamination import HeldOut
from stages.data.routing import sources_of
from stages.data.seeds.files import of_seed
from stages.data.seeds.pairs import SeedTally, pairs
from stages.data.similarity import same_words
from stages.inference.client import Client
from stages.inference.engines import Completion, Sampling
from stages.judging import scores, verifiers
from stages.judging.judge import Verdict
from stages.models import hub
from stages.planning.forecast import LastRun

MODEL = "preview"  # the name of the judge's and the writer's iteration
SHOWN = 300  # characters of a text
FINISHES = {"length": "cut at max_tokens", "too long": "the prompt does not fit the context"}
KINDS = {  # of answers.yaml
    "new instructions": "instruction",
    "responses": "response",
    "own responses": "response",
    "flawed responses": "flawed",
}


def first_seeds(settings: Record, random_state: int, number: int) -> list[SeedRow]:
    """Seeds as prepare chooses them. Raises `UserError` if there are none."""
    tally = SeedTally()
    usable = pairs(of_seed(settings), "the seed set", tally, settings["columns"], settings["on_bad"])
    seeds = prepare.seed_set(usable, number, random_state, tally)
    if not seeds:
        raise UserError("the seed set has no usable rows; lance check and dvc repro prepare say why")
    return seeds


@contextmanager
def base_model(model: Record) -> Iterator[Path]:
    """The folder of the base model: that of the run, or one made for now."""
    if plan.BASE.is_dir():
        yield plan.BASE
        return
    with TemporaryDirectory() as folder:
        source = hub.fetch(model) if model["hub"] else Path(model["name"])
        yield materialise(source, model["dtype"], Path(folder), model["trust_remote_code"])


class RecordingClient(Client):
    """A client that keeps what was written for each task."""

    written: dict[str, list[Completion]]

    def complete_rendered(
        self, task: str, rendered: Sequence[str], draws: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """The completions, as `Client.complete_rendered` gives them."""
        completions = super().complete_rendered(task, rendered, draws, sampling)
        self.written[task] = [completion for samples in completions for completion in samples]
        return completions


class Preview:
    """The four stages on a few seeds, with their counts and costs as the stages write them."""

    def __init__(self, params: Record, folder: Path, seeds: int) -> None:
        once = {**params, "samples": 1, "review": {**params["review"], "samples": 1}}
        once["generate"] = {**params["generate"], "own_samples": 1, "max_low": seeds, "max_high": seeds}
        self.params = Params("preview", list(once), once)
        self.client = RecordingClient(folder, "preview", 1.0, parse_runtime(params))
        self.client.written = {}
        self.results: Record = {}
        self.costs: Record = {}

    def review(self, stage: str, title: str, rows: Sequence[Any]) -> list[ReviewedPair]:
        """The rows as the judge or verifiers score them, which is shown."""
        before, by = set(self.client.completions), self.params["review.by"]
        checked = [review.with_check(row) for row in rows]
        outcomes: dict[str, verifiers.Outcome] = {}
        if by in scores.VERIFIED:
            functions, rule = Path(self.params["review.checks"]), final_answer_rule(self.params["prompts"])
            outcomes = verifiers.verify_rows(f"{stage} checks", checked, functions, rule.read)
        verdicts = review.review(self.client, stage, self.params, checked) if by in scores.JUDGED else None
        for number, row in enumerate(checked):
            say(f"\n{title} {number + 1}\n  prompt:   {shown(row['prompt'])}\n  response: {shown(row['response'])}")
            if verdicts:
                (verdict,) = verdicts[number]
                say(f"  review:   {shown(verdict.completion.text)}\n            → {reading(verdict)}")
            if by in scores.VERIFIED:
                say(f"  check:    {outcome_text(outcomes.get(row['id']))}")
        candidates = [row for row in rows if "route" in row]
        reviewed = list(review.scored_rows(self.params, checked, MODEL, verdicts, outcomes, candidates).values())
        self.results[stage] = review.count(reviewed, len(reviewed), 1 if verdicts else 0)
        self._add_cost(stage, before)
        return reviewed

    def generate(self, reviewed: list[ReviewedSeed]) -> list[Candidate]:
        """What the model writes for the seeds, by every route."""
        before = set(self.client.completions)
        sources, routed = sources_of(self.params, reviewed, MODEL)
        candidates, written = generate.generate(self.client, self.client, "generate", self.params, sources)
        self.results["generate"] = {**routed, **written}
        show_written(self.client, self.params["prompts"], self.params["generate.rationale"])
        self._add_cost("generate", before)
        return candidates

    def filter(self, candidates: list[Candidate], seeds: list[SeedRow]) -> tuple[list[Candidate], Counter[str]]:
        """The candidates that are kept, and the reasons of those that are dropped."""
        settings, prompt = self.params["filter"], ReviewPrompt(self.params["prompts"])
        overlap = settings["benchmark_overlap"]
        items = read(prepare.BENCHMARK, BenchmarkItem) if prepare.BENCHMARK.is_file() else []
        instructions = filtering.new_instructions(candidates)
        faults = filtering.instruction_faults(
            instructions,
            settings,
            prompt,
            HeldOut(InstructionPrompt(self.params["prompts"]).own_lines(), overlap),
            HeldOut((item["text"] for item in items), overlap),
            {seed["id"]: seed["prompt"] for seed in seeds},
        )
        repeated = same_words(list(instructions), [seed["prompt"] for seed in seeds])
        faults |= dict.fromkeys(repeated, "instruction like an earlier one")
        kept, dropped = filtering.split(candidates, faults, settings, prompt)
        return kept, Counter(row["reason"] for row in dropped)

    def _add_cost(self, stage: str, before: set[bytes]) -> None:
        made = [call for key, call in self.client.completions.items() if key not in before]
        self.costs[stage] = cost.of_completions(made, self.client.gpus())


def shown(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]} … ({len(text):,} characters)"


def reading(verdict: Verdict) -> str:
    """How a review was read."""
    if verdict.score is not None:
        return f"read as {verdict.score:g}"
    if verdict.completion.finish == "stop":
        return "unreadable: it holds no verdict as prompts/<set>/review/verdict.yaml says"
    return f"unreadable: {FINISHES.get(verdict.completion.finish, verdict.completion.finish)}"


def outcome_text(outcome: verifiers.Outcome | None) -> str:
    """What a verifier says."""
    if outcome is None:
        return "none"
    return {True: "passed", False: "failed", None: f"not carried out: {outcome.problem}"}[outcome.passed]


def show_written(client: RecordingClient, prompt_set: str, rationale: bool) -> None:
    """Each text of generate as the model wrote it, and how it was read."""
    for task, kind in KINDS.items():
        rule = answer_rule(prompt_set, kind)
        begun = "" if rationale else rule.marker
        for completion in client.written.get(f"generate {task}", []):
            if completion.finish == "stop":
                text = rule.read(begun + completion.text)
                how = "unreadable by prompts/<set>/answers.yaml" if text is None else f"read as: {shown(text)}"
            else:
                how = f"not read: {FINISHES.get(completion.finish, completion.finish)}"
            say(f"\n{task}\n  written:  {shown(completion.text)}\n            → {how}")


def share(part: int, whole: int) -> str:
    """12 of 20."""
    return f"{part:,} of {whole:,}"


def summary(preview: Preview, candidates: int, kept: int, dropped: Counter[str]) -> list[str]:
    """What was measured."""
    results, lines = preview.results, []
    for stage in ("review", "assess"):
        verdicts = results[stage]["verdicts"]
        lines.append(f"{stage}: {share(verdicts['readable'], verdicts['written'])} verdicts readable")
    lines[0] += f"; {results['generate']['seed']['low']} low, {results['generate']['seed']['high']} high seeds"
    for name in (task.replace(" ", "_") for task in KINDS):
        if name not in results["generate"]:
            continue
        counts = results["generate"][name]
        reasons = "".join(f", {number:,} {reason}" for reason, number in counts["dropped"].items())
        lines.append(f"generate: {share(counts['out'], counts['in'])} {name.replace('_', ' ')}{reasons}")
    reasons = "".join(f", {number:,} {reason}" for reason, number in dropped.items())
    lines.append(f"filter: {share(kept, candidates)} kept{reasons}")
    tokens, seconds = (sum(part[name] for part in preview.costs.values()) for name in ("tokens", "seconds"))
    lines.append(f"{tokens:,} tokens written in {seconds:.0f} s")
    return lines


def main(
    number: Annotated[int, Option("-n", "--number", min=1, help="seeds")] = 10,
) -> None:
    """A few seeds through review, generate, filter and assess: what the model writes, and what a run would cost."""
    params = read_valid_params()
    seeds = first_seeds(params["seed"], params["random_state"], number)
    with base_model(params["model"]) as folder:
        preview = Preview(params, folder, len(seeds))
        reviewed = preview.review("review", "seed", seeds)
        joined: list[Any] = [{**seed, **row} for seed, row in zip(seeds, reviewed, strict=True)]
        candidates = preview.generate(joined)
        kept, dropped = preview.filter(candidates, seeds)
        preview.review("assess", "kept pair", kept)
        last = LastRun([preview.results], [preview.costs])
        say("\n" + "\n".join(summary(preview, len(candidates), len(kept), dropped)))
        stages, total = plan.plan(params, measured=last)
    say("\n".join(["", "dvc repro by this measure:", *plan.sums(total), *plan.notes(stages, total)]))
