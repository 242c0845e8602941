"""Prompt sets: the folders of prompts/, each with its prompt templates and the rules by which completions are read.

A template is filled in one pass of `string.Template`, so a `$` in the data is never a placeholder. Data stands between
tags that the set declares (tags.yaml) and cannot close them (core/tags.py). What the judge reads is also without text
that the set's verdict rule could take for a verdict (core/verdict.py).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Annotated, TypeVar

import regex
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from stages.core.answers import AnswerRule
from stages.core.errors import UserError
from stages.core.final_answer import FinalAnswerRule
from stages.core.records import need_text
from stages.core.rows import Pair
from stages.core.tags import defuse
from stages.core.verdict import HIGHEST, Part, Verdict

FOLDER = Path("prompts")

Declared = TypeVar("Declared")
TagName = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")]


class Tags(BaseModel):
    """The names of the tags that enclose data in a set's prompts."""

    model_config = ConfigDict(extra="forbid")

    instruction: TagName
    response: TagName


class _VerdictFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    verdict: Annotated[list[Part], Field(min_length=1)]


class _AnswersFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    instruction: str
    flawed: str
    response: str


class _FinalAnswerFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    final_answer: list[str]


class PromptTemplate:
    """A prompt with places for an instruction and a response, each between its tags."""

    def __init__(self, path: Path, tags: Tags, optional: frozenset[str] = frozenset()) -> None:
        """`optional`: further placeholders that it may have. Raises `UserError` as `load_template`, and if an
        instruction or response does not stand between its tags."""
        self.names = tags.model_dump()
        self.template = load_template(path, set(self.names), optional)
        _need_tags(path, self.template, self.names)

    def fill(self, instruction: str, response: str, **rendered: str) -> str:
        """The prompt for a pair, which is data: the set's tags in it are defused. `rendered`: texts of the set."""
        names = self.names.values()
        pair = {"instruction": defuse(instruction, names), "response": defuse(response, names)}
        return self.template.substitute(pair, **rendered)


def load_template(path: Path, required: set[str], optional: frozenset[str] = frozenset()) -> Template:
    """A prompt template. Raises `UserError` if it lacks a required placeholder, or has one that is neither required nor
    optional."""
    template = Template(need_text(path, "prompt template").rstrip("\n"))
    try:
        placeholders = set(template.get_identifiers())
        template.substitute(dict.fromkeys(placeholders, ""))
    except ValueError as error:
        raise UserError(f"prompt template {path}: {error}; write a literal dollar sign as $$") from None
    for name in sorted(required - placeholders):
        raise UserError(f"prompt template {path} has no placeholder ${name}; put it where the {name} belongs")
    for name in sorted(placeholders - required - optional):
        raise UserError(f"prompt template {path}: unknown placeholder ${name}; write a literal dollar sign as $$")
    return template


def _need_tags(path: Path, template: Template, names: Mapping[str, str]) -> None:
    """Raise `UserError` if an instruction or response of the template does not stand between its tags."""
    for match in template.pattern.finditer(template.template):
        field = match["named"] or match["braced"]
        if field not in names:
            continue
        opening, closing = f"<{names[field]}>", f"</{names[field]}>"
        before, after = template.template[: match.start()].rstrip(), template.template[match.end() :].lstrip()
        if not (before.endswith(opening) and after.startswith(closing)):
            raise UserError(
                f"prompt template {path}: ${field} does not stand between {opening} and {closing}, as the set's "
                "tags.yaml declares; write them around it, or declare other tags"
            )


def read_tags(prompt_set: str) -> Tags:
    """The set's tags. Raises `UserError` if the file is missing or cannot be used."""
    path = FOLDER / prompt_set / "tags.yaml"
    tags = _read_rules(path, Tags)
    if tags.instruction.lower() == tags.response.lower():
        raise UserError(f"{path}: instruction and response have the same tag; give each its own")
    return tags


def read_system_prompt(prompt_set: str) -> str:
    """The set's system prompt without its HTML comments; an empty string means none. Raises `UserError` if the file is
    missing."""
    text = need_text(FOLDER / prompt_set / "system.md", "system prompt")
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).strip()


def _read_rules(path: Path, kind: type[Declared]) -> Declared:
    """The content of a YAML file as `kind`. Raises `UserError` if it is something else."""
    try:
        return TypeAdapter(kind).validate_python(yaml.safe_load(need_text(path, "parsing rule")))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: {f'{where}: ' if where else ''}{first['msg']}; see prompts/lance for an example"
        ) from None


class InstructionPrompt:
    """A set's prompt for a new instruction like a seed. Other seeds may be shown before it, where the template has
    `$shots`: each by the set's shot.md, with a blank line behind it."""

    def __init__(self, prompt_set: str, shots: int = 1) -> None:
        """`shots`: the seeds that it shows. Raises `UserError` as `PromptTemplate`, or without a place for
        several."""
        folder, tags = FOLDER / prompt_set / "generate", read_tags(prompt_set)
        path = folder / "instruction.md"
        self.template = PromptTemplate(path, tags, frozenset({"shots"}))
        if shots > 1 and "shots" not in self.template.template.get_identifiers():
            raise UserError(
                f"prompt template {path} has no placeholder $shots, which generate.shots: {shots} needs; put it where "
                "other seeds belong and write shot.md for each of them, as in prompts/lance, or set generate.shots: 1"
            )
        self.shot = PromptTemplate(folder / "shot.md", tags) if shots > 1 else None

    def render(self, seed: Pair, shots: Sequence[Pair] = ()) -> str:
        """The prompt for a seed, with other ones shown before it."""
        shown = [self.shot.fill(shot["prompt"], shot["response"]) for shot in shots] if self.shot else []
        return self.template.fill(seed["prompt"], seed["response"], shots="".join(f"{text}\n\n" for text in shown))

    def own_lines(self) -> list[str]:
        """The lines of the prompt without a seed: what the set itself says, with its examples."""
        return self.render({"prompt": "", "response": ""}).splitlines()


def flawed_template(prompt_set: str) -> PromptTemplate:
    """The set's template for a flawed response. Raises `UserError` as `PromptTemplate`."""
    return PromptTemplate(FOLDER / prompt_set / "generate" / "flawed.md", read_tags(prompt_set))


def answer_rule(prompt_set: str, kind: str) -> AnswerRule:
    """How the set's completions of a kind ("instruction", "response" or "flawed") are read. Raises `UserError` if the
    set does not say."""
    path, tags = FOLDER / prompt_set / "generate" / "answers.yaml", read_tags(prompt_set)
    marker = _read_rules(path, _AnswersFile).model_dump()[kind]
    if "(?P<" in marker or (marker and not re.search(r"\w", marker)):
        raise UserError(f"{path}: '{kind}' must be words such as \"Final Answer:\", or empty: the whole completion")
    return AnswerRule(marker, tags.instruction if kind == "instruction" else tags.response)


def verdict_rule(prompt_set: str) -> Verdict:
    """How the set's reviews are read: the sum of its parts is the verdict, from 0 to 10. Raises `UserError` if the set
    does not say, or if its parts do not add up to 10."""
    path = FOLDER / prompt_set / "review" / "verdict.yaml"
    parts = _read_rules(path, _VerdictFile).verdict
    if (total := sum(part.highest for part in parts)) != HIGHEST:
        raise UserError(f"{path}: the highest scores of the verdict add up to {total}; they must add up to {HIGHEST}")
    return Verdict(parts)


def final_answer_rule(prompt_set: str) -> FinalAnswerRule:
    """How the final answer of a response is read. Raises `UserError` if the set does not say, or if a pattern cannot be
    used."""
    path = FOLDER / prompt_set / "final_answer.yaml"
    patterns = _read_rules(path, _FinalAnswerFile).final_answer
    for pattern in patterns:
        try:
            groups = regex.compile(pattern).groups
        except regex.error as error:
            raise UserError(f"{path}: {pattern!r} is no pattern: {error}") from None
        if not groups:
            raise UserError(f"{path}: {pattern!r} has no group; put the answer's part of it in brackets")
    return FinalAnswerRule(tuple(patterns))


class ReviewPrompt:
    """A set's prompt for the judge, with the rubric rendered from the set's constitution (paper, section 3.2)."""

    def __init__(self, prompt_set: str) -> None:
        """Raises `UserError` if one of the set's files is missing or cannot be used."""
        folder = FOLDER / prompt_set / "review"
        self.template = PromptTemplate(folder / "prompt.md", read_tags(prompt_set), frozenset({"constitution"}))
        self.rubric = render_rubric(folder / "constitution.yaml")
        self.verdict = verdict_rule(prompt_set)

    def render(self, instruction: str, response: str) -> str:
        """The judge's prompt for a pair: its texts as they are, but for defused tags and claims, which are cut."""
        pair = (self.verdict.without_claims(text) for text in (instruction, response))
        return self.template.fill(*pair, constitution=self.rubric)

    def speaks_for_the_judge(self, text: str) -> bool:
        """Whether the judge would read a text without something in it, since it could be taken for a verdict."""
        return bool(self.verdict.claims(text))


def check(prompt_set: str, shots: int = 1) -> None:
    """Raise `UserError` if a file of the set is missing or could not be used by a later stage; `shots`: how many seeds
    a new instruction is written from."""
    read_system_prompt(prompt_set)
    ReviewPrompt(prompt_set)
    InstructionPrompt(prompt_set, shots)
    flawed_template(prompt_set)
    for kind in ("instruction", "response", "flawed"):
        answer_rule(prompt_set, kind)
    final_answer_rule(prompt_set)


def render_rubric(path: Path) -> str:
    """A constitution as the lines of the rubric, one per principle: its name, what it demands of the question, and what
    of the response. Raises `UserError` if a principle lacks one of the two."""
    try:
        constitution = yaml.safe_load(need_text(path, "constitution")) or {}
        lines = [
            f"- {name}. Question: {principle['question']} Response: {principle['response']}"
            for name, principle in constitution.items()
        ]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise UserError(f"constitution {path}: each principle needs the two texts 'question' and 'response'") from None
    return "\n".join(lines)
