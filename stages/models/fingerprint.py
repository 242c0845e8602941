"""What a model is: the hash of its content, under which its completions are kept, and whether it has its own code."""

import hashlib
from pathlib import Path

from stages.core.errors import UserError

BASE = Path("iterations/0/base")  # what every adapter is added to
ADAPTER = "adapter_config.json"  # a model folder with this file is an adapter (models/adapters.py)


def digest(folder: Path) -> str:
    """The content of a model folder: weights, configuration, tokenizer, chat template; not where it lies. An adapter is
    what it makes of the base, so the base's content counts too."""
    adapter = (folder / ADAPTER).is_file()
    if not (adapter or (folder / "config.json").is_file()) or not list(folder.glob("*.safetensors")):
        raise UserError(
            f"model folder {folder} is missing or broken (it needs config.json and *.safetensors); "
            "run dvc repro to make it, or dvc checkout if it was made before"
        )
    total = hashlib.sha256(digest(BASE).encode() if adapter else b"")
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as content:
            total.update(f"{path.name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\0".encode())
    return total.hexdigest()


def own_code(folder: Path) -> bool:
    """Whether a model folder has code of its own to run; `base` lets it in where `model.trust_remote_code` says so."""
    return any(folder.glob("*.py"))
