"""What the filter does to real text: decontamination against every item of two suites, and length limits in Chinese.

    HF_HUB_OFFLINE=0 lance benchmark texts

It needs the hub or its cache: the data of the suites `leaderboard` and `math`, and the data sets named here.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from stages.commands import preset
from stages.commands.benchmark.measurement import Measurement, timed
from stages.core.errors import UserError
from stages.core.prompts import ReviewPrompt
from stages.core.rows import BenchmarkItem, Pair
from stages.data.decontamination import LONG, HeldOut, held_out
from stages.data.words import words
from stages.evaluation import suite
from stages.filter import own_fault

SUITES = ("leaderboard", "math")
PRESET = "lance"
GSM8K = ("openai/gsm8k", "main")
MATH = "EleutherAI/hendrycks_math"
MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
ALPACA, ALPACA_ZH = "llamafactory/alpaca_en", "llamafactory/alpaca_zh"
ALPACA_ROWS = 1000
ROWS = 100_000  # that the time is measured on
MAX_SECONDS = 60
BEFORE, AFTER = "Here is a problem that a friend gave me yesterday. ", " Explain every step of your answer."


def texts(base: Path) -> Iterator[Measurement]:
    """Shares found, false alarms, seconds, and what the length limits keep. `base` is not used."""
    settings = preset.read(PRESET)["filter"]
    rows = suite_items()
    items = list(dict.fromkeys(row["text"] for row in rows))
    benchmark = held_out(rows, settings["benchmark_overlap"])
    yield from detection(items, benchmark)
    yield questions(rows, benchmark)
    others = {"GSM8K": prompts(*GSM8K), "Alpaca": prompts(ALPACA)[:ALPACA_ROWS]}
    for name, other in others.items():
        yield dropped(f"{len(other):,} rows of {name}'s training data", other, benchmark, 0.5)
    problems = [problem for subject in MATH_SUBJECTS for problem in prompts(MATH, subject)]
    yield dropped(f"{len(problems):,} rows of MATH's training data", problems, benchmark)
    yield throughput([*others["GSM8K"], *others["Alpaca"]], benchmark, len(items))
    yield lengths(settings)


def suite_items() -> list[BenchmarkItem]:
    """Every item of the suites."""
    suites = ((name, suite.load(name)) for name in SUITES)
    return [item for name, loaded in suites for item in suite.items(loaded, suite.load_tasks(name, loaded))]


def detection(items: list[str], benchmark: HeldOut) -> Iterator[Measurement]:
    """How many items are found within other text: as they are, with one word or number changed, and with their last
    sentence moved to the front."""
    against = f"{len(items):,} items of {' and '.join(SUITES)}, within other text"
    yield at_least("benchmark items found, word for word", against, items, benchmark, lambda item: item, 99.5)
    change = word_changer(random.Random(0))
    yield at_least("the same, one word or number changed", against, items, benchmark, change, 90)
    long = [item for item in items if len(words(item)) >= LONG]
    against = f"the {len(long):,} items of at least {LONG} words"
    yield at_least("the same, one word or number changed", against, long, benchmark, change, 99)
    several = [item for item in items if question_first(item) != item]
    against = f"{len(several):,} items of several sentences"
    yield at_least("the same, the last sentence moved to the front", against, several, benchmark, question_first, 90)


def question_first(item: str) -> str:
    """The item with its last sentence before the others."""
    *context, question = re.split(r"(?<=[.?!])\s+", item.strip())
    return " ".join([question, *context])


def questions(rows: list[BenchmarkItem], benchmark: HeldOut) -> Measurement:
    """The share of long questions, in percent, that are found without their choices."""
    alone = [row["question"] for row in rows if "question" in row]
    long = list(dict.fromkeys(question for question in alone if len(words(question)) >= LONG))
    against = f"the {len(long):,} of {len(alone):,} questions of at least {LONG} words"
    return at_least("found without choices", against, long, benchmark, lambda question: question, 99.5)


def at_least(
    what: str, against: str, items: list[str], benchmark: HeldOut, change: Callable[[str], str], least: float
) -> Measurement:
    """The share of items, in percent, that are found after a change and within other text."""
    found = sum(benchmark.is_in(BEFORE + change(item) + AFTER) for item in items)
    percent = 100 * found / len(items)
    return Measurement(what, against, percent, "%", None, f"≥ {least:g} %", percent >= least)


def word_changer(source: random.Random) -> Callable[[str], str]:
    """A function that changes one word of a text: a number to another one, anything else to a word of its script."""

    def change(text: str) -> str:
        runs = [run for run in re.finditer(r"\w+", text) if run[0].isascii() or len(run[0]) < 20]
        if not runs:  # a script without blanks: one sign
            start = source.randrange(len(text))
            return f"{text[:start]}何{text[start + 1 :]}"
        run = source.choice(runs)
        other = str(int(run[0]) + 7) if run[0].isdecimal() else "seventeen"
        return text[: run.start()] + other + text[run.end() :]

    return change


def dropped(against: str, rows: list[str], benchmark: HeldOut, most: float | None = None) -> Measurement:
    """The share of training rows, in percent, that are dropped. At most `most` where they are false alarms; MATH has
    near copies of its own test problems."""
    percent = 100 * sum(map(benchmark.is_in, rows)) / len(rows)
    target = "" if most is None else f"≤ {most:g} %"
    met = most is None or percent <= most
    return Measurement("dropped as in the benchmark", against, percent, "%", None, target, met)


def throughput(rows: list[str], benchmark: HeldOut, items: int) -> Measurement:
    """Seconds for `ROWS` different rows."""
    many = [f"{rows[number % len(rows)]} {number}" for number in range(ROWS)]
    seconds = timed(lambda: [benchmark.is_in(row) for row in many])
    what, against = f"decontamination of {ROWS:,} rows", f"{items:,} items"
    return Measurement(what, against, seconds, "s", None, f"≤ {MAX_SECONDS} s", seconds <= MAX_SECONDS)


def lengths(settings: dict[str, Any]) -> Measurement:
    """What the preset's length limits keep of Chinese pairs, and of English ones, in percent."""
    review = ReviewPrompt(PRESET)

    def kept(pairs: list[Pair]) -> float:
        faults = [
            own_fault(pair["prompt"], "instruction", settings, review)
            or own_fault(pair["response"], "response", settings, review)
            for pair in pairs
        ]
        return 100 * faults.count(None) / len(faults)

    english, chinese = (kept(pairs(name)[:ALPACA_ROWS]) for name in (ALPACA, ALPACA_ZH))
    what, against = f"kept of {ALPACA_ROWS:,} Chinese Alpaca pairs by preset {PRESET}", f"English, {english:.1f} %"
    met = abs(chinese - english) <= 10
    return Measurement(what, against, chinese, "%", chinese / english, "within 10 points", met)


def prompts(name: str, config: str | None = None) -> list[str]:
    """The questions or instructions of a data set's training split."""
    return [pair["prompt"] for pair in pairs(name, config)]


def pairs(name: str, config: str | None = None) -> list[Pair]:
    """The pairs of a data set's training split. Raises `UserError` if it cannot be had."""
    from datasets import load_dataset

    try:
        rows: Iterable[dict[str, str]] = load_dataset(name, config, split="train")
    except (OSError, ValueError) as error:
        raise UserError(
            f"lance benchmark texts: {name} cannot be had ({error}); on a machine with a network run it with "
            "HF_HUB_OFFLINE=0 before it"
        ) from error
    return [as_pair(row) for row in rows]


def as_pair(row: dict[str, str]) -> Pair:
    """A row of GSM8K, MATH or Alpaca."""
    if "problem" in row:
        return {"prompt": row["problem"], "response": row["solution"]}
    if "question" in row:
        return {"prompt": row["question"], "response": row["answer"]}
    prompt = "\n\n".join(filter(None, (row["instruction"], row["input"])))
    return {"prompt": prompt, "response": row["output"]}
