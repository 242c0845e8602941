"""Generation with vLLM in this process; several GPUs, and through its Ray executor several hosts, by its own settings.

All requests are handed over at once; the prefix cache reads the rubric and a prompt's draws once.
"""

import atexit
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read when vllm is imported
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")

from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind

from stages.core.errors import UserError
from stages.core.schema import Vllm
from stages.inference.engines import (
    ALTERNATIVES,
    Completion,
    Number,
    Request,
    Sampling,
    by_text,
    dtype,
    holds_digit,
    seed_of,
)
from stages.models.fingerprint import has_custom_code


def end_with_this_process(llm: LLM) -> None:
    """Python waits for vLLM's own processes before it lets go of the object that would end them: so, end them first."""
    atexit.register(llm.llm_engine.engine_core.shutdown)


def cannot_start(model: Path, error: Exception) -> UserError:
    return UserError(
        f"vllm cannot start with model folder {model} ({type(error).__name__}: {error}); its own messages stand above; "
        "see runtime.vllm, or use another runtime.engine"
    )


class VllmEngine:
    def __init__(self, model: Path, settings: Vllm) -> None:
        """`settings`: arguments of `vllm.LLM`, from `runtime.vllm`."""
        try:
            self.llm = LLM(
                str(model),
                dtype=dtype(model),
                trust_remote_code=has_custom_code(model),
                enable_prefix_caching=True,
                use_tqdm_on_load=False,
                **settings.model_dump(),
            )
        except Exception as error:  # vLLM, torch and safetensors each raise their own
            raise cannot_start(model, error) from error
        end_with_this_process(self.llm)
        self.tokenizer = self.llm.get_tokenizer()

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        engine = self.llm.llm_engine
        for place, request in enumerate(requests):
            engine.add_request(
                str(place), TokensPrompt(prompt_token_ids=list(request.tokens)), asked(request, sampling)
            )
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    request = requests[int(output.request_id)]
                    yield request, self._completion(request, output.outputs[0], sampling)

    def _completion(self, request: Request, output: Any, sampling: Sampling) -> Completion:
        return Completion(
            output.text,
            output.finish_reason,
            prompt_tokens=len(request.tokens),
            tokens=len(output.token_ids),
            numbers=self._numbers(request, output) if sampling.numbers else (),
        )

    def _numbers(self, request: Request, output: Any) -> tuple[Number, ...]:
        found, after = [], holds_digit(request.prompt[-1:])
        for place, (token, likely) in enumerate(zip(output.token_ids, output.logprobs, strict=True)):
            digit = holds_digit(likely[token].decoded_token)
            if digit or after:
                start = len(self.tokenizer.decode(output.token_ids[:place], skip_special_tokens=True))
                found.append(Number(start, by_text((each.decoded_token, each.logprob) for each in likely.values())))
            after = digit
        return tuple(found)


def asked(request: Request, sampling: Sampling) -> SamplingParams:
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=seed_of(request.prompt, sampling, request.draw),
        logprobs=ALTERNATIVES if sampling.numbers else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
