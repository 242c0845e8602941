"""Whether a text contains a held-out text, whole or nearly so, with any other text around it.

Candidates are found by shared n-grams and then aligned, as Cosmopedia does (`decontamination/README.md` of its
repository). GPT-3 (arXiv 2005.14165), Tülu 3 (arXiv 2411.15124) and NeMo Curator stop at the n-grams, which a short
item does not have, or loses with one changed word.

An item is contained if a stretch of the text has at least the share `overlap` of its words, in order. So no single
changed, missing or added word hides an item of at least twice `NGRAM` words. A shorter one must be there word for word:
with one word changed it is another question. One of fewer than `SPECIFIC` words must be the whole text.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from math import floor

from stages.data.words import ngrams, words

NGRAM = 5  # words
ADDED = 8  # words that may stand within an item, and a quarter of its length
SPECIFIC = 4  # words; "Find x." stands in many texts that do not repeat the item

Words = tuple[str, ...]


class HeldOut:
    """Texts to be kept out of the training data, such as the items of the benchmark."""

    def __init__(self, items: Iterable[str], overlap: float) -> None:
        """`overlap`: the share, above 0 and up to 1, of an item's words that makes a text contain it."""
        self._overlap = overlap
        self._items = [item for item in dict.fromkeys(map(words, items)) if item]
        self._whole = set(self._items)
        self._short = {item for item in self._items if SPECIFIC <= len(item) < NGRAM}
        self._places: dict[Words, list[tuple[int, int]]] = defaultdict(list)  # of an n-gram: its items, and where
        for number, item in enumerate(self._items):
            for start, gram in enumerate(ngrams(item, NGRAM)):
                self._places[gram].append((number, start))

    def is_in(self, text: str) -> bool:
        """Whether the text contains one of them. Letter case, punctuation and encoding make no difference; a sign
        does."""
        sequence = words(text)
        if sequence in self._whole or any(
            gram in self._short for size in range(SPECIFIC, NGRAM) for gram in ngrams(sequence, size)
        ):
            return True
        return any(self._aligns(self._items[item], sequence, starts) for item, starts in self._candidates(sequence))

    def _candidates(self, sequence: Words) -> Iterable[tuple[int, list[int]]]:
        """The items that share n-grams with the text, and where in it the item would start by each of these."""
        starts: dict[int, list[int]] = defaultdict(list)
        for position, gram in enumerate(ngrams(sequence, NGRAM)):
            for item, offset in self._places.get(gram, ()):
                starts[item].append(position - offset)
        return starts.items()

    def _aligns(self, item: Words, sequence: Words, starts: list[int]) -> bool:
        """Whether the text has enough of an item's words in order, where most of their shared n-grams agree."""
        from rapidfuzz.distance import LCSseq

        if len(starts) < (len(item) - 2 * NGRAM) // 3:  # saves the alignment of texts that share little
            return False
        changes = self._changes(len(item))
        ((start, _),) = Counter(starts).most_common(1)
        added = changes and changes + ADDED + len(item) // 4  # words in between, such as the letters of choices
        stretch = sequence[max(0, start - added) : start + len(item) + added]
        return LCSseq.similarity(item, stretch) >= len(item) - changes

    def _changes(self, length: int) -> int:
        """How many of an item's words may differ."""
        if self._overlap == 1 or length < 2 * NGRAM:
            return 0
        return max(1, floor(length * (1 - self._overlap) + 1e-9))  # 0.3 is stored as a little less than 0.3
