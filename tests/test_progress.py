"""What a log shows of a stage while it runs: nothing of a short task but its last line, and enough of a long one."""

import re
import time

import pytest

from stages.core import progress as module
from stages.core.progress import line, progress

AFTER = re.compile(r"review: (\d+) of 40 after .+ per second, .+ left")


@pytest.fixture
def short(monkeypatch):
    """Looks every 20 ms instead of every 10 s."""
    monkeypatch.setattr(module, "LOOK", 0.02)


def run(steps: int, pause: float, total: int = 40, done: int = 0) -> None:
    with progress("review", total, done) as advance:
        for _ in range(steps):
            time.sleep(pause)
            advance(1)


def test_a_short_task_prints_only_its_last_line(capsys):
    run(40, 0.001)
    assert capsys.readouterr().out == "review: 40 of 40 in 0 s\n"


def test_a_long_task_prints_a_line_for_each_tenth_with_rate_and_time_left(capsys, short):
    run(40, 0.025)
    *lines, last = capsys.readouterr().out.splitlines()
    assert last.startswith("review: 40 of 40 in ")
    done = [int(AFTER.fullmatch(text)[1]) for text in lines]
    assert 4 <= len(done) <= 9  # a look may come late on a busy machine
    assert [steps // 4 for steps in done] == sorted({steps // 4 for steps in done})  # one line for a tenth


def test_a_task_that_stands_still_says_so_once_a_minute(capsys, short, monkeypatch):
    monkeypatch.setattr(module, "SILENCE", 0.2)
    with progress("review", 40) as advance:
        advance(3)
        time.sleep(0.45)
    *lines, last = capsys.readouterr().out.splitlines()
    assert {text.partition(" after")[0] for text in lines} == {"review: 3 of 40"}
    assert len(lines) <= 2
    assert last.startswith("review: 3 of 40 in ")


def test_no_line_follows_the_last_one_even_after_a_failure(capsys, short):
    with pytest.raises(RuntimeError), progress("review", 40):
        raise RuntimeError
    time.sleep(0.3)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("before", "done", "seconds", "text"),
    [
        (0, 0, 60, "sft: 0 of 100 after 60 s"),
        (0, 25, 10, "sft: 25 of 100 after 10 s, 2.5 per second, 30 s left"),
        (0, 10, 600, "sft: 10 of 100 after 10 min, 1.0 per minute, 90 min left"),
        (0, 1, 3600, "sft: 1 of 100 after 60 min, 1.0 per hour, 99.0 h left"),
        (50, 75, 100, "sft: 75 of 100 after 100 s, 15.0 per minute, 100 s left"),
        (50, 50, 60, "sft: 50 of 100 after 60 s"),
    ],
)
def test_rate_and_time_left_rest_on_the_steps_of_this_process(before, done, seconds, text):
    assert line("sft", before, done, 100, seconds) == text


def test_a_resumed_task_counts_on_from_where_it_was(capsys):
    run(10, 0, done=30)
    assert capsys.readouterr().out == "review: 40 of 40 in 0 s\n"
