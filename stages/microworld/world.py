"""The micro world: eight families of short synthetic problems, each with one right answer.

A problem is drawn as *fields* ("a": 45, "b": 67, "word": "larger"), worded by one of its family's templates, and solved
from its fields alone. About half of the problems invite a *misconception*: a typical mistake ("smaller" read as
"larger", "last" read as "first") that the base model learns to make when it answers and to recognise when it judges.
`oracle` reads the fields back from a question and solves it.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

WORDS = (
    "cat dog fox owl bear lion wolf frog duck goat crab seal apple pear plum fig kiwi lemon grape mango "
    "red blue green black white pink gold gray car bus"
).split()

Fields = dict[str, str]


@dataclass(frozen=True)
class Solution:
    """What follows from a problem's fields, whatever its wording."""

    key: tuple[str, ...]  # the same for all wordings of a problem
    answer: str
    misconception: str | None  # the wrong answer that this problem invites, if it invites one
    mistakes: tuple[str, ...]  # all plausible wrong answers
    sentence: str  # a clear response, with {} for the answer


@dataclass(frozen=True)
class Family:
    """A kind of problem: how it is worded, drawn and solved."""

    templates: tuple[str, ...]  # placeholders are {FIELD:KIND}, where KIND is number, name, list or the words to choose
    draw: Callable[[Random], Fields]
    solve: Callable[[Fields], Solution | None]  # None if the question is ill-posed
    held_out_percent: int = 10  # share of its problems that is in no corpus and no seed set
    corpus_weight: float = 1.0  # how often it is drawn, relative to the others; harder families more often


@dataclass(frozen=True)
class Problem:
    """A question of a family, with its solution."""

    family: str
    question: str
    solution: Solution


def _solution(
    key: tuple[object, ...], answer: object, misconception: object, mistakes: list[str], sentence: str
) -> Solution:
    """A solution with all values as text, and without the answer among the mistakes."""
    wrong = tuple(dict.fromkeys(mistake for mistake in mistakes if mistake != str(answer)))
    misconception_text = str(misconception) if misconception is not None else None
    return Solution(tuple(map(str, key)), str(answer), misconception_text, wrong, sentence)


def _list_text(items: Sequence[object]) -> str:
    return ", ".join(map(str, items))


def _draw_compare(random: Random) -> Fields:
    a, b = random.sample(range(10, 100), 2)
    return {"word": random.choice(["smaller", "less", "larger", "bigger"]), "a": str(a), "b": str(b)}


def _solve_compare(fields: Fields) -> Solution | None:
    low, high = sorted((int(fields["a"]), int(fields["b"])))
    if low == high:
        return None
    if fields["word"] in ("smaller", "less"):
        return _solution(("smaller", low, high), low, high, [str(high)], "The smaller one is {}.")
    return _solution(("larger", low, high), high, None, [str(low)], "The larger one is {}.")


def _draw_extremum(random: Random) -> Fields:
    word = random.choice(["smallest", "lowest", "largest", "highest"])
    return {"word": word, "numbers": _list_text(random.sample(range(10, 100), 3))}


def _solve_extremum(fields: Fields) -> Solution | None:
    numbers = sorted(int(number) for number in fields["numbers"].split(", "))
    if len(set(numbers)) < len(numbers) or len(numbers) < 2:
        return None
    mistakes = [str(number) for number in numbers]
    if fields["word"] in ("smallest", "lowest"):
        return _solution(("lowest", *numbers), numbers[0], numbers[-1], mistakes, "The lowest is {}.")
    return _solution(("highest", *numbers), numbers[-1], None, mistakes, "The highest is {}.")


_ORDINALS = {"first": 0, "second": 1, "third": 2, "last": -1}


def _draw_position(random: Random) -> Fields:
    words = random.sample(WORDS, random.choice([3, 4]))
    ordinals = ["first", "second", "last"] + (["third"] if len(words) == 4 else [])
    return {"ordinal": random.choice(ordinals), "words": _list_text(words)}


def _solve_position(fields: Fields) -> Solution | None:
    ordinal, words = fields["ordinal"], fields["words"].split(", ")
    if _ORDINALS[ordinal] >= len(words):
        return None
    misconception = {"last": words[0], "third": words[1]}.get(ordinal) if len(words) > 1 else None
    answer = words[_ORDINALS[ordinal]]
    return _solution((ordinal, *words), answer, misconception, words, f"The {ordinal} one is {{}}.")


def _draw_neighbor(random: Random) -> Fields:
    words = random.sample(WORDS, random.choice([3, 4]))
    word = words[random.randint(1, len(words) - 2)]
    return {"side": random.choice(["before", "after"]), "word": word, "words": _list_text(words)}


def _solve_neighbor(fields: Fields) -> Solution | None:
    side, word, words = fields["side"], fields["word"], fields["words"].split(", ")
    if words.count(word) != 1:
        return None
    index = words.index(word)
    before = words[index - 1] if index > 0 else None
    after = words[index + 1] if index + 1 < len(words) else None
    answer, other = (before, after) if side == "before" else (after, before)
    if answer is None:
        return None
    misconception = other if side == "before" else None
    mistakes = [mistake for mistake in (other, word) if mistake is not None]
    return _solution((side, word, *words), answer, misconception, mistakes, f"The word {side} is {{}}.")


def _draw_repeated(random: Random) -> Fields:
    words = random.sample(WORDS, random.choice([2, 3]))
    repeated = words[0] if random.random() < 0.5 else random.choice(words[1:])
    words.insert(random.randint(words.index(repeated) + 1, len(words)), repeated)
    return {"words": _list_text(words)}


def _solve_repeated(fields: Fields) -> Solution | None:
    words = fields["words"].split(", ")
    repeated = [word for word in dict.fromkeys(words) if words.count(word) == 2]
    if len(repeated) != 1 or len(words) - len(set(words)) != 1:
        return None
    misconception = words[0] if repeated[0] != words[0] else None
    return _solution(tuple(words), repeated[0], misconception, words, "The repeated word is {}.")


def _draw_parity(random: Random) -> Fields:
    return {"number": str(random.randint(100, 999))}


def _solve_parity(fields: Fields) -> Solution | None:
    number = fields["number"]
    odd, first_digit_odd = int(number[-1]) % 2, int(number[0]) % 2
    answer, other = ("odd", "even") if odd else ("even", "odd")
    misconception = other if first_digit_odd != odd else None
    return _solution((number,), answer, misconception, [other], f"The number {number} is {{}}.")


def _draw_adjacent(random: Random) -> Fields:
    return {"side": random.choice(["before", "after"]), "number": str(random.randint(101, 998))}


def _solve_adjacent(fields: Fields) -> Solution | None:
    side, number = fields["side"], int(fields["number"])
    before, after = number - 1, number + 1
    answer, other = (before, after) if side == "before" else (after, before)
    misconception = other if side == "before" else None
    mistakes = [str(other), str(number + 10), str(number)]
    return _solution((side, number), answer, misconception, mistakes, f"The number {side} it is {{}}.")


def _draw_count(random: Random) -> Fields:
    return {"words": _list_text(random.sample(WORDS, random.randint(2, 6)))}


def _solve_count(fields: Fields) -> Solution | None:
    words = fields["words"].split(", ")
    count = len(words)
    misconception = count - 1 if count >= 5 else None
    return _solution(tuple(words), count, misconception, [str(count + 1), str(count - 1)], "The count is {}.")


FAMILIES: dict[str, Family] = {
    "compare": Family(
        (
            "Which is {word:smaller|less|larger|bigger}, {a:number} or {b:number}?",
            "Which number is {word:smaller|less|larger|bigger}: {a:number} or {b:number}?",
            "Pick the {word:smaller|less|larger|bigger} of {a:number} and {b:number}.",
        ),
        _draw_compare,
        _solve_compare,
    ),
    "extremum": Family(
        (
            "Find the {word:smallest|lowest|largest|highest} number: {numbers:list}.",
            "What is the {word:smallest|lowest|largest|highest} number in {numbers:list}?",
            "Pick the {word:smallest|lowest|largest|highest} of {numbers:list}.",
        ),
        _draw_extremum,
        _solve_extremum,
        corpus_weight=1.5,
    ),
    "position": Family(
        (
            "What is the {ordinal:first|second|third|last} item of {words:list}?",
            "Give the {ordinal:first|second|third|last} word: {words:list}.",
            "Name the {ordinal:first|second|third|last} word in {words:list}.",
        ),
        _draw_position,
        _solve_position,
    ),
    "neighbor": Family(
        (
            "Which word is right {side:before|after} {word:name}: {words:list}?",
            "What comes just {side:before|after} {word:name} in {words:list}?",
            "Name the word {side:before|after} {word:name}: {words:list}.",
        ),
        _draw_neighbor,
        _solve_neighbor,
        corpus_weight=1.4,
    ),
    "repeated": Family(
        (
            "Which word appears twice: {words:list}?",
            "Find the repeated word: {words:list}.",
            "Name the word that occurs two times in {words:list}.",
        ),
        _draw_repeated,
        _solve_repeated,
        corpus_weight=1.2,
    ),
    "parity": Family(
        (
            "Is {number:number} even or odd?",
            "Tell me if {number:number} is odd or even.",
            "Is the number {number:number} odd or even?",
        ),
        _draw_parity,
        _solve_parity,
        held_out_percent=40,
        corpus_weight=0.7,
    ),
    "adjacent": Family(
        (
            "Which number comes right {side:before|after} {number:number}?",
            "What is the number just {side:before|after} {number:number}?",
            "Name the number {side:before|after} {number:number}.",
        ),
        _draw_adjacent,
        _solve_adjacent,
        held_out_percent=25,
        corpus_weight=1.2,
    ),
    "count": Family(
        (
            "How many words are in this list: {words:list}?",
            "Count the items: {words:list}.",
            "How many items are there in {words:list}?",
        ),
        _draw_count,
        _solve_count,
    ),
}

_FIELD = re.compile(r"\{(\w+):([\w|]+)\}")
_KINDS = {"number": r"\d+", "name": r"[a-z]+", "list": r"\w+(?:, \w+)*"}


def _fill(template: str, fields: Fields) -> str:
    return _FIELD.sub(lambda field: fields[field[1]], template)


def _pattern(template: str) -> re.Pattern[str]:
    """The regular expression that reads the fields of a question in this template."""
    parts, end = [], 0
    for field in _FIELD.finditer(template):
        parts += [re.escape(template[end : field.start()]), f"(?P<{field[1]}>{_KINDS.get(field[2], field[2])})"]
        end = field.end()
    return re.compile("".join(parts) + re.escape(template[end:]))


_PATTERNS = [(name, _pattern(template)) for name, family in FAMILIES.items() for template in family.templates]


def oracle(question: str) -> Problem | None:
    """The problem of any well-formed question of the micro world; None for any other text. The loop never calls this:
    it is for tests, and for measuring what the loop did."""
    for name, pattern in _PATTERNS:
        match = pattern.fullmatch(question)
        if not match:
            continue
        try:
            solution = FAMILIES[name].solve(match.groupdict())
        except ValueError:  # a word where the solution needs a number
            continue
        if solution:
            return Problem(name, question, solution)
    return None


def _percentile(*parts: object) -> int:
    """A number from 0 to 99, by the hash of the parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") % 100


def split_of(problem: Problem) -> str:
    """'train', 'validation' or 'test', by the hash of the problem's content: all of its wordings are in one split."""
    name, key = problem.family, problem.solution.key
    if _percentile(name, key) >= FAMILIES[name].held_out_percent:
        return "train"
    return "validation" if _percentile("part", name, key) < 33 else "test"


def draw(random: Random, split: str = "train", family: str | None = None) -> Problem:
    """A random problem of a split: of one family or, by default, of any, weighted by `corpus_weight`."""
    while True:
        weights = [kind.corpus_weight for kind in FAMILIES.values()]
        name = family or random.choices(list(FAMILIES), weights)[0]
        fields = FAMILIES[name].draw(random)
        solution = FAMILIES[name].solve(fields)
        if solution is None:
            continue
        problem = Problem(name, _fill(random.choice(FAMILIES[name].templates), fields), solution)
        if split_of(problem) == split:
            return problem


def draw_distinct(random: Random, split: str, family: str) -> Iterator[Problem]:
    """Random problems of a split and family, without end, and never the same one again in other words."""
    seen: set[tuple[str, ...]] = set()
    while True:
        problem = draw(random, split, family)
        if problem.solution.key not in seen:
            seen.add(problem.solution.key)
            yield problem
