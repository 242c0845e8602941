"""What the work of a stage costs: seconds, memory and disk.

Seconds by what the same work took in the last run, where the model and the machine are the same, else by the model's
shape (planning/estimate.py), divided by the GPUs that share it, as if nothing were lost among them. Memory, of each
device, and disk by the shape.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from stages.core.errors import UserError
from stages.core.records import Record
from stages.models import hub
from stages.planning import estimate
from stages.planning.estimate import Device, Shape
from stages.planning.forecast import Work
from stages.planning.last_run import JUDGE, Last
from stages.planning.texts import Texts

# Seconds of a process until it has loaded its libraries and its model, on one busy core.
START = {"review": 5, "assess": 5, "generate": 5, "evaluate": 7, "sft": 9, "dpo": 9, "filter": 8, "base": 4}
QUICK = 0.5  # of the other stages
LOADED = 1e9  # bytes of weights that are read in a second
MODELS = ("base", "sft", "dpo", "promote")  # whose out is a model folder
TRAININGS = ("sft", "dpo")
MOST_ROWS = {True: 2048, False: 384}  # completions at once by default, with a GPU and without
EVALUATED = 64  # of an evaluation
ROW = 1200  # bytes of a call's row in the outs, and of its completion in the store, with what an index takes
LONGEST = 2.0  # the longest row of a batch, in mean ones
SHARDED = ("weights", "gradients", "optimiser", "autocast copy", "reference")  # of a training, by fsdp and zero3
CHECKPOINT = 3  # in weights: they and the optimiser's two numbers for each; two of them are kept


class Price(NamedTuple):
    seconds: float  # of computing
    start: float  # and of starting
    memory: float  # bytes at the peak
    disk: float  # bytes of the outs
    basis: str  # of the seconds: last run or shape


def shape_of(folder: Path) -> Shape:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"model {folder} is not a model folder (no config.json); correct model.name")
    try:
        return estimate.shape(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path}: {error} cannot be read; a plan needs a decoder such as Qwen2, Llama or Mistral"
        ) from None


def _microworld(model: Shape, settings: Record) -> Shape:
    """The default's model as these settings make it."""
    hidden, heads = settings["hidden"], settings["heads"]
    sizes = {"hidden": hidden, "intermediate": 3 * hidden, "head": hidden // heads}
    return model._replace(layers=settings["layers"], heads=heads, kv_heads=heads, **sizes)


def _shared(parts: dict[str, float], names: tuple[str, ...], devices: int) -> dict[str, float]:
    """Bytes on each device, where these parts are cut among them."""
    return {name: size / devices if name in names else size for name, size in parts.items()}


class Pricing:
    """`measured`: whether the last run had this model on this machine; `pretrained`: whether the embedded default's
    model is made anew."""

    def __init__(
        self, params: Record, texts: Texts, last: Last, device: Device, *, measured: bool, pretrained: bool
    ) -> None:
        self.params, self.texts, self.last, self.device, self.measured = params, texts, last, device, measured
        self.model, self.dtype = shape_of(hub.fetch_config(params["model"])), params["model"]["dtype"]
        if pretrained:
            self.model = _microworld(self.model, params["microworld"])
        self.how: Record = params["runtime"]["training"]
        lora = params["training"]["lora"]
        self.lora: int | None = lora["rank"] if lora else None
        self.autocast: str | None = params["training"]["autocast"]
        gpu = device.name in estimate.GPUS  # a CPU's cores compute as much in one process
        self.processes: int = self.how["processes"] if gpu else 1
        vllm = params["runtime"]["vllm"] if gpu and params["runtime"]["engine"] in ("auto", "vllm") else {}
        self.parts: int = vllm.get("tensor_parallel_size", 1) * vllm.get("pipeline_parallel_size", 1)  # of a model
        self.engines: int = self.parts * vllm.get("data_parallel_size", 1)

    def price(self, name: str, work: Work) -> Price:
        stage = name.partition("@")[0].removesuffix("-0")
        measured = self._rate(stage)
        amount = work.trained or (work.written if work.made else 0.0)
        seconds = amount * measured if measured is not None else self._by_shape(stage, work)
        parts = self._memory(stage, work)
        disk = self._model_bytes(stage) if stage in MODELS else work.calls * ROW
        return Price(
            seconds,
            START.get(stage, QUICK) + (self.weights / LOADED if stage in START or stage in MODELS else 0),
            estimate.total(parts) if parts else 0.0,
            disk,
            "last run" if measured is not None else "shape",
        )

    @property
    def weights(self) -> float:
        return float(estimate.parameters(self.model) * estimate.BYTES[self.dtype])

    def _model_bytes(self, stage: str) -> float:
        """Of a model folder: the weights, or the adapters that a training leaves."""
        if self.lora is None or stage not in ("sft", "dpo"):
            return self.weights
        return 4.0 * estimate.lora_parameters(self.model, self.lora)

    def checkpoints(self, seconds: float) -> float:
        """Bytes that a training of so many seconds keeps until it ends."""
        minutes = self.params["runtime"]["checkpoint_minutes"]
        return 2 * CHECKPOINT * self._model_bytes("sft") if minutes is not None and seconds > 60 * minutes else 0.0

    def _rate(self, stage: str) -> float | None:
        """Seconds for each token that was written or trained on in the last run; None where nothing was measured, or
        more GPUs or fewer train now."""
        stages = JUDGE if stage in JUDGE else (stage,)
        costs = [each[name] for each in self.last.costs.values() for name in stages if name in each]
        tokens = sum(cost["tokens"] for cost in costs)
        if not self.measured or not tokens or (stage in TRAININGS and self._on_other_gpus(costs)):
            return None
        return float(sum(cost["seconds"] for cost in costs) / tokens)

    def _on_other_gpus(self, trained: list[Record]) -> bool:
        """Whether another number of GPUs would train now; a configuration of the user's does not tell."""
        now = self.how["processes"]
        return not self.how["config"] and any(cost["device"] == "GPU" and cost["devices"] != now for cost in trained)

    def _by_shape(self, stage: str, work: Work) -> float:
        if work.embedded:
            return estimate.reading_seconds(self.model, self.dtype, self.device, work.embedded, self.texts.prompt)
        if work.trained:
            once = self.how["precompute_reference"]
            reference = work.trained / (self.params["dpo"]["epochs"] if once else 1) if stage == "dpo" else 0.0
            seconds = estimate.training_seconds(
                self.model,
                self.dtype,
                self.device,
                work.trained,
                self._row(stage),
                **self._training(),
                reference_tokens=reference,
            )
            return seconds / self._trainers(stage)
        draws = 1 if stage == "evaluate" else self._draws(stage)  # a prompt is read once for all its draws
        seconds = estimate.completion_seconds(
            self.model, self.dtype, self.device, work.read / draws, work.written, work.made, self._rows_at_once(stage)
        )
        return seconds / self.engines

    def _memory(self, stage: str, work: Work) -> dict[str, float]:
        if work.trained:
            size = self.params["microworld" if stage == "pretrain" else stage]["batch_size"] // self._trainers(stage)
            rows = min(work.rows, size, self.how["rows_at_once"] or size)
            length = min(self.model.context, LONGEST * self._row(stage))
            parts = estimate.training_memory(
                self.model, self.dtype, int(rows), int(length), **self._training(), preference=stage == "dpo",
                reference=stage == "dpo" and self._reference(),
            )  # fmt: skip
            return _shared(parts, SHARDED, self._trainers(stage)) if self.how["sharding"] else parts
        if work.embedded:
            return {"weights": self.weights}
        if not work.made:
            return {}
        rows = min(self._rows_at_once(stage), work.made)
        parts = estimate.completion_memory(self.model, self.dtype, int(rows), self._length(stage))
        return _shared(parts, ("weights", "keys and values"), self.parts)

    def _trainers(self, stage: str) -> int:
        """The GPUs that share a training; the embedded default's base model is trained in one process."""
        return self.processes if stage in TRAININGS else 1

    def _reference(self) -> bool:
        """Whether DPO holds a second model: not where its log-probabilities are computed before, nor where what is
        trained is an adapter, since the reference is then another one on the same base, or none."""
        return not self.how["precompute_reference"] and not self.lora

    def _training(self) -> dict[str, Any]:
        checkpointing = self.how["gradient_checkpointing"]
        return {"lora_rank": self.lora, "autocast": self.autocast, "gradient_checkpointing": checkpointing}

    def _row(self, stage: str) -> float:
        """Tokens of a training row: a response to an instruction; in SFT some are reviews."""
        return (
            self.texts.to_answer + self.texts.response if stage == "dpo" else self.texts.to_review + self.texts.review
        )

    def _length(self, stage: str) -> int:
        most = self.params["review" if stage in JUDGE else "generate"]["max_tokens"]
        return int(min(self.model.context, LONGEST * self.texts.to_review + most))

    def _rows_at_once(self, stage: str) -> int:
        gpu = self.device.name in estimate.GPUS
        most = EVALUATED if stage == "evaluate" else MOST_ROWS[gpu]
        if chosen := self.params["runtime"]["batch_rows"]:
            return int(chosen)
        return estimate.rows_that_fit(self.model, self.dtype, self.device, self._length(stage), most)

    def _draws(self, stage: str) -> int:
        review = self.params["review"]
        if stage in JUDGE:
            return 1 if review["estimator"] == "expected" else int(review["samples"])
        return int(self.params["samples"])
