"""Generation with vLLM in this process, on one or more GPUs; its Ray executor can span several hosts.

All requests are queued at once. The prefix cache prefills the shared rubric once, and a prompt once for all its draws.
"""

import atexit
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read when vllm is imported
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")

import psutil
from transformers import AutoConfig
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
    has_gpu,
    is_number,
    seed_of,
)
from stages.models.chat import context_length
from stages.models.fingerprint import has_custom_code

CPU_BATCH_TOKENS = 8192  # tokens of prompts that a step reads on a CPU, if no prompt is longer
FREE_SHARE = 0.9  # of a CPU's free memory, for vLLM's keys and values
LEAST_CONTEXT = 1024  # tokens, so that a few longer requests do not start it again


def end_with(owner: object, llm: LLM) -> None:
    """Shut vLLM's processes down once nothing refers to `owner` any more, or at exit. Without this, Python waits for
    them before it deletes the `LLM` object that would stop them, and hangs."""
    shut_down = weakref.finalize(owner, llm.llm_engine.engine_core.shutdown)
    atexit.register(shut_down)  # by itself it may come behind multiprocessing, which waits for them


def cannot_start(model: Path, error: Exception) -> UserError:
    """The `UserError` for a vLLM that failed to start with a model folder."""
    return UserError(
        f"vllm cannot start with model folder {model} ({type(error).__name__}: {error}); see vllm's messages above, "
        "then change runtime.vllm or use another runtime.engine"
    )


def settings_for(settings: Vllm, context: int) -> dict[str, Any]:
    """Arguments of `vllm.LLM`: `runtime.vllm`, and where it leaves them out, limits for requests of up to `context`
    tokens. On a CPU vLLM 0.31 cannot rewind a request's random numbers, as it does when it reads a prompt in chunks
    ("CPU Generator does not use offset"), so there it reads whole prompts. Its share of the memory is there at most
    what is free, since with less it does not start."""
    limits: dict[str, Any] = {"max_model_len": context}
    if has_gpu():
        return limits | settings.model_dump()
    memory = psutil.virtual_memory()
    share = min(settings.gpu_memory_utilization, FREE_SHARE * memory.available / memory.total)
    limits |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(context, CPU_BATCH_TOKENS)}
    return {**limits, **settings.model_dump(), "gpu_memory_utilization": share}


class VllmEngine:
    """A model in `vllm.LLM`. It starts with the first requests, whose lengths decide how long a context it keeps room
    for, and again if later ones are longer."""

    def __init__(self, model: Path, settings: Vllm) -> None:
        """`model`: a folder with whole weights. `settings`: arguments of `vllm.LLM`, from `runtime.vllm`."""
        self.model, self.settings = model, settings
        self.context = 0  # tokens
        self.llm: Any = None

    def start(self, longest: int) -> None:
        """Have vLLM run with room for requests of `longest` tokens, completions included. Raises `UserError` if it
        cannot start."""
        if longest <= self.context:
            return
        if self.llm:
            self.llm.llm_engine.engine_core.shutdown()
        trust = has_custom_code(self.model)
        try:
            whole = context_length(AutoConfig.from_pretrained(self.model, trust_remote_code=trust))
            self.context = min(whole, max(LEAST_CONTEXT, 1 << (longest - 1).bit_length()))
            self.llm = LLM(
                str(self.model),
                dtype=dtype(self.model),
                trust_remote_code=trust,
                enable_prefix_caching=True,
                use_tqdm_on_load=False,
                **settings_for(self.settings, self.context),
            )
        except Exception as error:  # vLLM, torch and safetensors each raise their own
            raise cannot_start(self.model, error) from error
        end_with(self, self.llm)
        self.tokenizer = self.llm.get_tokenizer()

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """Each request's completion, in the order in which they finish. Raises `UserError` if vLLM cannot start."""
        self.start(max(len(request.tokens) for request in requests) + sampling.max_tokens)
        engine = self.llm.llm_engine
        for index, request in enumerate(requests):
            prompt = TokensPrompt(prompt_token_ids=list(request.tokens))
            engine.add_request(str(index), prompt, sampling_params(request, sampling))
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
            numbers=self._numbers(request, output, sampling) if sampling.numbers else (),
        )

    def _numbers(self, request: Request, output: Any, sampling: Sampling) -> tuple[Number, ...]:
        numbers, before = [], request.prompt[-1:]
        for index, (token, likely) in enumerate(zip(output.token_ids, output.logprobs, strict=True)):
            text = likely[token].decoded_token
            if is_number(sampling, text, before):
                start = len(self.tokenizer.decode(output.token_ids[:index], skip_special_tokens=True))
                logprobs = by_text((entry.decoded_token, entry.logprob) for entry in likely.values())
                numbers.append(Number(start, logprobs))
            before = text
        return tuple(numbers)


def sampling_params(request: Request, sampling: Sampling) -> SamplingParams:
    """vLLM's sampling parameters of one request, with the seed of its draw."""
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=seed_of(request.prompt, sampling, request.draw),
        logprobs=ALTERNATIVES if sampling.numbers else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
