"""Asking a model: a completion comes from the store if it was ever computed, else from the engine."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.errors import UserError
from stages.core.progress import prepare_transformers, progress, say
from stages.core.schema import Runtime
from stages.inference import engines
from stages.inference.engines import Completion, Engine, Request, Sampling
from stages.inference.store import Store
from stages.models import adapters, chat
from stages.models.fingerprint import digest, has_custom_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "Why?"
KEYS = "1"  # the meaning of a key; another number where it changes


class Client:
    """A model folder, with the engine that `runtime.engine` names; the weights are loaded when first needed. Raises
    `UserError`, which names the stage, where either of them cannot be used."""

    def __init__(self, folder: Path, stage: str, max_overlong: float, runtime: Runtime) -> None:
        self.folder, self.stage, self.max_overlong, self.runtime = folder, stage, max_overlong, runtime
        self.used: dict[bytes, Completion] = {}  # every completion that was given out, stored or computed
        self._engine: Engine | None = None
        with self._named():
            self._name = engines.resolve(runtime.engine)
            self._digest = digest(folder)
            self._tokenizer, self._context = _tokenizer(folder)

    @cached_property
    def _store(self) -> Store:
        return Store.of_the_repository(self.runtime.store)

    def complete(
        self, task: str, prompts: Sequence[str], system: str, draws: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """`draws` completions of each prompt, in the prompts' order. A prompt that occurs several times is computed
        once (it would sample the same); one that does not fit the context is not run, and an error above
        `max_overlong`."""
        return self.resume(task, [self.render(prompt, system) for prompt in prompts], draws, sampling)

    def gpus(self) -> int | None:
        return engines.gpus(self._name, self.runtime.vllm)

    def render(self, prompt: str, system: str) -> str:
        """The text that the model continues, in its chat format."""
        return chat.render(self._tokenizer, prompt, system)

    def resume(self, task: str, rendered: Sequence[str], draws: int, sampling: Sampling) -> list[list[Completion]]:
        """Like `complete`, of texts that are rendered already."""
        requests = self._requests(list(dict.fromkeys(rendered)), draws)
        fitting = [each for each in requests if len(each.tokens) + sampling.max_tokens <= self._context]
        keys = {each: self._key(each, sampling) for each in fitting}
        with self._named():
            self._need_fitting(len(fitting), len(requests), sampling.max_tokens)
            found = self._found(task, keys, sampling)
        self.used |= {keys[request]: completion for request, completion in found.items()}
        done = {(each.prompt, each.draw): found.get(each, Completion("", "too long")) for each in requests}
        return [[done[prompt, draw] for draw in range(draws)] for prompt in rendered]

    def _found(self, task: str, keys: dict[Request, bytes], sampling: Sampling) -> dict[Request, Completion]:
        """Completions from the store, and those that it has not from the engine."""
        stored = self._store.find(keys.values())
        found = {each: stored[key] for each, key in keys.items() if key in stored}
        if found:
            say(f"{task}: {len(found):,} of {len(keys):,} completions were in the store")
        missing = {each: key for each, key in keys.items() if each not in found}
        return found | self._computed(task, missing, sampling)

    def _need_fitting(self, fitting: int, asked: int, max_tokens: int) -> None:
        unfit = 1 - fitting / asked if asked else 0.0
        if unfit > self.max_overlong:
            raise UserError(
                f"{unfit:.0%} of the prompts do not fit the model's context of {self._context:,} tokens, "
                f"{max_tokens:,} of them for the completion, and max_overlong allows {self.max_overlong:.0%}; lower "
                "max_tokens, shorten the prompts or the data, use a model with a longer context, or raise max_overlong"
            )

    def _requests(self, prompts: list[str], draws: int) -> list[Request]:
        if not prompts:
            return []
        tokens = self._tokenizer(prompts, add_special_tokens=False)["input_ids"]
        return [
            Request(prompt, tuple(each), draw)
            for prompt, each in zip(prompts, tokens, strict=True)
            for draw in range(draws)
        ]

    def _key(self, request: Request, sampling: Sampling) -> bytes:
        """The store's key: what decides the completion, and nothing else."""
        decides = [KEYS, self._digest, request.prompt, list(vars(sampling).values()), request.draw]
        return hashlib.sha256(json.dumps(decides).encode()).digest()

    def _computed(self, task: str, keys: dict[Request, bytes], sampling: Sampling) -> dict[Request, Completion]:
        """Completions from the engine, each stored under its key as it finishes."""
        if not keys:
            return {}
        self._engine = self._engine or engines.load(
            self._name, adapters.full_weights(self.folder), self._digest, self.runtime
        )
        found, before = {}, time.monotonic()
        with progress(task, len(keys)) as advance:
            for request, completion in self._engine.complete(list(keys), sampling):
                now = time.monotonic()
                found[request] = replace(completion, seconds=round(now - before, 6))
                before = now
                self._store.put(keys[request], found[request])
                advance(1)
        return found

    @contextmanager
    def _named(self) -> Iterator[None]:
        """An error with the stage's name before it."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{self.stage}: {error}") from error


def _tokenizer(folder: Path) -> "tuple[PreTrainedTokenizerBase, int]":
    """The model's tokenizer, and how many tokens its context holds."""
    prepare_transformers()
    from transformers import AutoConfig, AutoTokenizer

    try:
        whole = adapters.config_folder(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=has_custom_code(whole))
        context = chat.context_length(AutoConfig.from_pretrained(whole, trust_remote_code=has_custom_code(whole)))
        read = tokenizer.decode(tokenizer(chat.render(tokenizer, PROBE), add_special_tokens=False)["input_ids"])
    except Exception as error:  # a damaged file may raise anything
        raise UserError(
            f"model folder {folder} is broken: {type(error).__name__}: {error}; remove it and run dvc checkout, or "
            "dvc repro -f"
        ) from error
    if PROBE not in read:  # transformers makes a tokenizer of nothing where its file is missing
        raise UserError(
            f"model folder {folder} is broken: its tokenizer reads '{PROBE}' as {read!r}; remove it and run dvc "
            "checkout, or dvc repro -f"
        )
    return tokenizer, context
