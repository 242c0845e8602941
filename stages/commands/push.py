"""Push best/ or dataset/ to the Hugging Face hub, as it is.

`python -m stages.commands.push model user/name --dry-run`   what would be pushed, and whether it may be
`python -m stages.commands.push dataset user/name`   a repository that is not there is made: private, or `--public`
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from stages.core.errors import UserError, run
from stages.core.progress import say

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FOLDERS = {"model": Path("best"), "dataset": Path("dataset")}
CARD = "README.md"


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; {' '.join(self.format_usage().split())}")


def parsed(arguments: tuple[str, ...]) -> argparse.Namespace:
    parser = Parser(prog="python -m stages.commands.push")
    parser.add_argument("what", choices=FOLDERS)
    parser.add_argument("name", help="the repository on the hub: user/name, or organisation/name")
    parser.add_argument("--public", action="store_true", help="for everyone to see; else private")
    parser.add_argument("--dry-run", action="store_true", help="check and list, but write nothing")
    return parser.parse_args(arguments)


def contents(folder: Path) -> dict[str, int]:
    """{file: bytes} of a folder that the pipeline made."""
    files = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    if CARD not in files:
        raise UserError(f"{folder}/ has no {CARD}; run dvc repro to make it, or dvc pull where another has made it")
    return files


def account() -> "HfApi":
    """The hub's client, with a token that may write; raises `UserError` where there is none."""
    from huggingface_hub import HfApi, get_token

    if not get_token():
        raise UserError("there is no token for the hub; run hf auth login, or set HF_TOKEN to one that may write")
    api = HfApi()
    if api.whoami().get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise UserError("the hub's token may only read; make one that may write, and run hf auth login with it")
    return api


def is_public(api: "HfApi", what: str, name: str) -> bool | None:
    """Whether everyone sees the repository; None where there is none yet."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return not api.repo_info(name, repo_type=what).private
    except RepositoryNotFoundError:
        return None


def push(asked: argparse.Namespace, folder: Path) -> None:
    api = account()
    public = is_public(api, asked.what, asked.name)
    if public and not asked.public:
        raise UserError(f"{asked.name} is there and public; say --public, make it private on the hub, or name another")
    seen = "public" if asked.public and public is not False else "private"
    place = f"{api.endpoint}/{'datasets/' if asked.what == 'dataset' else ''}{asked.name}"
    if asked.dry_run:
        say(f"would be pushed to {place}, {'a new' if public is None else 'the'} {seen} repository; nothing is written")
        return
    api.create_repo(asked.name, repo_type=asked.what, private=not asked.public, exist_ok=True)
    done = api.upload_folder(
        repo_id=asked.name, folder_path=folder, repo_type=asked.what, commit_message=f"{folder}/ of a LANCE run"
    )
    say(f"pushed to {place}, {seen}: {done.commit_url}")


def main(*arguments: str) -> None:
    asked = parsed(arguments)
    folder = FOLDERS[asked.what]
    files = contents(folder)
    for name, size in files.items():
        say(f"{size:>15,} bytes  {name}")
    title = next(line for line in (folder / CARD).read_text(encoding="utf-8").splitlines() if line.startswith("# "))
    say(f"{sum(files.values()):>15,} bytes in all; the card says: {title[2:]}")
    os.environ["HF_HUB_OFFLINE"] = "0"  # of the two commands that use the network; the stages never do
    if sys.stderr.isatty():
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "0"

    from httpx import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        push(asked, folder)
    except HFValidationError as error:
        raise UserError(f"'{asked.name}' cannot name a repository: {error} Write user/name") from None
    except HfHubHTTPError as error:
        status = f"{error.response.status_code} {error.response.reason_phrase}"
        raise UserError(
            f"the hub refused {asked.name}: {status}, {error.server_message or error}; check the name and what the "
            "token may do (hf auth whoami)"
        ) from error
    except (HTTPError, OSError) as error:
        raise UserError(f"the hub cannot be reached ({error}); check the network and HF_ENDPOINT") from error
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{folder}/ was not pushed: {error} ({error.__cause__}); mend it and push again") from error


if __name__ == "__main__":
    run(main, *sys.argv[1:])
