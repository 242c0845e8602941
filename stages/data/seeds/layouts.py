"""A row's prompt and response: by its layout, or by the names in `seed.columns`.

    a task, what goes with it, and a response      {"instruction": …, "input": …, "output": …}
    a conversation of one turn                     {"messages": [{"role": "user", "content": …}, …]}
    a question with choices, and the right one     {"question": …, "choices": [… ], "answer": "B"}

What a field is, its name says (fields.py). The prompt is the task, then what goes with it, then the choices, one a
line as "A. …", each set apart by a blank line. Nothing of it is lost in silence: a row is refused if it also has a
field that belongs to the question, or a verdict on itself. What other fields it has is told.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stages.core.records import Record
from stages.data.seeds.choices import Choice, choices_of_field, labelled, right_answer
from stages.data.seeds.columns import composed, ignored, names_in, proposed
from stages.data.seeds.fields import Role, by_role, filled, is_lost, names, option_label, plain, role, verdict_against
from stages.data.seeds.messages import Turns, are_messages, messages_of, speaker, turns_of
from stages.data.seeds.source import RowError, shown
from stages.data.seeds.text import context_text, field_text, need_no_reasoning, response_text

TEXTS: set[Role | None] = {"task", "context", "response", None}  # the kinds of fields in most rows


@dataclass
class Reading:
    """A row as it was read."""

    prompt: str
    response: str
    review: str | None
    unread: list[str]  # names of other fields that hold something
    notes: list[str]  # what was done to the texts


def read_row(fields: Record, columns: Record | None = None, with_review: bool = False) -> Reading:
    """A row's prompt and response, by `columns` {"prompt", "response", "ignore"} or by its layout; `with_review`: also
    its `review`, and no other field is a verdict on the row. Raises `RowError` if it cannot be used."""
    row = _Row(fields)
    prompt, response = row.by_columns(columns) if columns else row.by_layout()
    review = row.review() if with_review else None
    row.check_rest(set(ignored(columns)), verdicts=not with_review)
    return Reading(prompt, response, review, row.unread(), row.notes)


class _Row:
    """A row that is being read."""

    def __init__(self, fields: Record) -> None:
        self.all_fields, self.fields = fields, filled(fields)
        self.used: dict[str, str] = {}  # {name: "user", "assistant" or "both", whose words it is}
        self.notes: list[str] = []
        self._in_messages: list[str] = []  # unread fields of messages
        self._by_role = by_role(tuple(self.fields))

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
        for name in self._with_role("response"):
            if not choices:
                self._add_part(name, "assistant", prompts, responses)
        if choices:
            self._add_right_answer(choices, responses)
        if not prompts or not responses:
            raise self._nothing("response" if prompts else "prompt")
        return self._only(prompts, "prompt"), self._only(responses, "response")

    def _with_role(self, what: Role) -> list[str]:
        return self._by_role.get(what, [])

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
        return context_text(self._use(name, whose), name, self.notes)

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
        inner.check_rest(set())
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
        answers = self._with_role("key") + self._with_role("response")
        answers += [name for name in self.fields if plain(name) in ("label", "correct")]
        texts = {name: right_answer(self._use(name, "assistant"), name, choices, self.notes) for name in answers}
        lines = {choice.text: choice.line for choice in choices} if len(texts) > 1 else {}
        responses |= {name: lines.get(text, text) for name, text in texts.items()}

    def _only(self, texts: Turns, what: str) -> str:
        """The one text that they all are. Raises `RowError` if they differ."""
        if len(texts) > 1 and len(set(texts.values())) > 1:
            first, task, answer = next(iter(texts)), self._with_role("task"), self._with_role("response")
            prompt, response = ([first], answer) if what == "prompt" else (task, [first])
            remedy = f"name the one to read, such as {proposed(prompt[:1], response[:1])}"
            raise RowError(f"more than one {what}", names(texts), remedy)
        return next(iter(texts.values()))

    def _nothing(self, what: str) -> RowError:
        """Why there is no prompt or no response: no field for it, or nothing in it."""
        wanted = ("task", "conversation") if what == "prompt" else ("response", "conversation", "key")
        empty = [name for name in self.all_fields if role(name) in wanted and name not in self.fields]
        if empty:
            return RowError(f"no text in the {empty[0]}")
        fields = f"its fields are {names(self.all_fields)}"
        return RowError("no prompt and response", fields, f"name them, such as {self._likely_columns(what)}")

    def _likely_columns(self, missing: str) -> str:
        """A `seed.columns` with what was found of prompt and response, and with other texts if it is plain which."""
        prompt = self._read_for("user") if missing == "response" else []
        response = self._read_for("assistant") if missing == "prompt" else []
        chosen = [name for name in self.fields if plain(name) == "chosen"]
        texts = [name for name, value in self.fields.items() if type(value) is str and role(name) is None]
        if prompt or response:
            texts = [name for name in texts if re.search(r"\s", self.fields[name].strip())]
        others = chosen or texts
        if len(others) == (not prompt) + (not response):
            prompt, response = prompt or others[:1], response or others[-1:]
        return proposed(prompt, response)

    def _read_for(self, whose: str) -> list[str]:
        """The fields that the prompt or response was read from; of several that say the same, the first one."""
        read = [name for name, side in self.used.items() if side in (whose, "both")]
        heads = [name for name in read if role(name) in ("task", "response")]
        heads += [name for name in read if role(name) == "conversation"]
        return [name for name in read if name not in heads[1:]]

    def by_columns(self, columns: Record) -> tuple[str, str]:
        """The prompt and the response by the names in `seed.columns`."""
        prompts: Turns = {}  # by field
        responses: Turns = {}
        choices: list[Choice] = []
        questions, answers = names_in(columns["prompt"]), names_in(columns["response"])
        prompt = self._composed(columns["prompt"], "user", prompts, responses, choices)
        if choices and len(answers) == 1 and answers[0] in self.fields:
            response = right_answer(self._use(answers[0], "assistant"), answers[0], choices, self.notes)
        else:
            response = self._composed(columns["response"], "assistant", prompts, responses, choices)
        # what else is said in the messages that were read
        other_prompts = {name: text for name, text in prompts.items() if name not in questions}
        other_responses = {name: text for name, text in responses.items() if name not in answers}
        prompt = self._only({"prompt": prompt, **other_prompts}, "prompt")
        return prompt, self._only({"response": response, **other_responses}, "response")

    def _composed(
        self, columns: str | list[str], whose: str, prompts: Turns, responses: Turns, choices: list[Choice]
    ) -> str:
        """A prompt or response of one column, of several with a blank line between them, or of a template."""
        listed = names_in(columns)
        if not any(name in self.all_fields for name in listed):
            raise RowError(f"no column '{shown(listed[0])}'", f"its fields are {names(self.all_fields)}")
        mine = prompts if whose == "user" else responses
        texts = dict.fromkeys(listed, "")
        for name in listed:
            if name not in self.fields:
                continue
            value = self.fields[name]
            if role(name) == "choices" and isinstance(value, list | dict):
                choices += choices_of_field(self._use(name, whose), name, self.notes)
                texts[name] = "\n".join(choice.line for choice in choices)
            elif len(listed) == 1 or role(name) == "conversation" or are_messages(value):
                self._add_part(name, whose, prompts, responses)
                if name not in mine:
                    raise RowError(f"no message of the {whose} in the {name}")
                texts[name] = mine[name]
            else:
                texts[name] = self._context(name, whose)
        if not any(texts.values()):
            raise RowError(f"no text in the {listed[0]}")
        text = composed(columns, texts)
        return text if whose == "user" else response_text(text, listed[0], [])

    def review(self) -> str:
        """The field `review`."""
        text = field_text(self.all_fields.get("review"), "review", self.notes)
        need_no_reasoning(text, "review")
        self.used["review"] = "assistant"
        return text

    def check_rest(self, left_out: set[str], verdicts: bool = True) -> None:
        """Raise `RowError` for a field that was not read though it belongs to the question or, with `verdicts`, judges
        the row."""
        if len(self.used) == len(self.fields):
            return
        has_chosen = any(plain(name) == "chosen" for name in self.used)
        rest = {
            name: value
            for name, value in self.fields.items()
            if name not in self.used and name not in left_out and not (has_chosen and plain(name) == "rejected")
        }
        others = ("task", "response", "conversation", "key")
        if lost := [name for name in rest if is_lost(name) and role(name) not in others]:
            raise RowError(f"{_quoted(lost)} would be lost", remedy=self._remedy(lost))
        if verdicts:
            self._check_verdicts(rest)

    def _check_verdicts(self, rest: Record) -> None:
        against = {name: problem for name, value in rest.items() if (problem := verdict_against(name, value))}
        for name, problem in against.items():
            if problem != "is a verdict on the row":
                raise RowError(f"{_quoted([name])} {problem}", str(rest[name]))
        if against:
            first = next(iter(against))
            detail = "" if isinstance(rest[first], list | dict) else f"{first}: {rest[first]}"
            raise RowError(
                f"{_quoted(against)} judge{'s' * (len(against) == 1)} the row", detail, self._remedy(list(against))
            )
        self.used |= {name: "verdict" for name in rest if role(name) == "verdict"}  # which speaks for the row

    def unread(self) -> list[str]:
        """The names of fields that hold something and were not read."""
        if len(self.used) == len(self.fields):
            return self._in_messages
        return [*(name for name in self.fields if name not in self.used), *self._in_messages]

    def _remedy(self, rest: list[str]) -> str:
        """The `seed.columns` that would read the row with these fields, or without them."""
        prompt, response = self._read_for("user"), self._read_for("assistant")
        without = f"to leave it out: {proposed(prompt, response, rest)}"
        system = [name for name in rest if "system" in plain(name).split("_")]
        contexts = [name for name in rest if role(name) == "context"]
        if system + contexts == rest and all(isinstance(self.fields[name], str) for name in rest):
            return f"to read it: {proposed([*system, *prompt, *contexts], response)}; {without}"
        return without


def _quoted(fields: Iterable[str]) -> str:
    return ", ".join(f"'{shown(name)}'" for name in fields)
