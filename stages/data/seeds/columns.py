"""`seed.columns`: which columns make the prompt and the response, as params.yaml has it and as an error proposes it.

    {prompt: question, response: answer}                                    a column each
    {prompt: [instruction, input], response: output, ignore: [score]}       several; and columns that need not be read
    {prompt: "{instruction}\\n\\nText: {context}", response: response}      a template

Names that YAML or dvc's -S would take for something else are quoted.
"""

import json
import re

from stages.core.records import Record

TEMPLATE_FIELD = re.compile(r"\{([^{}]+)\}")
_BARE = re.compile(r"(?!(?:true|false|null|yes|no|on|off|y|n)$)[a-z_]\w*", re.ASCII | re.IGNORECASE)  # in YAML and -S


def column_names(columns: Record) -> list[str]:
    """The names of all columns in `seed.columns`."""
    return [*names_in(columns["prompt"]), *names_in(columns["response"]), *ignored(columns)]


def ignored(columns: Record | None) -> list[str]:
    """The columns that need not be read."""
    return columns.get("ignore", []) if columns else []


def names_in(columns: str | list[str]) -> list[str]:
    """The columns of a prompt or response: a name, several, or those of a template."""
    return columns if isinstance(columns, list) else TEMPLATE_FIELD.findall(columns) or [columns]


def composed(columns: str | list[str], texts: dict[str, str]) -> str:
    """The texts {name: text} of several columns, with a blank line between them, or in the places of their names in a
    template. Empty texts are left out, and so are a template's paragraphs of which all texts are empty."""
    if isinstance(columns, list) or columns in texts:
        return "\n\n".join(filter(None, texts.values()))
    paragraphs = [
        TEMPLATE_FIELD.sub(lambda match: texts[match[1]], paragraph)
        for paragraph in columns.split("\n\n")
        if not (fields := TEMPLATE_FIELD.findall(paragraph)) or any(texts[name] for name in fields)
    ]
    return "\n\n".join(paragraphs)


def proposed(prompt: list[str], response: list[str], ignore: list[str] | None = None) -> str:
    """A `seed.columns` to propose."""
    left_out = f", ignore: [{_yaml(ignore)}]" if ignore else ""
    return f"seed.columns={{prompt: {_one_or_list(prompt)}, response: {_one_or_list(response)}{left_out}}}"


def _one_or_list(columns: list[str]) -> str:
    is_list = len(columns) > 1 or any(map(TEMPLATE_FIELD.search, columns))  # "{x}" alone would be a template
    return f"[{_yaml(columns)}]" if is_list else _yaml(columns or ["NAME"])


def _yaml(columns: list[str]) -> str:
    return ", ".join(
        name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=not name.isprintable()) for name in columns
    )
