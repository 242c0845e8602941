"""How a response to a prompt is checked by a program: the field `check` of a row. It is data and names no code of its
own; judging/verifiers.py carries it out.

    {"kind": "answer", "expected": "42"}                             the answer that the response gives
    {"kind": "regex", "pattern": "^[a-z ]+$"}                        found in the response, by Python's rules
    {"kind": "json", "schema": {"type": "object"}}                   JSON, alone or in a fence, that fits the schema
    {"kind": "instructions", "ids": ["punctuation:no_comma"], "kwargs": [{}]}        instructions of IFEval
    {"kind": "python", "function": "rhymes", "arguments": {"word": "moon"}}          a function of `review.checks`

A kind but `answer` may also have `wording`, the words of the prompt that ask for what is checked: a new instruction
made from the row has the same check if it has all of these words too. Without them it has none.
"""

import json
import re
from importlib.util import find_spec
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator

from stages.core.folding import fold
from stages.core.rows import Check, Pair, SeedOrCandidate

Text = Annotated[str, Field(pattern=r"\S")]

# The instructions of IFEval with their arguments, as lm-eval's checkers take them. One without its arguments would be
# checked against values drawn at random, so all have to be given.
INSTRUCTIONS = {
    "change_case:capital_word_frequency": "capital_frequency capital_relation",
    "change_case:english_capital": "",
    "change_case:english_lowercase": "",
    "combination:repeat_prompt": "prompt_to_repeat",
    "combination:two_responses": "",
    "detectable_content:number_placeholders": "num_placeholders",
    "detectable_content:postscript": "postscript_marker",
    "detectable_format:constrained_response": "",
    "detectable_format:json_format": "",
    "detectable_format:multiple_sections": "section_spliter num_sections",
    "detectable_format:number_bullet_lists": "num_bullets",
    "detectable_format:number_highlighted_sections": "num_highlights",
    "detectable_format:title": "",
    "keywords:existence": "keywords",
    "keywords:forbidden_words": "forbidden_words",
    "keywords:frequency": "keyword frequency relation",
    "keywords:letter_frequency": "letter let_frequency let_relation",
    "language:response_language": "language",
    "length_constraints:nth_paragraph_first_word": "num_paragraphs nth_paragraph first_word",
    "length_constraints:number_paragraphs": "num_paragraphs",
    "length_constraints:number_sentences": "num_sentences relation",
    "length_constraints:number_words": "num_words relation",
    "punctuation:no_comma": "",
    "startend:end_checker": "end_phrase",
    "startend:quotation": "",
}
BY_SENTENCE = {
    "change_case:capital_word_frequency",
    "length_constraints:number_sentences",
}  # they need nltk's tokenizer
TOKENIZER = "tokenizers/punkt_tab"
RELATIONS = ("less than", "at least")
PACKAGES = {
    "answer": ("math_verify",),
    "json": ("jsonschema",),
    "instructions": ("langdetect", "immutabledict", "nltk"),
}


class _Check(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Worded(_Check):
    wording: list[Text] = []


class _Answer(_Check):
    kind: Literal["answer"]
    expected: Text | int | float


class _Regex(_Worded):
    kind: Literal["regex"]
    pattern: Annotated[str, Field(min_length=1)]

    @field_validator("pattern")
    @classmethod
    def check_pattern(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"is no regular expression of Python: {error}") from None
        return pattern


class _Json(_Worded):
    kind: Literal["json"]
    definition: Annotated[dict[str, Any], Field(alias="schema")]

    @field_validator("definition")
    @classmethod
    def check_definition(cls, definition: dict[str, Any]) -> dict[str, Any]:
        if find_spec("jsonschema"):
            from jsonschema import SchemaError, validators

            try:
                validators.validator_for(definition, validators.Draft202012Validator).check_schema(definition)
            except SchemaError as error:
                raise ValueError(f"is no JSON schema: {error.message}") from None
        return definition


class _Instructions(_Worded):
    kind: Literal["instructions"]
    ids: Annotated[list[str], Field(min_length=1)]
    kwargs: list[dict[str, Any]]  # of each instruction; null is as good as missing

    @field_validator("ids")
    @classmethod
    def check_ids(cls, ids: list[str]) -> list[str]:
        if unknown := sorted(set(ids) - INSTRUCTIONS.keys()):
            raise ValueError(f"{unknown[0]!r} is no instruction of IFEval")
        return ids

    @field_validator("kwargs")
    @classmethod
    def check_kwargs(cls, kwargs: list[dict[str, Any]], info: ValidationInfo) -> list[dict[str, Any]]:
        ids = info.data.get("ids", [])
        if ids and len(kwargs) != len(ids):
            raise ValueError(f"has {len(kwargs)} entries for {len(ids)} ids")
        for name, arguments in zip(ids, kwargs, strict=False):
            _check_arguments(name, {key: value for key, value in arguments.items() if value is not None})
        return kwargs


class _Python(_Worded):
    kind: Literal["python"]
    function: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
    arguments: dict[str, Any] = {}


_CHECK: TypeAdapter[Any] = TypeAdapter(
    Annotated[_Answer | _Regex | _Json | _Instructions | _Python, Field(discriminator="kind")]
)


def _check_arguments(instruction: str, arguments: dict[str, Any]) -> None:
    """Raise `ValueError` unless an instruction has all its arguments, each of its kind."""
    wanted = INSTRUCTIONS[instruction].split()
    if wanted != sorted(arguments, key=lambda name: wanted.index(name) if name in wanted else len(wanted)):
        raise ValueError(f"{instruction} needs {', '.join(wanted) or 'no arguments'}, not {', '.join(arguments)}")
    for name, value in arguments.items():
        if problem := _argument_problem(name, value):
            raise ValueError(f"{instruction}: {name} {problem}, not {value!r}")
    if arguments.get("nth_paragraph", 1) > arguments.get("num_paragraphs", 1):
        raise ValueError(f"{instruction}: nth_paragraph is above num_paragraphs")


def _argument_problem(name: str, value: Any) -> str | None:
    if name.endswith("relation"):
        return None if value in RELATIONS else "should be 'less than' or 'at least'"
    if name.startswith(("num_", "nth_")) or name.endswith("frequency"):
        return None if type(value) is int and value > 0 else "should be a whole number above 0"
    if name in ("keywords", "forbidden_words"):
        words = isinstance(value, list) and value and all(isinstance(word, str) and word.strip() for word in value)
        return None if words else "should be a list of words"
    if name == "letter":
        return None if isinstance(value, str) and re.fullmatch("[A-Za-z]", value) else "should be a letter from a to z"
    return None if isinstance(value, str) and value.strip() else "should be a text"


def parse_check(value: Any, prompt: str) -> Check:
    """The field `check` of a row with this prompt: an object, or one as JSON in a text. Fields that are null count as
    missing. Raises `ValueError`, in a line, if it is malformed."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    check: Check = {name: part for name, part in value.items() if part is not None}
    try:
        _CHECK.validate_python(check)
    except ValidationError as error:
        details = error.errors()[0]
        path = ".".join(map(str, details["loc"][1:]))
        message = details["ctx"]["error"] if details["type"] == "value_error" else details["msg"]
        raise ValueError(f"{path}: {message}" if path else str(message)) from None
    if missing := [words for words in check.get("wording", []) if not _stand_in(words, prompt)]:
        raise ValueError(f"wording: {missing[0]!r} does not stand in the prompt")
    return check


class Checked(TypedDict):
    """The check of a row, if it has one."""

    check: NotRequired[Check]


def checked(row: Pair) -> Checked:
    """What another row takes over of this one: its check, or nothing."""
    return {"check": row["check"]} if "check" in row else {}


def check_of(row: SeedOrCandidate) -> Check | None:
    """How a row is checked. A generated one is as its seed if it has the seed's own prompt, or all the words that the
    seed's check rests on; otherwise nothing checks it."""
    if "check" in row:
        return row["check"]
    if "seed" not in row or "check" not in row["seed"]:
        return None
    check, wording = row["seed"]["check"], row["seed"]["check"].get("wording", [])
    asks_the_same = bool(wording) and all(_stand_in(words, row["prompt"]) for words in wording)
    return check if row["prompt"] == row["seed"]["prompt"] or asks_the_same else None


def _stand_in(words: str, text: str) -> bool:
    """Whether a text has these words, without regard to letter case, blanks and look-alike signs."""
    comparable, whole = (" ".join(fold(part).text.split()) for part in (words, text))
    return re.search(rf"(?<!\w){re.escape(comparable)}(?!\w)", whole) is not None


def missing_packages(checks: list[Check]) -> list[str]:
    """What carrying out these checks needs and is not installed, each as "kind (package)"."""
    kinds = {check["kind"] for check in checks}
    missing = [
        f"{kind} ({package})"
        for kind, packages in PACKAGES.items()
        for package in packages
        if kind in kinds and find_spec(package) is None
    ]
    ids = {name for check in checks if check["kind"] == "instructions" for name in check["ids"]}
    if not missing and ids & BY_SENTENCE and not has_tokenizer():
        missing.append(f"{min(ids & BY_SENTENCE)} (nltk's punkt_tab: run `lance suite ifeval` once, with a network)")
    return missing


def has_tokenizer() -> bool:
    """Whether nltk's sentence tokenizer is on this machine."""
    import nltk

    try:
        nltk.data.find(TOKENIZER)
    except LookupError:
        return False
    return True
