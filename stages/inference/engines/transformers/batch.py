"""The rows that are decoded together, and the queue of requests that wait to join them."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch

from stages.inference.engines import Request
from stages.inference.engines.transformers.attention import PAGE
from stages.inference.engines.transformers.kv_cache import KVCache
from stages.inference.engines.transformers.memory import Room

SHARED_FROM = 2  # prompts: a prefix of fewer is not read apart
PADDING = 0.25  # of the prompts' pages, at most, that a group's longest prompt adds to the others
REFILL_AT = 0.75  # share of the room, in rows and in tokens, still in use at which waiting requests join
COMPACT_AT = 0.7  # share of a group's prompts that still run at which the others leave its cache


@dataclass
class Row:
    """A request and what has been generated for it so far."""

    request: Request
    uniforms: Sequence[float]  # the random numbers of the draw, one for each token
    slot: int  # in its group's cache
    generated: list[int] = field(default_factory=list)  # tokens
    numbers: list[tuple[int, dict[int, float]]] = field(default_factory=list)  # (index in generated, {token: logprob})
    finished: bool = False
    stopped: bool = False  # by an end token, not by max_tokens

    def last_token(self) -> int:
        """The token that the next decode step runs the model on."""
        return (self.generated or self.request.tokens)[-1]


@dataclass
class Group:
    """Rows that were prefilled together and have equally many tokens generated, and their cache."""

    cache: KVCache
    rows: list[Row]  # those that run, by their slots

    def drop_finished(self) -> None:
        """Leave out the rows that have finished; their prompts leave the cache now and then, since that copies it."""
        self.rows = [row for row in self.rows if not row.finished]
        prompts = sorted({row.slot // self.cache.draws for row in self.rows})
        if prompts and len(prompts) <= COMPACT_AT * len(self.cache.lengths):
            self.cache.keep_prompts(prompts)
            place = {prompt: index for index, prompt in enumerate(prompts)}
            for row in self.rows:
                prompt, draw = divmod(row.slot, self.cache.draws)
                row.slot = place[prompt] * self.cache.draws + draw

    def size(self, room: Room) -> float:
        """Tokens of its cache, counted as the room counts them."""
        return room.tokens(len(self.cache.lengths), self.cache.columns, len(self.cache.lengths) * self.cache.draws)

    def positions(self) -> list[int]:
        """Of each row's last token."""
        lengths = self.cache.lengths
        start = self.cache.start + self.cache.generated
        return [start + lengths[row.slot // self.cache.draws] for row in self.rows]

    def slots(self, device: torch.device) -> torch.Tensor:
        """The rows' places in the cache."""
        return torch.tensor([row.slot for row in self.rows], device=device)


@dataclass(frozen=True)
class Prompt:
    """A prompt with the requests for its completions."""

    requests: tuple[Request, ...]
    prefix: int = 0  # how many of its tokens, in whole pages, are the same in the prompts beside it in the queue

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.requests[0].tokens

    @property
    def shared(self) -> tuple[int, ...]:
        """The tokens of the prefix."""
        return self.tokens[: self.prefix]

    @property
    def pages(self) -> int:
        """Of the tokens behind the prefix."""
        return -(-(len(self.tokens) - self.prefix) // PAGE)


def queue(requests: Sequence[Request], shared: bool = True) -> deque[Prompt]:
    """The requests by their prompts. Prompts with a common prefix stand together (if `shared`), the longest first, so
    that what does not fit in memory fails soon."""
    by_prompt = groupby(sorted(requests, key=lambda request: (request.prompt, request.draw)), key=lambda r: r.prompt)
    prompts = [Prompt(tuple(draws)) for _, draws in by_prompt]
    by_page: dict[tuple[int, ...], list[Prompt]] = {}
    for prompt in prompts:
        by_page.setdefault(prompt.tokens[:PAGE] if shared else (), []).append(prompt)
    families = [_with_prefix(family) if shared else family for family in by_page.values()]
    alone = [prompt for family in families for prompt in family if not prompt.prefix]
    families = [*([prompt for prompt in family if prompt.prefix] for family in families), alone]
    ordered = [sorted(family, key=lambda prompt: -len(prompt.tokens)) for family in families if family]
    return deque(prompt for family in sorted(ordered, key=lambda f: -len(f[0].tokens)) for prompt in family)


def _with_prefix(prompts: list[Prompt]) -> list[Prompt]:
    """Prompts that begin alike, with the length of what they share; each has a token of its own behind it."""
    first, last = min(prompt.tokens for prompt in prompts), max(prompt.tokens for prompt in prompts)
    shared = 0
    for token, other in zip(first[:-1], last, strict=False):
        if token != other:
            break
        shared += 1
    shared = min(shared, min(len(prompt.tokens) for prompt in prompts) - 1) // PAGE * PAGE
    return [Prompt(prompt.requests, shared) for prompt in prompts] if len(prompts) >= SHARED_FROM else prompts


def has_place(room: Room, groups: Sequence[Group]) -> bool:
    """Whether so much has finished that waiting requests should join: each time they are one more group, whose keys and
    values are read by themselves."""
    rows, tokens = sum(len(group.rows) for group in groups), sum(group.size(room) for group in groups)
    return rows <= REFILL_AT * room.rows and tokens <= REFILL_AT * room.capacity


def take(waiting: deque[Prompt], room: Room, groups: Sequence[Group], max_prefill: int) -> list[Prompt]:
    """Remove and return prompts of like length from the front of the queue, with one prefix, that fit beside the groups
    which run; at least one if none runs. They have up to `max_prefill` tokens. A prompt's requests are split between
    two calls only if `room.rows` is smaller than their number."""
    free_rows = room.rows - sum(len(group.rows) for group in groups)
    free_tokens = room.capacity - sum(group.size(room) for group in groups)
    taken: list[Prompt] = []
    rows = pages = tokens = 0
    while waiting and (not taken or waiting[0].shared == taken[0].shared):
        prompt = waiting[0]
        rows, pages, tokens = rows + len(prompt.requests), pages + prompt.pages, tokens + len(prompt.tokens)
        prompts, columns = len(taken) + 1, (taken or waiting)[0].pages
        uneven = prompts * columns > (1 + PADDING) * pages
        too_much = rows > free_rows or room.tokens(prompts, columns * PAGE, rows) > free_tokens or tokens > max_prefill
        if too_much and not taken and not groups:
            return [_split(waiting, room.rows)]
        if uneven or too_much:
            break
        taken.append(waiting.popleft())
    return taken


def _split(waiting: deque[Prompt], max_rows: int) -> Prompt:
    """The queue's first prompt, with at most `max_rows` of its requests; the others stay in the queue."""
    prompt = waiting.popleft()
    if len(prompt.requests) > max_rows:
        waiting.appendleft(Prompt(prompt.requests[max_rows:], prompt.prefix))
    return Prompt(prompt.requests[:max_rows], prompt.prefix)
