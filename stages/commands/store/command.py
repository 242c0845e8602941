"""Size and use of the completion store, and a team's store on a DVC remote.

    lance store               what it holds, and what it saved
    lance store push          copy to the remote what nobody has pushed
    lance store pull          fetch what others have pushed

"saved" are completions that a stage took from the store instead of computing them again. docs/sharing.md says how a
team shares completions.
"""

from collections.abc import Callable
from typing import Annotated

from typer import Argument, Option

from stages.commands.store import exchange
from stages.commands.store.remote import Remote, open_remote
from stages.commands.store.shards import batches, pack, unpack
from stages.core.errors import UserError
from stages.core.params import read_runtime
from stages.core.progress import progress, say
from stages.inference.store import Store, store_file


def show(store: Store) -> None:
    """Print the store's size, what it holds and what it saved."""
    totals = store.totals()
    say(f"completion store {store.path}: {store.size_bytes() / 1e6:,.1f} MB of at most {store.max_bytes / 1e9:,g} GB")
    for verb, completions, tokens, seconds in (
        ("holds", totals["completions"], totals["tokens"], totals["seconds"]),
        ("saved", totals["served"], totals["served_tokens"], totals["served_seconds"]),
    ):
        say(f"  {verb} {completions:>12,} completions {tokens:>15,} tokens {seconds:>12,.1f} s of computing")


def push(store: Store, remote: Remote) -> None:
    """Write the completions that no shard of the remote holds to new ones. Each is recorded as soon as it is there."""
    ranges = exchange.unshared(store, remote.shards())
    total = exchange.count(store, ranges)
    pushed = shards = size = 0
    with progress(f"pushing to {remote.name}", total) as advance:
        for batch in batches(exchange.read(store, ranges)):
            name, content = pack(batch)
            remote.write(name, content)
            exchange.share(store, name, [call.id for call in batch])
            pushed, shards, size = pushed + len(batch), shards + 1, size + len(content)
            advance(len(batch))
    say(f"remote {remote.name}: pushed {pushed:,} completions, {size / 1e6:,.1f} MB; new shards: {shards:,}")


def pull(store: Store, remote: Remote) -> None:
    """Merge the remote's shards that were neither pushed from here nor merged. Raises `UserError` after all others if
    one is damaged or of an unknown format, and if there is none."""
    there = remote.shards()
    if not there:
        raise UserError(f"remote {remote.name} holds no completions at {remote.folder}; lance store push writes them")
    names = sorted(there - exchange.known_shards(store))
    new = size = 0
    refused: dict[str, str] = {}
    with progress(f"pulling from {remote.name}", len(names)) as advance:
        for name in names:
            content = remote.read(name)
            try:
                new += exchange.merge(store, name, unpack(name, content))
            except ValueError as error:
                refused[name] = str(error)
            size += len(content)
            advance(1)
    say(f"remote {remote.name}: pulled {new:,} new completions, {size / 1e6:,.1f} MB; new shards: {len(names):,}")
    if refused:
        what = ", ".join(f"{name} is {fault}" for name, fault in refused.items())
        raise UserError(
            f"remote {remote.name}, {remote.folder}: {what}; the others were merged. Delete a damaged shard, and the "
            "next lance store push on a machine that has its completions writes them again; for another format, "
            "update this project"
        )


ACTIONS: dict[str, Callable[[Store, Remote], None]] = {"push": push, "pull": pull}


def main(
    action: Annotated[str | None, Argument(help="push or pull; by default, the store's size and use are shown")] = None,
    remote: Annotated[str | None, Option("-r", "--remote", help="a DVC remote; by default, that of dvc push")] = None,
) -> None:
    """Show the completion store's size and use, or share it through a DVC remote."""
    settings = read_runtime().store
    path = store_file(settings)
    if action is not None and action not in ACTIONS:
        raise UserError(f"there is no lance store {action}; choose {' or '.join(ACTIONS)}, or neither")
    if action != "pull" and not path.exists():
        say(f"completion store {path}: empty; dvc repro fills it")
        return
    if action is None:
        show(Store.from_settings(settings))
    else:
        opened = open_remote(remote)  # first: without a remote, no store is made
        ACTIONS[action](Store.from_settings(settings), opened)
