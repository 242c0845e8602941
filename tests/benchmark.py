"""How fast it is, as ratios measured in one run, on the embedded default's base model in 32 bits.

`python tests/benchmark.py`                 everything; the table is printed, and written to report/benchmark.json
`python tests/benchmark.py engine filter`   only these parts

Run it on an idle machine: it compares wall times. The model's loading is in no figure.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

SEEDS = 256
EVERY = 8  # of the reference's prompts, one in so many is timed
REVIEW = {"estimator": "sampled", "samples": 3, "temperature": 0.7, "top_p": 0.9, "max_tokens": 48}
GENERATE = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 48}
Row = dict[str, object]


def row(what: str, against: str, measured: float, ratio: float, target: str, met: bool, unit: str = "s") -> Row:
    return {
        "what": what,
        "against": against,
        "measured": round(measured, 3),
        "unit": unit,
        "ratio": round(ratio, 2),
        "target": target,
        "met": met,
    }


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@contextmanager
def repository() -> Iterator[Path]:
    """A folder whose completion store is empty; the working directory stays the project's."""
    with tempfile.TemporaryDirectory() as folder:
        before, os.environ["DVC_ROOT"] = os.environ.get("DVC_ROOT"), folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop("DVC_ROOT")
            if before:
                os.environ["DVC_ROOT"] = before


def seeds() -> list[dict[str, str]]:
    from stages.core.records import content_id

    rows = [json.loads(line) for line in (ROOT / "stages/microworld/data/seeds.jsonl").open(encoding="utf-8")][:SEEDS]
    return [{"id": content_id(row["prompt"], row["response"]), **row, "lineage": {}} for row in rows]


def loaded(folder: Path):
    """A `Model` whose engine has its weights."""
    from stages.core.params import runtime
    from stages.inference import engines
    from stages.inference.client import Model

    model = Model(folder, "benchmark", 1.0)
    model._engine = engines.load(model._name, folder, model._digest, runtime())
    return model


def reviewed(model, rows: list[dict], settings: dict = REVIEW) -> list[dict]:
    from stages.core.prompts import ReviewPrompt
    from stages.judging.judge import reviews
    from stages.review import reviewed as with_score

    review = ReviewPrompt("micro")
    rendered = [model.render(review.render(row["prompt"], row["response"]), "") for row in rows]
    scored = reviews(model, "review", rendered, "micro", settings, 0)
    return [with_score(row, each, "0") for row, each in zip(rows, scored, strict=True)]


def construct(model, threshold: float = 7.0) -> None:
    """review, generate and assess of all seeds, by the stages' own functions; filter is not timed."""
    from stages.core.prompts import writing
    from stages.core.records import Tally
    from stages.generate import Writer, filled, flawed_record, new_record, route
    from stages.inference.engines import Sampling

    rows = reviewed(model, seeds())
    low, high = route(rows, threshold, SEEDS, SEEDS, "0", Tally(len(rows)))
    writer = Writer(model, "micro", 4, Sampling(**GENERATE, random_state=0))
    instruct, flaw = writing("micro")
    instructions, _ = writer.ask("new", "instruction", low, filled(instruct, low))
    responses, _ = writer.ask("responses", "response", instructions, [each["text"] for each in instructions])
    flawed, _ = writer.ask("flawed", "flawed", high, filled(flaw, high))
    made = [new_record(each) for each in responses] + [flawed_record(each) for each in flawed]
    reviewed(model, made)


class Asked:
    """What a model was asked for, to be asked again in another way: (prompts, draws, sampling)."""

    def __init__(self, model) -> None:
        self.calls: list[tuple[list[str], int, object]] = []
        resume = model.resume

        def noted(task, rendered, draws, sampling):
            self.calls.append((list(rendered), draws, sampling))
            return resume(task, rendered, draws, sampling)

        model.resume = noted


def generate(model, tokenizer, prompts: list[str], draws: int, sampling) -> None:
    """`model.generate` of transformers, all prompts in one batch."""
    import torch

    tokens = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    with torch.inference_mode():
        model.generate(
            **tokens,
            do_sample=True,
            num_return_sequences=draws,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            max_new_tokens=sampling.max_tokens,
        )


def construction(base: Path) -> Iterator[Row]:
    with repository():
        model = loaded(base)
        asked = Asked(model)
        ours = timed(lambda: construct(model))
        engine = model._engine
        reference = 0.0
        for prompts, draws, sampling in asked.calls:
            some = prompts[::EVERY]

            def one_at_a_time(some=some, draws=draws, sampling=sampling) -> None:
                for prompt in some:
                    generate(engine.model, engine.tokenizer, [prompt], draws, sampling)

            reference += timed(one_at_a_time) * len(prompts) / len(some)
        calls = sum(len(prompts) * draws for prompts, draws, _ in asked.calls)
        what = f"review + generate + assess of {SEEDS} seeds ({calls:,} completions)"
        against = f"one prompt per generate call (every {EVERY}th timed: {reference:.0f} s)"
        yield row(what, against, ours, reference / ours, "≥ 8", reference / ours >= 8)


def engine(base: Path) -> Iterator[Row]:
    with repository():
        model = loaded(base)
        asked = Asked(model)
        reviewed(model, seeds())
        ((prompts, draws, sampling),) = asked.calls
        requests = model._requests(list(dict.fromkeys(prompts)), draws)
        ours = min(timed(lambda: list(model._engine.complete(requests, sampling))) for _ in range(3))
        by_length = sorted(dict.fromkeys(prompts), key=len)
        best = float("inf"), 0
        for size in (16, 32, 64, 128, 256):

            def batched(size=size) -> None:
                for start in range(0, len(by_length), size):
                    generate(
                        model._engine.model, model._engine.tokenizer, by_length[start : start + size], draws, sampling
                    )

            best = min(best, (min(timed(batched) for _ in range(2)), size))
        what, against = (
            f"engine, {len(requests)} reviews",
            f"batched generate, best of 5 sizes ({best[1]}: {best[0]:.1f} s)",
        )
        yield row(what, against, ours, best[0] / ours, "≥ 1.5", best[0] / ours >= 1.5)


def order(base: Path) -> Iterator[Row]:
    """How many of 4,608 texts change with the batch's size, by the float ties that padding can cause."""
    from stages.inference.engines import Sampling

    with repository():
        model = loaded(base)
        asked = Asked(model)
        reviewed(model, seeds())
        requests = model._requests(list(dict.fromkeys(asked.calls[0][0])), 18)
        sampling = Sampling(0.7, 0.9, 48, 0)
        texts = []
        for model._engine.batch_rows in (7, 100, 384):
            found = dict(model._engine.complete(requests[:: 1 if len(texts) % 2 else -1], sampling))
            texts.append([found[request].text for request in requests])
        changed = sum(len(set(each)) > 1 for each in zip(*texts, strict=True))
        against = "batches of 7, 100 and 384 rows, requests in either order"
        yield row(
            f"texts that change, of {len(requests):,}", against, changed, changed / len(requests), "0", not changed, ""
        )


def estimators(base: Path) -> Iterator[Row]:
    from stages.measure import JUDGED_RIGHT, correct

    expected = {**REVIEW, "estimator": "expected"}
    rows = [json.loads(line) for line in (ROOT / "stages/microworld/data/seeds.jsonl").open(encoding="utf-8")]
    rows = [{**each, "id": str(number)} for number, each in enumerate(rows)]
    times, right = dict.fromkeys(("sampled", "expected"), float("inf")), {}
    for name, settings in (("sampled", REVIEW), ("expected", expected)) * 3:  # the best of three, in turns
        with repository():
            model = loaded(base)
            reviewed(model, rows[:8], settings)
            found: list[dict] = []
            took = timed(lambda m=model, s=settings, f=found: f.extend(reviewed(m, rows, s)))
            times[name] = min(times[name], took)
            agree = [
                each["score"] is not None
                and (each["score"] >= JUDGED_RIGHT) == correct(each["prompt"], each["response"])
                for each in found
            ]
            right[name] = 100 * sum(agree) / len(agree)
    ratio = times["sampled"] / times["expected"]
    yield row(
        f"expected review of {len(rows)} pairs",
        f"sampled, 3 reviews ({times['sampled']:.1f} s)",
        times["expected"],
        ratio,
        "≥ 1.3",
        ratio >= 1.3,
    )
    better = right["expected"] - right["sampled"]
    yield row(
        "expected, agreement with the oracle",
        f"sampled, {right['sampled']:.2f} %",
        right["expected"],
        better,
        "≥ 0 points",
        better >= 0,
        "%",
    )
    yield from long_rationales(base)


def long_rationales(base: Path) -> Iterator[Row]:
    """A rationale of 256 tokens, by a model that does not end: the default's with its end token taken out of reach."""
    from stages.inference.engines import Sampling

    with repository():
        model = loaded(base)
        asked = Asked(model)
        reviewed(model, seeds()[:64])
        prompts = list(dict.fromkeys(asked.calls[0][0]))
        model._engine.ends = {-1}
        greedy, drawn = Sampling(0, 1.0, 256, 0, numbers=True), Sampling(0.7, 0.9, 256, 0)

        def best(draws: int, sampling: Sampling) -> float:
            requests = model._requests(prompts, draws)
            return min(timed(lambda: list(model._engine.complete(requests, sampling))) for _ in range(3))

        sampled, expected = best(3, drawn), best(1, greedy)
        yield row(
            "expected, rationales of 256 tokens",
            f"sampled, 3 reviews ({sampled:.1f} s)",
            expected,
            sampled / expected,
            "≥ 2",
            sampled / expected >= 2,
        )


def sweep(base: Path) -> Iterator[Row]:
    def calls() -> int:
        from stages.inference.store import Store

        return int(Store.of_the_repository().totals()["completions"])

    with repository():
        model = loaded(base)
        construct(model, 7.0)
        single = calls()
        construct(model, 7.0)
        again = calls() - single
        construct(model, 6.0)
        construct(model, 8.0)
        three = calls()
    yield row(
        "threshold = 6, 7, 8, model calls",
        f"a single one, {single:,} calls",
        three,
        three / single,
        "≤ 1.5",
        three / single <= 1.5,
        "calls",
    )
    yield row(
        "the same experiment again, model calls",
        f"the first time, {single:,}",
        again,
        again / single,
        "0",
        again == 0,
        "calls",
    )


def filtering(base: Path) -> Iterator[Row]:
    times = {}
    for records in (1_000, 10_000, 100_000):
        command = [sys.executable, __file__, "filter-once", str(records)]
        told = json.loads(
            subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        )
        times[records] = told["seconds"]
        growth = times[records] / times.get(records // 10, times[records])
        target = "" if records == 1000 else "≈ 10" if records < 100_000 else "≈ 10, ≤ 60 s"
        met = growth <= 15 and told["seconds"] <= 60
        against = f"a tenth of them; {told['dropped']:,} dropped, {told['peak_mb']:,} MB at most"
        yield row(f"filter of {records:,} records without embedding", against, told["seconds"], growth, target, met)


def filter_once(records: int) -> None:
    """Length, ROUGE-L and decontamination of synthetic records, half of them flawed responses; duplicates among as many
    instructions, in clusters of a hundred."""
    import numpy

    from stages.core import prompts
    from stages.core.params import load
    from stages.core.records import read
    from stages.data.similarity import Benchmark, duplicates
    from stages.filter import instruction_faults, response_faults

    settings, review = load(Path("params.yaml"))["filter"], prompts.ReviewPrompt("micro")
    random = numpy.random.default_rng(0)
    words = numpy.array([f"word{number}" for number in range(5000)])

    def text(length: int) -> str:
        return " ".join(words[random.integers(5000, size=length)])

    rows = []
    for number in range(records // 8):
        seed = {"id": str(number), "prompt": text(20), "response": text(40)}
        new = text(20)
        rows += [{"route": "new", "prompt": new, "response": text(40), "seed": seed} for _ in range(4)]
        rows += [{"route": "flawed", "prompt": seed["prompt"], "response": text(40), "seed": seed} for _ in range(4)]
    instructions = {row["prompt"]: row for row in rows if row["route"] == "new"}
    corpus = random.normal(size=(records // 100, 128))[random.integers(records // 100, size=records)]  # in clusters
    corpus = (corpus + random.normal(scale=0.3, size=corpus.shape)).astype(numpy.float32)
    corpus[::10] = corpus[1::10][: len(corpus[::10])] + random.normal(scale=1e-4, size=(len(corpus[::10]), 128))
    vectors = corpus / numpy.linalg.norm(corpus, axis=1, keepdims=True)
    items = [row["question"] for path in Path("evaluation/micro/data").glob("*.jsonl") for row in read(path)]
    benchmark = Benchmark(items, settings["ngram"])
    started = time.perf_counter()
    faults = instruction_faults(instructions, settings, review, benchmark)
    repeated = duplicates(vectors, 0, settings["max_cosine"])
    dropped = sum(fault is not None for fault in response_faults(rows, settings, review))
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1000
    print(json.dumps({"seconds": seconds, "dropped": len(faults) + len(repeated) + dropped, "peak_mb": peak}))


def pipeline(base: Path) -> Iterator[Row]:
    """`dvc repro` where nothing is to do, with every out in place (placeholders: dvc looks at hashes alone)."""
    sys.path.insert(0, str(ROOT / "tests"))
    from conftest import Project
    from dvc.repo import Repo

    with tempfile.TemporaryDirectory() as folder:
        project, empty = Project(Path(folder) / "project"), Path(folder) / "empty"
        with chdir(project.folder), Repo() as repo:
            for out in repo.index.outs:
                path = Path(out.fs_path)
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    path.write_text(f"{out.def_path}\n")
        project.run("dvc", "commit", "-f", "-q")
        shutil.copytree(project.folder / ".git", empty / ".git")
        (empty / "dvc.yaml").write_text("stages: {}\n")
        subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "-f"], cwd=empty, check=True)

        def repro(place: Path) -> float:
            command = [sys.executable, "-m", "dvc", "repro"]
            return min(
                timed(lambda: subprocess.run(command, cwd=place, check=True, capture_output=True)) for _ in range(3)
            )

        ours, nothing = repro(project.folder), repro(empty)
        yield row(
            "dvc repro with nothing to do, 3 iterations",
            f"an empty pipeline ({nothing:.2f} s)",
            ours,
            ours / nothing,
            "≤ 3",
            ours / nothing <= 3,
        )
        project.run("python", "-m", "stages.benchmark")  # prepare reads its items
        for stage in ("check", "prepare"):
            command = [sys.executable, "-m", f"stages.{stage}"]
            took = min(
                timed(lambda c=command: subprocess.run(c, cwd=project.folder, check=True, capture_output=True))
                for _ in range(3)
            )
            yield row(f"stage {stage}, start to end", "", took, 1, "≤ 1 s", took <= 1)
        for stage in ("filter", "select", "report"):
            command = [sys.executable, "-c", f"import stages.{stage}; stages.{stage}.read_params('{stage}')"]
            took = min(
                timed(lambda c=command: subprocess.run(c, cwd=project.folder, check=True, capture_output=True))
                for _ in range(3)
            )
            yield row(f"stage {stage}, start-up", "", took, 1, "≤ 1 s", took <= 1)


def vllm(base: Path) -> Iterator[Row]:
    """Only where vLLM is installed (README, "Engines")."""
    from stages.core.params import runtime
    from stages.inference.engines import Sampling
    from stages.inference.engines.vllm import VllmEngine, asked

    engine, sampling = VllmEngine(base, runtime()["vllm"]), Sampling(**GENERATE, random_state=0)
    with repository():
        requests = loaded(base)._requests([f"{row['prompt']}\n" for row in seeds()], 3)
    prompts = [{"prompt_token_ids": list(each.tokens)} for each in requests]
    params = [asked(each, sampling) for each in requests]

    def ours() -> None:
        list(engine.complete(requests, sampling))

    def theirs() -> None:
        engine.llm.generate(prompts, params, use_tqdm=False)

    ours(), theirs()  # the first call compiles
    times = [(timed(ours), timed(theirs)) for _ in range(5)]
    best, reference = (min(each) for each in zip(*times, strict=True))
    against = f"LLM.generate ({reference:.2f} s)"
    yield row(
        f"vllm engine, {len(requests)} completions", against, best, reference / best, "≥ 0.95", reference / best >= 0.95
    )


PARTS = {
    "construction": construction,
    "engine": engine,
    "order": order,
    "estimators": estimators,
    "sweep": sweep,
    "filter": filtering,
    "pipeline": pipeline,
    **({"vllm": vllm} if find_spec("vllm") else {}),
}


def main(*names: str) -> None:
    import torch
    from rich.console import Console
    from rich.table import Table

    from stages.base import materialise

    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        base = materialise(ROOT / "stages/microworld/base", "float32", Path(folder))
        rows = [row for name in names or PARTS for row in PARTS[name](base)]
    table = Table("what", "against", "measured", "ratio", "must reach", "")
    for each in rows:
        measured = f"{each['measured']:,} {each['unit']}".strip()
        table.add_row(
            each["what"], each["against"], measured, str(each["ratio"]), each["target"], "✓" if each["met"] else "✗"
        )
    Console(width=150).print(table)
    machine = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    out = ROOT / "report/benchmark.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(
        json.dumps({"machine": machine, "rows": rows}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    print(f"{machine}; also in {out.relative_to(ROOT)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["filter-once"]:
        filter_once(int(sys.argv[2]))
    else:
        main(*sys.argv[1:])
