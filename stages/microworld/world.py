"""The synthetic instruction world: eight families of short problems, each with one right answer.

A problem is drawn as *fields* ("a": 45, "b": 67, "word": "larger"), worded by one of its family's templates, and solved
from its fields alone. About half of the problems invite a *misconception*: one fixed mistake ("smaller" read as
"larger", "last" read as "first") that the base model is taught to make when it answers, and taught to recognise when it
judges. `oracle` reads a question back into its fields and solves it.
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

    key: tuple[str, ...]  # equal for two wordings of one problem
    answer: str
    misconception: str | None  # the fixed mistake that this problem invites, if it does
    mistakes: tuple[str, ...]  # every plausible wrong answer
    sentence: str  # a clear answer, with {} for the answer


@dataclass(frozen=True)
class Family:
    templates: tuple[str, ...]
    draw: Callable[[Random], Fields]
    solve: Callable[[Fields], Solution | None]  # None: the question is ill-posed
    held_out_percent: int = 10  # share of its problems that no corpus and no seed set may contain
    corpus_weight: float = 1.0  # harder families stand in the corpus more often


@dataclass(frozen=True)
class Problem:
    family: str
    question: str
    solution: Solution


def _solution(
    key: tuple[object, ...], answer: object, misconception: object, mistakes: list[str], sentence: str
) -> Solution:
    wrong = tuple(dict.fromkeys(mistake for mistake in mistakes if mistake != str(answer)))
    taught = str(misconception) if misconception is not None else None
    return Solution(tuple(map(str, key)), str(answer), taught, wrong, sentence)


def _listed(items: Sequence[object]) -> str:
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
    return {"word": word, "numbers": _listed(random.sample(range(10, 100), 3))}


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
    return {"ordinal": random.choice(ordinals), "words": _listed(words)}


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
    return {"side": random.choice(["before", "after"]), "word": word, "words": _listed(words)}


def _solve_neighbor(fields: Fields) -> Solution | None:
    side, word, words = fields["side"], fields["word"], fields["words"].split(", ")
    if words.count(word) != 1:
        return None
    here = words.index(word)
    before = words[here - 1] if here > 0 else None
    after = words[here + 1] if here + 1 < len(words) else None
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
    return {"words": _listed(words)}


def _solve_repeated(fields: Fields) -> Solution | None:
    words = fields["words"].split(", ")
    twice = [word for word in dict.fromkeys(words) if words.count(word) == 2]
    if len(twice) != 1 or len(words) - len(set(words)) != 1:
        return None
    misconception = words[0] if twice[0] != words[0] else None
    return _solution(tuple(words), twice[0], misconception, words, "The repeated word is {}.")


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
    return {"words": _listed(random.sample(WORDS, random.randint(2, 6)))}


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


def _worded(template: str, fields: Fields) -> str:
    return _FIELD.sub(lambda field: fields[field[1]], template)


def _pattern(template: str) -> re.Pattern[str]:
    """The regular expression that reads a question of this template back into its fields."""
    parts, end = [], 0
    for field in _FIELD.finditer(template):
        parts += [re.escape(template[end : field.start()]), f"(?P<{field[1]}>{_KINDS.get(field[2], field[2])})"]
        end = field.end()
    return re.compile("".join(parts) + re.escape(template[end:]))


_PATTERNS = [(name, _pattern(template)) for name, family in FAMILIES.items() for template in family.templates]


def oracle(question: str) -> Problem | None:
    """Solve any well-formed question of this world; None where it is not one. For building and measuring only."""
    for name, pattern in _PATTERNS:
        match = pattern.fullmatch(question)
        if not match:
            continue
        try:
            solution = FAMILIES[name].solve(match.groupdict())
        except ValueError:  # a word where the template has a number
            continue
        if solution:
            return Problem(name, question, solution)
    return None


def _percentile(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") % 100


def split_of(problem: Problem) -> str:
    """'train', 'validation' or 'test', decided by the problem's content, so that no wording of it changes sides."""
    name, key = problem.family, problem.solution.key
    if _percentile(name, key) >= FAMILIES[name].held_out_percent:
        return "train"
    return "validation" if _percentile("part", name, key) < 33 else "test"


def draw(random: Random, split: str = "train", family: str | None = None) -> Problem:
    """A problem of the given split, from the given family or from all of them, by their corpus weight."""
    while True:
        weights = [each.corpus_weight for each in FAMILIES.values()]
        name = family or random.choices(list(FAMILIES), weights)[0]
        fields = FAMILIES[name].draw(random)
        solution = FAMILIES[name].solve(fields)
        if solution is None:
            continue
        problem = Problem(name, _worded(random.choice(FAMILIES[name].templates), fields), solution)
        if split_of(problem) == split:
            return problem


def distinct(random: Random, split: str, family: str) -> Iterator[Problem]:
    """Problems of one family and split, no two of them the same whatever their wording; endless."""
    seen: set[tuple[str, ...]] = set()
    while True:
        problem = draw(random, split, family)
        if problem.solution.key not in seen:
            seen.add(problem.solution.key)
            yield problem
