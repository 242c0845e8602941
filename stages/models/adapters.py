"""Adapters (LoRA): with `training.lora`, a model folder holds what was added to iterations/0/base, a few megabytes.

Each is relative to the base, never to the iteration before it: a phase goes on training the adapter that it gets. What
needs whole weights (an engine, lm-eval, best/) gets them merged, from .dvc/merged/KEY outside DVC's outs, where KEY is
the hash of the base's content and the adapter's: any experiment or worktree finds them, and they may be deleted at any
time at the price of merging again.
"""

import fcntl
import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from filelock import FileLock

from stages.core import repository
from stages.core.errors import UserError
from stages.core.progress import prepare_transformers
from stages.models.fingerprint import ADAPTER, BASE, digest, own_code

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

PLACE = Path(".dvc/merged")
KEPT = 3  # merged models that stay, the last used ones

_used: list[IO[str]] = []  # a lock on each merged model that this process reads, until it ends


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER).is_file()


def base_of(folder: Path) -> Path:
    """Where a model's config.json lies: in its own folder, or in the base that it adapts."""
    return BASE if is_adapter(folder) else folder


def full_weights(folder: Path) -> Path:
    """A folder with the model's whole weights: the folder itself, or the merged one of an adapter. Raises `UserError`
    where the two do not fit together."""
    if not is_adapter(folder):
        return folder
    key, place = digest(folder), repository.root() / PLACE
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / "lock"):  # one process makes or removes at a time
        lock = (place / f"{key}.lock").open("w", encoding="utf-8")
        fcntl.flock(lock, fcntl.LOCK_SH)
        _used.append(lock)
        if not (place / key).is_dir():
            _merge(folder, place / "half")
            (place / "half").rename(place / key)
        os.utime(place / key)
        _keep_the_last(place)
    return place / key


def _keep_the_last(place: Path) -> None:
    """Remove the merged models over the bound, the least recently used first; one that a process reads stays."""
    merged = sorted((path for path in place.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime_ns)
    for old in merged[:-KEPT]:
        with (place / f"{old.name}.lock").open("w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(place / "half", ignore_errors=True)
            old.rename(place / "half")  # a kill leaves no torn model under its name
            shutil.rmtree(place / "half")
            (place / f"{old.name}.lock").unlink()


def _merge(folder: Path, out: Path) -> None:
    prepare_transformers()
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shutil.rmtree(out, ignore_errors=True)  # of a process that was killed
    try:
        trust = {"trust_remote_code": own_code(BASE)}
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE, **trust), folder)
        model.merge_and_unload().save_pretrained(out)
        AutoTokenizer.from_pretrained(folder, **trust).save_pretrained(out)
    except Exception as error:  # safetensors, torch, peft and the disk each raise their own
        raise UserError(
            f"model folder {folder} cannot be merged with {BASE} ({type(error).__name__}: {error}); see that the disk "
            "has room, or remove the folder and run dvc checkout, or dvc repro -f"
        ) from error


def trainable(folder: Path, training: dict[str, Any], random_state: int) -> "PeftModel":
    """The base with the folder's adapter, which goes on; or, where the folder is the base itself, with a new one, which
    adds nothing yet. The adapter has 32 bits, over a base in 16 too."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import set_seed

    lora = training["lora"]
    if is_adapter(folder):
        return PeftModel.from_pretrained(_base(training), folder, is_trainable=True)
    if digest(folder) != digest(BASE):
        raise UserError(
            f"model folder {folder} has whole weights, and training.lora goes on from an adapter of {BASE}; run dvc "
            "repro, which makes it anew from the warm start on"
        )
    set_seed(random_state)  # half of a new adapter is drawn
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules="all-linear",
    )
    return get_peft_model(_base(training), config)


def _base(training: dict[str, Any]) -> "AutoModelForCausalLM":
    from transformers import AutoModelForCausalLM

    if not training["four_bit"]:
        return AutoModelForCausalLM.from_pretrained(BASE, trust_remote_code=own_code(BASE))
    import torch
    from transformers import BitsAndBytesConfig

    if not torch.cuda.is_available():
        raise UserError("training.four_bit needs a GPU, and there is none; set it to false")
    if not find_spec("bitsandbytes"):
        raise UserError(
            "training.four_bit: 'bitsandbytes' is not installed; pip install -e '.[four_bit]', or set it to false"
        )
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    device = int(os.environ.get("LOCAL_RANK", "0"))
    return AutoModelForCausalLM.from_pretrained(
        BASE, quantization_config=config, device_map={"": device}, trust_remote_code=own_code(BASE)
    )


def replace(model: "PeftModel", folder: Path) -> None:
    """Give the adapter that is trained the weights of another folder's."""
    from peft import load_peft_weights, set_peft_model_state_dict

    set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"), adapter_name="default")


def save(model: "PeftModel", out: Path, weights: dict[str, Any] | None) -> None:
    """The trained adapter alone, in bytes that depend on nothing else: peft writes down where the base lay, a set in
    any order, and a page about it. `weights`: gathered from all processes; None: the model's own."""
    model.save_pretrained(out, selected_adapters=["default"], state_dict=weights)
    (out / "README.md").unlink()
    config = json.loads((out / ADAPTER).read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": None, "target_modules": sorted(config["target_modules"])}
    (out / ADAPTER).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
