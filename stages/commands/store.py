"""What the completion store holds, and what it saved.

    lance store

What it saved are completions that a stage found there and did not have to compute.
"""

from stages.core.params import read_runtime
from stages.core.progress import say
from stages.inference.store import Store, store_file


def main() -> None:
    """Print the store's size, and the completions it holds and has served."""
    settings = read_runtime().store
    path = store_file(settings)
    if not path.exists():
        say(f"completion store {path}: empty; dvc repro fills it")
        return
    store = Store.from_settings(settings)
    held = store.totals()
    say(f"completion store {path}: {store.size_bytes() / 1e6:,.1f} MB of at most {store.max_bytes / 1e9:,g} GB")
    for what, calls, tokens, seconds in (
        ("holds", held["completions"], held["tokens"], held["seconds"]),
        ("saved", held["served"], held["served_tokens"], held["served_seconds"]),
    ):
        say(f"  {what} {calls:>12,} completions {tokens:>15,} tokens {seconds:>12,.1f} s of computing")
