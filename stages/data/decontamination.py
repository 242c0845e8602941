"""Whether a text contains a held-out text, whole or nearly so, with any other text around it.

Candidates are found by shared n-grams and then aligned, as Cosmopedia does (`decontamination/README.md` of its
repository). GPT-3 (arXiv 2005.14165), Tülu 3 (arXiv 2411.15124) and NeMo Curator stop at the n-grams, which a short
item does not have, or loses with one changed word.

An item is contained if a stretch of the text has at least the share `overlap` of its words, in order, or if two
stretches have, in any order: so neither a changed, missing or added word hides it, nor a question that was moved before
its context. An item of fewer than `LONG` words must be there word for word, as sentences of their own: with one word
changed it is another question, and within a longer sentence a common phrase. One of fewer than `SPECIFIC` words must be
the whole text.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from math import floor

from stages.core.rows import BenchmarkItem
from stages.data.words import ngrams, sentence_bounds, words

NGRAM = 5  # words
LONG = 2 * NGRAM  # words; with one of them changed, an n-gram is left
SPECIFIC = 4  # words; "Find x." stands in many texts that do not repeat the item

Words = tuple[str, ...]


class HeldOut:
    """Texts to be kept out of the training data, such as the items of the benchmark."""

    def __init__(self, items: Iterable[str], overlap: float) -> None:
        """`overlap`: the share, above 0 and up to 1, of an item's words that makes a text contain it."""
        self._overlap = overlap
        self._items = list(dict.fromkeys(map(words, items)))
        self._whole = set(self._items) - {()}
        self._short: dict[Words, list[Words]] = defaultdict(list)  # by their first words
        self._places: dict[Words, list[tuple[int, int]]] = defaultdict(list)  # of an n-gram: its items, and where
        for number, item in enumerate(self._items):
            if len(item) < LONG:
                self._short[item[:SPECIFIC]].append(item)
            else:
                for start, gram in enumerate(ngrams(item, NGRAM)):
                    self._places[gram].append((number, start))

    def is_in(self, text: str) -> bool:
        """Whether the text contains one of them. Letter case, punctuation and encoding make no difference; a sign
        does."""
        sequence = words(text)
        return sequence in self._whole or self._has_short(text, sequence) or self._has_long(sequence)

    def _has_short(self, text: str, sequence: Words) -> bool:
        """Whether a short item stands in the text as sentences of their own."""
        spans = [
            {start, start + len(item)}
            for start, gram in enumerate(ngrams(sequence, SPECIFIC))
            for item in self._short.get(gram, ())
            if sequence[start : start + len(item)] == item
        ]
        bounds = sentence_bounds(text) if spans else set()
        return any(span <= bounds for span in spans)

    def _has_long(self, sequence: Words) -> bool:
        shared: dict[int, list[tuple[int, int]]] = defaultdict(list)  # n-grams of an item: where in the text, and in it
        for position, gram in enumerate(ngrams(sequence, NGRAM)):
            for number, offset in self._places.get(gram, ()):
                shared[number].append((position, offset))
        likeliest = sorted(shared, key=lambda number: len(shared[number]), reverse=True)
        return any(self._contains(sequence, self._items[number], shared[number]) for number in likeliest)

    def _contains(self, sequence: Words, item: Words, places: list[tuple[int, int]]) -> bool:
        """Whether the text has enough of an item's words: in order, about where most of their shared n-grams put it, or
        in two pieces. As many words again may stand in between, such as the letters of choices, but they must leave a
        third of the n-grams of what is beyond `LONG` words."""
        from rapidfuzz.distance import LCSseq

        size = len(item)
        if self._overlap == 1:
            return any(sequence[start : start + size] == item for start, offset in places if offset == 0)
        if 3 * len(places) < size - LONG:
            return False
        least = size - max(1, floor(size * (1 - self._overlap) + 1e-9))  # 0.3 is stored as a little less than 0.3
        start, *another = (most for most, _ in Counter(there - here for there, here in places).most_common(2))
        pieces = {here + word for there, here in places if there - here in (start, *another) for word in range(NGRAM)}
        stretch = sequence[max(0, start - size) : start + 2 * size]
        return len(pieces) >= least or LCSseq.similarity(item, stretch) >= least


def held_out(rows: Iterable[BenchmarkItem], overlap: float) -> HeldOut:
    """The items of a benchmark. A question with choices is held out without them too, if it is long: a short one, such
    as "Which of these is true?", does not tell the item."""
    rows = list(rows)
    questions = [row["question"] for row in rows if "question" in row]
    long = [question for question in questions if len(words(question)) >= LONG]
    return HeldOut([*(row["text"] for row in rows), *long], overlap)
