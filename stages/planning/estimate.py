"""What a model costs by its shape: parameters, bytes, floating-point operations, and from these seconds and memory.

Plain arithmetic for a decoder with gated MLPs and grouped keys and values (Qwen2, Llama, Mistral). Writing a token is
bound by the bandwidth (all weights and the batch's keys and values are read for each step) or, in a large batch, by the
arithmetic, as reading a prompt and training are; each reaches the share of the peak that EFFICIENCY says.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Shares of the peak that an engine and a trainer reach that are not tuned.
EFFICIENCY = {"write": 0.6, "read": 0.4, "train": 0.35}
HOST = 2e-5  # seconds of Python for each token written
LAUNCH = 1e-4  # seconds for each layer of each step, however little it computes
RECOMPUTE = 4 / 3  # gradient checkpointing runs the forward pass of every layer a second time
LIBRARIES = 0.7e9  # bytes of a process with torch, transformers and trl before it loads a model
ACTIVATIONS = 34  # bytes per token, layer and unit of the hidden size in 16 bits (arXiv 2205.05198, section 4.1)
TILE = (4096, 32_768)  # tokens × vocabulary whose logits trl's loss has at once
SPARE = 1.1  # fragments and buffers


class Device(NamedTuple):
    """Memory in bytes, bandwidth in bytes per second, dense floating-point operations per second by type."""

    name: str
    memory: float
    bandwidth: float
    flops: dict[str, float]


def _gpu(name: str, gigabytes: float, bandwidth: float, bfloat16: float, float32: float) -> Device:
    """From a data sheet: GB, TB/s, and dense TFLOP/s (of float32 in tensor cores by TF32)."""
    return Device(name, gigabytes * 1e9, bandwidth * 1e12, {"bfloat16": bfloat16 * 1e12, "float32": float32 * 1e12})


GPUS = {
    "h200": _gpu("h200", 141, 4.8, 989, 494),
    "h100": _gpu("h100", 80, 3.35, 989, 494),
    "a100-80": _gpu("a100-80", 80, 2.04, 312, 156),
    "a100-40": _gpu("a100-40", 40, 1.56, 312, 156),
    "l40s": _gpu("l40s", 48, 0.864, 362, 183),
    "l4": _gpu("l4", 24, 0.3, 121, 60),
    "rtx4090": _gpu("rtx4090", 24, 1.01, 165, 83),
    "rtx3090": _gpu("rtx3090", 24, 0.936, 71, 36),
}


def this_machine() -> Device:
    """The CPU by a product of matrices and a copy in memory, in a tenth of a second; by the time that the cores spend
    on it, so that what else runs on them does not count."""
    import os
    import time

    import numpy as np
    import psutil

    threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))

    def fastest(action: Callable[[], object], threads: int) -> float:
        took = []
        for _ in range(5):
            started = time.process_time()
            action()
            took.append((time.process_time() - started) / threads)
        return min(took)

    matrix = np.ones((768, 768), np.float32)
    block, other = np.ones(8_000_000, np.float32), np.empty(8_000_000, np.float32)
    flops = 2 * 768**3 / fastest(lambda: matrix @ matrix, threads)
    bandwidth = 2 * block.nbytes / fastest(lambda: np.copyto(other, block), 1)
    return Device("this machine", float(psutil.virtual_memory().total), bandwidth, dict.fromkeys(BYTES, flops))


class Shape(NamedTuple):
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head: int  # size of one
    vocabulary: int
    tied: bool  # the output layer is the embedding
    biased: bool  # the queries, keys and values have a bias
    context: int


def shape(config: dict[str, Any]) -> Shape:
    """From a model folder's config.json; raises KeyError where it is no decoder of this kind."""
    heads = config["num_attention_heads"]
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head=config.get("head_dim") or config["hidden_size"] // heads,
        vocabulary=config["vocab_size"],
        tied=config.get("tie_word_embeddings", False),
        biased=config.get("attention_bias", config.get("model_type") == "qwen2"),
        context=config["max_position_embeddings"],
    )


def linears(model: Shape) -> list[tuple[int, int]]:
    """(in, out) of a layer's matrices: query, key, value, output; gate, up, down."""
    queries, keys = model.heads * model.head, model.kv_heads * model.head
    attention = [(model.hidden, queries), (model.hidden, keys), (model.hidden, keys), (queries, model.hidden)]
    return [*attention, *[(model.hidden, model.intermediate)] * 2, (model.intermediate, model.hidden)]


def parameters(model: Shape) -> int:
    biases = (model.heads + 2 * model.kv_heads) * model.head if model.biased else 0
    layer = sum(rows * columns for rows, columns in linears(model)) + biases + 2 * model.hidden
    embeddings = model.vocabulary * model.hidden * (1 if model.tied else 2)
    return model.layers * layer + embeddings + model.hidden


def lora_parameters(model: Shape, rank: int) -> int:
    """Adapters of this rank on every matrix of every layer."""
    return model.layers * rank * sum(rows + columns for rows, columns in linears(model))


def cache_bytes(model: Shape, bytes_each: int) -> int:
    """Keys and values of one token."""
    return 2 * model.layers * model.kv_heads * model.head * bytes_each


def forward_flops(model: Shape, tokens: float, length: float) -> float:
    """Of so many tokens in rows of this length: two for each weight (the embedding is looked up), and attention to
    half of the row on average."""
    weights = model.layers * sum(rows * columns for rows, columns in linears(model)) + model.vocabulary * model.hidden
    attention = 2 * model.layers * model.heads * model.head * length
    return tokens * (2 * weights + attention)


# ---- time ------------------------------------------------------------------------------------------------------------


def reading_seconds(model: Shape, dtype: str, device: Device, tokens: float, length: float) -> float:
    """Of so many tokens in texts of this length."""
    return forward_flops(model, tokens, length) / (device.flops[dtype] * EFFICIENCY["read"])


def completion_seconds(
    model: Shape, dtype: str, device: Device, read: float, written: float, calls: float, rows: float
) -> float:
    """Of `calls` completions, `rows` at once, that read so many tokens of prompts in all and write so many."""
    if not calls:
        return 0.0
    rows, each = min(rows, calls), read / calls
    steps, length = written / rows, each + written / calls
    weights = parameters(model) * BYTES[dtype]
    moved = (weights + rows * length * cache_bytes(model, BYTES[dtype])) / (device.bandwidth * EFFICIENCY["write"])
    computed = forward_flops(model, rows, length) / (device.flops[dtype] * EFFICIENCY["read"])
    return (
        reading_seconds(model, dtype, device, read, each)
        + steps * (max(moved, computed) + model.layers * LAUNCH)
        + written * HOST
    )


def training_seconds(
    model: Shape,
    dtype: str,
    device: Device,
    tokens: float,
    length: float,
    *,
    lora_rank: int | None = None,
    autocast: str | None = None,
    gradient_checkpointing: bool = False,
    reference_tokens: float = 0,
) -> float:
    """Of so many tokens in rows of this length: forward, and twice that backward (once where the weights are frozen
    under adapters); `reference_tokens` are read by the reference of DPO as well."""
    backward = 1 if lora_rank else 2
    forward = forward_flops(model, tokens, length)
    work = forward * (RECOMPUTE if gradient_checkpointing else 1) + forward * backward
    work += forward_flops(model, reference_tokens, length)
    return work / (device.flops[autocast or dtype] * EFFICIENCY["train"])


# ---- memory ----------------------------------------------------------------------------------------------------------


def rows_that_fit(model: Shape, dtype: str, device: Device, length: int, most: int) -> int:
    """Completions at once: six tenths of what the weights leave, as core/engines/transformers.py takes them."""
    free = device.memory - parameters(model) * BYTES[dtype]
    row = cache_bytes(model, BYTES[dtype]) * length + 40 * model.vocabulary
    return max(1, min(most, int(0.6 * free / row)))


def completion_memory(model: Shape, dtype: str, rows: int, length: int) -> dict[str, float]:
    """Bytes while completions are made, `rows` at once of this length at most."""
    return {
        "weights": parameters(model) * BYTES[dtype],
        "keys and values": rows * length * cache_bytes(model, BYTES[dtype]),
        "sampling": rows * 40.0 * model.vocabulary,
    }


def training_memory(
    model: Shape,
    dtype: str,
    rows: int,
    length: int,
    *,
    lora_rank: int | None = None,
    autocast: str | None = None,
    gradient_checkpointing: bool = False,
    preference: bool = False,
    reference: bool = False,
) -> dict[str, float]:
    """Bytes of a training step with `rows` rows of this length. AdamW keeps two numbers for each weight that is
    trained, in the weights' type, and for adapters in 32 bits. Under `preference` a row is a pair; `reference`: DPO
    holds another model beside it."""
    weights, each = parameters(model), BYTES[dtype]
    trained = lora_parameters(model, lora_rank) if lora_rank else weights
    tokens = rows * length * (2 if preference else 1)
    working = BYTES[autocast or dtype]
    layer = ACTIVATIONS * model.hidden * working / 2
    kept = model.layers * 2 * model.hidden * working / 2 + layer if gradient_checkpointing else model.layers * layer
    return {
        "weights": weights * each + (trained * 4 if lora_rank else 0),
        "gradients": trained * (4 if lora_rank else each),
        "optimiser": 2 * trained * (4 if lora_rank else each),
        "autocast copy": weights * BYTES[autocast] if autocast and autocast != dtype else 0,
        "activations": tokens * kept,
        "logits": 2.0 * min(tokens, TILE[0]) * min(model.vocabulary, TILE[1]) * working,
        "reference": weights * each if reference else 0,
    }


def total(parts: dict[str, float]) -> float:
    return SPARE * sum(parts.values()) + LIBRARIES
