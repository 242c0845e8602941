"""Sampling: the next token from the model's logits and the draw's own random numbers.

A token depends on nothing but its own row, so that the same logits and the same random number give the same token in
any batch.
"""

from collections.abc import Iterable

import torch

from stages.inference.engines import Request, Sampling, seed_of

FEW = 256  # tokens in which most nuclei lie: the largest are found much faster than all are sorted


def draw_uniforms(requests: Iterable[Request], sampling: Sampling, device: torch.device) -> torch.Tensor:
    """(requests, max_tokens) random numbers in [0, 1), fp64, from a stream for each draw, seeded by `seed_of`; zeros
    where decoding is greedy."""
    requests = list(requests)
    if sampling.temperature == 0:
        return torch.zeros(len(requests), sampling.max_tokens, dtype=torch.double, device=device)
    streams = (torch.Generator().manual_seed(seed_of(request.prompt, sampling, request.draw)) for request in requests)
    uniforms = [torch.rand(sampling.max_tokens, generator=stream, dtype=torch.float64) for stream in streams]
    return torch.stack(uniforms).to(device)


def sample_next_token(logits: torch.Tensor, sampling: Sampling, uniforms: torch.Tensor | None) -> torch.Tensor:
    """The next token of each row, (rows,), from logits of shape (rows, vocabulary): the most likely token where
    `uniforms` is None, else the one at which the nucleus' cumulative probability passes the row's random number,
    `uniforms` of shape (rows,) in [0, 1)."""
    if uniforms is None:
        return logits.argmax(-1)
    probabilities = (logits / sampling.temperature).softmax(-1)
    if sampling.top_p == 1:
        return _draw(probabilities.double(), uniforms).clamp(max=logits.shape[-1] - 1)
    best, token = probabilities.max(-1)
    wide = (best < sampling.top_p).nonzero()[:, 0]  # in the other rows the most likely token is the nucleus
    for size in (FEW, logits.shape[-1]):
        nucleus, tokens, whole = _nucleus(probabilities[wide], sampling.top_p, size)
        token[wide[whole]] = tokens.gather(1, _draw(nucleus, uniforms[wide])[:, None])[whole, 0]
        wide = wide[~whole]
        if not len(wide):
            break
    return token


def _draw(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The index at which the cumulative weight of a row passes its share `uniforms` of the sum."""
    # summed in the vocabulary's order: in sorted order, a tie in the last bit would change which token is sampled
    cumulative = weights.cumsum(-1)
    return (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(-1)


def _nucleus(probabilities: torch.Tensor, top_p: float, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the `size` most likely tokens of each row: their probabilities, fp64, with 0 for tokens outside the nucleus;
    the tokens, in the vocabulary's order; and whether they hold the whole nucleus. A token is inside if the tokens that
    are more likely have less than `top_p` together (top-p sampling, arXiv 1904.09751)."""
    size = min(size, probabilities.shape[-1])
    ordered, tokens = probabilities.topk(size)
    exact = ordered.double()
    before = exact.cumsum(-1) - exact
    inside = before < top_p
    whole = ~inside[:, -1] | torch.tensor(size == probabilities.shape[-1], device=inside.device)
    tokens, order = tokens.sort(-1)
    return torch.where(inside, exact, 0).gather(1, order), tokens, whole
