"""Keys and values: of a prefix that many prompts share, of prompts, and of what is generated for each; and the two
passes of a model over them, prefill and decode. The shapes of attention.py."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch.nn.functional import pad

from stages.inference.engines.transformers.attention import (
    MASKED,
    PAGE,
    Attended,
    Scoring,
    attend,
    merge,
)

Keys = tuple[torch.Tensor, torch.Tensor]  # with their values


class KVCache:
    """Prompts that were prefilled together, and the completions of each. One without room for completions is a prefix
    of others' prompts."""

    def __init__(
        self, lengths: Sequence[int], draws: int = 0, max_tokens: int = 0, prefix: "KVCache | None" = None
    ) -> None:
        """`lengths`: tokens of the prompts behind the prefix, the longest first; each has `draws` completions of up to
        `max_tokens` tokens."""
        self.lengths, self.draws, self.max_tokens, self.prefix = list(lengths), draws, max_tokens, prefix
        self.start = len(prefix) if prefix else 0  # position of the first token behind the prefix
        self.generated = 0  # tokens of each completion
        self.prompts: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # layer: (prompts, key heads, columns, size)
        self.completions: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # layer: (slots, key heads, tokens, size)

    def __len__(self) -> int:
        """Tokens of the longest prompt, with the prefix."""
        return self.start + self.lengths[0]

    @property
    def columns(self) -> int:
        """Tokens of the longest prompt behind the prefix, in whole pages."""
        return -(-self.lengths[0] // PAGE) * PAGE

    def store_prompts(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keep a layer's keys and values, (prompts, key heads, columns, head size)."""
        self.prompts[layer] = keys, values
        if self.draws:
            slots = len(self.lengths) * self.draws
            self.completions[layer] = tuple(  # type: ignore[assignment]
                states.new_empty(slots, states.shape[1], self.max_tokens, states.shape[3]) for states in (keys, values)
            )

    def keep_prompts(self, kept: Sequence[int]) -> None:
        """Drop all prompts but those of these indices, in ascending order, with their completions."""
        device = next(iter(self.prompts.values()))[0].device
        prompts = torch.tensor(kept, device=device)
        slots = (prompts[:, None] * self.draws + torch.arange(self.draws, device=device)).flatten()
        self.lengths = [self.lengths[prompt] for prompt in kept]
        for layer, (keys, values) in self.prompts.items():
            width = self.columns
            self.prompts[layer] = keys[prompts, :, :width], values[prompts, :, :width]
            self.completions[layer] = tuple(states[slots] for states in self.completions[layer])  # type: ignore[assignment]


@dataclass
class Prefill:
    """The pass over the prompts of a cache, behind its prefix. Its tokens are those of the first prompt, then those of
    the second, and so on; more at the end are ignored."""

    cache: KVCache
    device: torch.device
    masks: dict[Any, torch.Tensor] = field(default_factory=dict)

    @cached_property
    def places(self) -> torch.Tensor:
        """Where each token stands in the rectangle of (prompts, columns)."""
        columns = torch.arange(self.cache.columns, device=self.device)
        lengths = torch.tensor(self.cache.lengths, device=self.device)
        return (columns < lengths[:, None]).flatten().nonzero()[:, 0]

    def attend(
        self, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scoring: Scoring
    ) -> Attended:
        """Each token's attention to the tokens before it in its prompt, and to itself."""
        keys, values = self._rectangle(keys), self._rectangle(values)
        self.cache.store_prompts(layer, keys, values)
        keys, values = self._behind_prefix(layer, keys, values)
        rows, heads, size = query.shape
        groups = heads // keys.shape[1]
        query = self._rectangle(query)  # (prompts, heads, columns, head size)
        lse = query.new_zeros(query.shape[:3], dtype=torch.float32)
        out = lse.new_zeros(*lse.shape, values.shape[3])
        for first in range(0, self.cache.columns, PAGE):
            page, seen = slice(first, first + PAGE), slice(self.cache.start + first + PAGE)
            folded = query[:, :, page].reshape(len(query), keys.shape[1], groups * PAGE, size)
            mask = self._mask(self.cache.start + first, groups, scoring.window)
            part = attend(folded, keys[:, :, seen], values[:, :, seen], scoring, mask)
            out[:, :, page] = part.out.view(len(query), heads, PAGE, -1)
            lse[:, :, page] = part.lse.reshape(len(query), heads, PAGE)
        flat = out.transpose(1, 2).flatten(0, 1), lse.transpose(1, 2).flatten(0, 1)
        extra = rows - len(self.places)
        return Attended(pad(flat[0][self.places], (0, 0, 0, 0, 0, extra)), pad(flat[1][self.places], (0, 0, 0, extra)))

    def _rectangle(self, states: torch.Tensor) -> torch.Tensor:
        """(tokens, heads, size) as (prompts, heads, columns, size), with zeros behind the prompts."""
        prompts, columns = len(self.cache.lengths), self.cache.columns
        flat = states.new_zeros(prompts * columns, *states.shape[1:])
        flat[self.places] = states[: len(self.places)]
        return flat.view(prompts, columns, *states.shape[1:]).transpose(1, 2).contiguous()

    def _behind_prefix(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values with those of the prefix before them."""
        if not self.cache.prefix:
            return keys, values
        pairs = zip(self.cache.prefix.prompts[layer], (keys, values), strict=True)
        whole = [torch.cat([prefix.expand(len(states), -1, -1, -1), states], 2) for prefix, states in pairs]
        return whole[0], whole[1]

    def _mask(self, start: int, groups: int, window: int | None) -> torch.Tensor:
        """Of the page of queries from `start` on."""
        key = start, window
        if key not in self.masks:
            queries = torch.arange(start, start + PAGE, device=self.device)[:, None]
            hidden = _hidden(queries, torch.arange(start + PAGE, device=self.device), window)
            self.masks[key] = _masked(hidden).repeat(groups, 1)[None, None]
        return self.masks[key]


@dataclass
class Decode:
    """The pass over the last token of each row. Rows stand cache by cache; `slots` are their places in the cache, in
    ascending order. Tokens behind the last row are ignored."""

    caches: Sequence[tuple[KVCache, torch.Tensor]]  # with slots, (rows,)
    masks: dict[Any, torch.Tensor] = field(default_factory=dict)

    def attend(
        self, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scoring: Scoring
    ) -> Attended:
        """Each row's attention to its prefix, its prompt, and what was generated for it."""
        rows, end = len(query), 0
        query = query.view(rows, keys.shape[1], -1, query.shape[2])  # (rows, key heads, heads that share one, size)
        merged = []
        for prefix, family in groupby(self.caches, key=lambda entry: entry[0].prefix):
            start, caches = end, list(family)
            end += sum(len(slots) for _, slots in caches)
            shared = self._attend_to_prefix(layer, prefix, caches, query[start:end], scoring) if prefix else []
            first = start
            for cache, slots in caches:
                here = slice(first, first + len(slots))
                for buffer, states in zip(cache.completions[layer], (keys, values), strict=True):
                    buffer[slots, :, cache.generated] = states[here]
                pages = [page.rows(here.start - start, here.stop - start) for page in shared]
                merged.append(merge(pages + self._attend_to_own(layer, cache, slots, query[here], scoring)))
                first = here.stop
        out, lse = (torch.cat(parts).flatten(1, 2) for parts in zip(*((m.out, m.lse) for m in merged), strict=True))
        return Attended(pad(out, (0, 0, 0, 0, 0, rows - end)), pad(lse, (0, 0, 0, rows - end)))

    def _attend_to_prefix(
        self,
        layer: int,
        prefix: KVCache,
        caches: Sequence[tuple[KVCache, torch.Tensor]],
        query: torch.Tensor,
        scoring: Scoring,
    ) -> list[Attended]:
        """Of all rows at once, to each page."""
        rows, key_heads, groups, size = query.shape
        pages = len(prefix) // PAGE
        folded = query.transpose(0, 1).reshape(1, key_heads, rows * groups, size).expand(pages, -1, -1, -1)
        keys, values = (
            states[0].view(key_heads, pages, PAGE, -1).transpose(0, 1) for states in prefix.prompts[layer]
        )  # (pages, key heads, PAGE, head size)
        part = attend(folded, keys, values, scoring, self._prefix_mask(prefix, caches, groups, scoring.window))
        out, lse = (
            states.reshape(pages, key_heads, rows, groups, *states.shape[3:]).transpose(1, 2)
            for states in (part.out, part.lse)
        )
        return [Attended(*page) for page in zip(out, lse, strict=True)]

    def _attend_to_own(
        self, layer: int, cache: KVCache, slots: torch.Tensor, query: torch.Tensor, scoring: Scoring
    ) -> list[Attended]:
        """To each page of the prompts, of all completions of a prompt at once; then to what was generated."""
        _, key_heads, groups, size = query.shape
        prompts, draws, pages = len(cache.lengths), cache.draws, cache.columns // PAGE
        grid = query.new_zeros(prompts * draws, key_heads, groups, size)
        grid[slots] = query
        folded = grid.view(prompts, draws, key_heads, groups, size).transpose(1, 2).flatten(2, 3)
        paged = folded[:, :, None].expand(-1, -1, pages, -1, -1).flatten(1, 2)  # each page as a key head of its own
        keys, values = (states.reshape(prompts, key_heads * pages, PAGE, -1) for states in cache.prompts[layer])
        part = attend(paged, keys, values, scoring, self._own_mask(cache, key_heads, scoring.window))
        prompt, draw = slots // draws, slots % draws
        shape = (prompts, key_heads, pages, draws, groups)
        out, lse = part.out.reshape(*shape, -1)[prompt, :, :, draw], part.lse.reshape(shape)[prompt, :, :, draw]
        attended = [Attended(out[:, :, page], lse[:, :, page]) for page in range(pages)]
        keys, values = cache.completions[layer]
        seen = slice(max(0, cache.generated + 1 - (scoring.window or cache.generated + 1)), cache.generated + 1)
        part = attend(grid, keys[:, :, seen], values[:, :, seen], scoring)
        return [*attended, Attended(part.out[slots], part.lse[slots])]

    def _prefix_mask(
        self, prefix: KVCache, caches: Sequence[tuple[KVCache, torch.Tensor]], groups: int, window: int | None
    ) -> torch.Tensor | None:
        """(pages, 1, queries, PAGE); None where every row sees all of the prefix."""
        if window is None:
            return None
        key = id(prefix), window
        if key not in self.masks:
            queries = torch.cat([_positions(cache, slots) for cache, slots in caches]).repeat_interleave(groups)
            hidden = _hidden(queries[:, None], torch.arange(len(prefix), device=queries.device), window)
            self.masks[key] = _masked(hidden).view(len(queries), -1, PAGE).transpose(0, 1)[:, None]
        return self.masks[key]

    def _own_mask(self, cache: KVCache, key_heads: int, window: int | None) -> torch.Tensor:
        """(prompts, key heads × pages, 1, PAGE)."""
        key = id(cache), window
        if key not in self.masks:
            device = cache.completions[0][0].device
            ends = torch.tensor(cache.lengths, device=device)[:, None]
            columns = torch.arange(cache.columns, device=device)
            hidden = columns >= ends
            if window is not None:
                hidden |= columns <= ends + cache.generated - window
            self.masks[key] = _masked(hidden).view(len(ends), -1, PAGE).repeat(1, key_heads, 1)[:, :, None]
        return self.masks[key]


def _positions(cache: KVCache, slots: torch.Tensor) -> torch.Tensor:
    """Of the rows' last tokens."""
    lengths = torch.tensor(cache.lengths, device=slots.device)
    return cache.start + lengths[slots // cache.draws] + cache.generated


def _hidden(queries: torch.Tensor, keys: torch.Tensor, window: int | None) -> torch.Tensor:
    """Which keys a query does not see, by their positions: those after it, and those before its window."""
    hidden = keys > queries
    return hidden if window is None else hidden | (keys <= queries - window)


def _masked(hidden: torch.Tensor) -> torch.Tensor:
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, MASKED)
