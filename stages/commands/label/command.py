"""A page on which people label responses and pairs, without the judge's scores: does the judge agree with them?

    lance label                     60 responses and 20 pairs, under your name in git
    lance label --rows 200 --pairs 100 --name ana
    lance label --reviews FILE      labels as judge-training rows, for seed.reviews

The page is on this machine alone, at an address that nobody can guess; on another machine, forward its --port by ssh.
Rows are drawn evenly over iterations, routes and the judge's scores, or margins; everybody sees the same ones. Each
label is on the disk, in labels/NAME.jsonl, before the next row is shown. Commit the file; `dvc repro` then measures how
the judge agrees with people, and people with each other.
"""

import re
import subprocess
from pathlib import Path
from typing import Annotated

from typer import Option

from stages.commands.label.reviews import write_reviews
from stages.commands.label.rows import drawn, guide, shown
from stages.commands.label.server import Server
from stages.core.errors import UserError
from stages.core.params import PARAMS_FILE, Params, load
from stages.core.progress import say
from stages.core.schema import check_params
from stages.data.labels import FOLDER, LabelFile

NAME = re.compile(r"\w(?:[\w.-]{0,58}\w)?")


def file_name(name: str | None) -> str:
    """The name of a person's file: theirs or, without one, the user's in git, with hyphens for blanks. Raises
    `UserError` if there is none, or if no file can be called so."""
    if name is None:
        name = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, check=False).stdout
        if not name.strip():
            raise UserError("git knows no name of yours; give one, lance label --name NAME")
    name = "-".join(name.split()).lower()
    if not NAME.fullmatch(name):
        raise UserError(
            f"--name {name}: use letters, digits, ., _ and -, at most 60, since labels/NAME.jsonl is named so"
        )
    return name


def serve(params: Params, rows: int, pairs: int, name: str, port: int) -> None:
    """Serve the page until ctrl-C. Raises `UserError` if there is nothing to label, if labels cannot be kept, or if the
    port is taken."""
    items = drawn(params, rows, pairs)
    path = FOLDER / f"{name}.jsonl"
    try:
        labels = LabelFile(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; labels are kept there") from None
    content = {"name": name, **guide(params["prompts"]), "items": [shown(item) for item in items]}
    try:
        server = Server(port, content, {item.key for item in items}, labels)
    except OSError as error:
        raise UserError(f"--port {port}: {error.strerror}; choose another one, or leave the option out") from None
    say(f"{len(items):,} rows for {name}: open {server.url} in a browser; ctrl-C ends")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    done = sum(label.says_something for key, label in labels.labels.items() if key in server.keys)
    rest = f"; commit {path}, and dvc repro measures the judge by it" if done else ""
    say(f"\n{done:,} of {len(items):,} rows labelled{rest}")


def main(
    rows: Annotated[int, Option(min=0, help="responses, scored from 0 to 10")] = 60,
    pairs: Annotated[int, Option(min=0, help="pairs of responses, of which one is better")] = 20,
    name: Annotated[str | None, Option(help="whose labels they are [default: your name in git]")] = None,
    port: Annotated[int, Option(min=0, max=65535, help="of the page; 0: any that is free")] = 0,
    reviews: Annotated[
        Path | None, Option(help="serve no page; write everybody's labels to this file, for seed.reviews")
    ] = None,
) -> None:
    """A page to label responses and pairs on: does the judge agree with people?"""
    values = load(PARAMS_FILE)
    check_params(values)
    params = Params("label", list(values), values)
    if reviews is not None:
        write_reviews(params, reviews)
    else:
        serve(params, rows, pairs, file_name(name), port)
