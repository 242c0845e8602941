"""Labels: what people say of responses and pairs, in labels/NAME.jsonl, a file for each person, kept in git.

A line is {"shown": the ids of one response or of two, in the order in which they were shown, "label": …}. The ids are
those of the rows (a hash of prompt and response), so that a label holds in every run that has the row. Lines are only
ever added: the last one about what was shown counts.
"""

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stages.core.errors import UserError
from stages.core.verdict import HIGHEST

FOLDER = Path("labels")

Key = tuple[str, ...]  # the ids of what was shown, in alphabetical order
Id = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Score = Annotated[int, Field(ge=0, le=HIGHEST)]


class Label(BaseModel):
    """What a person says of a response, or of which of two is better."""

    model_config = ConfigDict(extra="forbid", strict=True)

    shown: Annotated[list[Id], Field(min_length=1, max_length=2)]
    label: Score | Literal["first", "second", "tie", "skip", "undo"]  # undo: none after all

    @model_validator(mode="after")
    def check_kind(self) -> "Label":
        """Raises `ValueError` unless a response has a score, and a pair a better side."""
        if self.label not in ("skip", "undo") and isinstance(self.label, int) != (len(self.shown) == 1):
            raise ValueError("one response has a score, two have first, second or tie")
        return self

    @property
    def key(self) -> Key:
        """What was shown, in whichever order."""
        return tuple(sorted(self.shown))

    @property
    def says_something(self) -> bool:
        """Whether it is neither passed over nor taken back."""
        return self.label not in ("skip", "undo")

    def share_of(self, response: str) -> float:
        """Of a pair: 1 if this response is the better one, 0 if the other one is, 0.5 for a tie."""
        return 0.5 if self.label == "tie" else float(self.shown[self.label == "second"] == response)


Labels = dict[Key, Label]  # of one person, in the order in which they were last given


def in_force(lines: Iterable[Label]) -> Labels:
    """The last label of each response and pair, without those taken back."""
    labels: Labels = {}
    for label in lines:
        labels.pop(label.key, None)
        if label.label != "undo":
            labels[label.key] = label
    return labels


def read_labels(folder: Path = FOLDER) -> dict[str, Labels]:
    """{person: what they say of rows and pairs}, without what they passed over and without people who say nothing.

    Raises `UserError` for a line that is no label. The torn last line of a file that is being written counts for
    nothing.
    """
    people: dict[str, Labels] = {}
    for path in sorted(folder.glob("*.jsonl")):
        labels = {key: label for key, label in in_force(_lines(path)).items() if label.says_something}
        if labels:
            people[path.stem] = labels
    return people


def _lines(path: Path) -> list[Label]:
    """The labels of a file, line by line."""
    *lines, last = path.read_bytes().split(b"\n")
    labels = [_parsed(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    return labels if _is_torn(last) else [*labels, Label.model_validate_json(last)]


def _parsed(line: bytes, path: Path, number: int) -> Label:
    try:
        return Label.model_validate_json(line)
    except ValidationError as error:
        what = error.errors()[0]["msg"]
        raise UserError(f"{path}, line {number}: no label ({what}); correct or delete the line") from None


def _is_torn(line: bytes) -> bool:
    """Whether a line without an end was not written whole."""
    try:
        Label.model_validate_json(line)
    except ValidationError:
        return True
    return False


class LabelFile:
    """A person's file, open for more labels; each is on the disk when `add` returns."""

    def __init__(self, path: Path) -> None:
        """Mend the end of the file, if writing it was cut short. Raises `UserError` as `read_labels`."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._mend()
        self.labels = in_force(_lines(path)) if path.exists() else {}

    def add(self, label: Label) -> None:
        """Append a label. Raises `OSError` if it cannot be kept, with the file as it was before."""
        line = (json.dumps(label.model_dump()) + "\n").encode()
        is_new = not self.path.exists()
        with self.path.open("ab", buffering=0) as out:
            fcntl.flock(out, fcntl.LOCK_EX)  # another server of this person may add one, too
            size = out.seek(0, os.SEEK_END)
            try:
                if out.write(line) != len(line):
                    raise OSError(f"no space left for {self.path}")
                os.fsync(out.fileno())
            except OSError:
                out.truncate(size)
                raise
        if is_new:
            _sync_folder(self.path.parent)
        self.labels = in_force([*self.labels.values(), label])

    def _mend(self) -> None:
        """End the last line, or cut it off if it was not written whole."""
        content = self.path.read_bytes()
        if last := content.rpartition(b"\n")[2]:
            with self.path.open("r+b") as out:
                if _is_torn(last):
                    out.truncate(len(content) - len(last))
                else:
                    out.seek(0, os.SEEK_END)
                    out.write(b"\n")
                os.fsync(out.fileno())


def _sync_folder(folder: Path) -> None:
    """Keep a new file's entry in its folder, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
