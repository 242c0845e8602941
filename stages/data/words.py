"""What a word is, in every script: the one rule behind length limits, ROUGE-L, n-grams, and decontamination.

A text is cut at the word boundaries of Unicode (UAX #29), by the package `regex`. So a word is a run of letters with
their combining marks, or a number with its point and the commas of its thousands ("1,000", "0.5"); other commas between
digits separate numbers, as in the list "1,2,3". In scripts that put no blanks between words
(Han, Hiragana, Thai, Lao, Khmer, Myanmar, …) every sign is a word; a run of Katakana is one. Operators and other signs
are words of their own, since "3 - 2" is not "3 + 2" and C++ is not C#; only what structures prose is none: sentence
marks and quotation marks.

Texts are folded before they are compared, and only then: compatibility forms (NFKC), letter case, the digits of all
scripts, signs that cannot be seen or only stretch a word, the many forms of apostrophe, prime, hyphen and slash, and
how a text is set: bold type, and the signs around a formula. A text itself is never changed.
"""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from statistics import fmean

import regex

from stages.core.folding import INVISIBLE

_TATWEEL = regex.compile(r"\p{Joining_Type=Join_Causing}+")  # it only stretches a word
_TYPESETTING = (
    (regex.compile(r"(?<![\p{L}\p{N}*])\*\*(?=\S)([^*]+?)(?<=\S)\*\*(?![\p{L}\p{N}*])"), r"\1"),  # bold, no power
    (regex.compile(r"\\[()\[\]]|\${2}|\$(?!\s*\p{N})"), " "),  # around a formula; "$5" is a price
    (regex.compile(r"(?i)<br\s*/?>"), " "),
)
_RAISED, _LOWERED = "⁰¹²³⁴-⁹⁺⁻ⁿⁱ", "₀-₉"
_OTHER = rf"[\p{{No}}--[{_RAISED}{_LOWERED}]]"  # ½, ①, …
_COMPATIBLE = (  # what NFKC would join with the letters and digits beside it
    (regex.compile(rf"([{_RAISED}]+)"), r"^\1"),  # 2⁵ is not 25
    (regex.compile(rf"(?<=\p{{N}})([{_LOWERED}]+)"), r"_\1"),  # a base
    (regex.compile(rf"(?<=[\p{{L}}\p{{M}}\p{{N}}])(?={_OTHER})|(?<={_OTHER})(?=\p{{N}})", regex.V1), " "),
    (regex.compile("´"), "'"),
)
_VARIANTS = (  # signs of the same meaning
    (regex.compile(r"[’‘ʼ＇′ʹ]"), "'"),
    (regex.compile(r"[\p{Dash}--[~〜]]", regex.V1), "-"),  # the minus sign U+2212 is one of them
    (regex.compile(r"[⁄∕]"), "/"),  # ½ is 1⁄2 in NFKC
    (regex.compile("٬"), ","),
    (regex.compile("٫"), "."),
)
_DIGIT = regex.compile(r"[\p{Nd}--[0-9]]", regex.V1)
_LIST = regex.compile(r"(?<![\d.,;])\d{1,3}(?:,\d{3})+(?![,;]?\d)(*SKIP)(*FAIL)|(?<=\d)[,;،](?=\d)")
_WORD = regex.compile(
    r"""
      \b (?=[\p{L}\p{M}\p{N}_]) .+? \b           # between two boundaries: letters with their marks, or a number
    | [.,] (?=\p{N})                             # the point of ".5"
    | (?<=\p{N} | \b\p{L} | [)\]!]) ! | ! (?=[=!\p{L}(])   # a factorial, an inequality, a negation
    | (?<=\p{N}) : (?=\p{N}) | : (?=[:=])       # a ratio, "::", ":="
    | '+ (?=\()                                  # a derivative; or a prime, behind a digit, bracket or letter, unless
    | (?<= [\p{N})\]] | (?<! [\p{L}\p{M}] ) \p{L} )   # a quotation ends there
      (?<! (?<! [\p{L}\p{M}\p{N})\]'] ) ' [^'\n]{1,99} ) '+
    | [^\s\p{Cc}\p{Terminal_Punctuation}\p{Quotation_Mark}`…]
    """,
    regex.WORD | regex.VERBOSE | regex.V1,
)
_SENTENCE_MARK = regex.compile(r"[^\s,،、]|\n")  # of what is no word
_BRACKETS = "()[]{}<>"
_LETTER_OR_DIGIT = regex.compile(r"[\p{L}\p{N}]")
_UNSPACED = regex.compile(r"[\p{Ideographic}\p{Hiragana}\p{Line_Break=Complex_Context}]\p{M}*")
SIGNS_PER_WORD = 2  # of the unspaced scripts, for lengths: a word has 1.5 signs on average in Chinese, more in Thai


def fold(text: str) -> str:
    """The text for comparing: equal for texts that read the same whatever their case and encoding."""
    for pattern, plain in _TYPESETTING:
        text = pattern.sub(plain, text)
    text = text.lower() if text.isascii() else _plain(text)
    return _LIST.sub(", ", text)


def _plain(text: str) -> str:
    """The text in lower case and plain signs."""
    for pattern, plain in _COMPATIBLE:
        text = pattern.sub(plain, text)
    text = unicodedata.normalize("NFKC", INVISIBLE.sub("", _TATWEEL.sub("", text)))
    text = unicodedata.normalize("NFKC", text.casefold())
    for pattern, plain in _VARIANTS:
        text = pattern.sub(plain, text)
    return _DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)


@lru_cache(maxsize=4096)
def words(text: str) -> tuple[str, ...]:
    """The words and signs of the folded text, in order. Remembered, since a text is compared with several others."""
    return tuple(_WORD.findall(fold(text)))


def sentence_bounds(text: str) -> set[int]:
    """Where sentences may begin or end, as numbers of words: where a sentence mark, quotation mark, bracket or new line
    stands between two, behind the signs at a line's beginning, and at both ends."""
    folded, end, before, lead = fold(text), 0, "", True
    bounds = {0, len(words(text))}
    for number, match in enumerate(_WORD.finditer(folded)):
        apart = bool(_SENTENCE_MARK.search(folded, end, match.start()))
        if apart or lead or match[0] in _BRACKETS or before in _BRACKETS:
            bounds.add(number)
        end, before = match.end(), match[0]
        lead = (apart or lead) and not _LETTER_OR_DIGIT.search(match[0])
    return bounds


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
