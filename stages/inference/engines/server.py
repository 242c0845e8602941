"""Generation by any OpenAI-compatible endpoint: `vllm serve`, several of them behind a load balancer, and others.

The endpoint must serve the very model that the iteration starts from, and says so by its name, which holds the hash of
the model's content. The prompts are sent as tokens: the chat format stays ours.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import openai
from openai.types import CompletionChoice

from stages.core.errors import UserError
from stages.core.schema import Server
from stages.inference.engines import ALTERNATIVES, Completion, Number, Request, Sampling, dtype, holds_digit, seed_of
from stages.models.fingerprint import has_custom_code

# Nothing but what the request says: vLLM would else take top_k and penalties from the model's generation_config.
NEUTRAL = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


def name(digest: str) -> str:
    """The name under which a model of this content must be served."""
    return f"lance-{digest[:16]}"


class ServerEngine:
    def __init__(self, model: Path, digest: str, settings: Server) -> None:
        self.url, self.concurrency, self.name = settings.url, settings.concurrency, name(digest)
        key = os.environ.get("OPENAI_API_KEY", "none")  # a server of one's own asks for none
        self.client = openai.OpenAI(
            base_url=self.url, api_key=key, timeout=settings.timeout, max_retries=settings.retries
        )
        try:
            served = [each.id for each in self.client.models.list()]
        except openai.OpenAIError as error:
            raise self._failed(error) from error
        if self.name not in served:
            raise UserError(
                f"runtime.server.url {self.url} serves {', '.join(served) or 'no model'}, not the model of {model}; "
                f"start it with: vllm serve {model} --served-model-name {self.name} --dtype {dtype(model)}"
                + has_custom_code(model)
                * " --trust-remote-code"
            )

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        with ThreadPoolExecutor(self.concurrency) as pool:
            asked = {pool.submit(self._one, request, sampling): request for request in requests}
            try:
                for answered in as_completed(asked):
                    yield asked.pop(answered), answered.result()
            except openai.OpenAIError as error:
                raise self._failed(error) from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _failed(self, error: openai.OpenAIError) -> UserError:
        return UserError(
            f"runtime.server.url {self.url}: {error}; look at the server, then run again: what was completed is kept"
        )

    def _one(self, request: Request, sampling: Sampling) -> Completion:
        answer = self.client.completions.create(
            model=self.name,
            prompt=list(request.tokens),
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=seed_of(request.prompt, sampling, request.draw),
            logprobs=ALTERNATIVES if sampling.numbers else None,
            extra_body=NEUTRAL,
        )
        (choice,) = answer.choices
        if choice.finish_reason not in ("stop", "length"):
            raise UserError(f"runtime.server.url {self.url} ended a completion by '{choice.finish_reason}'")
        return Completion(
            choice.text,
            choice.finish_reason,
            prompt_tokens=len(request.tokens),
            tokens=answer.usage.completion_tokens if answer.usage else 0,
            numbers=self._numbers(request, choice) if sampling.numbers else (),
        )

    def _numbers(self, request: Request, choice: CompletionChoice) -> tuple[Number, ...]:
        told: Any = choice.logprobs
        if not told or not told.top_logprobs:
            raise UserError(
                f"runtime.server.url {self.url} tells no log-probabilities, which review.estimator: expected needs; "
                "use another server, or review.estimator: sampled"
            )
        after = holds_digit(request.prompt[-1:])
        found = []
        for text, offset, logprobs in zip(told.tokens, told.text_offset, told.top_logprobs, strict=True):
            if holds_digit(text) or after:
                found.append(
                    Number(offset - told.text_offset[0], {token: round(p, 6) for token, p in logprobs.items()})
                )
            after = holds_digit(text)
        return tuple(found)
