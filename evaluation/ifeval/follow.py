"""lm-eval's hook `process_results`, once nltk's sentence tokenizer is here; it is fetched in `lance suite` alone."""

import os

import nltk

from stages.core.checks import has_tokenizer
from stages.core.ifeval import checkers, process_results

__all__ = ["process_results"]


def need_tokenizer() -> None:
    """Fetch nltk's sentence tokenizer where the network is on. Raises `LookupError` if it is not here."""
    online = os.environ.get("HF_HUB_OFFLINE") == "0"
    if not (has_tokenizer() or (online and nltk.download("punkt_tab", quiet=True))):
        raise LookupError("nltk's punkt_tab, from the folder nltk_data")


checkers()  # a package that is missing shows before anything is evaluated
need_tokenizer()
