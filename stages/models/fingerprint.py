"""The hash of a model's content, under which its completions are stored; and whether the model has custom code."""

import hashlib
from pathlib import Path

from stages.core.errors import UserError

BASE = Path("iterations/0/base")  # the base model, to which every adapter belongs
ADAPTER = "adapter_config.json"  # in the model folders that hold an adapter (models/adapters.py)


def digest(folder: Path) -> str:
    """The SHA-256 of a model's content, in hexadecimal: names and bytes of all files in its folder (weights,
    configuration, tokenizer, chat template), but not the folder's path. An adapter's digest includes the base model's.

    Raises `UserError` if the folder lacks its configuration or weights.
    """
    adapter = (folder / ADAPTER).is_file()
    if not (adapter or (folder / "config.json").is_file()) or not list(folder.glob("*.safetensors")):
        raise UserError(
            f"model folder {folder} is missing or broken (it needs config.json and *.safetensors); run dvc repro "
            "to make it, or dvc checkout to restore it"
        )
    total = hashlib.sha256(digest(BASE).encode() if adapter else b"")
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as content:
            total.update(f"{path.name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\0".encode())
    return total.hexdigest()


def has_custom_code(folder: Path) -> bool:
    """Whether a model folder has Python code to run. The stage `base` only accepts it if `model.trust_remote_code` is
    true, so every later stage may pass this on as `trust_remote_code`."""
    return any(folder.glob("*.py"))
