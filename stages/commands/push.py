"""Push best/ or dataset/ to the Hugging Face hub, with the card that the pipeline wrote.

lance push model user/name --dry-run   list what would be pushed, and check the token
lance push dataset user/name           push to a private repository; with --public, to a public one
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from stages.core.errors import UserError
from stages.core.progress import say

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FOLDERS = {"model": Path("best"), "dataset": Path("dataset")}
CARD = "README.md"


def contents(folder: Path) -> dict[str, int]:
    """{path in the folder: size in bytes} of a folder that the pipeline made. Raises `UserError` if it has no card."""
    files = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    if CARD not in files:
        raise UserError(f"{folder}/ has no {CARD}; run dvc repro to make it, or dvc pull to get it from your remote")
    return files


def account() -> "HfApi":
    """The hub's client. Raises `UserError` if there is no token, or one that may only read."""
    from huggingface_hub import HfApi, get_token

    if not get_token():
        raise UserError(
            "there is no token for the hub; run hf auth login, or set HF_TOKEN to a token with write access"
        )
    api = HfApi()
    if api.whoami().get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise UserError("the hub's token may only read; create one with write access, and run hf auth login with it")
    return api


def is_public(api: "HfApi", kind: str, name: str) -> bool | None:
    """Whether a repository of this kind (model or dataset) is public; None if it does not exist."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return not api.repo_info(name, repo_type=kind).private
    except RepositoryNotFoundError:
        return None


def push(kind: str, name: str, folder: Path, public: bool, dry_run: bool) -> None:
    """Upload a folder to the repository `name`, which is created if it does not exist.

    Raises `UserError` if the repository is public and `public` is false, or if the token cannot be used.
    """
    api = account()
    visible = is_public(api, kind, name)
    if visible and not public:
        raise UserError(f"{name} exists and is public; pass --public, make it private on the hub, or use another name")
    visibility = "public" if public and visible is not False else "private"
    address = f"{api.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"
    if dry_run:
        repository = "a new" if visible is None else "the existing"
        say(f"would be pushed to {address}, {repository} {visibility} repository; nothing was written")
        return
    api.create_repo(name, repo_type=kind, private=not public, exist_ok=True)
    commit = api.upload_folder(
        repo_id=name, folder_path=folder, repo_type=kind, commit_message=f"{folder}/ of a LANCE run"
    )
    say(f"pushed to {address}, {visibility}: {commit.commit_url}")


def main(
    kind: Annotated[str, Argument(help="what to push: model (best/) or dataset (dataset/)")],
    name: Annotated[str, Argument(help="the repository on the hub: user/name or organisation/name")],
    public: Annotated[bool, Option("--public", help="make the repository public; by default it is private")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="list the files and check the token, but write nothing")] = False,
) -> None:
    """Push best/ or dataset/ to the Hugging Face hub."""
    if kind not in FOLDERS:
        raise UserError(f"'{kind}' cannot be pushed; choose {' or '.join(FOLDERS)}, as in: lance push model user/name")
    folder = FOLDERS[kind]
    files = contents(folder)
    for path, size in files.items():
        say(f"{size:>15,} bytes  {path}")
    title = next(line for line in (folder / CARD).read_text(encoding="utf-8").splitlines() if line.startswith("# "))
    say(f"{sum(files.values()):>15,} bytes in all; the card's title: {title[2:]}")
    os.environ["HF_HUB_OFFLINE"] = "0"  # stages/__init__.py switches the network off for the stages
    if sys.stderr.isatty():
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "0"

    from httpx import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        push(kind, name, folder, public, dry_run)
    except HFValidationError as error:
        raise UserError(f"'{name}' is not a repository's name: {error} Write user/name") from None
    except HfHubHTTPError as error:
        status = f"{error.response.status_code} {error.response.reason_phrase}"
        raise UserError(
            f"the hub refused {name}: {status}, {error.server_message or error}; check the name and the token's "
            "permissions (hf auth whoami)"
        ) from error
    except (HTTPError, OSError) as error:
        raise UserError(f"the hub cannot be reached ({error}); check the network and HF_ENDPOINT") from error
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{folder}/ was not pushed: {error} ({error.__cause__}); fix it and push again") from error
