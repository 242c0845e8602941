"""What a word is, in every script: the one rule behind length limits, ROUGE-L, n-grams, and decontamination.

A text is cut at the word boundaries of Unicode (UAX #29), by the package `regex`. So a word is a run of letters with
their combining marks, or a number with its separators ("1,000", "0.5"). In scripts that put no blanks between words
(Han, Hiragana, Thai, Lao, Khmer, Myanmar, …) every sign is a word; a run of Katakana is one. Operators and other signs
are words of their own, since "3 - 2" is not "3 + 2" and C++ is not C#; only what structures prose is none: sentence
marks and quotation marks.

Texts are folded before they are compared, and only then: compatibility forms (NFKC), letter case, signs that cannot be
seen, the many forms of apostrophe and hyphen, and how a text is set: bold type, and the signs around a formula. A text
itself is never changed.
"""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from statistics import fmean

import regex

from stages.core.folding import INVISIBLE

_RAISED = regex.compile(r"[⁰¹²³⁴-⁹⁺⁻ⁿⁱ]+")  # NFKC would make 25 of 2⁵
_TYPESETTING = (
    (regex.compile(r"(?<![\p{L}\p{N}*])\*\*(?=\S)([^*]+?)(?<=\S)\*\*(?![\p{L}\p{N}*])"), r"\1"),  # bold, no power
    (regex.compile(r"\\[()\[\]]|\${2}|\$(?!\s*\p{N})"), " "),  # around a formula; "$5" is a price
    (regex.compile(r"(?i)<br\s*/?>"), " "),
)
_VARIANTS = (  # signs of the same meaning
    (regex.compile(r"[’‘ʼ＇]"), "'"),
    (regex.compile(r"[\p{Dash}--[~〜]]", regex.V1), "-"),  # the minus sign U+2212 is one of them
)
_WORD = regex.compile(
    r"""
      \b (?=[\p{L}\p{M}\p{N}_]) .+? \b           # between two boundaries: letters with their marks, or a number
    | [.,] (?=\p{N})                             # the point of ".5"
    | (?<=\p{N} | \b\p{L} | [)\]!]) ! | ! (?=[=!\p{L}(])   # a factorial, an inequality, a negation
    | (?<=\p{N}) : (?=\p{N}) | : (?=[:=])       # a ratio, "::", ":="
    | ' (?=\()                                   # a derivative; elsewhere it quotes
    | [^\s\p{Cc}\p{Terminal_Punctuation}\p{Quotation_Mark}`…]
    """,
    regex.WORD | regex.VERBOSE | regex.DOTALL | regex.V1,
)
_LETTER_OR_DIGIT = regex.compile(r"[\p{L}\p{N}]")
_UNSPACED = regex.compile(r"[\p{Ideographic}\p{Hiragana}\p{Line_Break=Complex_Context}]\p{M}*")
SIGNS_PER_WORD = 2  # of the unspaced scripts, for lengths: a word has 1.5 signs on average in Chinese, more in Thai


def fold(text: str) -> str:
    """The text for comparing: equal for texts that read the same whatever their case and encoding."""
    for pattern, plain in _TYPESETTING:
        text = pattern.sub(plain, text)
    text = _RAISED.sub(lambda raised: f"^{raised[0]}", text)
    text = unicodedata.normalize("NFKC", INVISIBLE.sub("", text))
    text = unicodedata.normalize("NFKC", text.casefold())
    for pattern, sign in _VARIANTS:
        text = pattern.sub(sign, text)
    return text


@lru_cache(maxsize=4096)
def words(text: str) -> tuple[str, ...]:
    """The words and signs of the folded text, in order. Remembered, since a text is compared with several others."""
    return tuple(_WORD.findall(fold(text)))


def ngrams(sequence: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """The n-grams of `size` words, in order; none of a shorter sequence."""
    return list(zip(*(sequence[start:] for start in range(size)), strict=False))


def count_words(text: str) -> int:
    """The length of a text: its words, without operators and other signs. Of an unspaced script, two signs count as a
    word, so that a limit means about the same length in every language."""
    letters = [word for word in words(text) if _LETTER_OR_DIGIT.search(word)]
    unspaced = sum(1 for word in letters if _UNSPACED.fullmatch(word))
    return len(letters) - unspaced + ceil(unspaced / SIGNS_PER_WORD)


def mean_words(texts: Sequence[str]) -> float | None:
    """The mean number of words; None without texts."""
    return round(fmean(map(count_words, texts)), 4) if texts else None
