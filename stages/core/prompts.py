"""Prompt sets: folders under prompts/ with the templates of one way of asking, and how its completions are read.

A template is filled in one pass with `string.Template`: a `$` in the data is never a placeholder. A tag of the template
that occurs in the data is cut out, so that a response cannot close its own quotation, and so is, before the judge reads
it, what would speak for the judge (the set's review/claims.yaml).
"""

import re
from collections.abc import Callable
from pathlib import Path
from string import Template

import yaml

from stages.core.errors import UserError
from stages.core.records import need_text

FOLDER = Path("prompts")
_TAG = re.compile(r"<[\s/]*(\w+)\b[^<>]*>")


def load(path: Path, required: set[str], optional: frozenset[str] = frozenset()) -> Template:
    """A template, checked: every required placeholder is there, and no other than the optional ones."""
    template = Template(need_text(path, "prompt template").rstrip("\n"))
    try:
        found = set(template.get_identifiers())
        template.substitute(dict.fromkeys(found, ""))
    except ValueError as error:
        raise UserError(f"prompt template {path}: {error}; write a literal dollar sign as $$") from None
    for name in sorted(required - found):
        raise UserError(f"prompt template {path} has no placeholder ${name}; put it where the {name} belongs")
    for name in sorted(found - required - optional):
        raise UserError(f"prompt template {path}: unknown placeholder ${name}; write a literal dollar sign as $$")
    return template


def fill(template: Template, **fields: str) -> str:
    """The template with its fields in place; the fields are data and stay data."""
    names = _tags(template)
    return template.substitute({field: _without_tags(text, names) for field, text in fields.items()})


def _tags(template: Template) -> set[str]:
    return {name.lower() for name in _TAG.findall(template.template)}


def _without_tags(text: str, names: set[str]) -> str:
    """The text without the template's tags, however written; cutting one out must not make another."""
    return _settled(lambda each: _TAG.sub(lambda tag: "" if tag[1].lower() in names else tag[0], each), text)


def _settled(change: Callable[[str], str], text: str) -> str:
    """The text after the change, made again until it changes nothing."""
    while (changed := change(text)) != text:
        text = changed
    return text


def system(prompt_set: str) -> str:
    """The set's system prompt, without its comments; empty for none."""
    text = need_text(FOLDER / prompt_set / "system.md", "system prompt")
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).strip()


def expression(path: Path, name: str) -> re.Pattern[str]:
    """A regular expression of a prompt set."""
    try:
        return re.compile(yaml.safe_load(need_text(path, "reading rule"))[name], re.DOTALL)
    except (yaml.YAMLError, KeyError, TypeError, re.error) as error:
        raise UserError(f"{path}: '{name}' must be a regular expression ({error})") from None


def pattern(path: Path, name: str, group: str | None = None) -> re.Pattern[str]:
    """The regular expression by which a prompt set reads one of its completions; it must have named groups, and the
    named one if there is one."""
    rule = expression(path, name)
    if not rule.groupindex or (group and group not in rule.groupindex):
        raise UserError(f"{path}: '{name}' must mark what is read as a named group, (?P<{group or 'score'}>…)")
    return rule


def generation_templates(prompt_set: str) -> tuple[Template, Template]:
    """The set's prompts for a new instruction and for a flawed response."""
    folder, fields = FOLDER / prompt_set / "generate", {"instruction", "response"}
    return load(folder / "instruction.md", fields), load(folder / "flawed.md", fields)


def answer_pattern(prompt_set: str, kind: str) -> re.Pattern[str]:
    """How the set's completions of a kind are read: instruction, response or flawed."""
    return pattern(FOLDER / prompt_set / "generate" / "answers.yaml", kind, "answer")


def verdict_pattern(prompt_set: str) -> re.Pattern[str]:
    """How the set's reviews are read."""
    return pattern(FOLDER / prompt_set / "review" / "verdict.yaml", "verdict")


def verdict_scale(prompt_set: str) -> dict[str, int]:
    """The highest score of each of the verdict's named groups; scores are whole numbers from 0 on."""
    path = FOLDER / prompt_set / "review" / "verdict.yaml"
    groups = set(verdict_pattern(prompt_set).groupindex)
    scale = yaml.safe_load(need_text(path, "reading rule")).get("scale")
    if not isinstance(scale, dict) or set(scale) != groups or not all(isinstance(most, int) for most in scale.values()):
        raise UserError(
            f"{path}: review.estimator: expected needs 'scale', the highest score of each named group of the verdict "
            f"({', '.join(sorted(groups))}), such as scale: {{{min(groups)}: 10}}"
        )
    return scale


class ReviewPrompt:
    """The judge's prompt of a set, with the rubric rendered from the set's constitution."""

    def __init__(self, prompt_set: str) -> None:
        folder = FOLDER / prompt_set / "review"
        self.template = load(folder / "prompt.md", {"instruction", "response"}, frozenset({"constitution"}))
        self.rubric = constitution(folder / "constitution.yaml")
        self.claims = expression(folder / "claims.yaml", "claims")

    def prompt(self, instruction: str, response: str) -> str:
        said = {"instruction": self.plain(instruction), "response": self.plain(response)}
        return fill(self.template, **said, constitution=self.rubric)

    def plain(self, text: str) -> str:
        """The text as the judge reads it, without what would speak for it; tags go first, they could stand within a
        claim."""
        tags = _tags(self.template)
        return _settled(lambda each: self.claims.sub("", _without_tags(each, tags)), text)


def check(prompt_set: str, estimator: str) -> None:
    """Raises `UserError` where a file of the set is missing or cannot be used by a later stage."""
    system(prompt_set)
    ReviewPrompt(prompt_set)
    verdict_pattern(prompt_set)
    if estimator == "expected":
        verdict_scale(prompt_set)
    generation_templates(prompt_set)
    for kind in ("instruction", "response", "flawed"):
        answer_pattern(prompt_set, kind)


def constitution(path: Path) -> str:
    """The principles as the rubric's lines: name, what it asks of the question, what it asks of the response."""
    try:
        principles = yaml.safe_load(need_text(path, "constitution")) or {}
        lines = [
            f"- {name}. Question: {said['question']} Response: {said['response']}" for name, said in principles.items()
        ]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise UserError(f"constitution {path}: each principle needs the two texts 'question' and 'response'") from None
    return "\n".join(lines)
