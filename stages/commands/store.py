"""Size and use of the completion store.

    lance store

"saved" are completions that a stage took from the store instead of computing them again.
"""

from stages.core.params import read_runtime
from stages.core.progress import say
from stages.inference.store import Store, store_file


def main() -> None:
    """Print the completion store's size, what it holds and what it saved."""
    settings = read_runtime().store
    path = store_file(settings)
    if not path.exists():
        say(f"completion store {path}: empty; dvc repro fills it")
        return
    store = Store.from_settings(settings)
    totals = store.totals()
    say(f"completion store {path}: {store.size_bytes() / 1e6:,.1f} MB of at most {store.max_bytes / 1e9:,g} GB")
    for verb, completions, tokens, seconds in (
        ("holds", totals["completions"], totals["tokens"], totals["seconds"]),
        ("saved", totals["served"], totals["served_tokens"], totals["served_seconds"]),
    ):
        say(f"  {verb} {completions:>12,} completions {tokens:>15,} tokens {seconds:>12,.1f} s of computing")
