"""How alike texts are: ROUGE-L, distinct n-grams, and the cosine of embeddings."""

from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.counts import Diversity
from stages.core.progress import prepare_transformers, progress
from stages.data.words import ngrams, words
from stages.models import chat
from stages.models.fingerprint import has_custom_code

if TYPE_CHECKING:
    import numpy

BATCH = 64  # texts embedded at once, or as many as fit in memory
BLOCK = 2048  # rows compared with each other at once
DIMENSIONS = 12  # of the tree that finds candidates for a comparison


def rouge_l(text: str, other: str) -> float:
    """ROUGE-L F1 (Lin 2004), 0–1: the longest common subsequence of words over both lengths. The same as the
    rouge-score package without stemming, but with our words, which include signs and those of every script."""
    from rapidfuzz.distance import LCSseq

    these, others = words(text), words(other)
    common = LCSseq.similarity(these, others)
    return 2 * common / (len(these) + len(others)) if common else 0.0


def same_words(texts: list[str], earlier: list[str]) -> set[str]:
    """The texts with the same words as an earlier one, of `earlier` or of the texts before."""
    before = set(map(words, earlier))
    repeated = set()
    for text in texts:
        if words(text) in before:
            repeated.add(text)
        before.add(words(text))
    return repeated


def near_duplicates(
    texts: list[str], earlier: list[str], model: Path, max_cosine: float
) -> tuple[set[str], float | None]:
    """The texts whose embedding by `model` has a cosine above `max_cosine` with an earlier one, of `earlier` or of the
    texts kept before; and the mean cosine distance of the others, None for fewer than two. 1 compares none."""
    if not texts:
        return set(), None
    with progress("filter embeddings", len(earlier) + len(texts)) as advance:
        vectors = embed(earlier + texts, model)
        advance(len(vectors))
    repeated = duplicates(vectors, len(earlier), max_cosine) if max_cosine < 1 else set()
    fresh = [row for row in range(len(earlier), len(vectors)) if row not in repeated]
    return {texts[row - len(earlier)] for row in repeated}, mean_distance(vectors[fresh])


def diversity(texts: list[str], distance: float | None, repeated: float | None) -> Diversity:
    """How diverse texts are. `distance`: their mean cosine distance. `repeated`: the share of those compared that
    repeat an earlier one. None: not measured."""

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 4)

    return {
        "distance": rounded(distance),
        "distinct_1": rounded(distinct(texts, 1)),
        "distinct_2": rounded(distinct(texts, 2)),
        "near_duplicates": rounded(repeated),
    }


def embed(texts: list[str], model: Path) -> "numpy.ndarray":
    """(texts, hidden) unit vectors in fp32: the mean of a causal language model's last hidden states over the tokens of
    a text, as a user's message in the chat format. `model`: its folder."""
    prepare_transformers()
    import torch
    from accelerate.utils import find_executable_batch_size
    from transformers import AutoModel, AutoTokenizer

    trust = {"trust_remote_code": has_custom_code(model)}
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="right", **trust)
    network = AutoModel.from_pretrained(model, **trust).to(device_of(model)).eval()
    messages = [chat.render_messages(tokenizer, chat.prompt_messages(tokenizer, text)) for text in texts]
    by_length = sorted(range(len(texts)), key=lambda row: -len(texts[row]))  # so that batches have little padding
    options = {"padding": True, "truncation": True, "max_length": chat.context_length(network.config)}

    @torch.inference_mode()
    def means(batch_size: int) -> "torch.Tensor":
        vectors = torch.empty(len(texts), network.config.get_text_config().hidden_size)
        for start in range(0, len(texts), batch_size):
            rows = by_length[start : start + batch_size]
            batch = tokenizer([messages[row] for row in rows], add_special_tokens=False, return_tensors="pt", **options)
            tokens, mask = (batch[name].to(network.device) for name in ("input_ids", "attention_mask"))
            states = network(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
            total = (states * mask[:, :, None].to(states.dtype)).sum(1, dtype=torch.float32)
            mean = total / mask.sum(1, keepdim=True)
            vectors[rows] = torch.nn.functional.normalize(mean).cpu()
        return vectors

    vectors: numpy.ndarray = find_executable_batch_size(means, starting_batch_size=BATCH)().numpy()
    return vectors


def device_of(model: Path) -> str:
    """The GPU if the weights fit there one and a half times, with room to compute; else the CPU."""
    import torch

    weights = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    return "cuda" if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > 1.5 * weights else "cpu"


def mean_distance(vectors: "numpy.ndarray") -> float | None:
    """The mean cosine distance between two different rows of (rows, hidden) unit vectors; None for fewer than two."""
    count = len(vectors)
    if count < 2:
        return None
    total = float((vectors.sum(axis=0, dtype="float64") ** 2).sum())
    return 1 - (total - count) / (count * (count - 1))


def distinct(texts: list[str], size: int) -> float | None:
    """distinct-n (Li et al. 2016): different n-grams of `size` words over all of them, 0–1; None without any."""
    grams = [gram for text in texts for gram in ngrams(words(text), size)]
    return len(set(grams)) / len(grams) if grams else None


def duplicates(vectors: "numpy.ndarray", earlier: int, cosine: float) -> set[int]:
    """The rows of (rows, hidden) unit vectors, from `earlier` on, whose cosine with a kept row before them is above
    `cosine`; exact.

    Rows are taken block by block. Candidates among the rows kept before are found in a tree over a few dimensions: unit
    vectors above a cosine lie within a distance, and a projection cannot move them apart. So the cost grows with the
    number of rows, not its square, as long as few of them are close.
    """
    from scipy.spatial import cKDTree

    radius = (2 * max(0.0, 1 - cosine)) ** 0.5 + 1e-3  # |a - b|² = 2 - 2 cos; with room for rounding
    projected = vectors @ _directions(vectors)
    kept = list(range(earlier))
    for start in range(earlier, len(vectors), BLOCK):
        block = range(start, min(start + BLOCK, len(vectors)))
        near_kept = cKDTree(projected[kept]).query_ball_point(projected[block], radius) if kept else [[]] * len(block)
        within = vectors[block] @ vectors[block].T > cosine
        fresh: list[int] = []  # offsets in the block
        for offset, row in enumerate(block):
            candidates = [kept[index] for index in near_kept[offset]]
            if within[offset, fresh].any() or (vectors[candidates] @ vectors[row] > cosine).any():
                continue
            fresh.append(offset)
        kept += [block[offset] for offset in fresh]
    return set(range(earlier, len(vectors))).difference(kept)


def _directions(vectors: "numpy.ndarray") -> "numpy.ndarray":
    """(hidden, at most DIMENSIONS): the orthonormal directions of greatest variance."""
    import numpy

    centred = vectors - vectors.mean(0)
    _, directions = numpy.linalg.eigh(centred.T @ centred)  # by growing variance
    return numpy.asarray(directions[:, -DIMENSIONS:])
