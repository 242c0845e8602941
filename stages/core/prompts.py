"""Prompt sets: folders under prompts/ with the templates of one way of asking, and how its completions are read.

A template is filled in one pass with `string.Template`: a `$` in the data is never a placeholder. A tag of the template
that occurs in the data gets square brackets, so that a response cannot close its own quotation.
"""

import re
from pathlib import Path
from string import Template

import yaml

from stages.core.errors import UserError
from stages.core.records import need_text

FOLDER = Path("prompts")
_TAG = re.compile(r"<\s*/?\s*(\w+)\s*>")


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
    names = {name.lower() for name in _TAG.findall(template.template)}
    return template.substitute({field: _without_tags(text, names) for field, text in fields.items()})


def _without_tags(text: str, names: set[str]) -> str:
    """The text with each of the template's tags, however written, in square brackets."""
    return _TAG.sub(lambda tag: f"[{tag[0][1:-1]}]" if tag[1].lower() in names else tag[0], text)


def system(prompt_set: str) -> str:
    """The set's system prompt, without its comments; empty for none."""
    text = need_text(FOLDER / prompt_set / "system.md", "system prompt")
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).strip()


def pattern(path: Path, name: str, group: str | None = None) -> re.Pattern[str]:
    """The regular expression by which a prompt set reads one of its completions; it must have named groups, and the
    named one if there is one."""
    try:
        rule = re.compile(yaml.safe_load(need_text(path, "reading rule"))[name], re.DOTALL)
    except (yaml.YAMLError, KeyError, TypeError, re.error) as error:
        raise UserError(f"{path}: '{name}' must be a regular expression ({error})") from None
    if not rule.groupindex or (group and group not in rule.groupindex):
        raise UserError(f"{path}: '{name}' must mark what is read as a named group, (?P<{group or 'score'}>…)")
    return rule


def verdict(prompt_set: str) -> re.Pattern[str]:
    """How the set's reviews are read."""
    return pattern(FOLDER / prompt_set / "review" / "verdict.yaml", "verdict")


class Review:
    """The judge's prompt of a set, with the rubric rendered from the set's constitution."""

    def __init__(self, prompt_set: str) -> None:
        folder = FOLDER / prompt_set / "review"
        self.template = load(folder / "prompt.md", {"instruction", "response"}, frozenset({"constitution"}))
        self.rubric = constitution(folder / "constitution.yaml")

    def prompt(self, instruction: str, response: str) -> str:
        return fill(self.template, instruction=instruction, response=response, constitution=self.rubric)


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
