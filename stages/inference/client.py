"""The client of a model: it takes a completion from the store if it was ever computed, and from the engine if not.

The store holds what the model wrote; what the client returns has the reasoning apart from the answer.
"""

import gc
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.counts import ReasoningCounts
from stages.core.errors import UserError
from stages.core.progress import prepare_transformers, progress, say
from stages.core.schema import Runtime
from stages.inference import engines
from stages.inference.engines import Completion, Engine, Request, Sampling
from stages.inference.store import Store
from stages.models import adapters, chat, reasoning
from stages.models.fingerprint import digest, has_custom_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "Why?"
KEYS = "1"  # version of the store's keys; change it whenever the same key would mean another completion


class Client:
    """A model folder with its engine and its store. The tokenizer is loaded for the first prompt, and the engine loads
    the weights when the first completion is missing from the store; so a stage without prompts takes no time."""

    def __init__(self, folder: Path, stage: str, max_overlong: float, runtime: Runtime) -> None:
        """`stage`: the name in front of every error, such as review@1. `max_overlong`: the largest share of prompts
        that is allowed to be too long for the model's context. Raises `UserError` if the folder is missing, or if the
        engine is not installed."""
        self.folder, self.stage, self.max_overlong, self.runtime = folder, stage, max_overlong, runtime
        self.completions: dict[bytes, Completion] = {}  # all that were returned, stored or computed, by their keys
        self._engine: Engine | None = None
        with self._stage_in_errors():
            self._engine_name = engines.resolve(runtime.engine)
            self.digest = digest(folder)

    @cached_property
    def _loaded(self) -> "tuple[PreTrainedTokenizerBase, int]":
        with self._stage_in_errors():
            return _load_tokenizer(self.folder)

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        """Raises `UserError` if the folder is broken, as `_context_length` does."""
        return self._loaded[0]

    @property
    def _context_length(self) -> int:
        return self._loaded[1]

    @cached_property
    def _store(self) -> Store:
        return Store.from_settings(self.runtime.store)

    def release(self) -> None:
        """Free the engine's memory. The next completion that is missing from the store loads the weights again."""
        self._engine = None
        gc.collect()

    def gpus(self) -> int | None:
        """How many GPUs the engine uses; None for a server, which does not say."""
        return engines.gpus(self._engine_name, self.runtime.vllm)

    def render(self, prompt: str, system_prompt: str) -> str:
        """The text that the model continues: both prompts in its chat format."""
        return chat.render(self._tokenizer, prompt, system_prompt)

    def up_to_number(self, text: str) -> str:
        """A text that goes on with a number, cut where the number's first token begins: without the blanks at its end
        where the tokenizer makes one token of a blank and a digit."""
        return text if self._blank_is_a_token else text.rstrip(" ")

    @cached_property
    def _blank_is_a_token(self) -> bool:
        before, whole = self._tokenizer([": ", ": 4"], add_special_tokens=False)["input_ids"]
        return bool(whole[: len(before)] == before)

    def complete(
        self,
        task: str,
        prompts: Sequence[str],
        system_prompt: str,
        draws: int,
        sampling: Sampling,
        begun: str = "",
    ) -> list[list[Completion]]:
        """`draws` completions of each prompt, in the order of the prompts. `task` labels the progress bar. `begun`:
        words that are put into the model's mouth; its completions go on behind them.

        Equal prompts get the same completions, computed once. A prompt that does not fit the model's context is not
        run: its completions finish with "too long". Raises `UserError` if more than `max_overlong` of the prompts do
        not fit, before any is run, or if the engine or the store fails."""
        rendered = [self.render(prompt, system_prompt) + begun for prompt in prompts]
        return self.complete_rendered(task, rendered, draws, sampling)

    def complete_rendered(
        self, task: str, rendered: Sequence[str], draws: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """Like `complete`, for prompts that are already rendered."""
        requests = self._requests(list(dict.fromkeys(rendered)), draws)
        fitting = [request for request in requests if len(request.tokens) + sampling.max_tokens <= self._context_length]
        keys = {request: self._key(request, sampling) for request in fitting}
        with self._stage_in_errors():
            self._check_overlong(len(fitting), len(requests), sampling.max_tokens)
            written = self._look_up_or_compute(task, keys, sampling)
        completions = {request: without_reasoning(request, completion) for request, completion in written.items()}
        self.completions |= {keys[request]: completion for request, completion in completions.items()}
        too_long = Completion("", "too long")
        by_draw = {(request.prompt, request.draw): completions.get(request, too_long) for request in requests}
        return [[by_draw[prompt, draw] for draw in range(draws)] for prompt in rendered]

    def reasoning(self) -> ReasoningCounts | None:
        """How many of all completions have reasoning; None if none has."""
        with_reasoning = [completion for completion in self.completions.values() if completion.reasoning]
        answers = sum(bool(completion.text) for completion in with_reasoning)
        return {"completions": len(with_reasoning), "answers": answers} if with_reasoning else None

    def _requests(self, prompts: list[str], draws: int) -> list[Request]:
        """The requests for `draws` completions of each rendered prompt."""
        if not prompts:
            return []
        token_ids = self._tokenizer(prompts, add_special_tokens=False)["input_ids"]
        return [
            Request(prompt, tuple(tokens), draw)
            for prompt, tokens in zip(prompts, token_ids, strict=True)
            for draw in range(draws)
        ]

    def _key(self, request: Request, sampling: Sampling) -> bytes:
        """The store's key: the SHA-256 of everything that decides the completion, and of nothing else."""
        parts = [KEYS, self.digest, request.prompt, list(vars(sampling).values()), request.draw]
        return hashlib.sha256(json.dumps(parts).encode()).digest()

    def _check_overlong(self, fitting: int, total: int, max_tokens: int) -> None:
        overlong = 1 - fitting / total if total else 0.0
        if overlong > self.max_overlong:
            raise UserError(
                f"{overlong:.0%} of the prompts do not fit the model's context of {self._context_length:,} tokens, "
                f"{max_tokens:,} of them for the completion, and max_overlong allows {self.max_overlong:.0%}; lower "
                "max_tokens, shorten the prompts or the data, use a model with a longer context, or raise max_overlong"
            )

    def _look_up_or_compute(
        self, task: str, keys: dict[Request, bytes], sampling: Sampling
    ) -> dict[Request, Completion]:
        """The completions of all requests: those in the store, and the missing ones from the engine."""
        by_key = self._store.find(keys.values())
        stored = {request: by_key[key] for request, key in keys.items() if key in by_key}
        if stored:
            say(f"{task}: {len(stored):,} of {len(keys):,} completions were in the store")
        missing = {request: key for request, key in keys.items() if request not in stored}
        return stored | self._compute(task, missing, sampling)

    def _compute(self, task: str, keys: dict[Request, bytes], sampling: Sampling) -> dict[Request, Completion]:
        """Completions from the engine; each is stored as soon as it finishes."""
        if not keys:
            return {}
        self._engine = self._engine or engines.load(
            self._engine_name, adapters.full_weights(self.folder), self.digest, self.runtime
        )
        completions, before = {}, time.monotonic()
        with progress(task, len(keys)) as advance:
            for request, completion in self._engine.complete(list(keys), sampling):
                now = time.monotonic()
                completions[request] = replace(completion, seconds=round(now - before, 6))
                before = now
                self._store.put(keys[request], completions[request])
                advance(1)
        return completions

    @contextmanager
    def _stage_in_errors(self) -> Iterator[None]:
        """Put the stage's name in front of a `UserError`."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{self.stage}: {error}") from error


def without_reasoning(request: Request, completion: Completion) -> Completion:
    """The completion with its reasoning apart. One that `max_tokens` cut stays one, wherever it was cut."""
    parts = reasoning.split(completion.text, begun=reasoning.is_begun(request.prompt))
    if not parts.reasoning:
        return completion
    start = len(parts.reasoning)
    return replace(
        completion,
        text=parts.answer,
        reasoning=parts.reasoning,
        finish=parts.fault if parts.fault and completion.finish == "stop" else completion.finish,
        numbers=tuple(
            replace(number, start=number.start - start) for number in completion.numbers if number.start >= start
        ),
    )


def _load_tokenizer(folder: Path) -> "tuple[PreTrainedTokenizerBase, int]":
    """The model's tokenizer, and its context length in tokens. Raises `UserError` if one of them cannot be read."""
    prepare_transformers()
    from transformers import AutoConfig, AutoTokenizer

    try:
        config_folder = adapters.config_folder(folder)
        trust = has_custom_code(config_folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
        context_length = chat.context_length(AutoConfig.from_pretrained(config_folder, trust_remote_code=trust))
        tokens = tokenizer(chat.render(tokenizer, PROBE), add_special_tokens=False)["input_ids"]
        decoded = tokenizer.decode(tokens)
    except Exception as error:  # a damaged file may raise anything
        raise UserError(
            f"model folder {folder} is broken: {type(error).__name__}: {error}; remove it and run dvc checkout, or "
            "dvc repro -f"
        ) from error
    if PROBE not in decoded:  # without its files, transformers makes an empty tokenizer and does not complain
        raise UserError(
            f"model folder {folder} is broken: its tokenizer decodes '{PROBE}' as {decoded!r}; remove it and run dvc "
            "checkout, or dvc repro -f"
        )
    return tokenizer, context_length
