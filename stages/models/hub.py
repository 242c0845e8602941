"""A model or data set of the Hugging Face hub, at a pinned commit: fetched once; a model is looked at before anything
else runs.

What is in the Hugging Face cache is taken from there, without a network. Only the functions here ask the hub; the
stages are offline (stages/__init__.py).
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
SOURCE = "source.json"  # in OUT: the parameters that it was made by
FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken"]  # never pickled weights
LEFT_OUT = ["*/*", "consolidated*"]  # the same weights in another format
BYTES = {"float32": 4, "bfloat16": 2}  # of a weight, by model.dtype
GB = 1e9


def made(model: dict[str, Any]) -> bool:
    """Whether the materialised base model is the one that the parameters name: here or, where an experiment runs in a
    temporary copy, in the repository, whose cache has it for the copy."""
    paths = (OUT / SOURCE, repository.root() / OUT / SOURCE)
    return any(path.is_file() and json.loads(path.read_text(encoding="utf-8")) == _source(model) for path in paths)


def note(model: dict[str, Any]) -> None:
    (OUT / SOURCE).write_text(json.dumps(_source(model), indent=2) + "\n", encoding="utf-8")


def _source(model: dict[str, Any]) -> dict[str, Any]:
    return {name: model[name] for name in ("hub", "dtype", "trust_remote_code")}


def look(model: dict[str, Any]) -> None:
    """Raise `UserError`, with what to do, where the model cannot be had: there is no such model, no access to it,
    no network, no *.safetensors, or too little disk. `model`: that section of params.yaml."""
    folder, name, revision = _cached(model), model["hub"]["id"], model["hub"]["revision"]
    if folder:
        _need_disk({OUT: BYTES[model["dtype"]] * _parameters(folder)})
        return
    from huggingface_hub import HfApi

    with _online("model.hub", model["hub"]):
        info = HfApi().model_info(name, revision=revision, timeout=10)
        files = _snapshot(model, dry_run=True)
    weights = sum(file.file_size for file in files if file.filename.endswith(".safetensors"))
    if not weights:
        raise UserError(f"model.hub: {name} has no *.safetensors, and pickles are not loaded; use another model")
    out = BYTES[model["dtype"]] * info.safetensors.total if info.safetensors else weights
    _need_disk({_cache(): sum(file.file_size for file in files if file.will_download), OUT: out})


def fetched(model: dict[str, Any]) -> Path:
    """The folder of the model in the Hugging Face cache, after it has been fetched where it was not there."""
    if folder := _cached(model):
        return folder
    look(model)
    say(f"base: fetches {model['hub']['id']} into {_cache()}")
    with _online("model.hub", model["hub"]):
        return Path(_snapshot(model))


def described(model: dict[str, Any]) -> Path:
    """A folder with the base model's config.json and tokenizer.json; no weights are fetched for it."""
    if not model["hub"]:
        return Path(model["name"])
    if (OUT / SOURCE).is_file() and made(model):
        return OUT
    if folder := _cached(model):
        return folder
    from huggingface_hub import snapshot_download

    place = {"repo_id": model["hub"]["id"], "revision": model["hub"]["revision"]}
    with _online("model.hub", model["hub"]):
        return Path(snapshot_download(**place, allow_patterns=["config.json", "tokenizer.json"]))


def data_set(named: dict[str, Any]) -> Path:
    """The folder of a data set in the Hugging Face cache, fetched where it is not there; `named`: `seed.hub`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    place = {"repo_id": named["id"], "repo_type": "dataset", "revision": named["revision"]}
    try:
        return Path(snapshot_download(**place, local_files_only=True))
    except LocalEntryNotFoundError:
        with _online("seed.hub", named, "dataset"):
            return Path(snapshot_download(**place))


def _snapshot(model: dict[str, Any], **how: bool) -> Any:
    from huggingface_hub import snapshot_download

    download: Any = snapshot_download
    files = FILES + (["*.py"] if model["trust_remote_code"] else [])
    named = {"repo_id": model["hub"]["id"], "revision": model["hub"]["revision"]}
    return download(**named, allow_patterns=files, ignore_patterns=LEFT_OUT, **how)


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _cached(model: dict[str, Any]) -> Path | None:
    """The model's folder in the cache, if all of it is there."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not re.fullmatch("[0-9a-f]{40}", model["hub"]["revision"]):
        return None
    try:
        folder = Path(_snapshot(model, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if _whole(folder) else None


def _whole(folder: Path) -> bool:
    """Whether all weights are there; the cache of an older client does not say itself what is missing."""
    index = folder / "model.safetensors.index.json"
    named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index.is_file() else ()
    return all((folder / name).is_file() for name in {*named, "config.json"}) and bool(_weights(folder))


def _weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _parameters(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return _weights(folder) // BYTES.get(config.get("dtype") or config.get("torch_dtype"), 2)


def _need_disk(needed: dict[Path, int]) -> None:
    """Raise `UserError` where a disk has less room than what will be written on it; `needed`: bytes by place."""
    places = {path: next(each for each in (path, *path.absolute().parents) if each.exists()) for path in needed}
    total: Counter[int] = Counter()
    for path, place in places.items():
        total[place.stat().st_dev] += needed[path]
    for path, place in places.items():
        most, free = total[place.stat().st_dev], shutil.disk_usage(place).free
        if most > free:
            raise UserError(
                f"model.hub: the model takes {most / GB:,.1f} GB of the disk of {path}, which has {free / GB:,.1f} GB "
                "free; make room, or move the Hugging Face cache by $HF_HOME"
            )


@contextmanager
def _online(parameter: str, named: dict[str, str], kind: str = "model") -> Iterator[None]:
    """The hub may be asked, and what it refuses is a `UserError`; `named`: {"id", "revision"}."""
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    name, revision, path = named["id"], named["revision"], "datasets/" if kind == "dataset" else ""
    page, log_in = f"{constants.ENDPOINT}/{path}{name}", "log in by hf auth login, or set $HF_TOKEN"
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
    try:
        yield
    except GatedRepoError as error:
        raise UserError(f"{parameter}: {name} is gated; ask for access at {page}, then {log_in}") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{parameter}: there is no {page}, or it is private; correct the id, or {log_in}") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{parameter}: {name} has no revision '{revision}'; take one of {page}/commits/main") from error
    except HfHubHTTPError as error:
        raise UserError(f"{parameter}: {page}: {str(error).splitlines()[0]}; try again later, or {log_in}") from error
    except (httpx.HTTPError, OSError) as error:
        raise UserError(
            f"{parameter}: {name} is not in the Hugging Face cache, and {constants.ENDPOINT} cannot be reached "
            f"({error}); on a machine with network run hf download {name} --repo-type {kind} --revision {revision}, "
            f"and take its cache along ({_cache()})"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before
