"""The rows that are decoded together, and the queue of requests that wait to join them."""

from collections import deque
from dataclasses import dataclass, field
from itertools import takewhile

import torch

from stages.inference.engines import Request
from stages.inference.engines.transformers.kv_cache import KVCache


@dataclass
class Row:
    """A request and what has been generated for it so far."""

    request: Request
    generated: list[int] = field(default_factory=list)  # tokens
    numbers: list[tuple[int, dict[int, float]]] = field(default_factory=list)  # (index in generated, {token: logprob})
    finished: bool = False
    stopped: bool = False  # by an end token, not by max_tokens

    def last_token(self) -> int:
        """The token that the next decode step runs the model on."""
        return (self.generated or self.request.tokens)[-1]


@dataclass
class Batch:
    """Rows and their tensors; entry r of every tensor belongs to `rows[r]`."""

    cache: KVCache
    rows: list[Row]
    logits: torch.Tensor  # (rows, vocabulary), fp32, after each row's last token
    mask: torch.Tensor  # (rows, length), 0 for the padding on the left
    positions: torch.Tensor  # (rows, 1), of each row's last token
    uniforms: torch.Tensor  # (rows, max_tokens), fp64, the random numbers of each draw

    @classmethod
    def empty(cls, cache: KVCache, vocab_size: int, max_tokens: int, device: torch.device) -> "Batch":
        """A batch without rows."""
        return cls(
            cache,
            rows=[],
            logits=torch.empty(0, vocab_size, dtype=torch.float32, device=device),
            mask=torch.empty(0, 0, dtype=torch.long, device=device),
            positions=torch.empty(0, 1, dtype=torch.long, device=device),
            uniforms=torch.empty(0, max_tokens, dtype=torch.double, device=device),
        )

    def add(
        self, rows: list[Row], logits: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, uniforms: torch.Tensor
    ) -> None:
        """Append rows whose prompts the cache already holds; the shapes are those of the batch's tensors."""
        self.rows += rows
        self.logits = torch.cat([self.logits, logits])
        self.mask = torch.cat([_pad_left(rows_mask, self.cache.length) for rows_mask in (self.mask, mask)])
        self.positions = torch.cat([self.positions, positions])
        self.uniforms = torch.cat([self.uniforms, uniforms])

    def running(self) -> int:
        """How many rows are not finished."""
        return sum(not row.finished for row in self.rows)

    def drop_finished(self) -> None:
        """Move running rows from the end into the places of finished ones, and leave out columns that are padding in
        all of them."""
        running = self.running()
        targets = [index for index in range(running) if self.rows[index].finished]
        sources = [index for index in range(running, len(self.rows)) if not self.rows[index].finished]
        order = list(range(running))
        for target, source in zip(targets, sources, strict=True):
            order[target] = source
        kept = torch.tensor(order, dtype=torch.long, device=self.mask.device)
        mask = self.mask[kept]
        padding = int((mask.cumsum(1) == 0).sum(1).min()) if running else mask.shape[1]
        self.cache.keep_rows(sources, targets, running, padding)
        self.rows = [self.rows[index] for index in order]
        self.logits, self.positions = self.logits[kept], self.positions[kept]
        self.mask, self.uniforms = mask[:, padding:], self.uniforms[kept]


def longest_first(request: Request) -> tuple[int, str, int]:
    """The queue's sort key. The longest prompt comes first, so that what does not fit in memory fails at once; a
    prompt's draws stand together."""
    return -len(request.tokens), request.prompt, request.draw


def take(waiting: deque[Request], max_rows: int) -> list[Request]:
    """Remove and return up to `max_rows` requests from the front of the queue. A prompt's draws are split between two
    calls only if `max_rows` is smaller than their number, so that the prompt is prefilled once."""
    taken: list[Request] = []
    while waiting and len(taken) < max_rows:
        draws = sum(1 for _ in takewhile(lambda request: request.prompt == waiting[0].prompt, waiting))
        if taken and len(taken) + draws > max_rows:
            break
        taken += [waiting.popleft() for _ in range(min(draws, max_rows - len(taken)))]
    return taken


def _pad_left(mask: torch.Tensor, length: int) -> torch.Tensor:
    return torch.nn.functional.pad(mask, (length - mask.shape[1], 0))
