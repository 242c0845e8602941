"""The filter on synthetic records: whether time grows linearly with their number, and its peak memory."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stages.commands.benchmark.measurement import Measurement
from stages.core.params import PARAMS_FILE, load
from stages.core.prompts import ReviewPrompt
from stages.core.records import content_id, read
from stages.core.rows import Candidate, Lineage, Route, ScoredSeed
from stages.data.decontamination import HeldOut
from stages.data.similarity import duplicates
from stages.filter import instruction_faults, response_faults

if TYPE_CHECKING:
    import numpy

RECORDS = (1_000, 10_000, 100_000)
MAX_GROWTH = 15  # of the time, from one number to the next, ten times as large
MAX_SECONDS = 60
CLUSTER = 100  # vectors per cluster


class Outcome(NamedTuple):
    """What the filter of synthetic records took."""

    seconds: float
    dropped: int
    megabytes: int  # peak memory of the process


def filtering(base: Path) -> Iterator[Measurement]:
    """The filter of ever more records, each time in a process of its own."""
    before: float | None = None
    for records in RECORDS:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            outcome = process.submit(filter_records, records).result()
        growth = outcome.seconds / (before or outcome.seconds)
        target = {RECORDS[0]: "", RECORDS[-1]: f"≈ 10, ≤ {MAX_SECONDS} s"}.get(records, "≈ 10")
        met = growth <= MAX_GROWTH and outcome.seconds <= MAX_SECONDS
        against = f"a tenth of them; {outcome.dropped:,} dropped, {outcome.megabytes:,} MB at most"
        what = f"filter of {records:,} records without embedding"
        yield Measurement(what, against, outcome.seconds, "s", growth, target, met)
        before = outcome.seconds


def filter_records(records: int) -> Outcome:
    """Length, ROUGE-L, decontamination and duplicates, with the settings of params.yaml; embedding is not included."""
    import numpy

    settings, review = load(PARAMS_FILE)["filter"], ReviewPrompt("micro")
    random = numpy.random.default_rng(0)
    rows = synthetic_rows(records, random)
    instructions = {row["prompt"]: row for row in rows if row["route"] == "new"}
    vectors = synthetic_vectors(records, random)
    items = [row["question"] for path in Path("evaluation/micro/data").glob("*.jsonl") for row in read(path, dict)]
    benchmark = HeldOut(items, settings["benchmark_overlap"])
    start = time.perf_counter()
    with redirect_stdout(StringIO()):  # its progress
        faults = instruction_faults(instructions, settings, review, HeldOut([], 1.0), benchmark, {})
        repeated = duplicates(vectors, 0, settings["max_cosine"])
        dropped = sum(fault is not None for fault in response_faults(rows, settings, review))
    return Outcome(time.perf_counter() - start, len(faults) + len(repeated) + dropped, peak_memory())


def synthetic_rows(records: int, random: "numpy.random.Generator") -> list[Candidate]:
    """Records of random words: for each seed four responses to a new instruction and four flawed responses."""
    vocabulary = [f"word{number}" for number in range(5000)]

    def text(length: int) -> str:
        return " ".join(vocabulary[number] for number in random.integers(len(vocabulary), size=length))

    def candidate(route: Route, prompt: str, seed: ScoredSeed) -> Candidate:
        response = text(40)
        lineage: Lineage = {"seed": seed["id"]}
        identity = content_id(prompt, response)
        return {
            "id": identity, "route": route, "prompt": prompt, "response": response, "seed": seed, "lineage": lineage,
        }  # fmt: skip

    rows: list[Candidate] = []
    for number in range(records // 8):
        seed: ScoredSeed = {"id": str(number), "prompt": text(20), "response": text(40), "score": 5.0}
        new = text(20)
        rows += [candidate("new", new, seed) for _ in range(4)]
        rows += [candidate("flawed", seed["prompt"], seed) for _ in range(4)]
    return rows


def synthetic_vectors(records: int, random: "numpy.random.Generator") -> "numpy.ndarray":
    """Unit vectors of shape (records, 128) in clusters; every tenth has a near duplicate."""
    import numpy

    centres = random.normal(size=(records // CLUSTER, 128))
    vectors = centres[random.integers(len(centres), size=records)]
    vectors = (vectors + random.normal(scale=0.3, size=vectors.shape)).astype(numpy.float32)
    copies = vectors[1::10]
    vectors[::10] = copies + random.normal(scale=1e-4, size=copies.shape)
    return numpy.asarray(vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True))


def peak_memory() -> int:
    """Peak resident memory of this process, in megabytes. (getrusage would count the parent's, too.)"""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) // 1000
