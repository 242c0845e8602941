"""Prompt sets: the folders of prompts/, each with its prompt templates and the rules by which completions are read.

A template is filled in one pass of `string.Template`, so a `$` in the data is never a placeholder. Tags that occur in
the template are removed from the data, so a response cannot close its own quotation. What the judge reads is also
stripped of text that would speak for the judge (the set's review/claims.yaml).
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


def fill(template: Template, **fields: str) -> str:
    """The template with its placeholders filled. The fields are data: the template's tags are removed from them."""
    tags = _tag_names(template)
    return template.substitute({name: _remove_tags(text, tags) for name, text in fields.items()})


def _tag_names(template: Template) -> set[str]:
    return {name.lower() for name in _TAG.findall(template.template)}


def _remove_tags(text: str, names: set[str]) -> str:
    """The text without the named tags, in any spelling, even one that only appears when another is removed."""
    return _until_unchanged(lambda part: _TAG.sub(lambda tag: "" if tag[1].lower() in names else tag[0], part), text)


def _until_unchanged(change: Callable[[str], str], text: str) -> str:
    """The text after applying the change again and again until it has no effect."""
    while (changed := change(text)) != text:
        text = changed
    return text


def read_system_prompt(prompt_set: str) -> str:
    """The set's system prompt without its HTML comments; an empty string means none. Raises `UserError` if the file is
    missing."""
    text = need_text(FOLDER / prompt_set / "system.md", "system prompt")
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).strip()


def read_regex(path: Path, name: str) -> re.Pattern[str]:
    """The regular expression `name` of a YAML file; `.` matches line breaks too. Raises `UserError` if the file has
    none."""
    try:
        return re.compile(yaml.safe_load(need_text(path, "parsing rule"))[name], re.DOTALL)
    except (yaml.YAMLError, KeyError, TypeError, re.error) as error:
        raise UserError(f"{path}: '{name}' must be a regular expression ({error})") from None


def completion_pattern(path: Path, name: str, group: str | None = None) -> re.Pattern[str]:
    """A regular expression that reads a completion. Raises `UserError` if it lacks the named group `group` or, without
    one, any named group."""
    pattern = read_regex(path, name)
    if not pattern.groupindex or (group and group not in pattern.groupindex):
        raise UserError(f"{path}: '{name}' needs a named group around what it reads, (?P<{group or 'score'}>…)")
    return pattern


def generation_templates(prompt_set: str) -> tuple[Template, Template]:
    """The set's templates for a new instruction and for a flawed response. Raises `UserError` as `load_template`."""
    folder, fields = FOLDER / prompt_set / "generate", {"instruction", "response"}
    return load_template(folder / "instruction.md", fields), load_template(folder / "flawed.md", fields)


def answer_pattern(prompt_set: str, kind: str) -> re.Pattern[str]:
    """How the set's completions of a kind ("instruction", "response" or "flawed") are read: their group "answer"."""
    return completion_pattern(FOLDER / prompt_set / "generate" / "answers.yaml", kind, "answer")


def verdict_pattern(prompt_set: str) -> re.Pattern[str]:
    """How the set's reviews are read: each named group is a score, and their sum is the verdict, from 0 to 10."""
    return completion_pattern(FOLDER / prompt_set / "review" / "verdict.yaml", "verdict")


def verdict_scale(prompt_set: str) -> dict[str, int]:
    """The highest score of each named group of the verdict; scores are whole numbers from 0 on. Raises `UserError` if
    the set does not say."""
    path = FOLDER / prompt_set / "review" / "verdict.yaml"
    groups = set(verdict_pattern(prompt_set).groupindex)
    scale = yaml.safe_load(need_text(path, "parsing rule")).get("scale")
    if not isinstance(scale, dict) or set(scale) != groups or not all(isinstance(high, int) for high in scale.values()):
        raise UserError(
            f"{path}: review.estimator: expected needs 'scale', the highest score of each named group of the verdict "
            f"({', '.join(sorted(groups))}), such as scale: {{{min(groups)}: 10}}"
        )
    return scale


class ReviewPrompt:
    """A set's prompt for the judge, with the rubric rendered from the set's constitution (paper, section 3.2)."""

    def __init__(self, prompt_set: str) -> None:
        """Raises `UserError` if one of the set's files is missing or cannot be used."""
        folder = FOLDER / prompt_set / "review"
        self.template = load_template(folder / "prompt.md", {"instruction", "response"}, frozenset({"constitution"}))
        self.rubric = render_rubric(folder / "constitution.yaml")
        self.claims = read_regex(folder / "claims.yaml", "claims")

    def render(self, instruction: str, response: str) -> str:
        """The judge's prompt for a pair of instruction and response, both sanitised."""
        pair = {"instruction": self.sanitise(instruction), "response": self.sanitise(response)}
        return fill(self.template, **pair, constitution=self.rubric)

    def sanitise(self, text: str) -> str:
        """The text without what would speak for the judge: the template's tags and the set's claims."""
        tags = _tag_names(self.template)  # removed first, since a tag could split a claim
        return _until_unchanged(lambda part: self.claims.sub("", _remove_tags(part, tags)), text)


def check(prompt_set: str, estimator: str) -> None:
    """Raise `UserError` if a file of the set is missing or could not be used by a later stage. `estimator`: the
    parameter `review.estimator`."""
    read_system_prompt(prompt_set)
    ReviewPrompt(prompt_set)
    verdict_pattern(prompt_set)
    if estimator == "expected":
        verdict_scale(prompt_set)
    generation_templates(prompt_set)
    for kind in ("instruction", "response", "flawed"):
        answer_pattern(prompt_set, kind)


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
