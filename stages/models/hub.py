"""Models and data sets of the Hugging Face hub, at a pinned commit: fetched once, into the Hugging Face cache.

What is in the cache is taken from there, without a network. The stage `check` makes sure that the model can be fetched
before anything else runs. Only this module contacts the hub; the stages are offline (stages/__init__.py).
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.core import repository
from stages.core.errors import UserError
from stages.core.progress import say

OUT = Path("iterations/0/base")
SOURCE = "source.json"  # in OUT: the parameters that it was made from
FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken"]  # never pickled weights
IGNORED = ["*/*", "consolidated*"]  # the same weights in another format
BYTES = {"float32": 4, "bfloat16": 2}  # per weight, by dtype
GB = 1e9


def is_materialised(model: dict[str, Any]) -> bool:
    """Whether the base model on disk is the one that the parameters name. `model`: that section of params.yaml.

    An experiment in a temporary copy also looks in the repository: dvc restores the copy's base model from its cache.
    """
    paths = (OUT / SOURCE, repository.root() / OUT / SOURCE)
    return any(path.is_file() and json.loads(path.read_text(encoding="utf-8")) == _source(model) for path in paths)


def write_source(model: dict[str, Any]) -> None:
    """Record in `OUT` what it was made from. `model`: that section of params.yaml."""
    (OUT / SOURCE).write_text(json.dumps(_source(model), indent=2) + "\n", encoding="utf-8")


def _source(model: dict[str, Any]) -> dict[str, Any]:
    return {name: model[name] for name in ("hub", "dtype", "trust_remote_code")}


def check_available(model: dict[str, Any]) -> None:
    """Raise `UserError` if the model cannot be fetched: it does not exist, access is denied, there is no network, it
    has no *.safetensors, or the disk is too small. `model`: that section of params.yaml."""
    folder, name, revision = _cached_folder(model), model["hub"]["id"], model["hub"]["revision"]
    if folder:
        _check_disk_space({OUT: BYTES[model["dtype"]] * _parameters(folder)})
        return
    from huggingface_hub import HfApi

    with _online("model.hub", model["hub"]):
        info = HfApi().model_info(name, revision=revision, timeout=10)
        files = _snapshot(model, dry_run=True)
    weights = sum(file.file_size for file in files if file.filename.endswith(".safetensors"))
    if not weights:
        raise UserError(
            f"model.hub: {name} has no *.safetensors, and pickled weights are not loaded; use another model"
        )
    out = BYTES[model["dtype"]] * info.safetensors.total if info.safetensors else weights
    _check_disk_space({_cache(): sum(file.file_size for file in files if file.will_download), OUT: out})


def fetch(model: dict[str, Any]) -> Path:
    """The model's folder in the Hugging Face cache, downloaded if it is not there. `model`: that section of
    params.yaml. Raises `UserError` as `check_available` does."""
    if folder := _cached_folder(model):
        return folder
    check_available(model)
    say(f"base: downloading {model['hub']['id']} to {_cache()}")
    with _online("model.hub", model["hub"]):
        return Path(_snapshot(model))


def fetch_config(model: dict[str, Any]) -> Path:
    """A folder with the base model's config.json and tokenizer.json, downloaded without the weights if neither is on
    disk. `model`: that section of params.yaml. Raises `UserError` if the hub cannot be reached or refuses."""
    if not model["hub"]:
        return Path(model["name"])
    if (OUT / SOURCE).is_file() and is_materialised(model):
        return OUT
    if folder := _cached_folder(model):
        return folder
    from huggingface_hub import snapshot_download

    source = {"repo_id": model["hub"]["id"], "revision": model["hub"]["revision"]}
    with _online("model.hub", model["hub"]):
        return Path(snapshot_download(**source, allow_patterns=["config.json", "tokenizer.json"]))


def fetch_data_set(data_set: dict[str, Any]) -> Path:
    """The folder of a data set in the Hugging Face cache, downloaded if it is not there. `data_set`: the section
    `seed.hub` of params.yaml. Raises `UserError` if the hub cannot be reached or refuses."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    source = {"repo_id": data_set["id"], "repo_type": "dataset", "revision": data_set["revision"]}
    try:
        return Path(snapshot_download(**source, local_files_only=True))
    except LocalEntryNotFoundError:
        with _online("seed.hub", data_set, "dataset"):
            return Path(snapshot_download(**source))


def _snapshot(model: dict[str, Any], **options: bool) -> Any:
    """`snapshot_download` of the model's files: by default their folder, with `dry_run=True` their names and sizes."""
    from huggingface_hub import snapshot_download

    download: Any = snapshot_download
    files = FILES + (["*.py"] if model["trust_remote_code"] else [])
    source = {"repo_id": model["hub"]["id"], "revision": model["hub"]["revision"]}
    return download(**source, allow_patterns=files, ignore_patterns=IGNORED, **options)


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _cached_folder(model: dict[str, Any]) -> Path | None:
    """The model's folder in the cache; None unless all of it is there."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not re.fullmatch("[0-9a-f]{40}", model["hub"]["revision"]):
        return None
    try:
        folder = Path(_snapshot(model, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if _is_complete(folder) else None


def _is_complete(folder: Path) -> bool:
    """Whether a cached model has all of its weights; the cache of older clients does not record what is missing."""
    index = folder / "model.safetensors.index.json"
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index.is_file() else ()
    return all((folder / name).is_file() for name in {*shards, "config.json"}) and bool(_weight_bytes(folder))


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _parameters(folder: Path) -> int:
    """The number of a model's parameters, by the size of its weights and their dtype."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return _weight_bytes(folder) // BYTES.get(config.get("dtype") or config.get("torch_dtype"), 2)


def _check_disk_space(needed: dict[Path, int]) -> None:
    """Raise `UserError` if a disk has less free space than what will be written to it. `needed`: bytes by path, which
    need not exist yet."""
    existing = {path: next(folder for folder in (path, *path.absolute().parents) if folder.exists()) for path in needed}
    needed_by_disk: Counter[int] = Counter()
    for path, folder in existing.items():
        needed_by_disk[folder.stat().st_dev] += needed[path]
    for path, folder in existing.items():
        total, free = needed_by_disk[folder.stat().st_dev], shutil.disk_usage(folder).free
        if total > free:
            raise UserError(
                f"model.hub: the model needs {total / GB:,.1f} GB on the disk of {path}, which has {free / GB:,.1f} GB "
                "free; free some space, or set $HF_HOME to keep the Hugging Face cache on another disk"
            )


@contextmanager
def _online(parameter: str, source: dict[str, str], kind: str = "model") -> Iterator[None]:
    """Allow requests to the hub, and turn its refusals into a `UserError` that names the parameter. `source`: {"id",
    "revision"}; `kind`: model or dataset."""
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    name, revision, path = source["id"], source["revision"], "datasets/" if kind == "dataset" else ""
    page, log_in = f"{constants.ENDPOINT}/{path}{name}", "log in with hf auth login, or set $HF_TOKEN"
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
    try:
        yield
    except GatedRepoError as error:
        raise UserError(f"{parameter}: {name} is gated; request access at {page}, then {log_in}") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{parameter}: {page} does not exist or is private; correct the id, or {log_in}") from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"{parameter}: {name} has no revision '{revision}'; choose one of {page}/commits/main"
        ) from error
    except HfHubHTTPError as error:
        raise UserError(f"{parameter}: {page}: {str(error).splitlines()[0]}; try again later, or {log_in}") from error
    except (httpx.HTTPError, OSError) as error:
        raise UserError(
            f"{parameter}: {name} is not in the Hugging Face cache, and {constants.ENDPOINT} cannot be reached "
            f"({error}); on a machine with a network run hf download {name} --repo-type {kind} --revision {revision}, "
            f"and copy its cache to this machine ({_cache()})"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before
