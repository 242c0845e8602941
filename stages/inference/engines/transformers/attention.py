"""Attention of a packed batch: the tokens of all rows stand in one sequence, (1, tokens), without padding, and the keys
and values lie in kv_cache.py. It is registered with transformers as one of its attention functions.

Keys are read page by page, and the pages' results are merged by their log-sum-exp (cascade attention, as in FlashInfer,
arXiv 2501.01005). So a page that many rows share is read once for all of them, and the heads that share a key read it
once, without copies. A row's result is computed by the same steps on matrices of the same shape, whatever rows are
beside it: on a CPU it is the same to the last bit.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.functional import pad
from transformers import AttentionInterface

NAME = "lance_pages"
PAGE = 64  # tokens
QUERIES = 4  # a matrix product of another number of rows is summed in another order
MASKED = -1e30  # added to a score: its weight is 0, and even where all are masked there is no NaN


@dataclass(frozen=True)
class Scoring:
    """How a layer scores keys, besides the masks."""

    scale: float
    window: int | None = None  # tokens that a query sees, itself included; None: all before it
    softcap: float | None = None  # scores are cap · tanh(score / cap), as in Gemma 2
    sinks: torch.Tensor | None = None  # (heads,): a score without a value, as in gpt-oss


class Pass(Protocol):
    """What one forward pass reads and writes."""

    def attend(
        self, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scoring: Scoring
    ) -> "Attended":
        """Attention of the pass' tokens. `query`: (tokens, heads, head size); `keys` and `values`: (tokens, key heads,
        head size), which the pass stores."""
        ...


def attend_in_pages(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    *,
    kv_pass: Pass,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function, as transformers calls it: (1, heads, tokens, head size) in, (1, tokens, heads, head size)
    out. `kv_pass` is handed through the model's forward pass."""
    scoring = Scoring(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap, s_aux)
    query, key, value = (states[0].transpose(0, 1).contiguous() for states in (query, key, value))
    layer: Any = module.layer_idx
    attended = kv_pass.attend(layer, query, key, value, scoring)
    out = attended.out
    if scoring.sinks is not None:
        out = out * torch.sigmoid(attended.lse - scoring.sinks.float())[..., None]
    return out.to(query.dtype)[None], None


AttentionInterface.register(NAME, attend_in_pages)


@dataclass
class Attended:
    """The attention of queries to some of their keys."""

    out: torch.Tensor  # (…, head size): the mean of the values, weighted by the keys' scores
    lse: torch.Tensor  # (…), fp32: the log of the sum of the scores' exponentials

    def rows(self, start: int, end: int) -> "Attended":
        """A view of these queries."""
        return Attended(self.out[start:end], self.lse[start:end])


def merge(parts: list[Attended]) -> Attended:
    """The attention of the same queries to the keys of all parts, of one shape, summed in their order."""
    lse = torch.stack([part.lse for part in parts])
    highest = lse.amax(0)
    weights = (lse - highest).exp()
    total = torch.zeros_like(highest)
    for weight in weights:
        total += weight
    out = torch.zeros_like(parts[0].out, memory_format=torch.contiguous_format)
    for part, weight in zip(parts, weights / total, strict=True):
        out += part.out * weight[..., None]
    return Attended(out, highest + total.log())


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scoring: Scoring, mask: torch.Tensor | None = None
) -> Attended:
    """Attention to one stretch of keys. `query`: (batch, key heads, queries, head size), where the queries of the heads
    that share a key stand side by side; `keys` and `values`: (batch, key heads, keys, head size); `mask`: fp32, added
    to the scores, and broadcast to (batch, 1, queries, keys). The queries are filled up to a number at which their sums
    depend neither on it nor on where the numbers lie in memory."""
    queries = query.shape[2]
    missing = -queries % QUERIES
    if missing:
        query = pad(query, (0, 0, 0, missing))
        mask = pad(mask, (0, 0, 0, missing)) if mask is not None and mask.shape[2] > 1 else mask
    flash = query.device.type == "cpu" and scoring.softcap is None and keys.shape[-1] == values.shape[-1]
    out, lse = (_attend_on_cpu if flash else _attend_by_products)(query, keys, values, scoring, mask)
    return Attended(out[:, :, :queries].float(), lse[:, :, :queries])


def _attend_on_cpu(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scoring: Scoring, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """torch's own kernel; `scaled_dot_product_attention` is the same without the log-sum-exp."""
    mask = None if mask is None else mask.to(query.dtype)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, keys, values, 0.0, False, attn_mask=mask, scale=scoring.scale
    )
    return out, lse


def _attend_by_products(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scoring: Scoring, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = (query @ keys.transpose(2, 3)).float() * scoring.scale
    if scoring.softcap is not None:
        scores = torch.tanh(scores / scoring.softcap) * scoring.softcap
    scores = scores if mask is None else scores + mask
    lse = scores.logsumexp(-1)
    return (scores - lse[..., None]).exp().to(values.dtype) @ values, lse
