"""Generation with transformers: a small decode loop of our own around the model's forward pass.

`model.generate` samples from one random stream for the whole batch, so that a completion would depend on its
neighbours; here every draw has a stream of its own. The loop reads a prompt once for all its draws, drops the rows that
have finished and fills their places with waiting ones.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import Cache, DynamicLayer

from stages.core.engines import ALTERNATIVES, Completion, Number, Request, Sampling, holds_digit, seed_of
from stages.core.errors import UserError

ALIVE = 0.7  # share of rows still running below which the finished ones leave the batch and waiting ones enter
MOST_ROWS = {"cpu": 384, "cuda": 2048}  # by default; on the CPU, more rows at once are not faster
PREFILL_TOKENS = 32_768  # prompt tokens read in one forward pass
MEMORY = 0.5  # share of the free memory that a batch may take by the estimate; the rest is for activations


@dataclass
class Row:
    """A request that is being completed."""

    request: Request
    written: list[int] = field(default_factory=list)
    numbers: list[tuple[int, dict[int, float]]] = field(default_factory=list)  # place in `written`, {token: log-prob.}
    finished: bool = False
    stopped: bool = False  # by an end token, not by max_tokens

    def last(self) -> int:
        return (self.written or self.request.tokens)[-1]


@dataclass
class Batch:
    """The rows that run together, with what the model knows of them; `logits` follow each row's last token."""

    rows: list[Row]
    logits: torch.Tensor  # (rows, vocabulary), fp32
    cache: Cache
    mask: torch.Tensor  # (rows, length); 0 for padding, on the left
    positions: torch.Tensor  # (rows, 1), of the last token
    uniforms: torch.Tensor  # (rows, max_tokens), fp64: each draw's random numbers


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values that grow by blocks, so that a step writes one column instead of copying all of them."""

    block = 64
    keys: torch.Tensor  # views of what of the room is written
    values: torch.Tensor
    room: list[torch.Tensor]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.hold(key_states[..., :0, :], value_states[..., :0, :])
        before = self.keys.shape[-2]
        after = before + key_states.shape[-2]
        if after > self.room[0].shape[-2]:
            self.room = [_padded(each, right=after - before + self.block) for each in (self.keys, self.values)]
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[..., before:after, :] = states
        self.keys, self.values = (room[..., :after, :] for room in self.room)
        return self.keys, self.values

    def hold(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values, self.room = keys, values, [keys, values]


def _padded(states: torch.Tensor, left: int = 0, right: int = 0) -> torch.Tensor:
    """(rows, heads, length, size) with more room along its length."""
    return torch.nn.functional.pad(states, (0, 0, left, right)) if left or right else states


class TransformersEngine:
    def __init__(self, model: Path, batch_rows: int | None) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        try:
            self.model = AutoModelForCausalLM.from_pretrained(model).to(self.device).eval()
        except Exception as error:  # safetensors, torch and transformers each raise their own
            raise UserError(
                f"model folder {model} cannot be loaded ({error}); remove it and run dvc checkout, or dvc repro -f"
            ) from error
        self.batch_rows = batch_rows
        ends = self.model.generation_config.eos_token_id
        self.ends = set(ends) if isinstance(ends, list) else {ends}
        self._vocabulary: list[str] = []  # each token's text; filled when first needed

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """Longest prompts first: what does not fit into the memory fails at once, and is tried with half the rows."""
        waiting = deque(sorted(requests, key=_longest_first))
        most = self.batch_rows or self._rows_that_fit(len(waiting[0].tokens), sampling)
        unfinished = set(waiting)
        batch: Batch | None = None
        while unfinished:
            try:
                batch = self._step(batch, waiting, most, sampling)
            except RuntimeError as error:
                most = _halved(most, error)
                batch, waiting = None, deque(sorted(unfinished, key=_longest_first))
                continue
            finished = [row for row in batch.rows if row.finished and row.request in unfinished]
            yield from self._completions(finished)
            unfinished.difference_update(row.request for row in finished)

    @torch.inference_mode()
    def _step(self, batch: Batch | None, waiting: deque[Request], most: int, sampling: Sampling) -> Batch:
        """One more token for every row, after finished rows have left and waiting requests have come."""
        if batch:
            batch = self._advanced(batch, bool(waiting), most)
        if waiting and (batch is None or len(batch.rows) <= ALIVE * most):
            new = self._read(_taken(waiting, most - (len(batch.rows) if batch else 0)), sampling)
            batch = _joined([batch, *new] if batch else new)
        assert batch is not None
        self._write(batch, sampling)
        return batch

    def _advanced(self, batch: Batch, waiting: bool, most: int) -> Batch | None:
        """The model reads the last token of each row that goes on; None where none does."""
        alive = [place for place, row in enumerate(batch.rows) if not row.finished]
        if not alive:
            return None
        if len(alive) < ALIVE * len(batch.rows) or (waiting and len(alive) <= ALIVE * most):
            batch = _selected(batch, torch.tensor(alive, device=self.device))
        last = torch.tensor([[row.last()] for row in batch.rows], device=self.device)
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.rows), 1)], 1)
        batch.positions = batch.positions + 1
        batch.logits = self._forward(last, batch.mask, batch.positions, batch.cache)
        return batch

    def _read(self, requests: list[Request], sampling: Sampling) -> list[Batch]:
        """Prompts, each read once for all its draws."""
        prompts = [list(draws) for _, draws in groupby(requests, key=lambda each: each.prompt)]
        batches = []
        while prompts:
            size = max(1, PREFILL_TOKENS // len(prompts[0][0].tokens))  # the longest prompt comes first
            batches.append(self._prefilled(prompts[:size], sampling))
            prompts = prompts[size:]
        return batches

    def _prefilled(self, prompts: list[list[Request]], sampling: Sampling) -> Batch:
        longest = max(len(draws[0].tokens) for draws in prompts)
        tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros(len(prompts), longest, dtype=torch.long)
        for place, draws in enumerate(prompts):
            tokens[place, longest - len(draws[0].tokens) :] = torch.tensor(draws[0].tokens)
            mask[place, longest - len(draws[0].tokens) :] = 1
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = Cache(layer_class_to_replicate=GrowingLayer)
        logits = self._forward(tokens, mask, positions, cache)
        read = Batch([Row(draws[0]) for draws in prompts], logits, cache, mask, positions[:, -1:], logits[:, :0])
        repeated = [place for place, draws in enumerate(prompts) for _ in draws]
        batch = _selected(read, torch.tensor(repeated, device=self.device))
        batch.rows = [Row(request) for draws in prompts for request in draws]
        batch.uniforms = self._uniforms(batch.rows, sampling)
        return batch

    def _uniforms(self, rows: list[Row], sampling: Sampling) -> torch.Tensor:
        """(rows, max_tokens) random numbers in fp64, a stream for each draw; none where nothing is sampled."""
        if sampling.temperature == 0:
            return torch.empty(len(rows), 0, device=self.device)
        streams = (
            torch.Generator().manual_seed(seed_of(row.request.prompt, sampling, row.request.draw)) for row in rows
        )
        drawn = [torch.rand(sampling.max_tokens, generator=stream, dtype=torch.float64) for stream in streams]
        return torch.stack(drawn).to(self.device)

    def _forward(self, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache) -> torch.Tensor:
        """The logits after the last token of each row, (rows, vocabulary), in fp32."""
        out = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = out.logits[:, -1].float()
        return logits

    def _write(self, batch: Batch, sampling: Sampling) -> None:
        """Sample each row's next token."""
        places = [len(row.written) if not row.finished else 0 for row in batch.rows]
        uniforms = None
        if sampling.temperature > 0:
            uniforms = batch.uniforms.gather(1, torch.tensor(places, device=self.device)[:, None])[:, 0]
        tokens = sample(batch.logits, sampling, uniforms).tolist()
        if sampling.numbers:
            self._note_numbers(batch, tokens)
        for row, token in zip(batch.rows, tokens, strict=True):
            if not row.finished:
                row.stopped = token in self.ends
                row.written += [] if row.stopped else [token]
                row.finished = row.stopped or len(row.written) == sampling.max_tokens

    def _note_numbers(self, batch: Batch, tokens: list[int]) -> None:
        """Keep the most likely tokens of the rows that write a number, or the token after one."""
        if not self._vocabulary:
            self._vocabulary = self.tokenizer.batch_decode([[token] for token in range(batch.logits.shape[-1])])
        noted = [
            place
            for place, (row, token) in enumerate(zip(batch.rows, tokens, strict=True))
            if not row.finished and any(holds_digit(self._vocabulary[each]) for each in (token, row.last()))
        ]
        if not noted:
            return
        likely = (
            batch.logits[torch.tensor(noted, device=self.device)]
            .log_softmax(-1)
            .topk(min(ALTERNATIVES, batch.logits.shape[-1]))
        )
        for place, values, indices in zip(noted, likely.values.tolist(), likely.indices.tolist(), strict=True):
            row = batch.rows[place]
            row.numbers.append((len(row.written), dict(zip(indices, values, strict=True))))

    def _completions(self, rows: list[Row]) -> Iterator[tuple[Request, Completion]]:
        for row in rows:
            text = self.tokenizer.decode(row.written, skip_special_tokens=True)
            yield (
                row.request,
                Completion(
                    text,
                    "stop" if row.stopped else "length",
                    prompt_tokens=len(row.request.tokens),
                    tokens=len(row.written) + row.stopped,
                    numbers=tuple(self._number(row, place, logprobs) for place, logprobs in row.numbers),
                ),
            )

    def _number(self, row: Row, place: int, logprobs: dict[int, float]) -> Number:
        start = len(self.tokenizer.decode(row.written[:place], skip_special_tokens=True))
        return Number(start, {self._vocabulary[token]: round(each, 6) for token, each in logprobs.items()})

    def _rows_that_fit(self, longest: int, sampling: Sampling) -> int:
        """How many rows the free memory holds, by the size of their keys and values (twice: a batch is copied when rows
        leave it) and of the numbers that sampling works on."""
        config = self.model.config
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        token = 2 * config.num_hidden_layers * config.num_key_value_heads * head * self.model.dtype.itemsize
        row = 2 * token * (longest + sampling.max_tokens + GrowingLayer.block) + 40 * config.vocab_size
        return max(1, min(MOST_ROWS[self.device.type], int(MEMORY * _free_memory(self.device) / row)))


def _longest_first(request: Request) -> tuple[int, str, int]:
    return -len(request.tokens), request.prompt, request.draw


def _halved(most: int, error: RuntimeError) -> int:
    """Half as many rows after an out-of-memory error; raises any other one again."""
    from accelerate.utils.memory import should_reduce_batch_size

    if not should_reduce_batch_size(error):
        raise error
    if most == 1:
        raise UserError(f"out of memory with one completion at a time ({error}); lower max_tokens or use a larger GPU")
    return most // 2


def _free_memory(device: torch.device) -> int:
    """Bytes that this process may still take; in a container, by its limit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int(used.read_text()))
    return free


def _taken(waiting: deque[Request], most: int) -> list[Request]:
    """The first requests that wait, at most so many, and no prompt's draws apart where they fit."""
    taken: list[Request] = []
    while waiting and len(taken) < most:
        draws = sum(1 for _ in takewhile(lambda each: each.prompt == waiting[0].prompt, waiting))
        if taken and len(taken) + draws > most:
            break
        taken += [waiting.popleft() for _ in range(min(draws, most - len(taken)))]
    return taken


def _selected(batch: Batch, kept: torch.Tensor) -> Batch:
    """These rows of a batch, without the padding that none of them needs."""
    mask = batch.mask[kept]
    padding = int((mask.cumsum(1) == 0).sum(1).min())
    for layer in batch.cache.layers:
        layer.hold(*(states[kept, :, padding:] for states in (layer.keys, layer.values)))
    return Batch(
        [batch.rows[place] for place in kept.tolist()],
        batch.logits[kept],
        batch.cache,
        mask[:, padding:],
        batch.positions[kept],
        batch.uniforms[kept],
    )


def _joined(batches: list[Batch]) -> Batch:
    """One batch of all their rows, padded on the left to the longest."""
    if len(batches) == 1:
        return batches[0]
    longest = max(batch.mask.shape[1] for batch in batches)
    left = [longest - batch.mask.shape[1] for batch in batches]
    first = batches[0]
    for layers in zip(*(batch.cache.layers for batch in batches), strict=True):
        keys = [_padded(layer.keys, left=more) for layer, more in zip(layers, left, strict=True)]
        values = [_padded(layer.values, left=more) for layer, more in zip(layers, left, strict=True)]
        layers[0].hold(torch.cat(keys), torch.cat(values))
    return Batch(
        [row for batch in batches for row in batch.rows],
        torch.cat([batch.logits for batch in batches]),
        first.cache,
        torch.cat([torch.nn.functional.pad(batch.mask, (more, 0)) for batch, more in zip(batches, left, strict=True)]),
        torch.cat([batch.positions for batch in batches]),
        torch.cat([batch.uniforms for batch in batches]),
    )


def sample(logits: torch.Tensor, sampling: Sampling, uniforms: torch.Tensor | None) -> torch.Tensor:
    """Each row's next token: the most likely one, or the one at `uniforms` (rows,) of the nucleus' distribution."""
    if uniforms is None:
        return logits.argmax(-1)
    probabilities = (logits / sampling.temperature).softmax(-1).double()
    nucleus = probabilities if sampling.top_p == 1 else _nucleus(probabilities, sampling.top_p)
    # summed in the vocabulary's order: in the sorted one a tie in the last bit would change what is sampled
    cumulative = nucleus.cumsum(-1)
    place = (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(-1)
    return place.clamp(max=logits.shape[-1] - 1)


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """The probabilities with those outside the nucleus at 0: a token is inside if the mass before it is below top_p."""
    ordered, tokens = probabilities.sort(descending=True)
    inside = ordered.cumsum(-1) - ordered < top_p
    return torch.zeros_like(ordered).scatter(1, tokens, ordered * inside)
