"""A row's prompt and response: by its layout, or by the names in `seed.columns`.

    a task, what goes with it, and a response      {"instruction": …, "input": …, "output": …}
    a conversation of one turn                     {"messages": [{"role": "user", "content": …}, …]}
    a question with choices, and the right one     {"question": …, "choices": [… ], "answer": "B"}

What a field is, its name says (fields.py). The prompt is the task, then what goes with it, then the choices, one a
line as "A. …", each set apart by a blank line. Nothing of it is lost in silence: a row is refused if it also has a
field that belongs to the question, or a verdict on itself. What other fields it has is told.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stages.core.checks import parse_check
from stages.core.records import Record
from stages.core.rows import Check
from stages.data.seeds.choices import AS_TEXT, Choice, choices_of_field, labelled, line_of, right_answer
from stages.data.seeds.columns import composed, ignored, names_in, proposed
from stages.data.seeds.fields import (
    BAD_ANSWER,
    JUDGES,
    LOSES,
    Against,
    Role,
    against,
    by_role,
    filled,
    is_choice,
    names,
    option_label,
    plain,
    role,
    speakers,
)
from stages.data.seeds.messages import Turns, are_messages, messages_of, speaker, turns_of
from stages.data.seeds.source import Number, RowError, shown
from stages.data.seeds.text import EXACT, context_text, field_text, need_no_reasoning, response_text

SYSTEM = {"system", "sys", "systemprompt", "sysprompt", "persona", "definition", "preamble"}  # before the question
TEXTS: set[Role | None] = {"task", "context", "response", "check", None}  # the kinds of fields in most rows


@dataclass
class Reading:
    """A row as it was read."""

    prompt: str
    response: str
    review: str | None
    unread: list[str]  # names of other fields that hold something
    notes: list[str]  # what was done to the texts
    check: Check | None = None


def read_row(fields: Record, columns: Record | None = None, with_review: bool = False) -> Reading:
    """A row's prompt and response, by `columns` {"prompt", "response", "ignore"} or by its layout; `with_review`: also
    its `review`, and no other field is a verdict on the row. Raises `RowError` if it cannot be used."""
    row = _Row(fields, columns)
    prompt, response = row.by_columns(columns) if columns else row.by_layout()
    review = row.review() if with_review else None
    check = None if with_review else row.check(prompt)
    row.check_rest(prompt, verdicts=not with_review)
    return Reading(prompt, response, review, row.unread(), row.notes, check)


class _Row:
    """A row that is being read."""

    def __init__(self, fields: Record, columns: Record | None = None) -> None:
        self.all_fields, self.fields = fields, filled(fields)
        self.used: dict[str, str] = {}  # {name: "user", "assistant" or "both", whose words it is}
        self.notes: list[str] = []
        self._in_messages: list[str] = []  # unread fields of messages
        self._by_role = by_role(tuple(self.fields))
        self._has_columns, self._left_out = bool(columns), ignored(columns)
        self._speakers = speakers(self.fields)

    def by_layout(self) -> tuple[str, str]:
        """The prompt and the response by the row's layout."""
        tasks, answers = self._with_role("task"), self._with_role("response")
        if len(tasks) == len(answers) == 1 and self._by_role.keys() <= TEXTS:  # most rows: nothing to choose from
            task, answer = tasks[0], answers[0]
            if isinstance(self.fields[task], str) and isinstance(self.fields[answer], str):
                texts = [field_text(self._use(task, "user"), task, self.notes)]
                texts += map(self._context, self._with_role("context"))
                response = response_text(self._use(answer, "assistant"), answer, self.notes)
                return "\n\n".join(filter(None, texts)), response
        prompts: Turns = {}  # by field; all have to be equal
        responses: Turns = {}
        choices = self._add_tasks(prompts, responses)
        for name in self._with_role("conversation"):
            self._add_part(name, "both", prompts, responses)
        if choices:
            self._add_right_answer(choices, responses)
        else:
            for name in self._with_role("response") + self._with_role("gold"):
                self._add_part(name, "assistant", prompts, responses)
        if not prompts or not responses:
            raise self._nothing("response" if prompts else "prompt")
        return self._only(prompts, "prompt"), self._only(responses, "response")

    def _with_role(self, what: Role) -> list[str]:
        fields = self._by_role.get(what, [])
        return [name for name in fields if name not in self._speakers] if self._speakers else fields

    def _add_tasks(self, prompts: Turns, responses: Turns) -> list[Choice]:
        """Add the prompt of each task to `prompts`, with what goes with it; returns the choices."""
        tasks, contexts = self._with_role("task"), self._with_role("context")
        if not tasks and not self._with_role("conversation"):
            tasks = [name for name in contexts if plain(name) == "input"]
        for name in tasks:
            self._add_part(name, "user", prompts, responses)
        if not prompts:
            return []
        task, choices = self._only(prompts, "prompt"), self._choices()
        parts = [self._context(name) for name in contexts if name not in tasks]
        parts.append("\n".join(choice.line for choice in choices))
        whole = "\n\n".join(filter(None, [task, *parts]))
        prompts.update(dict.fromkeys(prompts, whole))
        return choices

    def _use(self, name: str, whose: str) -> Any:
        """A field's value, marked as read."""
        self.used[name] = whose
        return self.fields[name]

    def _context(self, name: str, whose: str = "user") -> str:
        """A field's text; a number is one where it may be an input rather than the number of something."""
        numbers = plain(name) == "input" or self._has_columns
        return context_text(self._use(name, whose), name, self.notes, numbers)

    def _add_part(self, name: str, whose: str, prompts: Turns, responses: Turns) -> None:
        """Add a field to the prompts or responses; if it holds messages, what each one says."""
        seen, value = name in self.used, self._use(name, whose)
        if role(name) == "conversation" or are_messages(value):
            if seen:  # named for the prompt and for the response
                self.used[name] = "both"
                return
            turns = self._turns(value, name)
            prompts |= {name: turns["user"]} if "user" in turns else {}
            responses |= {name: turns["assistant"]} if "assistant" in turns else {}
        elif whose == "user":
            prompts[name] = field_text(value, name, self.notes)
        else:
            responses[name] = response_text(value, name, self.notes)

    def _turns(self, value: Any, name: str) -> Turns:
        messages = messages_of(value, name)
        if len(messages) > 1 or speaker(messages[0]):
            return turns_of(messages, name, self._in_messages, self.notes)
        inner = _Row(messages[0])  # [{"human": …, "assistant": …}]
        prompt, response = inner.by_layout()
        inner.check_rest(prompt)
        self.notes += inner.notes
        self._in_messages += [f"{name}.{unread}" for unread in inner.unread()]
        return {"user": prompt, "assistant": response}

    def _choices(self) -> list[Choice]:
        """The answers to choose from, in a field or in columns A, B, …; none if the row has none."""
        lists, options = self._with_role("choices"), self._with_role("option")
        if not lists and len(options) < 2:  # a single "A" is something else
            return []
        by_label = {option_label(name): name for name in options}
        if len(lists) > 1 or (lists and options) or len(by_label) < len(options):
            raise RowError("more than one set of choices", names([*lists, *options]))
        if lists:
            return choices_of_field(self._use(lists[0], "user"), lists[0], self.notes)
        texts = {label: field_text(self._use(name, "user"), name, self.notes, True) for label, name in by_label.items()}
        return labelled({str(label): texts[label] for label in sorted(texts, key=str)})

    def _add_right_answer(self, choices: list[Choice], responses: Turns) -> None:
        """Add what each field that names the right answer says; the text of a choice and its label say the same."""
        answers = self._with_role("key") + self._with_role("response") + self._with_role("gold")
        answers += [name for name in self.fields if plain(name) == "label"]
        answers += [
            name for name in self.fields if plain(name) == "correct" and not (answers and self._may_judge(name))
        ]
        texts = {name: right_answer(self._use(name, "assistant"), name, choices, self.notes) for name in answers}
        lines = {choice.text: choice.line for choice in choices} if len(texts) > 1 else {}
        responses |= {name: lines.get(text, text) for name, text in texts.items()}

    def _may_judge(self, name: str) -> bool:
        """Whether `correct` beside an answer may say whether that is right."""
        return str(self.fields[name]).strip().lower() in ("0", "1", "true", "false", "yes", "no")

    def _only(self, texts: Turns, what: str) -> str:
        """The one text that they all are. Raises `RowError` if they differ."""
        if len(texts) > 1 and len(set(texts.values())) > 1:
            raise RowError(f"more than one {what}", names(texts), lambda: self._how_to_choose(texts, what))
        return next(iter(texts.values()))

    def _how_to_choose(self, texts: Turns, what: str) -> str:
        """How to name the right one of several prompts or responses; of prompts the one that has the others in it, or
        all of them."""
        tasks, answers = self._with_role("task"), self._with_role("response")
        if what == "prompt" and len(answers) == 1 and list(texts) == tasks:
            longest = max(tasks, key=lambda name: len(texts[name]))
            is_whole = all(text in texts[longest] for text in texts.values())
            if columns := self._if_it_reads([longest] if is_whole else tasks, answers):
                return f"to read {'the longer' if is_whole else 'both'}: {columns}"
        prompt, response = ([], answers) if what == "prompt" else (self._read_for("user"), [])
        return f"write {proposed(prompt, response)}, with the right one of {names(texts)} for NAME"

    def _nothing(self, what: str) -> RowError:
        """Why there is no prompt or no response: no field for it, or nothing in it."""
        wanted = ("task", "conversation") if what == "prompt" else ("response", "conversation", "key")
        empty = [name for name in self.all_fields if role(name) in wanted and name not in self.fields]
        if empty:
            return RowError(f"no text in the {empty[0]}")
        fields = f"its fields are {names(self.all_fields)}"
        return RowError("no prompt and response", fields, lambda: self._how_to_name(what))

    def _how_to_name(self, missing: str) -> str:
        """How to write `seed.columns`, with what is known of prompt and response. Of the rest, any text may be the
        question."""
        prompt = self._read_for("user") if missing == "response" else []
        response = self._read_for("assistant") if missing == "prompt" else []
        chosen = [name for name in self.fields if name not in self.used and _is_preferred(name, "chosen")]
        if len(chosen) == 1:
            judging = [name for name, value in self.fields.items() if _judges(name, value)]
            others = [name for name in judging if name not in chosen and not _is_preferred(name, "rejected")]
            if columns := self._if_it_reads(prompt or chosen, response or chosen, others):  # messages may have both
                return f"name them: {columns}"
        if sum(1 for name in self.fields if is_choice(name) and role(name) != "choices") > 1:
            return AS_TEXT
        others = [
            name for name, value in self.fields.items() if name not in self.used and self._may_be_named(name, value)
        ]
        columns = proposed(prompt, response)
        if len(others) < columns.count("NAME"):
            return "write the question into a field `prompt` and the answer into `response`"
        how_many = "columns" if columns.count("NAME") > 1 else "one"
        return f"write {columns}, with {how_many} of {names(others)} for NAME, or with fields of your own"

    def _may_be_named(self, name: str, value: Any) -> bool:
        """Whether a field that was not read may be the prompt or the response."""
        is_text = (isinstance(value, str) and not isinstance(value, Number)) or are_messages(value)
        is_choice_or_label = role(name) == "choices" or (plain(name) == "label" and isinstance(value, EXACT))
        return (is_text or is_choice_or_label) and not _is_preferred(name, "rejected")

    def _if_it_reads(self, prompt: list[str], response: list[str], ignore: list[str] | None = None) -> str:
        """A `seed.columns` to propose if it reads this row, and nothing if it does not."""
        columns = {"prompt": prompt, "response": response, "ignore": ignore or []}
        try:
            reading = read_row(self.all_fields, columns)
        except RowError:
            return ""
        if reading.prompt == reading.response:  # a text, named for both
            return ""
        return proposed(prompt, response, ignore)

    def _read_for(self, whose: str) -> list[str]:
        """The fields that the prompt or response was read from; of several that say the same, the first one."""
        read = [name for name, side in self.used.items() if side in (whose, "both")]
        heads = [name for name in read if role(name) in ("task", "response")]
        heads += [name for name in read if role(name) in ("conversation", "key", "gold", "verdict")]
        return [name for name in read if name not in heads[1:]]

    def by_columns(self, columns: Record) -> tuple[str, str]:
        """The prompt and the response by the names in `seed.columns`."""
        prompts: Turns = {}  # by field
        responses: Turns = {}
        choices: list[Choice] = []
        questions, answers = names_in(columns["prompt"]), names_in(columns["response"])
        prompt = self._composed(columns["prompt"], "user", prompts, responses, choices)
        response = self._composed(columns["response"], "assistant", prompts, responses, choices)
        # what else is said in the messages that were read
        other_prompts = {name: text for name, text in prompts.items() if name not in questions}
        other_responses = {name: text for name, text in responses.items() if name not in answers}
        prompt = self._only({"prompt": prompt, **other_prompts}, "prompt")
        return prompt, self._only({"response": response, **other_responses}, "response")

    def _composed(
        self, columns: str | list[str], whose: str, prompts: Turns, responses: Turns, choices: list[Choice]
    ) -> str:
        """A prompt or response of one column, of several with a blank line between them, or of a template. `choices`:
        those of the prompt, which is composed first."""
        listed = names_in(columns)
        if not any(name in self.all_fields for name in listed):
            raise RowError(f"no column '{shown(listed[0])}'", f"its fields are {names(self.all_fields)}")
        texts = dict.fromkeys(listed, "")
        for name in listed:
            if name in self.fields:
                texts[name] = self._part(name, columns, whose, (prompts, responses), choices)
        if not any(texts.values()):
            raise RowError(f"no text in the {listed[0]}")
        if choices and isinstance(columns, list):
            texts = _joined(texts, choices)
        text = composed(columns, texts)
        return text if whose == "user" else response_text(text, listed[0], [])

    def _part(
        self, name: str, columns: str | list[str], whose: str, turns: tuple[Turns, Turns], choices: list[Choice]
    ) -> str:
        """The text of one of the columns of a prompt or response; the choices in it are added to `choices`."""
        value, listed = self.fields[name], names_in(columns)
        mine = turns[0] if whose == "user" else turns[1]
        if whose == "user" and option_label(name) and sum(1 for other in listed if option_label(other)) > 1:
            choices += labelled({str(option_label(name)): self._context(name)})
            return choices[-1].line
        if whose == "user" and role(name) == "choices" and _may_be_list(value):
            choices += choices_of_field(self._use(name, whose), name, self.notes)
            return "\n".join(choice.line for choice in choices)
        if whose == "assistant" and choices and not are_messages(value):
            read = right_answer if columns in (name, [name]) else line_of
            return read(self._use(name, whose), name, choices, self.notes)
        if len(listed) == 1 or role(name) == "conversation" or are_messages(value):
            self._add_part(name, whose, *turns)
            if name not in mine:
                raise RowError(f"no message of the {whose} in the {name}")
            return mine[name]
        return self._context(name, whose)

    def review(self) -> str:
        """The field `review`."""
        text = field_text(self.all_fields.get("review"), "review", self.notes)
        need_no_reasoning(text, "review")
        self.used["review"] = "assistant"
        return text

    def check(self, prompt: str) -> Check | None:
        """How a program checks a response to the prompt, as the field `check` has it. Raises `RowError` if it is
        malformed."""
        fields = [name for name in self._with_role("check") if name not in self.used and name not in self._left_out]
        if not fields:
            return None
        if len(fields) > 1:
            raise RowError("more than one check", names(fields))
        name, value = fields[0], self._use(fields[0], "neither")
        try:
            return parse_check(_numbers_read(value), prompt)
        except ValueError as error:
            refused = [Against(name, name, value, LOSES)]
            raise RowError(f"malformed {shown(name)}", shown(str(error), 200), lambda: self._remedy(refused)) from None

    def check_rest(self, prompt: str, verdicts: bool = True) -> None:
        """Raise `RowError` for a field that was not read though it belongs to the question or, with `verdicts`, judges
        the row."""
        if len(self.used) == len(self.fields):
            return
        has_chosen = any(_is_preferred(name, "chosen") for name in self.used)
        rest = {
            name: value
            for name, value in self.fields.items()
            if name not in self.used
            and name not in self._left_out
            and name not in self._speakers
            and not (has_chosen and _is_preferred(name, "rejected"))
        }
        if self._has_columns:  # another answer was not named, and what else is asked may be within the prompt
            rest = {
                name: value
                for name, value in rest.items()
                if role(name) not in ("response", "conversation", "key", "gold")
                and not (role(name) == "task" and str(value).strip() in prompt)
            }
        problems = [problem for name, value in rest.items() for problem in against(name, value)]
        if lost := [one for one in problems if one.problem == LOSES]:
            raise RowError(f"{_quoted(lost)} would be lost", remedy=lambda: self._remedy(problems))
        if verdicts:
            self._check_verdicts(problems)
            self.used |= {name: "verdict" for name in rest if role(name) == "verdict"}  # which speaks for the row

    def _check_verdicts(self, problems: list[Against]) -> None:
        for one in problems:
            if one.problem == BAD_ANSWER:
                raise RowError(f"{_quoted([one])} {BAD_ANSWER}", str(one.value))
        if problems:
            first = problems[0]
            detail = "" if isinstance(first.value, list | dict) else f"{first.path}: {first.value}"
            raise RowError(
                f"{_quoted(problems)} judge{'s' * (len(problems) == 1)} the row",
                detail,
                lambda: self._remedy(problems),
            )

    def unread(self) -> list[str]:
        """The names of fields that hold something and were not read."""
        if len(self.used) == len(self.fields):
            return self._in_messages
        return [*(name for name in self.fields if name not in self.used), *self._in_messages]

    def _remedy(self, problems: list[Against]) -> str:
        """The `seed.columns` that would read the row with these fields, or without them."""
        rest = list(dict.fromkeys(one.name for one in problems))
        if any(map(is_choice, rest)):
            return AS_TEXT
        prompt, response = self._read_for("user"), self._read_for("assistant")
        system = [name for name in rest if SYSTEM.intersection(plain(name).split("_"))]
        contexts = [name for name in rest if role(name) in ("context", "task")]
        ways = []
        if system + contexts == rest and (columns := self._if_it_reads([*system, *prompt, *contexts], response)):
            ways.append(f"to read it: {columns}")
        if columns := self._if_it_reads(prompt, response, [*self._left_out, *rest]):
            ways.append(f"to leave it out: {columns}")
        return "; ".join(ways)


def _numbers_read(value: Any) -> Any:
    """A value of a JSON file with its numbers as numbers."""
    if isinstance(value, dict):
        return {name: _numbers_read(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_numbers_read(part) for part in value]
    return json.loads(value) if isinstance(value, Number) else value


def _quoted(fields: Iterable[Against]) -> str:
    return ", ".join(f"'{shown(field.path)}'" for field in fields)


def _is_preferred(name: str, which: str) -> bool:
    """Whether a field is the chosen or the rejected answer, and no score of it."""
    return plain(name) in (which, f"{which}_messages", f"{which}_response", f"{which}_answer", f"{which}_conversation")


def _judges(name: str, value: Any) -> bool:
    return any(one.problem == JUDGES for one in against(name, value))


def _may_be_list(value: Any) -> bool:
    """Whether a field has a list of choices, also as JSON in a text."""
    if isinstance(value, str) and not value.lstrip().startswith(("[", "{")):
        return False
    return isinstance(value, list | dict | str)


def _joined(texts: dict[str, str], choices: list[Choice]) -> dict[str, str]:
    """The texts of several columns, of which those that are a choice each follow each other, once."""
    joined: dict[str, str] = {}
    lines, before = {choice.line for choice in choices}, ""
    for name, text in texts.items():
        if text in joined.values():
            continue
        if text in lines and before:
            joined[before] += f"\n{text}"
        else:
            joined[name] = text
        before = before or (name if text in lines else "")
    return joined
