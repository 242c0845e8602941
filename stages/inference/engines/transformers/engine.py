"""The engine, top to bottom: complete, step, prefill, decode, forward pass, next tokens, finished completions."""

from collections import deque
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from stages.core.errors import UserError
from stages.inference.engines import ALTERNATIVES, Completion, Number, Request, Sampling, by_text, is_number
from stages.inference.engines.transformers.attention import NAME, QUERIES, Pass
from stages.inference.engines.transformers.batch import Group, Prompt, Row, has_place, queue, take
from stages.inference.engines.transformers.kv_cache import Decode, KVCache, Prefill
from stages.inference.engines.transformers.memory import Room
from stages.inference.engines.transformers.sampling import draw_uniforms, sample_next_token
from stages.models.fingerprint import has_custom_code

PREFILL_TOKENS = 32_768  # prompt tokens in one forward pass
LAYERS = {"full_attention", "sliding_attention"}  # the kinds that attention.py knows
PROBE_TOKENS = 16
MAX_DIFFERENCE = 0.1  # between the logits of two attentions, relative; bfloat16 makes one of about 0.01


class TransformersEngine:
    """A causal language model on the GPU, or on the CPU without one, that decodes many requests at once."""

    def __init__(self, model: Path, batch_rows: int | None) -> None:
        """`model`: a folder with whole weights. `batch_rows`: rows decoded together; None: as many as fit in memory.
        Raises `UserError` if the model cannot be loaded or does not fit in the GPU's memory."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        trust = {"trust_remote_code": has_custom_code(model)}
        self.tokenizer = AutoTokenizer.from_pretrained(model, **trust)
        try:
            self.model = AutoModelForCausalLM.from_pretrained(model, **trust).to(self.device).eval()
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"model folder {model} does not fit in the GPU's memory ({error}); use a larger GPU, or "
                "runtime.engine: vllm across several"
            ) from error
        except Exception as error:  # safetensors, torch and transformers each raise their own
            raise UserError(
                f"model folder {model} cannot be loaded ({error}); remove it and run dvc checkout, or dvc repro -f"
            ) from error
        self.config = self.model.config.get_text_config()
        self.batch_rows, self.max_batchable_length = batch_rows, _max_batchable_length(self.config)
        self._replace_attention(model)
        ends = self.model.generation_config.eos_token_id
        self.ends = set(ends) if isinstance(ends, list) else {ends}  # tokens that end a completion
        self._prefix: tuple[tuple[int, ...], KVCache | None] = (), None
        self._token_texts: list[str] = []  # of the whole vocabulary, filled when first needed

    @torch.inference_mode()
    def _replace_attention(self, folder: Path) -> None:
        """Let the model's layers attend by attention.py. Raises `UserError` if the model then reads a text otherwise
        than before, which is so if it has attention of a kind of its own."""
        kinds = set(getattr(self.config, "layer_types", None) or ()) - LAYERS
        tokens = [index % self.config.vocab_size for index in range(PROBE_TOKENS)]
        try:
            if kinds:
                raise ValueError(f"it has layers with {', '.join(sorted(kinds))}")
            self.model.set_attn_implementation("eager")
            expected = self.model(torch.tensor([tokens], device=self.device), use_cache=False).logits[0, -1].float()
            self.model.set_attn_implementation(NAME)
            cache = KVCache([2 * PROBE_TOKENS, PROBE_TOKENS])
            difference = (self._read([tokens * 2, tokens], cache)[1] - expected).norm() / expected.norm()
            if len(cache.prompts) < self.config.num_hidden_layers:
                raise ValueError("it has layers with an attention of their own")
            if not difference < MAX_DIFFERENCE:
                raise ValueError(f"its logits differ by {difference:.0%}")
        except (ValueError, TypeError, AttributeError, KeyError) as error:  # as transformers refuses an attention
            raise UserError(
                f"the transformers engine cannot run the architecture of model folder {folder} ({error}); use "
                "runtime.engine: vllm"
            ) from error

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """Each request's completion, in the order in which they finish; `requests` has at least one. Out of memory, it
        goes on with half the rows, and raises `UserError` if a single row does not fit."""
        longest = max(len(request.tokens) for request in requests) + sampling.max_tokens
        together = longest <= self.max_batchable_length
        room = Room.for_model(self.model, sampling, self.batch_rows if together else 1)
        unfinished = dict.fromkeys(requests)
        waiting, groups = queue(requests, together), list[Group]()
        while unfinished:
            try:
                rows = self._step(groups, waiting, room, sampling)
            except RuntimeError as error:
                room = room.halved(len(unfinished), error)
                waiting, groups = queue(list(unfinished), together), []
                continue
            for row in rows:
                if row.finished:
                    yield self._completion(row)
                    del unfinished[row.request]

    @torch.inference_mode()
    def _step(self, groups: list[Group], waiting: deque[Prompt], room: Room, sampling: Sampling) -> list[Row]:
        """The first token of requests that join, or another token for every row that runs. Returns their rows."""
        for group in groups:
            group.drop_finished()
        groups[:] = [group for group in groups if group.rows]
        if joining := take(waiting, room, groups, PREFILL_TOKENS) if has_place(room, groups) else []:
            groups.append(self._prefill(joining, sampling))
            return groups[-1].rows
        self._decode(groups, sampling)
        return [row for group in groups for row in group.rows]

    def _prefill(self, prompts: list[Prompt], sampling: Sampling) -> Group:
        """Run the model on prompts, each once for all its requests, behind the prefix that they share."""
        prefix = self._read_prefix(prompts[0].shared)
        requests = [prompt.requests for prompt in prompts]
        draws = max(map(len, requests))
        lengths = [len(prompt.tokens) - prompt.prefix for prompt in prompts]
        cache = KVCache(lengths, draws, sampling.max_tokens, prefix)
        slots = [
            (index * draws + draw, request)
            for index, prompt in enumerate(requests)
            for draw, request in enumerate(prompt)
        ]
        uniforms = draw_uniforms((request for _, request in slots), sampling, torch.device("cpu")).tolist()
        rows = [Row(request, numbers, slot) for (slot, request), numbers in zip(slots, uniforms, strict=True)]
        logits = self._read([prompt.tokens[prompt.prefix :] for prompt in prompts], cache)
        of_row = torch.tensor([row.slot // draws for row in rows], device=self.device)
        self._append_next_tokens(rows, logits[of_row], sampling)
        return Group(cache, rows)

    def _read_prefix(self, tokens: tuple[int, ...]) -> KVCache | None:
        """The cache of a prefix; the last one is kept, since the next prompts often begin with it, too."""
        if tokens and tokens != self._prefix[0]:
            cache = KVCache([len(tokens)])
            self._read([tokens], cache)
            self._prefix = tokens, cache
        return self._prefix[1] if tokens else None

    def _read(self, prompts: Sequence[Sequence[int]], cache: KVCache) -> torch.Tensor:
        """Run the model on the prompts of a cache, behind its prefix: the logits after each, (prompts, vocabulary)."""
        tokens = [token for prompt in prompts for token in prompt]
        positions = [cache.start + index for prompt in prompts for index in range(len(prompt))]
        lasts = torch.tensor([len(prompt) for prompt in prompts]).cumsum(0) - 1
        return self._forward(tokens, positions, Prefill(cache, self.device), lasts)

    def _decode(self, groups: list[Group], sampling: Sampling) -> None:
        """Run the model on the last token of each row, and sample the next."""
        rows = [row for group in groups for row in group.rows]
        positions = [position for group in groups for position in group.positions()]
        if positions == [self.max_batchable_length]:
            logits = self._read_again(groups[0], sampling)
        else:
            decode = Decode([(group.cache, group.slots(self.device)) for group in groups])
            tokens = [row.last_token() for row in rows]
            logits = self._forward(tokens, positions, decode, torch.arange(len(rows)))
            for group in groups:
                group.cache.generated += 1
        self._append_next_tokens(rows, logits, sampling)

    def _read_again(self, group: Group, sampling: Sampling) -> torch.Tensor:
        """Run the model on the only row from its first token: from this length on, all its position embeddings are
        different ones."""
        (row,) = group.rows
        tokens = [*row.request.tokens, *row.generated]
        group.cache, row.slot = KVCache([len(tokens)], 1, sampling.max_tokens), 0
        return self._read([tokens], group.cache)

    def _forward(self, tokens: list[int], positions: list[int], kv_pass: Pass, kept: torch.Tensor) -> torch.Tensor:
        """The logits after the tokens of the indices `kept`, (kept, vocabulary), in fp32. The tokens of all rows stand
        in one sequence, filled up to a number at which matrix products always sum in the same order."""
        extra = [0] * (-len(tokens) % QUERIES)
        indices = torch.cat([kept, kept.new_zeros(-len(kept) % QUERIES)])
        out = self.model(
            input_ids=torch.tensor([tokens + extra], device=self.device),
            position_ids=torch.tensor([positions + extra], device=self.device),
            use_cache=False,
            logits_to_keep=indices.to(self.device),
            kv_pass=kv_pass,
        )
        logits: torch.Tensor = out.logits[0, : len(kept)].float()
        return logits

    def _append_next_tokens(self, rows: list[Row], logits: torch.Tensor, sampling: Sampling) -> None:
        """Sample the next token of each row, from logits of shape (rows, vocabulary), and mark the rows that it
        finishes."""
        uniforms = None
        if sampling.temperature > 0:
            uniforms = torch.tensor([row.uniforms[len(row.generated)] for row in rows], dtype=torch.double)
            uniforms = uniforms.to(self.device)
        tokens = sample_next_token(logits, sampling, uniforms).tolist()
        if sampling.numbers:
            self._record_numbers(rows, logits, tokens, sampling)
        for row, token in zip(rows, tokens, strict=True):
            row.stopped = token in self.ends
            row.generated += [] if row.stopped else [token]
            row.finished = row.stopped or len(row.generated) == sampling.max_tokens

    def _record_numbers(self, rows: list[Row], logits: torch.Tensor, tokens: list[int], sampling: Sampling) -> None:
        """Keep the most likely tokens of each row whose next token is a number by `is_number`."""
        if not self._token_texts:
            self._token_texts = self.tokenizer.batch_decode([[token] for token in range(logits.shape[-1])])
        at_number = [
            index
            for index, (row, token) in enumerate(zip(rows, tokens, strict=True))
            if is_number(sampling, self._token_texts[token], self._token_texts[row.last_token()])
        ]
        if not at_number:
            return
        logprobs = logits[torch.tensor(at_number, device=self.device)].log_softmax(-1)
        likely = logprobs.topk(min(ALTERNATIVES, logprobs.shape[-1]))
        for index, values, indices in zip(at_number, likely.values.tolist(), likely.indices.tolist(), strict=True):
            row = rows[index]
            row.numbers.append((len(row.generated), dict(zip(indices, values, strict=True))))

    def _completion(self, row: Row) -> tuple[Request, Completion]:
        """A finished row's request and completion."""
        completion = Completion(
            self.tokenizer.decode(row.generated, skip_special_tokens=True),
            "stop" if row.stopped else "length",
            prompt_tokens=len(row.request.tokens),
            tokens=len(row.generated) + row.stopped,
            numbers=tuple(self._number(row, index, logprobs) for index, logprobs in row.numbers),
        )
        return row.request, completion

    def _number(self, row: Row, index: int, logprobs: dict[int, float]) -> Number:
        start = len(self.tokenizer.decode(row.generated[:index], skip_special_tokens=True))
        return Number(start, by_text((self._token_texts[token], logprob) for token, logprob in logprobs.items()))


def _max_batchable_length(config: Any) -> float:
    """The number of tokens up to which rows may share a batch. With dynamic or longrope position embeddings, a longer
    row changes the embeddings of every row of its batch, so it runs alone."""
    rope = config.to_dict().get("rope_parameters") or {}
    if any(kind in str(rope) for kind in ("dynamic", "longrope")):
        return float(rope.get("original_max_position_embeddings") or 0)
    return inf
