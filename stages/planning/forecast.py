"""How many model calls and tokens the planned stages need.

Rows are followed through the loop from the seed set on, by the shares of the last run. A call takes as many tokens as
in the last run, else as the seed set's texts have, since the model is trained to write what is like them.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import islice, takewhile
from pathlib import Path
from statistics import fmean
from typing import Any

from stages.core.prompts import InstructionPrompt, ReviewPrompt, flawed_template, read_system_prompt, verdict_rule
from stages.core.records import Record, read
from stages.core.rows import BenchmarkItem
from stages.core.verdict import HIGHEST
from stages.data.seeds.files import of_file, of_seed
from stages.data.seeds.pairs import SeedTally, judge_training_pairs, pairs
from stages.judging.scores import JUDGED
from stages.planning.changes import Planned

SHARES = {  # before any run
    "low": 0.5,  # of the seeds, scored at most V
    "kept": 0.7,  # of the responses asked for, kept by the filter
    "seed": 0.25,  # of what it keeps, new seeds
    "sft": 0.3,  # new SFT rows, likewise
    "pairs": 0.4,
}
CALLS = {  # where a stage's results count its model calls; those of an evaluation count its items
    **dict.fromkeys(("review", "assess"), ("verdicts.asked",)),
    "generate": ("new_instructions.in", "responses.in", "own_responses.in", "flawed_responses.in"),
    "evaluate": ("test.items", "validation.items", "judging.items", "apart.items"),
}
TOKEN = re.compile(r"\d|[^\W\d]{1,6}|[^\w\s]")  # a digit, up to six letters or a mark
CHAT = 7  # tokens of the chat format around a prompt


def kind(stage: str) -> str:
    """sft for sft@2 and sft-0."""
    return stage.partition("@")[0].removesuffix("-0")


class Texts:
    """Mean tokens of a prompt, a response and a review, each with the one that ends it, and of what the model reads
    `to_answer`, `to_review` and `to_write` (an instruction or a flawed response); usable `seeds` and `judge_rows`; and
    `computed`, the share of a stage's prompt tokens that the engine computes, since it reads the beginning that all of
    a template's prompts share once, and a prompt once for all its completions."""

    def __init__(self, params: Record) -> None:
        seed, prompts = params["seed"], params["prompts"]
        usable = pairs(of_seed(seed), "the seed set", SeedTally(), seed["columns"], "drop")
        rows = list(islice(usable, 100))
        self.seeds = min(len(rows) + sum(1 for _ in usable), seed["limit"] or 10**9)
        reviews = of_file(Path(seed["reviews"]), "seed.reviews")
        reviewed = list(judge_training_pairs(reviews, "seed.reviews", SeedTally(), "drop"))
        self.judge_rows, chat = len(reviewed), CHAT + _tokens([read_system_prompt(prompts)])
        self.prompt, self.response = (1 + _tokens(row[name] for row in rows) for name in ("prompt", "response"))
        self.review = 1 + _tokens(pair["review"] for pair in reviewed) if reviewed else self.response
        self.to_answer = chat + self.prompt
        to_review = [ReviewPrompt(prompts).render(row["prompt"], row["response"]) for row in rows]
        shots, flawed = params["generate"]["shots"], flawed_template(prompts)
        instruction, others = InstructionPrompt(prompts, shots), rows[: shots - 1]
        to_write = [
            [instruction.render(row, others) for row in rows],
            [flawed.fill(row["prompt"], row["response"]) for row in rows],
        ]
        self.to_review = chat + _tokens(to_review)
        self.to_write = chat + fmean(map(_tokens, to_write))
        sampled = params["review"]["estimator"] == "sampled"
        review = (1 - (chat + _shared(to_review)) / self.to_review) / (params["review"]["samples"] if sampled else 1)
        write = (1 - (chat + fmean(map(_shared, to_write))) / self.to_write) / params["samples"]
        self.computed = {"review": review, "assess": review, "generate": write}


def _tokens(texts: Iterable[str]) -> float:
    return fmean([len(TOKEN.findall(text)) for text in texts] or [0])


def _shared(texts: list[str]) -> float:
    """Tokens of what all texts begin with."""
    pairs = zip(min(texts), max(texts), strict=False) if len(texts) > 1 else ()
    return _tokens(["".join(first for first, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))])


@dataclass
class LastRun:
    """What results/ and costs/ hold: {stage: its counts} of each iteration."""

    results: list[Record]
    costs: list[Record]

    @classmethod
    def read(cls) -> "LastRun":
        """Of the project's folder; empty before the first run."""
        return cls(_counts("results"), _counts("costs"))

    def per_call(self, stage: str) -> tuple[float, float] | None:
        """Mean tokens that a model call read and wrote; None if none was made."""
        calls = sum(sum(values(self.results, f"{stage}.{name}")) for name in CALLS[stage])
        read, written = (sum(values(self.costs, f"{stage}.{name}")) for name in ("prompt_tokens", "tokens"))
        return (read / calls, written / calls) if calls else None

    def shares(self, threshold: float, scale: str = "absolute") -> dict[str, float]:
        """SHARES, or what the last run measured instead; `scale`: review.scale."""
        scores = values(self.results, "review.scores.nearest")  # rows by score, from 0
        answers = ("responses", "own_responses", "flawed_responses")
        requested = sum(sum(values(self.results, f"generate.{name}.in")) for name in answers)
        kept = sum(values(self.results, "assess.rows.in"))
        names = ("seed", "sft", "pairs") if values(self.results, "select") else ()
        measured = {name: (sum(values(self.results, f"select.{name}.new")), kept) for name in names}
        measured["low"] = sum(sum(rows[: int(threshold) + 1]) for rows in scores), sum(map(sum, scores))
        measured["kept"] = kept, requested
        if scale == "quantile":
            measured["low"] = threshold, HIGHEST
        return SHARES | {name: part / whole for name, (part, whole) in measured.items() if whole}


def _counts(folder: str) -> list[Record]:
    paths = sorted(path for path in Path(folder).glob("*") if path.is_dir())
    return [
        {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")} for folder in paths
    ]


def values(counts: list[Any], path: str) -> list[Any]:
    """What the iterations have at a dotted path; one that has nothing there is left out."""
    for name in path.split("."):
        counts = [count[name] for count in counts if count.get(name) is not None]
    return counts


@dataclass
class Forecast:
    """Fills in the calls and tokens of planned stages; calls that were looked up stay."""

    params: Record
    plan: dict[str, Planned]
    last: LastRun
    texts: Texts

    def walk(self) -> None:
        """Fill in the work of every planned stage, iteration by iteration, parents first."""
        micro, texts, tree = self.params["microworld"], self.texts, self.params["iterations"]
        self.share, self.items = (
            self.last.shares(self.params["threshold"], self.params["review"]["scale"]),
            self._items(),
        )
        self._train("pretrain", micro["steps"] * micro["batch_size"] * (texts.to_review + texts.review), 1)
        self._sft("sft-0", texts.seeds, texts.judge_rows)
        self._call("evaluate-0", self.items, texts.to_answer, texts.response)
        rows = {"0": {"seed": float(texts.seeds), "sft": 0.0, "pairs": 0.0}}  # what each iteration hands on
        for key in TopologicalSorter(
            {key: [str(iteration["parent"])] for key, iteration in tree.items()}
        ).static_order():
            if key != "0":
                rows[key] = self._iteration(key, rows[str(tree[key]["parent"])])

    def _iteration(self, key: str, before: dict[str, float]) -> dict[str, float]:
        params, share, texts, tree = self.params, self.share, self.texts, self.params["iterations"]
        parent, judge = tree.get(str(tree[key]["parent"])), str(tree[key]["judge"])
        scored = parent and str(parent["judge"]) == judge  # when the rows were new
        seeds, draws = before["seed"], params["samples"]
        reviews, of_review = self._reviews()
        self._call(f"review@{key}", 0 if scored else seeds * reviews, *of_review)

        low = min(params["generate"]["max_low"], seeds * share["low"])
        high = min(params["generate"]["max_high"], seeds * (1 - share["low"]))
        own = min(params["generate"]["max_own"], texts.seeds) * params["generate"]["own_samples"]
        instructions, responses, flawed = low * draws, low * draws**2 + own, high * draws
        calls = max(1, instructions + responses + flawed)
        read = (instructions + flawed) * texts.to_write + responses * texts.to_answer
        written = instructions * texts.prompt + (responses + flawed) * texts.response
        self._call(f"generate@{key}", calls, read / calls, written / calls)
        if planned := self.plan.get(f"filter@{key}"):
            planned.read = round((seeds + instructions) * texts.prompt)  # embedded

        kept, select = (responses + flawed) * share["kept"], params["select"]
        self._call(f"assess@{key}", kept * reviews, *of_review, self._new(key, judge))
        added = {name: min(select[f"max_{name}"], kept * share[name]) for name in ("sft", "pairs")}
        rows = {name: number + before[name] * select["accumulate"] for name, number in added.items()}
        self._sft(f"sft@{key}", rows["sft"], min(select["max_judge"], texts.judge_rows))
        self._train(f"dpo@{key}", rows["pairs"] * 2 * (texts.to_answer + texts.response), params["dpo"]["epochs"])
        self._call(f"evaluate@{key}", self.items, texts.to_answer, texts.response)
        return rows | {"seed": seeds + kept * share["seed"]}

    def _reviews(self) -> tuple[int, tuple[float, float]]:
        """The reviews of a pair, and the tokens that one of them reads and writes, an elicited one once more for each
        part of its verdict."""
        review, texts = self.params["review"], self.texts
        if review["by"] not in JUDGED:
            return 0, (0, 0)
        if review["estimator"] != "elicited":
            return review["samples"] if review["estimator"] == "sampled" else 1, (texts.to_review, texts.review)
        parts, written = len(verdict_rule(self.params["prompts"]).parts), min(texts.review, review["max_tokens"])
        return 1, (texts.to_review * (parts + bool(written)) + written * parts, written + parts)

    def _new(self, key: str, judge: str) -> float:
        """The share of assess's calls to make: that of generate's where it was looked up and assess only follows it."""
        generate, assess = (self.plan.get(f"{stage}@{key}") for stage in ("generate", "assess"))
        looked_up = generate and generate.stored is not None and assess and assess.only_follows
        new_judge = ("sft-0" if judge == "0" else f"dpo@{judge}") in self.plan
        return generate.made / max(1, generate.calls) if generate and looked_up and not new_judge else 1

    def _call(self, name: str, calls: float, read: float, written: float, new: float = 1) -> None:
        """Model calls, and the tokens that one reads and writes by the seed set's texts; `new`: the share to make."""
        if planned := self.plan.get(name):
            read, written = self.last.per_call(kind(name)) or (read, written)
            if planned.stored is None:
                planned.calls, planned.made = round(calls), round(calls * new)
                planned.read = round(planned.made * read)
            else:
                responses = planned.unwritten * self.params["samples"]
                planned.calls += responses
                planned.made = planned.calls - planned.stored
                planned.read += round(responses * self.texts.to_answer)
            planned.written = round(planned.made * written)

    def _sft(self, name: str, rows: float, judge_rows: float) -> None:
        texts = self.texts
        tokens = rows * (texts.to_answer + texts.response) + judge_rows * (texts.to_review + texts.review)
        self._train(name, tokens, self.params["sft"]["epochs"])

    def _train(self, name: str, tokens: float, epochs: int) -> None:
        enabled = "@" not in name or self.params[kind(name)]["enabled"]
        if enabled and name in self.plan:
            self.plan[name].trained = round(tokens * epochs)

    def _items(self) -> int:
        """Of an evaluation: of the suite as it is split, else of the data in its folder, where it has its own."""
        split, settings = Path("iterations/0/benchmark.jsonl"), self.params["evaluate"]
        if split.exists() and "benchmark" not in self.plan:
            parts = list(Counter((row["benchmark"], row["part"]) for row in read(split, BenchmarkItem)).values())
        else:
            files = Path("evaluation", settings["suite"], "data").glob("*.jsonl")
            parts = [path.read_bytes().count(b"\n") // 2 for path in files for _ in ("validation", "test")]
        return sum(min(items, settings["limit"] or items) for items in parts)
