"""lm-eval's own checks of IFEval's instructions, so that the same answer always has the same result."""

import os
import random
from types import ModuleType
from typing import Any
from unittest.mock import patch

METRICS = ("prompt_level_strict_acc", "prompt_level_loose_acc")


def checkers() -> ModuleType:
    """lm-eval's module, with its draws fixed: what an instruction leaves open, and the samples of the language check.
    When it is imported it downloads nltk's tokenizer, unless it is another process's turn; core/checks.py sees to
    whether that is here."""
    import langdetect

    with patch.dict(os.environ, LOCAL_RANK="1"):
        from lm_eval.tasks.ifeval import utils
    random.seed(0)
    langdetect.DetectorFactory.seed = 0
    module: ModuleType = utils
    return module


def process_results(document: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval's hook of this name: whether a list of one answer follows all instructions of its prompt, 1.0 or 0.0 by
    strict and by loose checks."""
    checked = checkers().process_results(document, results)
    return {metric: float(checked[metric]) for metric in METRICS}
