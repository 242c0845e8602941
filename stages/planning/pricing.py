"""What planned stages cost: seconds, bytes of memory on each device, bytes of disk.

Seconds by the last run's rates, else by a probe of the model on this machine (probe.py), else, where the model or the
machine is not here, by the model's shape: two operations per weight and token forward, twice that
backward. Decoding is bound by the bandwidth (a step reads all weights and the batch's keys and values) or, in a large
batch, by arithmetic, as prefill and training are. GPUs that share work lose no time over it.
"""

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from stages.core.errors import UserError
from stages.core.records import Record
from stages.models import hub
from stages.planning.changes import Planned
from stages.planning.forecast import LastRun, Texts, kind, values
from stages.planning.probe import Speed

BYTES = {"float32": 4, "bfloat16": 2}
EFFICIENCY = {"decode": 0.6, "prefill": 0.4, "train": 0.35}  # share of the peak without tuning
LAUNCH = 1e-4  # seconds per layer of a decoding step, however little it computes
LAUNCHES = 4e-3  # the same where the transformers engine launches each of its kernels on a GPU; seen on an H200
START = {
    "review": 5,
    "assess": 5,
    "generate": 5,
    "evaluate": 7,
    "sft": 9,
    "dpo": 9,
    "filter": 8,
    "base": 4,
}  # seconds to load
ROWS = {"CPU": 384, "GPU": 2048}  # completions at once
LIBRARIES, SPARE = 0.7e9, 1.1  # bytes of a process with torch and trl; for fragments and buffers
ACTIVATIONS = 34  # bytes per token, layer and unit of the hidden size in 16 bits (arXiv 2205.05198, section 4.1)
TILE = (4096, 32_768)  # tokens × vocabulary whose logits trl's loss holds at once
ROW = 1200  # bytes of a model call, in the outs and again in the completion store
CHECKPOINTS = 6  # in weights: two are kept, each with the optimiser's two numbers per weight


class Device(NamedTuple):
    """What a machine offers, by its data sheet."""

    name: str
    memory: float  # bytes
    bandwidth: float  # bytes per second
    bfloat16: float  # dense floating-point operations per second
    float32: float  # on a GPU as TF32


GPUS = {  # from the data sheets
    "h200": Device("h200", 141e9, 4.8e12, 989e12, 494e12),
    "h100": Device("h100", 80e9, 3.35e12, 989e12, 494e12),
    "a100-80": Device("a100-80", 80e9, 2.04e12, 312e12, 156e12),
    "a100-40": Device("a100-40", 40e9, 1.56e12, 312e12, 156e12),
    "l40s": Device("l40s", 48e9, 0.864e12, 362e12, 183e12),
    "l4": Device("l4", 24e9, 0.3e12, 121e12, 60e12),
    "rtx4090": Device("rtx4090", 24e9, 1.01e12, 165e12, 83e12),
    "rtx3090": Device("rtx3090", 24e9, 0.936e12, 71e12, 36e12),
}


def this_machine() -> Device:
    """Its GPU, if that is one of `GPUS`, else its processor, as fast as a current server's."""
    from psutil import virtual_memory

    if shutil.which("nvidia-smi"):
        import torch

        if torch.cuda.is_available():
            properties = torch.cuda.get_device_properties(0)
            if gpu := gpu_named(properties.name, properties.total_memory):
                return gpu
    flops = 1e11 * int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    return Device("this machine", virtual_memory().total, 2.5e10, flops, flops)


def gpu_named(name: str, memory: float) -> Device | None:
    """The GPU of a driver's name, such as "NVIDIA A100-SXM4-80GB"; of several, the one whose memory is nearest. None if
    it is not in `GPUS`."""
    words = name.lower().replace("rtx ", "rtx").replace("-", " ").split()
    alike = [device for device in GPUS.values() if device.name.split("-")[0] in words]
    return min(alike, key=lambda device: abs(device.memory - memory), default=None)


class Shape:
    """A decoder such as Qwen2, Llama or Mistral, by its folder's config.json; raises `UserError` for another model."""

    def __init__(self, folder: Path) -> None:
        path = folder / "config.json"
        if not path.is_file():
            raise UserError(f"model {folder} is not a model folder (no config.json); correct model.name")
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            names = ("num_attention_heads", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
            heads, self.hidden, inner, self.layers, self.vocabulary = (config[name] for name in names)
        except (KeyError, ValueError) as error:
            raise UserError(f"{path}: {error} cannot be read; a plan needs a decoder such as Qwen2 or Llama") from None
        head = config.get("head_dim") or self.hidden // heads
        queries, self.keys = heads * head, head * (config.get("num_key_value_heads") or heads)
        attention = [(self.hidden, queries), *[(self.hidden, self.keys)] * 2, (queries, self.hidden)]
        linear = [*attention, *[(self.hidden, inner)] * 2, (inner, self.hidden)]
        biased = config.get("attention_bias", config.get("model_type") == "qwen2")
        layer = sum(rows * columns for rows, columns in linear) + 2 * self.hidden + biased * (queries + 2 * self.keys)
        embeddings = self.vocabulary * self.hidden * (1 if config.get("tie_word_embeddings") else 2)
        self.parameters = self.layers * layer + embeddings + self.hidden
        self.adapters = self.layers * sum(map(sum, linear))  # parameters of LoRA of rank 1 on every linear layer


class Pricing:
    """Fills in what planned stages cost on a device; `last`: the last run, if it had this model and this device."""

    speed: Speed | None = None  # measured on this machine; without it, the device's data sheet counts

    def __init__(self, params: Record, texts: Texts, device: Device, last: LastRun | None) -> None:
        self.params, self.texts, self.device, self.last = params, texts, device, last
        model, runtime, gpu = Shape(hub.fetch_config(params["model"])), params["runtime"], device.name in GPUS
        self.model, self.how, self.dtype = model, runtime["training"], params["model"]["dtype"]
        self.weights, lora = model.parameters * BYTES[self.dtype], params["training"]["lora"]
        self.adapters = 4 * lora["rank"] * model.adapters if lora else 0
        self.trained = self.adapters or self.weights
        self.folders = {"base": self.weights, "sft": self.trained, "dpo": self.trained, "promote": self.weights}
        self.flops = {"bfloat16": device.bfloat16, "float32": device.float32}
        self.trainers = self.how["processes"] if gpu else 1
        vllm = runtime["vllm"] if gpu and runtime["engine"] in ("auto", "vllm") else {}
        self.pieces = vllm.get("tensor_parallel_size", 1) * vllm.get("pipeline_parallel_size", 1)  # of the model
        self.engines = self.pieces * vllm.get("data_parallel_size", 1)
        self.launch = LAUNCHES if gpu and runtime["engine"] == "transformers" else LAUNCH
        self.length = 2 * (texts.to_review + texts.review)  # of the longest row, which is twice the mean
        self.cache = 2 * model.layers * model.keys * BYTES[self.dtype] * self.length  # keys and values of a row
        fitting = 0.6 * (device.memory - self.weights / self.pieces) / self.cache  # as engines/transformers.py has it
        self.rows = max(1, min(runtime["batch_rows"] or ROWS["GPU" if gpu else "CPU"], int(fitting)))

    def price(self, planned: Planned) -> None:
        """Fill in a stage\'s seconds, its peak memory and its disk space."""
        work, parts = kind(planned.stage), 0.0
        if planned.trained:
            planned.seconds, parts = self._training(work, planned.trained), sum(self.training_memory(work).values())
        elif planned.read:
            planned.seconds = self._completions(planned.read * self.texts.computed.get(work, 1), planned.written)
            parts = (self.weights + self.rows * self.cache) / self.pieces
        if rate := self._rate(work):
            planned.seconds = rate * (planned.trained or planned.written)
        planned.seconds += START.get(work, 0.5)
        planned.memory = LIBRARIES + SPARE * parts if parts else 0
        planned.disk = self.folders.get(work, planned.calls * ROW)

    def _rate(self, work: str) -> float:
        """Seconds per token trained on or written in the last run; 0 if it had none, or trained on other GPUs."""
        costs = values(self.last.costs, work) if self.last else []
        if work in ("sft", "dpo") and not self.how["config"]:
            costs = [cost for cost in costs if cost["device"] == "CPU" or cost["devices"] == self.how["processes"]]
        return float(sum(cost["seconds"] for cost in costs) / max(1, sum(cost["tokens"] for cost in costs)))

    def _completions(self, read: float, written: float) -> float:
        """Seconds of model calls that read and write so many tokens in all."""
        if speed := self.speed:
            return read * speed.prefill + written * (speed.step / self.rows + speed.row)
        prefill = 2 * self.model.parameters / (EFFICIENCY["prefill"] * self.flops[self.dtype])  # of a token
        moved = (self.weights + self.rows * self.cache) / (self.device.bandwidth * EFFICIENCY["decode"])
        step = max(moved, self.rows * prefill) + self.model.layers * self.launch
        return float((read * prefill + written / self.rows * step) / self.engines)

    def _training(self, work: str, tokens: float) -> float:
        """Seconds, by passes: forward; backward, worth two, or one where adapters leave the weights frozen; forward
        again under gradient checkpointing; and the reference's."""
        passes = 1 + (1 if self.adapters else 2) + self.how["gradient_checkpointing"] + (work == "dpo")
        if self.speed:
            return float(tokens * passes * self.speed.train / 3 / self.trainers)
        flops = EFFICIENCY["train"] * self.flops[self.params["training"]["autocast"] or self.dtype]
        return float(2 * self.model.parameters * tokens * passes / flops / self.trainers)

    def training_memory(self, work: str) -> dict[str, float]:
        """Bytes of a step on each device. AdamW keeps two numbers per trained weight, in its type; adapters are in 32
        bits. DPO's reference is a second model, except beside adapters or where it is read before the training."""
        model, how, autocast = self.model, self.how, self.params["training"]["autocast"]
        working = BYTES[autocast or self.dtype]
        batch = self.params["microworld" if work == "pretrain" else work]["batch_size"] // self.trainers
        row = self.length if work != "dpo" else 4 * (self.texts.to_answer + self.texts.response)
        tokens = min(batch, how["rows_at_once"] or batch) * row
        layer = ACTIVATIONS * model.hidden * working / 2
        kept = layer + model.layers * model.hidden * working if how["gradient_checkpointing"] else model.layers * layer
        parts = {
            "weights": self.weights + self.adapters,
            "gradients": self.trained,
            "optimiser": 2 * self.trained,
            "autocast copy": model.parameters * working if autocast not in (None, self.dtype) else 0,
            "reference": self.weights * (work == "dpo" and not self.adapters and not how["precompute_reference"]),
        }
        shared = {name: size / (self.trainers if how["sharding"] else 1) for name, size in parts.items()}
        logits = 2 * min(tokens, TILE[0]) * min(model.vocabulary, TILE[1]) * working
        return shared | {"activations": tokens * kept, "logits": logits}
