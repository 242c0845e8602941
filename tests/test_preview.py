"""lance preview on the embedded default's base model: what it shows of each call, and what it leaves behind."""

import re

import pytest
from conftest import Project, error_line

pytestmark = pytest.mark.slow


def preview(project: Project, number: int) -> str:
    return project.run("lance", "preview", "-n", str(number)).stdout


def test_every_text_is_shown_with_how_it_was_read(project):
    project.change({"review": {"max_unparsed": 0.0}})
    output = preview(project, 6)
    assert len(re.findall(r"^seed \d+$", output, re.MULTILINE)) == 6
    low, high = map(int, re.search(r"(\d+) low, (\d+) high seeds", output).groups())
    assert low + high == 6
    written = re.findall(r"^(new instructions|responses|flawed responses)$", output, re.MULTILINE)
    assert written.count("flawed responses") == high
    assert written.count("new instructions") == low
    kept = int(re.search(r"^filter: (\d+) of \d+ kept", output, re.MULTILINE)[1])
    assert output.count("\nkept pair ") == kept
    assert len(re.findall(r"^            → (read as|unreadable|not read)", output, re.MULTILINE)) == (
        6 + len(written) + kept
    )
    assert re.search(r"^about \d:\d\d:\d\d on this machine", output, re.MULTILINE)


def test_what_cannot_be_read_is_shown_with_the_reason_and_ends_nothing(project):
    project.change({"review": {"max_tokens": 4}, "generate": {"max_tokens": 2}})
    output = preview(project, 3)
    assert output.count("→ unreadable: cut at max_tokens") == 3
    assert "review: 0 of 3 verdicts readable; 0 low, 0 high seeds" in output


def test_the_store_keeps_the_calls_and_nothing_else_is_written(project):
    files = project.run("git", "status", "--short", "--ignored").stdout
    preview(project, 3)
    assert "3 of 3 completions were in the store" in preview(project, 3)
    left = set(project.run("git", "status", "--short", "--ignored").stdout.split()) - set(files.split())
    assert {name for name in left if "completions.sqlite" not in name and "__pycache__" not in name} <= {
        "!!",
        ".dvc/tmp/",
    }


def test_a_seed_file_without_a_usable_row_is_one_line(project):
    (project.folder / "empty.jsonl").write_text("\n")
    project.change({"seed": {"path": "empty.jsonl"}})
    assert "no usable rows" in error_line(project.attempt("lance", "preview"))
