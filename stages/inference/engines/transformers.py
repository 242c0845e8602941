"""Generation with transformers: a small decode loop of our own around the model's forward pass.

`model.generate` samples from one random stream for the whole batch, so that a completion would depend on its
neighbours; here every draw has a stream of its own. The loop reads a prompt once for all its draws, drops the rows that
have finished and fills their places with waiting ones.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, takewhile
from math import inf
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import Cache, DynamicLayer

from stages.core.errors import UserError
from stages.inference.engines import ALTERNATIVES, Completion, Number, Request, Sampling, by_text, holds_digit, seed_of
from stages.models.fingerprint import has_custom_code

ALIVE = 0.85  # share of rows still running below which the finished ones leave the batch and waiting ones enter
MOST_ROWS = {"cpu": 384, "cuda": 2048}  # by default; on the CPU, more rows at once are not faster
SPARE_COLUMNS = 32  # of the slab, so that it is moved to the left only now and then
PREFILL_TOKENS = 32_768  # prompt tokens read in one forward pass
MEMORY = 0.6  # share of the free memory that a batch may take by the estimate; the rest is for activations


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


class Slab(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values in memory that is taken once: a row for each running completion, a column for each
    token, prompts aligned on the right. Rows leave and come in place, and a step writes one column."""

    keys: torch.Tensor  # (rows, heads, length, size): the part of the memory that is in use
    values: torch.Tensor

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.most, self.columns = rows, columns
        self.rows = self.first = self.end = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.end == self.columns:
            self._shift()
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[: self.rows, :, self.end : self.end + 1] = states
        self.end += 1
        return self._view()

    def _view(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys, self.values = (room[: self.rows, :, self.first : self.end] for room in self.room)
        return self.keys, self.values

    def _shift(self) -> None:
        """Move everything to the left end, over the columns that no row needs any more."""
        for room in self.room:
            room[: self.rows, :, : self.end - self.first] = room[: self.rows, :, self.first : self.end].clone()
        self.first, self.end = 0, self.end - self.first

    def move(self, source: list[int], place: list[int], rows: int, padding: int) -> None:
        """Rows from the end into the places of finished ones; the first columns are padding in all that stay."""
        for room in self.room:
            room[place, :, self.first : self.end] = room[source, :, self.first : self.end]
        self.rows, self.first = rows, self.first + padding
        self._view()

    def add(self, keys: torch.Tensor, values: torch.Tensor, draws_of: torch.Tensor) -> None:
        """New rows; row r reads the prompt `draws_of[r]`."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
            # zeros, since padding is multiplied by 0, and 0 times what lies about in the memory may not be 0
            self.room = [
                states.new_zeros(self.most, states.shape[1], self.columns, states.shape[3]) for states in (keys, values)
            ]
        length = keys.shape[2]
        if self.rows == 0:
            self.first, self.end = 0, length
        elif self.end < length or self.end == self.columns:
            self._shift()
        self.first = min(self.first, self.end - length)
        for room, states in zip(self.room, (keys, values), strict=True):
            room[self.rows : self.rows + len(draws_of), :, self.end - length : self.end] = states[draws_of]
        self.rows += len(draws_of)
        self._view()


@dataclass
class Batch:
    """The rows that run together, with what the model knows of them; `logits` follow each row's last token."""

    cache: Cache
    rows: list[Row]
    logits: torch.Tensor  # (rows, vocabulary), fp32
    mask: torch.Tensor  # (rows, length); 0 for padding, on the left
    positions: torch.Tensor  # (rows, 1), of the last token
    uniforms: torch.Tensor  # (rows, max_tokens), fp64: each draw's random numbers

    def length(self) -> int:
        return int(self.cache.layers[0].end - self.cache.layers[0].first)

    def full(self) -> bool:
        return bool(self.cache.layers[0].end == self.cache.layers[0].columns)


class TransformersEngine:
    def __init__(self, model: Path, batch_rows: int | None) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        trust = {"trust_remote_code": has_custom_code(model)}
        self.tokenizer = AutoTokenizer.from_pretrained(model, **trust)
        try:
            self.model = AutoModelForCausalLM.from_pretrained(model, **trust).to(self.device).eval()
        except torch.OutOfMemoryError as error:
            raise UserError(f"model folder {model} does not fit the GPU's memory ({error})") from error
        except Exception as error:  # safetensors, torch and transformers each raise their own
            raise UserError(
                f"model folder {model} cannot be loaded ({error}); remove it and run dvc checkout, or dvc repro -f"
            ) from error
        self.config = self.model.config.get_text_config()
        self.batch_rows, self.sociable = batch_rows, _sociable(self.config)
        ends = self.model.generation_config.eos_token_id
        self.ends = set(ends) if isinstance(ends, list) else {ends}
        self._vocabulary: list[str] = []  # each token's text; filled when first needed

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """Longest prompts first: what does not fit into the memory fails at once, and is tried with half the rows."""
        waiting = deque(sorted(requests, key=_longest_first))
        longest = len(waiting[0].tokens)
        most = min(len(waiting), self.batch_rows or self._rows_that_fit(longest, sampling))
        most = most if longest + sampling.max_tokens <= self.sociable else 1
        columns = longest + sampling.max_tokens + SPARE_COLUMNS
        unfinished = set(waiting)
        batch = self._empty(most, columns, sampling)
        while unfinished:
            try:
                self._step(batch, waiting, most, sampling)
            except RuntimeError as error:
                most = _halved(most, error)
                waiting = deque(sorted(unfinished, key=_longest_first))
                batch = self._empty(most, columns, sampling)
                continue
            finished = [row for row in batch.rows if row.finished and row.request in unfinished]
            yield from self._completions(finished)
            unfinished.difference_update(row.request for row in finished)

    def _empty(self, most: int, columns: int, sampling: Sampling) -> Batch:
        layers = [Slab(most, columns) for _ in range(self.config.num_hidden_layers)]
        vocabulary = self.config.vocab_size
        sizes = (
            (0, vocabulary, torch.float32),
            (0, 0, torch.long),
            (0, 1, torch.long),
            (0, sampling.max_tokens, torch.double),
        )
        return Batch(
            Cache(layers=layers), [], *(torch.empty(*size, dtype=kind, device=self.device) for *size, kind in sizes)
        )

    @torch.inference_mode()
    def _step(self, batch: Batch, waiting: deque[Request], most: int, sampling: Sampling) -> None:
        """One more token for every row, after finished rows have left and waiting requests have come."""
        alive = sum(not row.finished for row in batch.rows)
        leaving = alive < ALIVE * len(batch.rows) or (waiting and alive <= ALIVE * most) or batch.full()
        if batch.rows and leaving:
            _drop_finished(batch)
        if batch.rows:
            self._advance(batch)
        if waiting and len(batch.rows) <= ALIVE * most:
            self._read(batch, _taken(waiting, most - len(batch.rows)), sampling)
        self._write(batch, sampling)

    def _advance(self, batch: Batch) -> None:
        """The model reads the last token of each row."""
        if len(batch.rows) == 1 and int(batch.positions) + 1 == self.sociable:
            self._reread(batch)
            return
        last = torch.tensor([[row.last()] for row in batch.rows], device=self.device)
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.rows), 1)], 1)
        batch.positions = batch.positions + 1
        batch.logits = self._forward(last, batch.mask, batch.positions, batch.cache)

    def _reread(self, batch: Batch) -> None:
        """The model reads all of a row that runs alone, whose position embeddings are others from here on."""
        (row,) = batch.rows
        tokens = torch.tensor([[*row.request.tokens, *row.written]], device=self.device)
        batch.mask, positions = torch.ones_like(tokens), torch.arange(tokens.shape[1], device=self.device)[None]
        batch.positions, read = positions[:, -1:], Cache(layer_class_to_replicate=DynamicLayer)
        batch.logits = self._forward(tokens, batch.mask, positions, read)
        for layer, all_of_it in zip(batch.cache.layers, read.layers, strict=True):
            layer.rows = 0
            layer.add(all_of_it.keys, all_of_it.values, torch.zeros(1, dtype=torch.long, device=self.device))

    def _read(self, batch: Batch, requests: list[Request], sampling: Sampling) -> None:
        """The model reads prompts, each once for all its draws, and their rows join the batch."""
        prompts = [list(draws) for _, draws in groupby(requests, key=lambda each: each.prompt)]
        while prompts:
            size = max(1, PREFILL_TOKENS // len(prompts[0][0].tokens))  # the longest prompt comes first
            self._join(batch, prompts[:size], sampling)
            prompts = prompts[size:]

    def _join(self, batch: Batch, prompts: list[list[Request]], sampling: Sampling) -> None:
        longest = len(prompts[0][0].tokens)
        tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros(len(prompts), longest, dtype=torch.long)
        for place, draws in enumerate(prompts):
            tokens[place, longest - len(draws[0].tokens) :] = torch.tensor(draws[0].tokens)
            mask[place, longest - len(draws[0].tokens) :] = 1
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        read = Cache(layer_class_to_replicate=DynamicLayer)
        logits = self._forward(tokens, mask, positions, read)
        rows = [Row(request) for draws in prompts for request in draws]
        draws_of = torch.tensor([place for place, draws in enumerate(prompts) for _ in draws], device=self.device)
        for layer, prefix in zip(batch.cache.layers, read.layers, strict=True):
            layer.add(prefix.keys, prefix.values, draws_of)
        batch.rows += rows
        batch.logits = torch.cat([batch.logits, logits[draws_of]])
        batch.mask = torch.cat([_widened(each, batch.length()) for each in (batch.mask, mask[draws_of])])
        batch.positions = torch.cat([batch.positions, positions[draws_of, -1:]])
        batch.uniforms = torch.cat([batch.uniforms, self._uniforms(rows, sampling)])

    def _uniforms(self, rows: list[Row], sampling: Sampling) -> torch.Tensor:
        """(rows, max_tokens) random numbers in fp64, a stream for each draw; none where nothing is sampled."""
        if sampling.temperature == 0:
            return torch.zeros(len(rows), sampling.max_tokens, dtype=torch.double, device=self.device)
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
        return Number(start, by_text((self._vocabulary[token], each) for token, each in logprobs.items()))

    def _rows_that_fit(self, longest: int, sampling: Sampling) -> int:
        """How many rows the free memory holds, by the size of their keys and values and of what sampling works on."""
        config = self.config
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        token = 2 * config.num_hidden_layers * config.num_key_value_heads * head * self.model.dtype.itemsize
        row = token * (longest + sampling.max_tokens + SPARE_COLUMNS) + 40 * config.vocab_size
        return max(1, min(MOST_ROWS[self.device.type], int(MEMORY * _free_memory(self.device) / row)))


def _sociable(config: Any) -> float:
    """How many tokens a row may have for others to run beside it: above that, some families' position embeddings are
    others, for all rows of the batch."""
    rope = config.to_dict().get("rope_parameters") or {}
    if any(kind in str(rope) for kind in ("dynamic", "longrope")):
        return float(rope.get("original_max_position_embeddings") or 0)
    return inf


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
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").exists() and (most := (group / "memory.max").read_text().strip()) != "max":
        counted = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        files = int(counted["active_file"]) + int(counted["inactive_file"])  # cached, and given up when needed
        free = min(free, int(most) - int((group / "memory.current").read_text()) + files)
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


def _widened(mask: torch.Tensor, length: int) -> torch.Tensor:
    return torch.nn.functional.pad(mask, (length - mask.shape[1], 0))


def _drop_finished(batch: Batch) -> None:
    """Running rows from the end take the places of finished ones, and the padding that no row needs is left out."""
    running = sum(not row.finished for row in batch.rows)
    places = [place for place in range(running) if batch.rows[place].finished]
    sources = [place for place in range(running, len(batch.rows)) if not batch.rows[place].finished]
    order = list(range(running))
    for place, source in zip(places, sources, strict=True):
        order[place] = source
    kept = torch.tensor(order, dtype=torch.long, device=batch.mask.device)
    mask = batch.mask[kept]
    padding = int((mask.cumsum(1) == 0).sum(1).min()) if running else mask.shape[1]
    for layer in batch.cache.layers:
        layer.move(sources, places, running, padding)
    batch.rows = [batch.rows[place] for place in order]
    batch.logits, batch.positions = batch.logits[kept], batch.positions[kept]
    batch.mask, batch.uniforms = mask[:, padding:], batch.uniforms[kept]


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
    best, token = probabilities.max(-1, keepdim=True)
    nucleus = torch.zeros_like(probabilities).scatter(1, token, best)
    wide = (best[:, 0] < top_p).nonzero()[:, 0]  # elsewhere the likeliest token alone is the nucleus: nothing to sort
    ordered, tokens = probabilities[wide].float().sort(descending=True)  # they come from 32 bits: the order is the same
    inside = ordered.double().cumsum(-1) - ordered < top_p
    nucleus[wide] = probabilities[wide] * torch.zeros_like(inside).scatter(1, tokens, inside)
    return nucleus
