"""How many model calls and tokens the stages that would run need, before they run.

Rows are followed through the loop, from the seed set on: by the counts of the stages that do not run, by the shares of
the last run where there was one (of the same iteration, else of the nearest one before it), and by SHARES where there
was none. Tokens likewise: by what a call took in the last run, else by the texts of the seed set, since the model
writes what it is trained to write: instructions and responses like the seed's, reviews like those that it learns from.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stages.core.records import Record, read
from stages.core.rows import BenchmarkItem
from stages.planning.changes import Change
from stages.planning.last_run import JUDGE, Last, calls_of, shares
from stages.planning.lookup import Found
from stages.planning.texts import Texts

SHARES = {  # where no run has told them; of the rows that a step takes in
    "unscored": 0.0,  # by the judge
    "low": 0.5,  # scored at most V
    "instructions": 1.0,  # new instructions that can be read
    "responses": 1.0,
    "flawed": 1.0,
    "kept": 0.7,  # by the filter
    "sft": 0.3,  # of what it keeps
    "pairs": 0.4,
    "grown": 0.25,  # new seeds
}


class Work(NamedTuple):
    """Of a stage: its model calls, those in the store, the tokens that the others read (a prompt once for each draw)
    and write, the rows and tokens that it trains on, the tokens that it embeds, and what this rests on."""

    calls: float = 0
    stored: float = 0
    read: float = 0
    written: float = 0
    rows: float = 0
    trained: float = 0
    embedded: float = 0
    basis: str = "estimate: parameters"

    @property
    def made(self) -> float:
        return self.calls - self.stored


@dataclass
class Forecast:
    """A walk through the tree of iterations."""

    params: Record
    changed: dict[str, Change]
    found: dict[str, Found]
    last: Last
    texts: Texts
    items: int  # of an evaluation
    work: dict[str, Work] = field(default_factory=dict)
    seeds: dict[str, float] = field(default_factory=dict)
    rows: dict[str, dict[str, float]] = field(default_factory=dict)  # new SFT rows and pairs of each iteration

    def walk(self) -> dict[str, Work]:
        """The work of every stage that would run."""
        if self.runs("pretrain"):
            corpus = self.params["microworld"]["steps"] * self.params["microworld"]["batch_size"]
            self.work["pretrain"] = Work(rows=corpus, trained=corpus * (self.texts.to_review + self.texts.review))
        self._warm_start()
        waiting = dict(self.params["iterations"])
        while waiting:  # parents and judges first
            for key, models in list(waiting.items()):
                if not {str(models["parent"]), str(models["judge"])} & set(waiting):
                    self._iteration(key, str(models["parent"]), str(models["judge"]))
                    del waiting[key]
        return self.work

    def runs(self, stage: str) -> bool:
        return stage in self.changed and not self.changed[stage].restored

    def _there(self, key: str, stage: str) -> bool:
        """Whether the counts of a stage are those that it will have."""
        return not self.runs(f"{stage}@{key}") and stage in self.last.results[key]

    def _warm_start(self) -> None:
        prepared = self.last.results["0"].get("prepare")
        known = prepared and not self.runs("prepare")
        self.seeds["0"] = prepared["seed"]["out"] if prepared and known else self.texts.seeds
        self.judge_rows = prepared["judge"]["out"] if prepared and known else self.texts.judge
        self.rows["0"] = {"sft": 0.0, "pairs": 0.0}
        told = self.texts
        each = self.seeds["0"] * (told.to_answer + told.response) + self.judge_rows * (told.to_review + told.review)
        self._train("sft-0", "0", self.seeds["0"] + self.judge_rows, each)
        self._evaluate("evaluate-0", "0")

    def _iteration(self, key: str, parent: str, judge: str) -> None:
        settings, tree = self.params["generate"], self.params["iterations"]
        mine, draws = self.last.results[key], self.params["samples"]
        seeds, judge_model = self.seeds[parent], self._model(judge)
        scored_before = parent != "0" and str(tree[parent]["judge"]) == judge
        unscored = self._share(key, "unscored")
        self._call("review", key, (seeds * unscored if scored_before else seeds) * self._reviews(), judge_model)

        scored = seeds * (1 - unscored)
        low = min(settings["max_low"], scored * self._share(key, "low"))
        high = min(settings["max_high"], scored * (1 - self._share(key, "low")))
        if self._there(key, "generate"):
            low, high = mine["generate"]["seed"]["low"], mine["generate"]["seed"]["high"]
        instructions = low * draws * self._share(key, "instructions")
        self._call("generate", key, (low + high + instructions) * draws, self._model(parent), (low, instructions, high))

        self._embed(key, seeds + instructions)
        made = draws * (instructions * self._share(key, "responses") + high * self._share(key, "flawed"))
        kept = mine["filter"]["rows"]["out"] if self._there(key, "filter") else made * self._share(key, "kept")
        self._call("assess", key, kept * self._reviews(), judge_model)
        self._select(key, parent, kept)
        told = self.texts
        replayed = min(self.params["select"]["max_judge"], self.judge_rows)
        new, pairs = self.rows[key]["sft"], self.rows[key]["pairs"]
        tokens = new * (told.to_answer + told.response) + replayed * (told.to_review + told.review)
        self._train(f"sft@{key}", key, new + replayed if self.params["sft"]["enabled"] else 0, tokens)
        pair = 2 * (told.to_answer + told.response)
        self._train(f"dpo@{key}", key, pairs if self.params["dpo"]["enabled"] else 0, pairs * pair)
        self._evaluate(f"evaluate@{key}", key)

    def _select(self, key: str, parent: str, kept: float) -> None:
        settings, mine = self.params["select"], self.last.results[key]
        if not self._there(key, "select"):
            self.seeds[key] = self.seeds[parent] + kept * self._share(key, "grown")
            new = {name: min(settings[f"max_{name}"], kept * self._share(key, name)) for name in ("sft", "pairs")}
            earlier = self.rows[parent] if settings["accumulate"] else {"sft": 0.0, "pairs": 0.0}
            self.rows[key] = {name: new[name] + earlier[name] for name in new}
        else:
            self.seeds[key] = mine["select"]["seed"]["total"]
            self.rows[key] = {name: mine["select"][name]["total"] for name in ("sft", "pairs")}

    # ---- a stage ----

    def _call(
        self, stage: str, key: str, calls: float, model: str, kinds: tuple[float, float, float] | None = None
    ) -> None:
        """Model calls; `kinds` are the low seeds, new instructions and high seeds of generate."""
        name = f"{stage}@{key}"
        if not self.runs(name):
            return
        read, written = self._per_call(stage, key, kinds)
        if name in self.found:
            looked = self.found[name]
            more = looked.unknown * self.params["samples"] * self._share(key, "instructions")
            made = looked.calls - looked.stored + more
            seen = looked.read + more * self.texts.to_answer
            basis = "looked up" + (", rest an estimate" if more else "")
            self.work[name] = Work(looked.calls + more, looked.stored, seen, made * written, basis=basis)
            return
        stored = calls * self._stored(stage, key, model)
        made = calls - stored
        self.work[name] = Work(calls, stored, made * read, made * written, basis=self._basis(key, stage))

    def _stored(self, stage: str, key: str, model: str) -> float:
        """The share of a stage's calls that is in the store although its rows are not known: those of assess, as far as
        what it judges is generated anew in part only, and in the same words by the same judge."""
        change = self.changed[f"{stage}@{key}"]
        if stage != "assess" or self.runs(model) or not change.at_most:
            return 0.0
        generated = f"generate@{key}"
        if not self.runs(generated):
            return 1.0
        looked = self.found.get(generated)
        return (
            looked.stored / (looked.calls + looked.unknown * self.params["samples"]) if looked and looked.calls else 0.0
        )

    def _embed(self, key: str, texts: float) -> None:
        if self.runs(f"filter@{key}"):
            self.work[f"filter@{key}"] = Work(embedded=texts * self.texts.prompt, basis=self._basis(key, "generate"))

    def _evaluate(self, name: str, key: str) -> None:
        if not self.runs(name):
            return
        if looked := self.found.get(name):
            _, written = self._per_call("evaluate", key, None)
            made = looked.calls - looked.stored
            self.work[name] = Work(looked.calls, looked.stored, looked.read, made * written, basis="looked up")
            return
        read, written = self._per_call("evaluate", key, None)
        self.work[name] = Work(
            self.items, 0, self.items * read, self.items * written, basis=self._basis(key, "evaluate")
        )

    def _train(self, name: str, key: str, rows: float, tokens: float) -> None:
        if not self.runs(name):
            return
        stage, epochs = name.partition("@")[0].removesuffix("-0"), self.params[name[:3]]["epochs"]
        ran = calls_of(stage, self.last.results[key])
        if ran and (cost := self.last.costs[key].get(stage)):
            before = cost["tokens"] / (ran * self._epochs_then(stage, key, ran))
            tokens = rows * before
        self.work[name] = Work(rows=rows, trained=tokens * epochs, basis=self._basis(key, stage))

    def _epochs_then(self, stage: str, key: str, rows: int) -> int:
        """Of the last run, by its steps and the present batch size; it may have been another one."""
        steps = int(self.last.results[key][stage]["steps"])
        return max(1, round(steps / -(-rows // int(self.params[stage]["batch_size"]))))

    def _per_call(self, stage: str, key: str, kinds: tuple[float, float, float] | None) -> tuple[float, float]:
        """Tokens that a call reads and writes: in the last run, over all iterations, else by the seed set's texts."""
        stages = JUDGE if stage in JUDGE else (stage,)
        calls, read, written = 0, 0, 0
        for iteration, results in self.last.results.items():
            for each in stages:
                if cost := self.last.costs[iteration].get(each):
                    calls += calls_of(each, results)
                    read += cost["prompt_tokens"]
                    written += cost["tokens"]
        if calls:
            return read / calls, written / calls
        told = self.texts
        if stage in JUDGE:
            return told.to_review, min(told.review, self.params["review"]["max_tokens"])
        if kinds is None or not sum(kinds):
            return told.to_answer, told.response
        low, instructions, high = kinds
        most = self.params["generate"]["max_tokens"]
        read_all = low * told.to_instruct + instructions * told.to_answer + high * told.to_flaw
        written_all = low * min(told.prompt, most) + (instructions + high) * min(told.response, most)
        return read_all / sum(kinds), written_all / sum(kinds)

    def _share(self, key: str, name: str) -> float:
        """Of this iteration's last run, else of the nearest one before it, else of any other, else assumed."""
        for other in self._like(key):
            if name in (told := shares(self.last.results[other], self.params["threshold"])):
                return told[name]
        return SHARES[name]

    def _like(self, key: str) -> list[str]:
        path, tree = [key], self.params["iterations"]
        while path[-1] in tree:
            path.append(str(tree[path[-1]]["parent"]))
        return [*path, *(other for other in reversed(tree) if other not in path)]

    def _basis(self, key: str, stage: str) -> str:
        known = any(stage in self.last.results[other] for other in self._like(key))
        return f"estimate: {'last run' if known else 'parameters'}"

    def _model(self, iteration: str) -> str:
        """The stage that makes an iteration's model."""
        return "sft-0" if iteration == "0" else f"dpo@{iteration}"

    def _reviews(self) -> int:
        review = self.params["review"]
        return 1 if review["estimator"] == "expected" else int(review["samples"])


def items(params: Record, known: bool) -> int:
    """The items of an evaluation: of the suite as it was split, if that is still so, else of the data in its folder."""
    limit, counts = params["evaluate"]["limit"], dict[tuple[str, ...], int]()
    split = Path("iterations/0/benchmark.jsonl")
    if known and split.is_file():
        for row in read(split, BenchmarkItem):
            place = (row["task"], row["part"])
            counts[place] = counts.get(place, 0) + 1
        return sum(min(number, limit or number) for number in counts.values())
    files = sorted(Path("evaluation", params["evaluate"]["suite"], "data").glob("*.jsonl"))
    for path in files:
        with path.open("rb") as lines:
            counts[path.name,] = sum(1 for _ in lines)
    return sum(min(number, 2 * limit if limit else number) for number in counts.values())
