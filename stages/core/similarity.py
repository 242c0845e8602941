"""How alike two texts are: ROUGE-L, shared n-grams, and the cosine of embeddings."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


class RougeL:
    """ROUGE-L F1 (Lin 2004), by the rouge-score package."""

    def __init__(self) -> None:
        from rouge_score.rouge_scorer import RougeScorer

        self._scorer = RougeScorer(["rougeL"])

    def __call__(self, text: str, other: str) -> float:
        return float(self._scorer.score(text, other)["rougeL"].fmeasure)


def ngrams(text: str, size: int) -> set[tuple[str, ...]]:
    """The word n-grams of a text; a text shorter than that is one n-gram."""
    each = words(text)
    return {tuple(each[start : start + size]) for start in range(max(1, len(each) - size + 1))} if each else set()


class Benchmark:
    """The benchmark's items, to be kept out of the training data."""

    def __init__(self, items: Iterable[str], size: int) -> None:
        self.size = size
        self.items = {" ".join(words(item)) for item in items}
        self._grams = {item: ngrams(item, size) for item in self.items}
        self._holding: dict[tuple[str, ...], list[str]] = {}
        for item, grams in self._grams.items():
            for gram in grams:
                self._holding.setdefault(gram, []).append(item)

    def overlap(self, text: str) -> float:
        """The largest share of one item's n-grams that the text holds: 1 for an equal one, whatever its case and
        punctuation."""
        if " ".join(words(text)) in self.items:
            return 1.0
        shared: dict[str, int] = {}
        for gram in ngrams(text, self.size):
            for item in self._holding.get(gram, ()):
                shared[item] = shared.get(item, 0) + 1
        return max((count / len(self._grams[item]) for item, count in shared.items()), default=0.0)


def embed(texts: list[str], model: Path) -> "numpy.ndarray":
    """(texts, hidden) unit vectors: the mean of a causal language model's last hidden states."""
    import numpy
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformer = Transformer(str(model))
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    embedder = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    vectors = embedder.encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
    return numpy.asarray(vectors)


def duplicates(vectors: "numpy.ndarray", earlier: int, cosine: float) -> set[int]:
    """Rows from `earlier` on that lie above `cosine` with a row before them that is itself kept."""
    dropped: set[int] = set()
    for row in range(earlier, len(vectors)):
        near = (vectors[:row] @ vectors[row] > cosine).nonzero()[0].tolist()
        if any(other not in dropped for other in near):
            dropped.add(row)
    return dropped
