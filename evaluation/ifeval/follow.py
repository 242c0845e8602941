"""Check answers to IFEval with lm-eval's own checks, so that the same answer always has the same result.

lm-eval's module downloads nltk's sentence tokenizer when it is imported; here that happens in `lance suite` alone.
"""

import os
import random
from typing import Any

import langdetect
import nltk

TOKENIZER = "tokenizers/punkt_tab"


def need_tokenizer() -> None:
    """Fetch nltk's sentence tokenizer where the network is on. Raises `LookupError` if it is not here."""
    try:
        nltk.data.find(TOKENIZER)
    except LookupError:
        online = os.environ.get("HF_HUB_OFFLINE") == "0"
        if not (online and nltk.download("punkt_tab", quiet=True)):
            raise LookupError("nltk's punkt_tab, from the folder nltk_data") from None


need_tokenizer()

from lm_eval.tasks.ifeval import utils  # noqa: E402

METRICS = ("prompt_level_strict_acc", "prompt_level_loose_acc")


def process_results(document: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval's hook `process_results`: whether a list of one answer follows all instructions of its prompt, 1.0 or
    0.0 by strict and by loose checks."""
    random.seed(0)  # draws what an instruction leaves open
    langdetect.DetectorFactory.seed = 0  # it samples from the text
    checked = utils.process_results(document, results)
    return {metric: float(checked[metric]) for metric in METRICS}
