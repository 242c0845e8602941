"""The engine, top to bottom: complete, decode step, prefill, forward pass, next token, finished completions."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby
from math import inf
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import Cache, DynamicLayer

from stages.core.errors import UserError
from stages.inference.engines import ALTERNATIVES, Completion, Number, Request, Sampling, by_text, is_number
from stages.inference.engines.transformers.batch import Batch, Row, longest_first, take
from stages.inference.engines.transformers.kv_cache import KVCache
from stages.inference.engines.transformers.memory import fewer_rows, rows_that_fit
from stages.inference.engines.transformers.sampling import draw_uniforms, sample_next_token
from stages.models.fingerprint import has_custom_code

REFILL_AT = 0.85  # share of rows still running at which finished rows leave the batch and waiting requests join
PREFILL_TOKENS = 32_768  # prompt tokens in one forward pass


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
        ends = self.model.generation_config.eos_token_id
        self.ends = set(ends) if isinstance(ends, list) else {ends}  # tokens that end a completion
        self._token_texts: list[str] = []  # of the whole vocabulary, filled when first needed

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """Each request's completion, in the order in which they finish; `requests` has at least one. Out of memory, it
        goes on with half the rows, and raises `UserError` if a single row does not fit."""
        waiting = deque(sorted(requests, key=longest_first))
        max_length = len(waiting[0].tokens) + sampling.max_tokens
        max_rows = min(len(waiting), self.batch_rows or rows_that_fit(self.model, max_length))
        max_rows = max_rows if max_length <= self.max_batchable_length else 1
        unfinished = set(waiting)
        batch = self._empty_batch(max_rows, max_length, sampling)
        while unfinished:
            try:
                self._decode_step(batch, waiting, max_rows, sampling)
            except RuntimeError as error:
                max_rows = fewer_rows(max_rows, error)
                waiting = deque(sorted(unfinished, key=longest_first))
                batch = self._empty_batch(max_rows, max_length, sampling)
                continue
            finished = [row for row in batch.rows if row.finished and row.request in unfinished]
            yield from map(self._completion, finished)
            unfinished.difference_update(row.request for row in finished)

    def _empty_batch(self, max_rows: int, max_length: int, sampling: Sampling) -> Batch:
        cache = KVCache(self.config.num_hidden_layers, max_rows, max_length)
        return Batch.empty(cache, self.config.vocab_size, sampling.max_tokens, self.device)

    @torch.inference_mode()
    def _decode_step(self, batch: Batch, waiting: deque[Request], max_rows: int, sampling: Sampling) -> None:
        """One more token for every row, after finished rows have left and waiting requests have joined."""
        running = batch.running()
        can_refill = bool(waiting) and running <= REFILL_AT * max_rows
        if batch.rows and (running < REFILL_AT * len(batch.rows) or can_refill or batch.cache.is_full):
            batch.drop_finished()
        if batch.rows:
            self._forward_last_tokens(batch)
        if waiting and len(batch.rows) <= REFILL_AT * max_rows:
            self._prefill(batch, take(waiting, max_rows - len(batch.rows)), sampling)
        self._append_next_tokens(batch, sampling)

    def _prefill(self, batch: Batch, requests: list[Request], sampling: Sampling) -> None:
        """Run the model on the prompts, each once for all its draws, and add a row for each request."""
        prompts = [list(draws) for _, draws in groupby(requests, key=lambda request: request.prompt)]
        while prompts:
            size = max(1, PREFILL_TOKENS // len(prompts[0][0].tokens))  # the longest prompt comes first
            self._prefill_pass(batch, prompts[:size], sampling)
            prompts = prompts[size:]

    def _prefill_pass(self, batch: Batch, prompts: list[list[Request]], sampling: Sampling) -> None:
        """One forward pass over prompts, each given as the list of its draws."""
        tokens, mask = (tensor.to(self.device) for tensor in _align_right([draws[0].tokens for draws in prompts]))
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = Cache(layer_class_to_replicate=DynamicLayer)
        logits = self._forward(tokens, mask, positions, cache)
        rows = [Row(request) for draws in prompts for request in draws]
        prompt_of_row = [index for index, draws in enumerate(prompts) for _ in draws]
        of_row = torch.tensor(prompt_of_row, device=self.device)
        batch.cache.prefill(cache, of_row)
        uniforms = draw_uniforms((row.request for row in rows), sampling, self.device)
        batch.add(rows, logits[of_row], mask[of_row], positions[of_row, -1:], uniforms)

    def _forward_last_tokens(self, batch: Batch) -> None:
        """Run the model on the last token of each row."""
        if len(batch.rows) == 1 and int(batch.positions) + 1 == self.max_batchable_length:
            self._prefill_again(batch)
            return
        last = torch.tensor([[row.last_token()] for row in batch.rows], device=self.device)
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.rows), 1)], 1)
        batch.positions = batch.positions + 1
        batch.logits = self._forward(last, batch.mask, batch.positions, batch.cache)

    def _prefill_again(self, batch: Batch) -> None:
        """Run the model on the batch's only row from its first token: from this length on, all its position embeddings
        are different ones."""
        (row,) = batch.rows
        tokens = torch.tensor([[*row.request.tokens, *row.generated]], device=self.device)
        batch.mask, positions = torch.ones_like(tokens), torch.arange(tokens.shape[1], device=self.device)[None]
        batch.positions, cache = positions[:, -1:], Cache(layer_class_to_replicate=DynamicLayer)
        batch.logits = self._forward(tokens, batch.mask, positions, cache)
        batch.cache.clear()
        batch.cache.prefill(cache, torch.zeros(1, dtype=torch.long, device=self.device))

    def _forward(self, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache) -> torch.Tensor:
        """The logits after the last token of each row, (rows, vocabulary), in fp32. `tokens` and `positions`:
        (rows, new tokens); `mask`: (rows, cached and new tokens)."""
        out = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = out.logits[:, -1].float()
        return logits

    def _append_next_tokens(self, batch: Batch, sampling: Sampling) -> None:
        """Sample the next token of each row that is not finished, and mark the rows that it finishes."""
        uniforms = None
        if sampling.temperature > 0:
            steps = [0 if row.finished else len(row.generated) for row in batch.rows]
            uniforms = batch.uniforms.gather(1, torch.tensor(steps, device=self.device)[:, None])[:, 0]
        tokens = sample_next_token(batch.logits, sampling, uniforms).tolist()
        if sampling.numbers:
            self._record_numbers(batch, tokens, sampling)
        for row, token in zip(batch.rows, tokens, strict=True):
            if not row.finished:
                row.stopped = token in self.ends
                row.generated += [] if row.stopped else [token]
                row.finished = row.stopped or len(row.generated) == sampling.max_tokens

    def _record_numbers(self, batch: Batch, tokens: list[int], sampling: Sampling) -> None:
        """Keep the most likely tokens of each row whose next token is a number by `is_number`."""
        if not self._token_texts:
            self._token_texts = self.tokenizer.batch_decode([[token] for token in range(batch.logits.shape[-1])])
        at_number = [
            index
            for index, (row, token) in enumerate(zip(batch.rows, tokens, strict=True))
            if not row.finished and is_number(sampling, self._token_texts[token], self._token_texts[row.last_token()])
        ]
        if not at_number:
            return
        logprobs = batch.logits[torch.tensor(at_number, device=self.device)].log_softmax(-1)
        likely = logprobs.topk(min(ALTERNATIVES, logprobs.shape[-1]))
        for index, values, indices in zip(at_number, likely.values.tolist(), likely.indices.tolist(), strict=True):
            row = batch.rows[index]
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


def _align_right(prompts: list[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask, both (prompts, length of the longest): prompts on the right, zeros on the left."""
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for index, prompt in enumerate(prompts):
        tokens[index, longest - len(prompt) :] = torch.tensor(prompt)
        mask[index, longest - len(prompt) :] = 1
    return tokens, mask
