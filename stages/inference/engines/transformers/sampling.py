"""Sampling: the next token from the model's logits and the draw's own random numbers.

A token depends on nothing but its own row, so that the same logits and the same random number give the same token in
any batch.
"""

from collections.abc import Iterable

import torch

from stages.inference.engines import Request, Sampling, seed_of


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
    probabilities = (logits / sampling.temperature).softmax(-1).double()
    nucleus = probabilities if sampling.top_p == 1 else _nucleus(probabilities, sampling.top_p)
    # summed in the vocabulary's order: in sorted order, a tie in the last bit would change which token is sampled
    cumulative = nucleus.cumsum(-1)
    token = (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(-1)
    return token.clamp(max=logits.shape[-1] - 1)


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """The probabilities, with 0 for tokens outside the nucleus. A token is inside if the tokens that are more likely
    have less than `top_p` together (top-p sampling, arXiv 1904.09751)."""
    best, token = probabilities.max(-1, keepdim=True)
    nucleus = torch.zeros_like(probabilities).scatter(1, token, best)
    wide = (best[:, 0] < top_p).nonzero()[:, 0]  # in the other rows the most likely token is the nucleus: no sorting
    ordered, tokens = probabilities[wide].float().sort(descending=True)  # exact: they were fp32 before
    inside = ordered.double().cumsum(-1) - ordered < top_p
    nucleus[wide] = probabilities[wide] * torch.zeros_like(inside).scatter(1, tokens, inside)
    return nucleus
