"""Generation with transformers: a small decode loop of our own around the model's forward pass.

`model.generate` samples from one random stream for the whole batch, so that a completion would depend on its
neighbours; here every draw has a stream of its own. The loop reads the prompt once for all its draws and drops the rows
that have finished.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.chat import rendered as render_chat
from stages.core.engines import Completion, Sampling, seed_of
from stages.core.errors import UserError
from stages.core.progress import quiet_transformers

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache

COMPACT_BELOW = 0.7  # share of rows still running below which the finished ones leave the batch


class TransformersEngine:
    def __init__(self, model: Path, batch_rows: int) -> None:
        quiet_transformers()
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if not (model / "config.json").exists():
            raise UserError(f"model folder {model} is missing or has no config.json; run dvc repro to make it")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = AutoModelForCausalLM.from_pretrained(model).to(self.device).eval()
        self.batch_rows = batch_rows
        self.context: int = self.model.config.max_position_embeddings
        ends = self.model.generation_config.eos_token_id
        self.ends = set(ends) if isinstance(ends, list) else {ends}

    def render(self, prompt: str, system: str) -> str:
        return render_chat(self.tokenizer, prompt, system)

    def complete(
        self, rendered: Sequence[str], draws: int, sampling: Sampling, advance: Callable[[int], None]
    ) -> list[list[Completion]]:
        if not rendered:
            return []
        tokens = self.tokenizer(list(rendered), add_special_tokens=False)["input_ids"]
        done: list[list[Completion]] = [[Completion("", "too long")] * draws for _ in rendered]
        fitting = [row for row, each in enumerate(tokens) if len(each) + sampling.max_tokens <= self.context]
        advance(len(rendered) - len(fitting))
        by_length = sorted(fitting, key=lambda row: (len(tokens[row]), rendered[row]))
        size = max(1, self.batch_rows // draws)
        for start in range(0, len(by_length), size):
            batch = by_length[start : start + size]
            seeds = [seed_of(rendered[row], sampling, draw) for row in batch for draw in range(draws)]
            completions = self._batch([tokens[row] for row in batch], draws, seeds, sampling)
            for place, row in enumerate(batch):
                done[row] = completions[place * draws : (place + 1) * draws]
            advance(len(batch))
        return done

    def _batch(self, prompts: list[list[int]], draws: int, seeds: list[int], sampling: Sampling) -> list[Completion]:
        """`draws` completions of each prompt; row r of the result is draw r % draws of prompt r // draws."""
        import torch

        written: list[list[int]] = [[] for _ in seeds]
        finished = [False] * len(seeds)
        with torch.inference_mode():
            uniforms = self._uniforms(seeds, sampling)
            logits, cache, mask, position = self._prefill(prompts, draws)
            running = list(range(len(seeds)))  # the batch's rows, by their place in the result
            for step in range(sampling.max_tokens):
                chosen = _sample(logits, sampling, None if uniforms is None else uniforms[running, step])
                for place, token in zip(running, chosen.tolist(), strict=True):
                    if not finished[place]:
                        finished[place] = token in self.ends
                        written[place] += [] if finished[place] else [token]
                alive = [row for row, place in enumerate(running) if not finished[place]]
                if not alive:
                    break
                if len(alive) < COMPACT_BELOW * len(running):
                    kept = torch.tensor(alive, device=self.device)
                    cache.batch_select_indices(kept)
                    chosen, mask, position = chosen[kept], mask[kept], position[kept]
                    running = [running[row] for row in alive]
                mask = torch.cat([mask, mask.new_ones(len(running), 1)], 1)
                position = position + 1
                logits = self._forward(chosen[:, None], mask, position, cache)
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [Completion(text, "stop" if end else "length") for text, end in zip(texts, finished, strict=True)]

    def _uniforms(self, seeds: list[int], sampling: Sampling) -> "torch.Tensor | None":
        """(rows, max_tokens) uniform numbers in fp64, a stream for each draw; None when nothing is sampled."""
        import torch

        if sampling.temperature == 0:
            return None
        streams = (torch.Generator().manual_seed(seed) for seed in seeds)
        rows = [torch.rand(sampling.max_tokens, generator=stream, dtype=torch.float64) for stream in streams]
        return torch.stack(rows).to(self.device)

    def _prefill(
        self, prompts: list[list[int]], draws: int
    ) -> "tuple[torch.Tensor, DynamicCache, torch.Tensor, torch.Tensor]":
        """Read each prompt once, padded on the left, and repeat its state for every draw."""
        import torch
        from transformers import DynamicCache

        longest = max(map(len, prompts))
        tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        logits = self._forward(tokens, mask, positions, cache)
        cache.batch_repeat_interleave(draws)
        repeated = (each.repeat_interleave(draws, 0) for each in (logits, mask, positions[:, -1:]))
        logits, mask, position = repeated
        return logits, cache, mask, position

    def _forward(
        self, tokens: "torch.Tensor", mask: "torch.Tensor", positions: "torch.Tensor", cache: "DynamicCache"
    ) -> "torch.Tensor":
        """The logits after the last token of each row, (rows, vocabulary), in fp32."""
        import torch

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


def _sample(logits: "torch.Tensor", sampling: Sampling, uniform: "torch.Tensor | None") -> "torch.Tensor":
    """The next token of each row: the most likely one, or the one at `uniform` (rows,) of the nucleus' distribution."""
    import torch

    if uniform is None:
        return logits.argmax(-1)
    probabilities = (logits / sampling.temperature).softmax(-1).double()
    ordered, tokens = probabilities.sort(descending=True)
    inside = ordered.cumsum(-1) - ordered < sampling.top_p  # the mass before the token is still below top_p
    nucleus = torch.zeros_like(ordered).scatter(1, tokens, ordered * inside)
    # summed in the vocabulary's order: in the sorted one a tie in the last bit would change what is sampled
    cumulative = nucleus.cumsum(-1)
    place = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1)
    return place.clamp(max=logits.shape[-1] - 1)
