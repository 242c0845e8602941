"""Generation with an OpenAI-compatible server: `vllm serve`, several of them behind a load balancer, and others.

The server must serve exactly the model of this iteration, so the name under which it serves the model contains the hash
of the model's content. Prompts are sent as token ids, so the server's chat template is not used.
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
from stages.inference.engines import ALTERNATIVES, Completion, Number, Request, Sampling, dtype, is_number, seed_of
from stages.models.fingerprint import has_custom_code

# vLLM takes what a request leaves out from the model's generation_config; these values turn that off.
NEUTRAL = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


def served_model_name(digest: str) -> str:
    """The name under which a server must serve the model whose content has this hash."""
    return f"lance-{digest[:16]}"


def whole_signs(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair, as a tokenizer writes for a part of a sign: JSON may hold
    a half, which no file or tokenizer takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class ServerEngine:
    """A client of the server at `runtime.server.url`."""

    def __init__(self, model: Path, digest: str, settings: Server) -> None:
        """Raises `UserError` if the server does not answer or does not serve the model whose content has the hash
        `digest`. The folder `model` is named in the error and not read otherwise."""
        self.url, self.concurrency, self.name = settings.url, settings.concurrency, served_model_name(digest)
        key = os.environ.get("OPENAI_API_KEY", "none")  # the client insists on a key, vLLM's server does not
        self.client = openai.OpenAI(
            base_url=self.url, api_key=key, timeout=settings.timeout, max_retries=settings.retries
        )
        try:
            served = [served_model.id for served_model in self.client.models.list()]
        except openai.OpenAIError as error:
            raise self._server_error(error) from error
        if self.name not in served:
            raise UserError(
                f"runtime.server.url {self.url} serves {', '.join(served) or 'no model'}, not the model of {model}; "
                f"start it with: vllm serve {model} --served-model-name {self.name} --dtype {dtype(model)}"
                + (" --trust-remote-code" if has_custom_code(model) else "")
            )

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """Each request's completion, in the order in which they finish, with `runtime.server.concurrency` of them under
        way at once. Raises `UserError` if the server fails; requests that have not been sent are cancelled."""
        with ThreadPoolExecutor(self.concurrency) as pool:
            pending = {pool.submit(self._completion, request, sampling): request for request in requests}
            try:
                for future in as_completed(pending):
                    yield pending.pop(future), future.result()
            except openai.OpenAIError as error:
                raise self._server_error(error) from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _server_error(self, error: openai.OpenAIError) -> UserError:
        return UserError(
            f"runtime.server.url {self.url}: {error}; check the server, then run again: finished completions are kept"
        )

    def _completion(self, request: Request, sampling: Sampling) -> Completion:
        response = self.client.completions.create(
            model=self.name,
            prompt=list(request.tokens),
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=seed_of(request.prompt, sampling, request.draw),
            logprobs=ALTERNATIVES if sampling.numbers else None,
            extra_body=NEUTRAL,
        )
        (choice,) = response.choices
        if choice.finish_reason not in ("stop", "length"):
            raise UserError(
                f"runtime.server.url {self.url}: a completion finished with '{choice.finish_reason}' instead of stop "
                "or length; turn off the server's filters and tools"
            )
        return Completion(
            whole_signs(choice.text),
            choice.finish_reason,
            prompt_tokens=len(request.tokens),
            tokens=response.usage.completion_tokens if response.usage else 0,
            numbers=self._numbers(request, choice, sampling) if sampling.numbers else (),
        )

    def _numbers(self, request: Request, choice: CompletionChoice, sampling: Sampling) -> tuple[Number, ...]:
        logprobs: Any = choice.logprobs
        if not logprobs or not logprobs.top_logprobs:
            raise UserError(
                f"runtime.server.url {self.url} returns no log-probabilities, which only review.estimator: "
                "sampled can do without; use another server, or that one"
            )
        numbers, before = [], request.prompt[-1:]
        for text, offset, likely in zip(logprobs.tokens, logprobs.text_offset, logprobs.top_logprobs, strict=True):
            if is_number(sampling, text, before):
                start = offset - logprobs.text_offset[0]
                numbers.append(
                    Number(start, {whole_signs(token): round(logprob, 6) for token, logprob in likely.items()})
                )
            before = text
        return tuple(numbers)
