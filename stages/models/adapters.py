"""LoRA adapters. With `training.lora`, a model folder holds an adapter of iterations/0/base: a few megabytes.

An adapter always belongs to the base model, never to the iteration before it: a training phase continues the adapter
that it is given. What needs full weights (an inference engine, lm-eval, best/) reads them from .dvc/merged/KEY, where
base and adapter are merged. KEY is the hash of both contents, so all experiments and worktrees share the merged models.
They are not DVC outs and can be deleted at any time; they are then merged again.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from filelock import FileLock

from stages.core import repository
from stages.core.errors import UserError
from stages.core.progress import prepare_transformers
from stages.models.fingerprint import ADAPTER, BASE, digest, has_custom_code

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

CACHE = Path(".dvc/merged")  # in the repository
KEPT = 3  # merged models; the least recently used ones are removed
UNFINISHED = "half"  # a merged model that is being written or removed

_in_use: list[IO[str]] = []  # a shared lock on each merged model that this process reads, held until it ends


def is_adapter(folder: Path) -> bool:
    """Whether a model folder holds an adapter and not full weights."""
    return (folder / ADAPTER).is_file()


def config_folder(folder: Path) -> Path:
    """The folder with a model's config.json: its own or, for an adapter, the base model's."""
    return BASE if is_adapter(folder) else folder


def full_weights(folder: Path) -> Path:
    """The folder with a model's full weights: its own or, for an adapter, that of the merged model, which is made if it
    is not in the cache. Raises `UserError` if the adapter cannot be merged with the base model."""
    if not is_adapter(folder):
        return folder
    key, cache = digest(folder), repository.root() / CACHE
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "lock"):  # one process at a time adds or removes models
        lock = (cache / f"{key}.lock").open("w", encoding="utf-8")
        fcntl.flock(lock, fcntl.LOCK_SH)
        _in_use.append(lock)
        if not (cache / key).is_dir():
            _merge(folder, cache / UNFINISHED)
            (cache / UNFINISHED).rename(cache / key)
        os.utime(cache / key)
        _remove_old_models(cache)
    return cache / key


def _remove_old_models(cache: Path) -> None:
    """Remove all but the `KEPT` most recently used merged models. One that another process reads stays."""
    merged = sorted((path for path in cache.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime_ns)
    for old in merged[:-KEPT]:
        with (cache / f"{old.name}.lock").open("w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(cache / UNFINISHED, ignore_errors=True)
            old.rename(cache / UNFINISHED)  # if the process is killed, no incomplete model is left under a key
            shutil.rmtree(cache / UNFINISHED)
            (cache / f"{old.name}.lock").unlink()


def _merge(folder: Path, out: Path) -> None:
    """Write the model that an adapter makes of the base model, with full weights, to `out`."""
    prepare_transformers()
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shutil.rmtree(out, ignore_errors=True)  # left by a process that was killed
    try:
        trust = {"trust_remote_code": has_custom_code(BASE)}
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE, **trust), folder)
        model.merge_and_unload().save_pretrained(out)
        AutoTokenizer.from_pretrained(folder, **trust).save_pretrained(out)
    except Exception as error:  # safetensors, torch, peft and the file system each raise their own
        raise UserError(
            f"model folder {folder} cannot be merged with {BASE} ({type(error).__name__}: {error}); make sure that the "
            "disk is not full, or remove the folder and run dvc checkout, or dvc repro -f"
        ) from error


def load_trainable(folder: Path, training: dict[str, Any], random_state: int) -> "PeftModel":
    """The base model with the adapter to train: the folder's or, if the folder is the base model itself, a new one with
    no effect yet. Adapter weights are float32, even over a 16-bit base. `training`: that section of params.yaml.

    Raises `UserError` if the folder holds full weights other than the base model's.
    """
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import set_seed

    lora = training["lora"]
    if is_adapter(folder):
        return PeftModel.from_pretrained(_load_base(training), folder, is_trainable=True)
    if digest(folder) != digest(BASE):
        raise UserError(
            f"model folder {folder} has full weights, but with training.lora it must hold an adapter of {BASE}; run "
            "dvc repro, which trains again from the warm start on"
        )
    set_seed(random_state)  # half of a new adapter's weights are random
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules="all-linear",
    )
    return get_peft_model(_load_base(training), config)


def _load_base(training: dict[str, Any]) -> "AutoModelForCausalLM":
    """The base model; with `training.four_bit`, quantized as in QLoRA (Dettmers et al. 2023)."""
    from transformers import AutoModelForCausalLM

    trust = has_custom_code(BASE)
    if not training["four_bit"]:
        return AutoModelForCausalLM.from_pretrained(BASE, trust_remote_code=trust)
    import torch
    from transformers import BitsAndBytesConfig

    if not torch.cuda.is_available():
        raise UserError("training.four_bit needs a GPU, and this machine has none; set it to false")
    if not find_spec("bitsandbytes"):
        raise UserError(
            "training.four_bit needs 'bitsandbytes', which is not installed; pip install -e '.[four_bit]', or set it "
            "to false"
        )
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    device = int(os.environ.get("LOCAL_RANK", "0"))
    return AutoModelForCausalLM.from_pretrained(
        BASE, quantization_config=config, device_map={"": device}, trust_remote_code=trust
    )


def load_weights(model: "PeftModel", folder: Path) -> None:
    """Replace the weights of the adapter in training by those of the adapter in `folder`."""
    from peft import load_peft_weights, set_peft_model_state_dict

    set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"), adapter_name="default")


@contextmanager
def other_weights(model: "PeftModel", folder: Path) -> Iterator[None]:
    """Have the adapter in training hold the weights of the one in `folder`, and afterwards its own again."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    own = {name: weight.clone() for name, weight in get_peft_model_state_dict(model).items()}
    load_weights(model, folder)
    yield
    set_peft_model_state_dict(model, own, adapter_name="default")


def save(model: "PeftModel", out: Path, weights: dict[str, Any] | None) -> None:
    """Write the trained adapter to `out`. `weights`: gathered from all processes; None for the model's own.

    The same adapter gives the same bytes. So peft's README.md, the path of the base model, and the random order of
    `target_modules` are removed.
    """
    model.save_pretrained(out, selected_adapters=["default"], state_dict=weights)
    (out / "README.md").unlink()
    config = json.loads((out / ADAPTER).read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": None, "target_modules": sorted(config["target_modules"])}
    (out / ADAPTER).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
