"""The key-value cache of a batch, in memory that is allocated once.

A row is a completion, a column is a token. Prompts are aligned on the right, so a decode step writes one column for all
rows, and rows join and leave in place. transformers' own DynamicCache copies all keys and values at every step.
"""

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

SPARE_COLUMNS = 32  # beyond the longest row, so that the columns are shifted to the left only now and then


class KVCacheLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values, each a buffer of (max_rows, heads, columns, head size). In use are the first `rows`
    rows and the columns from `start` to `end`; attention reads `keys` and `values`, views of that part."""

    keys: torch.Tensor  # (rows, heads, length, head size)
    values: torch.Tensor

    def __init__(self, max_rows: int, columns: int) -> None:
        super().__init__()
        self.max_rows, self.columns = max_rows, columns
        self.rows = self.start = self.end = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append one token to every row, (rows, heads, 1, head size), and return all keys and values in use. The
        model's attention calls this at each decode step."""
        if self.end == self.columns:
            self._shift_left()
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[: self.rows, :, self.end : self.end + 1] = states
        self.end += 1
        return self._view()

    def add_rows(self, keys: torch.Tensor, values: torch.Tensor, prompt_of_row: torch.Tensor) -> None:
        """New rows after the last one; row r starts with the keys and values of the prompt `prompt_of_row[r]`. `keys`
        and `values`: (prompts, heads, length, head size), no longer than the columns in use unless there are no rows:
        longest first, as the queue is sorted."""
        if not self.is_initialized:
            self._allocate(keys, values)
        length = keys.shape[2]
        if self.rows == 0:
            self.start, self.end = 0, length
        elif self.end == self.columns:
            self._shift_left()
        for buffer, states in zip(self.buffers, (keys, values), strict=True):
            buffer[self.rows : self.rows + len(prompt_of_row), :, self.end - length : self.end] = states[prompt_of_row]
        self.rows += len(prompt_of_row)
        self._view()

    def keep_rows(self, sources: list[int], targets: list[int], rows: int, padding: int) -> None:
        """Copy the rows `sources` over the rows `targets`, keep the first `rows` rows, and leave out the first
        `padding` columns."""
        for buffer in self.buffers:
            buffer[targets, :, self.start : self.end] = buffer[sources, :, self.start : self.end]
        self.rows, self.start = rows, self.start + padding
        self._view()

    def _allocate(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.lazy_initialization(keys, values)
        # zeros, since attention multiplies padding by 0, and 0 times an uninitialised NaN is not 0
        self.buffers = [
            states.new_zeros(self.max_rows, states.shape[1], self.columns, states.shape[3]) for states in (keys, values)
        ]

    def _view(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys, self.values = (buffer[: self.rows, :, self.start : self.end] for buffer in self.buffers)
        return self.keys, self.values

    def _shift_left(self) -> None:
        """Move the columns in use to the left end of the buffers."""
        for buffer in self.buffers:
            buffer[: self.rows, :, : self.end - self.start] = buffer[: self.rows, :, self.start : self.end].clone()
        self.start, self.end = 0, self.end - self.start


class KVCache(Cache):  # type: ignore[misc]
    """The layers' caches; all of them use the same rows and columns."""

    layers: list[KVCacheLayer]

    def __init__(self, num_layers: int, max_rows: int, max_length: int) -> None:
        """Room for `max_rows` rows of `max_length` tokens, prompt and completion together."""
        super().__init__(layers=[KVCacheLayer(max_rows, max_length + SPARE_COLUMNS) for _ in range(num_layers)])

    @property
    def length(self) -> int:
        """Columns in use: the tokens of the longest row."""
        return self.layers[0].end - self.layers[0].start

    @property
    def is_full(self) -> bool:
        """Whether the next decode step has to shift the columns to the left first."""
        return self.layers[0].end == self.layers[0].columns

    def prefill(self, prompts: Cache, prompt_of_row: torch.Tensor) -> None:
        """Add rows; row r starts with the keys and values of the prompt `prompt_of_row[r]` of the cache `prompts`."""
        for layer, prompt in zip(self.layers, prompts.layers, strict=True):
            layer.add_rows(prompt.keys, prompt.values, prompt_of_row)

    def keep_rows(self, sources: list[int], targets: list[int], rows: int, padding: int) -> None:
        """Copy the rows `sources` over the rows `targets`, keep the first `rows` rows, and leave out the first
        `padding` columns."""
        for layer in self.layers:
            layer.keep_rows(sources, targets, rows, padding)

    def clear(self) -> None:
        """Drop all rows; the memory stays allocated."""
        for layer in self.layers:
            layer.rows = 0
