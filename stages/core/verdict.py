"""The verdict of a review: a small grammar of how models write a score, and what of it data may not contain.

A prompt set declares the parts of its verdict (review/verdict.yaml): a label such as "Question score" and the highest
score. Everything else is the same for all sets and stands here. Both sides use the same patterns, on folded text
(core/folding.py): `read` finds the verdict that a judge wrote, and `claims` finds what `read` would take for one in a
question or response, so the two cannot drift apart.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from stages.core.folding import Folded, fold, pattern_of

HIGHEST = 10  # score
MAX_LEAD = 120  # characters on the line before a label
MAX_REMARK = 200  # characters after a part of the verdict, without a number; what is longer is no closing remark

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_QUOTES = "\"'‘’“”„«»「」『』"
_MASK = '"'  # stands for each character of a quotation
_GAP = r"[\W_]{0,8}"  # between the words of a label: blanks, markup, nothing
_STYLE = r"(?:[*_`]|</?[a-z]\w{0,9}\s*/?>)"  # Markdown or HTML
_CLOSING = rf"(?:{_STYLE}|[\])}}>$])*+"  # behind a number
_AHEAD = rf"(?:</?[a-z]\w{{0,9}}\s*/?>|[^\w{_QUOTES}]|_)*+"  # in front of a label: bullets, signs, markup
_ENUMERATED = rf"{_AHEAD}(?:(?:\d{{1,2}}|[a-z]|i{{1,3}})[.)]\s)?{_AHEAD}"  # the same with 1., a) and the like
_NOUN = r"(?:verdict|scores?|ratings?|evaluation|assessment|judge?ment|conclusion|results?)"
_HEADING = (
    rf"(?:(?:\w+\s+){{0,3}}{_NOUN}(?:\s+(?:is|are))?\W*?[:–—-]|(?:therefore|thus|hence|so|finally),|(?:the|my|final)\s)"
)
_LINE_START = re.compile(rf"{_ENUMERATED}(?:{_HEADING}{_AHEAD})?")
_SENTENCE_END = re.compile(rf"[.!?。]\s+{_AHEAD}\Z")
_WORD_BEFORE = re.compile(r"[^\W_][\s*_]*\Z")
_SAME_LINE = re.compile(  # between two parts
    rf"\s*(?:\([^()\n]*\))?[^\w\n{_QUOTES}]*(?:and)?[^\w\n{_QUOTES}]*(?:the |my )?"
)
_SEPARATOR = rf"(?:{_STYLE}|[ \t])*+(?:(?P<sign>[:=|→])|[–—-]+>?(?=\s)|is\b|)(?P<space>(?:{_STYLE}|[\s|])*+)"
_NAMES = "|".join(_WORDS)
_NUMBER = rf"(?P<number>\d+(?:\.\d+)?|{_NAMES})(?![^\W_])"
_OPENING = rf"(?:[\[({{$]|<(?=[\d\s./]{{1,12}}>)|\\\w+{{|{_STYLE})*+"  # "<4>" is 4, and "<4" is less than 4
_GOES_ON = re.compile(r"[.,/:–—]\d|[−+°~^/-]|\s*%")  # behind a number: it is part of something else
_LIMIT = re.compile(r"[ \t*_`]*[<>≤≥≈~]")  # in front of one: the score is not the number itself
_MORE_ON_THE_LINE = re.compile(r"(?:[^\w\n]|_)*[^\W_]")
# What a number word counts: "two errors". "Two or", "two points" and the like are scores.
_COUNTS = r"[\s*_-]+(?!(?:or|to|at|if|and|but|is|for|instead|overall|points?|pts|stars?|out|of)\b)[^\W_]"
_ALTERNATIVE = re.compile(
    rf"\A[ \t]*(?!because|since|due)[^\W_]|\A\W*(?:or|half)\b"  # 4 or 5
    rf"|\b(?:{_NAMES.replace('one|', '')})\b(?!{_COUNTS})"  # "four – five", "actually three"
    rf"|(?:\A\W*|\b(?:or|to|be|actually|rather|maybe|perhaps|only|just|no|wait)\W+)one\b(?!{_COUNTS}|\s+of\b)"
)
_TAKEN_BACK = re.compile(
    r"\A\W*(?:no|wait|hmm+|oops|sorry)\b(?![ \t]+\w)|\bon (?:second thoughts?|reflection)\b|\bscratch that\b"
    r"|\btake (?:that|it|this) back\b"
)
_QUOTED = re.compile(
    "|".join(
        [
            r"^[ \t]*>[^\n]*",
            r"<(?P<tag>question|response|quote|blockquote|q)\b[^<>]*>.*?</(?P=tag)\s*>",
            *(rf"(?<!\w){sign}(?=\S).*?(?<=\S){sign}(?!\w)" for sign in "\"'"),
            r"[“„][^“”„]*[“”]|«[^«»]*»|「[^「」]*」|『[^『』]*』|‘(?=\S).*?(?<=\S)’(?!\w)",
        ]
    ),
    re.DOTALL | re.MULTILINE,
)
_OPENS_QUOTATION = re.compile(r"(?<!\w)['‘’`]|[\"“”„«»「」『』]")
_REPORTS = re.compile(  # "The response ends with:"
    r"\b(?:response|answer|question|instruction|prompt|text|it|author)\b[^\n.]*\b(?:says|said|claims|claimed|states"
    r"|stated|ends|ended|contains|contained|includes|included|writes|wrote|reads|quotes|quoted|adds|added)\b[^\n.]*:\W*\Z"
)


class Part(BaseModel):
    """A score that a verdict consists of, as review/verdict.yaml declares it."""

    model_config = ConfigDict(extra="forbid")

    label: Annotated[str, Field(pattern=r"\w")]  # the words before the number
    highest: Annotated[int, Field(ge=1, le=HIGHEST)]  # scores go from 0 to this
    after: list[Annotated[str, Field(pattern=r"\w")]] = []  # how the sentence before the label begins; none: any

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The label, with the sentence before it as the group `after`, if there is one."""
        sentence = rf"(?:{'|'.join(map(_words, self.after))})[^.\d]{{0,80}}\.[\W_]{{0,12}}" if self.after else r"\b\B"
        scale = rf"(?:(?<!\w )(?<!\) ){self._scale},?[ \t]+(?:the\s+|my\s+)?)?"
        return re.compile(rf"(?<![^\W_])(?P<after>{sentence})?{scale}{_words(self.label)}(?![^\W_])")

    @cached_property
    def number(self) -> re.Pattern[str]:
        """What follows a label: the separator, and then the score in any of its spellings."""
        most = self._most
        basis = rf"(?:scale|out of|of|from|/|max\.?)?\s*:?\s*{self._range}\s*(?:points?|scale)?"
        basis = rf"(?:[(\[]\s*(?:{basis}|{self._scale})\s*[)\]]|,?\s*{self._scale})"
        whole = rf"(?:/|\bout\s+of\b|\bof\b)\s*{_STYLE}*+{most}(?:\.0+)?(?![^\W_]|[.,]\d)"
        unit = rf"(?:\s*(?:points?|pts|stars?)\b{_CLOSING})?"
        return re.compile(
            rf"(?:{_STYLE}|[ \t])*+{basis}?{_SEPARATOR}{_OPENING}\s*{_NUMBER}{_CLOSING}"
            rf"{unit}(?:\s*[(\[]?(?:{whole}|{self._scale}){_CLOSING})?{unit}"
        )

    @property
    def _most(self) -> str:
        return rf"(?:{self.highest}|{_WORDS[self.highest]})"

    @property
    def _range(self) -> str:
        return rf"(?:(?:[01]|zero|one)\s*(?:to|[–—/-])\s*)?{self._most}"

    @property
    def _scale(self) -> str:
        """The words "on a scale of 1 to 5", with this part's highest score."""
        return rf"on\s+an?\s+(?:scale\s+(?:of|from)\s+{self._range}|{self._range}(?:[\s-]+point)?\s+scale)\b"

    def restated(self, text: str, end: int, value: float) -> int:
        """Where a score that ends at `end` and is said again in brackets, "4 (80%)" or "four (4)", ends."""
        name = f"|{_WORDS[int(value)]}" if value in range(HIGHEST + 1) else ""
        number = rf"(?:{re.escape(f'{value:g}')}(?:\.0+)?{name})(?:\s*(?:/|out of)\s*{self._most})?"
        percent = rf"{round(100 * value / self.highest)}(?:\.0+)?\s*(?:%|percent)"
        again = re.compile(rf"\s*[(\[]\s*(?:{number}|{percent})\s*[)\]]{_CLOSING}").match(text, end)
        return again.end() if again else end


def _words(text: str) -> str:
    return pattern_of(text, _GAP)


@dataclass(frozen=True)
class Score:
    """A score that stands in a text: `start` to `end` in the text, the label included."""

    part: int  # which of the verdict's parts
    start: int
    end: int
    whole: bool  # whether the sentence that belongs before the label stands there
    alone: bool = False  # whether it is no part of a sentence about something else
    colon: bool = False  # whether one stands between label and number
    number: int = 0  # where the number starts
    value: float | None = None

    def moved(self, folded: Folded) -> "Score":
        """The score of a folded text in the original."""
        start, end = folded.original(self.start, self.end)
        return replace(self, start=start, end=end, number=folded.starts[self.number])


class Verdict:
    """The parts that a prompt set's verdicts consist of."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts

    def read(self, review: str) -> list[Score] | None:
        """The parts of the verdict that a judge wrote, in the order of the set, each from 0 to its highest score; None
        (missing, never 0) if there is none.

        The last number of each label counts, if it stands at the beginning of a line or sentence, in no quotation, and
        nothing follows but a short remark without another number. A placeholder, a number out of range, one that goes
        on ("4 or 5", "4-5", "8/10" of 5), a limit ("<4"), and one that is taken back in the same breath ("4. Actually
        three.", "4. No, wait.") make the verdict missing. A number word that counts something, as in "4 - two errors",
        is no other number.
        """
        folded = fold(review)
        text = _QUOTED.sub(lambda quoted: re.sub(r"[^\n]", _MASK, quoted[0]), folded.text)
        scores = [score for score in self._scores(text) if score.whole and score.alone][-len(self.parts) :]
        if sorted(score.part for score in scores) != list(range(len(self.parts))):
            return None
        if not all(map(self._in_range, scores)) or _REPORTS.search(text, 0, scores[0].start):
            return None
        if not all(map(_is_remark, _remarks(text, scores))):
            return None
        return sorted((score.moved(folded) for score in scores), key=lambda score: score.part)

    def total(self, review: str) -> float | None:
        """The sum of the verdict that a judge wrote, 0–10; None if it is missing."""
        scores = self.read(review)
        return _sum(scores) if scores else None

    def begun(self, review: str, part: int) -> str:
        """The review with the words before a part's number behind it. They begin a line, or follow the sentence that
        belongs before them."""
        before = review.rstrip()
        gap = "" if not before else " " if self.parts[part].after else "\n"
        return f"{before}{gap}{self.parts[part].label}: "

    def claims(self, text: str) -> list[tuple[int, int]]:
        """The spans of a question or response that `read` could take for a part of a verdict, with the blanks and
        markup before them; what stands in quotation marks counts as if it stood alone.

        A verdict with all its parts is a claim wherever no word stands right before it. A part without the others is
        one if it is at most 10 and stands as `read` wants it, since the judge may quote the others from the other text.
        So is one without the sentence that belongs before it, but only with a colon; and also as a whole number that
        ends the text.
        """
        folded = fold(text)
        scores = [score for score in self._scores(_OPENS_QUOTATION.sub("\n", folded.text)) if score.value is not None]
        complete = {score.part for score in scores if score.whole} == set(range(len(self.parts)))
        spans = [
            folded.original(score.start, score.end)
            for score in scores
            if (complete and score.whole) or self._is_claim(score)
        ]
        return [(len(text[:start].rstrip(" \t\n*_#>`|-")), end) for start, end in spans]

    def without_claims(self, text: str) -> str:
        """The text without its claims, and without those that only appear when another is cut."""
        while spans := self.claims(text):
            for start, end in reversed(spans):
                text = text[:start] + text[end:]
        return text

    def _is_claim(self, score: Score) -> bool:
        """Whether a part of a verdict is a claim without the others."""
        has_sentence = bool(self.parts[score.part].after)
        return score.alone and (score.colon or not has_sentence) and (score.value or 0) <= HIGHEST

    def _in_range(self, score: Score) -> bool:
        return score.value is not None and score.value <= self.parts[score.part].highest

    def _scores(self, text: str) -> Iterator[Score]:
        """The scores of a folded text, from its beginning to its end, that no word stands right before."""
        labels = [(match, part) for part, rule in enumerate(self.parts) for match in rule.pattern.finditer(text)]
        before = 0  # where the last score ends
        for label, part in sorted(labels, key=lambda entry: entry[0].start()):
            score = self._score(text, part, label)
            if not score or label.start() < before:
                continue
            at_end = score.value in range(HIGHEST + 1) and not text[score.end :].strip(" \t\n.!*_`")
            alone = label["after"] or _begins(text, score.start, before) or (at_end and not score.whole)
            if alone or not _WORD_BEFORE.search(text, max(0, score.start - MAX_LEAD), score.start):
                before = score.end
                yield replace(score, alone=bool(alone))

    def _score(self, text: str, part: int, label: re.Match[str]) -> Score | None:
        """The score after a label; without a value if label and sign promise one that is not there, or not a number by
        itself; None if nothing promises one."""
        whole = bool(label["after"] or not self.parts[part].after)
        match = self.parts[part].number.match(text, label.end())
        if match and not _goes_on(text, match):
            written = match["number"]
            value = float(_WORDS.index(written) if written in _WORDS else written)
            colon = match["sign"] == ":"
            end = self.parts[part].restated(text, match.end(), value)
            return Score(part, label.start(), end, whole, False, colon, match.start("number"), value)
        sign = re.compile(_SEPARATOR).match(text, label.end())
        promised = (sign and sign["sign"]) or _LIMIT.match(text, label.end())
        return Score(part, label.start(), label.end(), whole) if promised else None


def _begins(text: str, start: int, before: int) -> bool:
    """Whether a label at `start` begins a line or a sentence, or follows the score that ends at `before`."""
    line = max(text.rfind("\n", max(0, start - MAX_LEAD), start) + 1, start - MAX_LEAD)
    follows = before > 0 and start - before <= MAX_LEAD and _SAME_LINE.fullmatch(text, before, start)
    at_start = line == 0 or text[line - 1] == "\n"
    return bool(
        follows or (at_start and _LINE_START.fullmatch(text, line, start)) or _SENTENCE_END.search(text, line, start)
    )


def _goes_on(text: str, match: re.Match[str]) -> bool:
    """Whether a number is only the beginning of something else. One on a line below its label stands there alone."""
    below = "\n" in match["space"] and _MORE_ON_THE_LINE.match(text, match.end())
    return bool(below or _GOES_ON.match(text, match.end()))


def _remarks(text: str, scores: list[Score]) -> Iterator[str]:
    """What stands on the line of each score after it, and all that follows the last one but a total that is right."""
    for score, following in pairwise(scores):
        line, _, below = text[score.end : following.start].partition("\n")
        yield line
        if _TAKEN_BACK.search(below.strip().partition("\n")[0]):
            yield below
    total = rf"{re.escape(f'{_sum(scores):g}')}(?:\.0+)?(?:\s*(?:/|out of)\s*{HIGHEST})?(?!\d)"
    total = rf"(?:total|overall|sum|final|combined)[^\d\n]*{total}"
    yield re.sub(total, "", text[scores[-1].end :])


def _is_remark(text: str) -> bool:
    """Whether a text after a score leaves it as it is."""
    if text.strip(" \t\n,;&*_|") in ("", "and", "and the"):
        return True
    another = re.search(r"\d", text) or _ALTERNATIVE.search(text) or _TAKEN_BACK.search(text)
    return len(text) <= MAX_REMARK and not another


def _sum(scores: list[Score]) -> float:
    return sum(score.value or 0.0 for score in scores)
