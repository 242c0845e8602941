"""lm-eval's model on transformers, whose sampled answers are the same in every batch and every run.

transformers samples a batch from one stream of random numbers, so an answer would depend on its neighbours and on what
ran before. Here each draw has a stream of its own, as in the transformers engine, whose sampler this is.
"""

from dataclasses import replace
from typing import Any, TypeAlias

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import LogitsProcessor, LogitsProcessorList, TopKLogitsWarper

from stages.inference.engines import Request, Sampling
from stages.inference.engines.transformers.memory import total_memory
from stages.inference.engines.transformers.sampling import draw_uniforms, sample_next_token

MEMORY_SHARE = 0.25  # of the device's memory, for a batch's logits
LOGITS_AT_ONCE = 3  # the model's, their logarithmic softmax, and what it needs on the way

Encoded: TypeAlias = tuple[tuple[str, str], list[int], list[int]]  # a request, its context's tokens, its continuation's


def with_draw(request: Instance, draw: int) -> Instance:
    """The request with the number of its draw, which `TransformersLM` takes out of the settings again."""
    context, settings = request.args
    return replace(request, arguments=(context, settings | {"draw": draw}))


class TransformersLM(HFLM):  # type: ignore[misc]
    """lm-eval's model. lm-eval puts requests with the same settings in a batch, so the rows of one have one draw."""

    batch_size_per_gpu: int  # lm-eval's own

    def _loglikelihood_tokens(self, requests: list[Encoded], *args: Any, **settings: Any) -> list[tuple[float, bool]]:
        """lm-eval holds the logits of a whole batch, twice: 64 prompts of 1,000 tokens are 25 GB for a vocabulary of
        50,000. So the batch has as many rows as fit in a share of memory, at most `batch_size`: of what the
        machine has, not of what is free just now, since the rows of a batch decide the last bits of its answers."""
        longest = min(self.max_length, max(len(context) + len(continuation) for _, context, continuation in requests))
        row_bytes = LOGITS_AT_ONCE * longest * self.vocab_size * self.model.dtype.itemsize
        rows = self.batch_size_per_gpu
        self.batch_size_per_gpu = max(1, min(rows, int(MEMORY_SHARE * total_memory(self.device) / row_bytes)))
        try:
            answers: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, *args, **settings)
        finally:
            self.batch_size_per_gpu = rows
        return answers

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], draw: int | None = None, **settings: Any
    ) -> torch.Tensor:
        """Token ids, (rows, length), of prompts of shape (rows, prompt's length) with what follows them."""
        if draw is not None:
            sampler = self._sampler(context, max_length, draw, settings)
            settings |= {"do_sample": False, "logits_processor": sampler}
        tokens: torch.Tensor = super()._model_generate(context, max_length, stop, **settings)
        return tokens

    def _sampler(
        self, context: torch.Tensor, max_length: int, draw: int, settings: dict[str, Any]
    ) -> LogitsProcessorList:
        """What samples the tokens of a batch. Takes its settings out of the others."""
        temperature, top_p, top_k = (settings.pop(name, 0) for name in ("temperature", "top_p", "top_k"))
        sampling = Sampling(temperature, top_p or 1.0, max_length - context.shape[1], random_state=0)
        rows = [row[mask.bool()].tolist() for row, mask in zip(context, settings["attention_mask"], strict=True)]
        requests = [Request(self.tok_decode(row, skip_special_tokens=False), tuple(row), draw) for row in rows]
        uniforms = draw_uniforms(requests, sampling, context.device)
        sampler = LogitsProcessorList([TopKLogitsWarper(top_k)] if top_k > 0 else [])
        sampler.append(DrawnToken(sampling, uniforms, context.shape[1]))
        return sampler


class DrawnToken(LogitsProcessor):  # type: ignore[misc]
    """Samples each row's next token by the row's own random number, and leaves greedy decoding no other one."""

    def __init__(self, sampling: Sampling, uniforms: torch.Tensor, prompt_length: int) -> None:
        """`uniforms`: (rows, max_tokens) random numbers in [0, 1)."""
        self.sampling, self.uniforms, self.prompt_length = sampling, uniforms, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Logits of shape (rows, vocabulary): 0 for the sampled token and -inf for the others."""
        step = input_ids.shape[1] - self.prompt_length
        tokens = sample_next_token(scores, self.sampling, self.uniforms[:, step])
        drawn: torch.Tensor = torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)
        return drawn
