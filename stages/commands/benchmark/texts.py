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
from stages.core.rows import Pair
from stages.data.decontamination import NGRAM, HeldOut
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
    items = suite_items()
    held_out = HeldOut(items, settings["benchmark_overlap"])
    yield from detection(items, held_out)
    rows = {"GSM8K": prompts(*GSM8K), "Alpaca": prompts(ALPACA)[:ALPACA_ROWS]}
    for name, other in rows.items():
        yield dropped(f"{len(other):,} rows of {name}'s training data", other, held_out, 0.5)
    problems = [problem for subject in MATH_SUBJECTS for problem in prompts(MATH, subject)]
    yield dropped(f"{len(problems):,} rows of MATH's training data", problems, held_out)
    yield throughput([*rows["GSM8K"], *rows["Alpaca"]], held_out, len(items))
    yield lengths(settings)


def suite_items() -> list[str]:
    """The text of every item of the suites, each once."""
    found = (suite.items(loaded, suite.load_tasks(name, loaded)) for name in SUITES for loaded in [suite.load(name)])
    return list(dict.fromkeys(item["text"] for rows in found for item in rows))


def detection(items: list[str], held_out: HeldOut) -> Iterator[Measurement]:
    """How many items are found within other text: as they are, and with one word or number changed."""
    against = f"{len(items):,} items of {' and '.join(SUITES)}, within other text"
    yield at_least("benchmark items found, word for word", against, items, held_out, lambda item: item, 99.5)
    change = word_changer(random.Random(0))
    yield at_least("the same, one word or number changed", against, items, held_out, change, 90)
    long = [item for item in items if len(words(item)) >= 2 * NGRAM]
    against = f"the {len(long):,} items of at least {2 * NGRAM} words"
    yield at_least("the same, one word or number changed", against, long, held_out, change, 99)


def at_least(
    what: str, against: str, items: list[str], held_out: HeldOut, change: Callable[[str], str], least: float
) -> Measurement:
    """The share of items, in percent, that are found after a change and within other text."""
    found = sum(held_out.is_in(BEFORE + change(item) + AFTER) for item in items)
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


def dropped(against: str, rows: list[str], held_out: HeldOut, most: float | None = None) -> Measurement:
    """The share of training rows, in percent, that are dropped. At most `most` where they are false alarms; MATH has
    near copies of its own test problems."""
    percent = 100 * sum(map(held_out.is_in, rows)) / len(rows)
    target = "" if most is None else f"≤ {most:g} %"
    met = most is None or percent <= most
    return Measurement("dropped as in the benchmark", against, percent, "%", None, target, met)


def throughput(rows: list[str], held_out: HeldOut, items: int) -> Measurement:
    """Seconds for `ROWS` different rows."""
    many = [f"{rows[number % len(rows)]} {number}" for number in range(ROWS)]
    seconds = timed(lambda: [held_out.is_in(row) for row in many])
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
