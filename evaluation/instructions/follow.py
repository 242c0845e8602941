"""Check answers with lm-eval's own checks of IFEval, so that the same answer always has the same result.

lm-eval's module downloads nltk's sentence tokenizer when it is imported, unless it is another process's turn. No prompt
of this suite needs it.
"""

import os
import random
from typing import Any
from unittest.mock import patch

import langdetect

with patch.dict(os.environ, LOCAL_RANK="1"):
    from lm_eval.tasks.ifeval import utils

METRICS = ("prompt_level_strict_acc", "prompt_level_loose_acc")


def process_results(document: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval's hook `process_results`: whether a list of one answer follows all instructions of its prompt, 1.0 or
    0.0 by strict and by loose checks."""
    random.seed(0)  # draws what an instruction leaves open
    langdetect.DetectorFactory.seed = 0  # it samples from the text
    checked = utils.process_results(document, results)
    return {metric: float(checked[metric]) for metric in METRICS}
