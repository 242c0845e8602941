"""The seed set of a source: every unusable row is told, equal problems in one line, or counted where it is dropped."""

import json
import random
import re

import pytest
from seed_sources import read, written

from stages.core.errors import UserError
from stages.data.seeds.files import of_hub
from stages.data.seeds.pairs import SeedTally, chosen, pairs

PAIR = {"prompt": "Which is larger, 4 or 5?", "response": "is 5"}
TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"not json", "not JSON (Expecting value)"),
        (b'{"prompt": "caf\xe9", "response": "x"}', "not UTF-8"),
        (b"[1, 2]", "not a row of named fields"),
        (b'{"prompt": "Why?"}', "no prompt and response (its fields are prompt)"),
        (b'{"te\\u001bxt": "Why?"}', "no prompt and response (its fields are te\\x1bxt)"),
        (b'{"prompt\\ud83d": "Why?", "answer\\ud83d": []}', "a list instead of text in the answer\\ud83d"),
        (b'{"prompt": "Why?", "response": "  "}', "no text in the response"),
        (b'{"prompt": "Why?", "response": true}', "a truth value instead of text in the response (True)"),
        (b'{"prompt": "Why?", "response": NaN}', "a number instead of text in the response (nan)"),
        (b'{"prompt": "cut \\ud83d", "response": "x"}', "half of a surrogate pair"),
        (b'{"prompt": "bell \\u0007", "response": "x"}', "control characters ('\\x07' in the prompt)"),
        (b'{"prompt": "Why?", "response": "so", "response": "no"}', "a field that stands twice (response)"),
        (json.dumps({"messages": TURNS * 2}).encode(), "not a single turn (user, assistant, user, assistant)"),
        (json.dumps(PAIR | {"score": 0}).encode(), "'score' judges the row (score: 0)"),
        (json.dumps(PAIR).encode(), "duplicate"),
        (json.dumps({name: text.replace(" ", "\u00a0 ") for name, text in PAIR.items()}).encode(), "duplicate"),
    ],
)
def test_a_row_that_cannot_be_used_is_told_with_its_line_and_counted_where_it_is_dropped(
    tmp_path, capsys, line, reason
):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(PAIR).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(UserError, match=r"rows.jsonl: 1 of 2 rows cannot be used, each named above"):
        read(path)
    assert capsys.readouterr().err == f"seed.path {path}, line 3: {reason}\n"
    tally = SeedTally()
    assert read(path, on_bad="drop", tally=tally) == [PAIR]
    assert tally.counts(1)["dropped"] == {re.sub(r" \(.*", "", reason): 1}
    assert capsys.readouterr().err == ""


def test_a_value_that_is_nested_too_deeply_to_be_looked_at_is_told():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    tally = SeedTally()
    source = [("row 1", {"messages": [{"role": nested}]}), ("row 2", PAIR)]
    assert list(pairs(iter(source), "seed", tally, on_bad="drop")) == [PAIR]
    assert tally.dropped == {"nested too deeply": 1}


def test_equal_problems_are_one_line_with_their_first_places_and_how_many_more(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(PAIR) + "\n" + '{"a": 1}\n' * 1000 + "{}\n" * 2 + "[\n")
    with pytest.raises(UserError) as error:
        read(path)
    assert capsys.readouterr().err.splitlines() == [
        f"seed.path {path}, line 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 990 more: "
        "no prompt and response (its fields are a)",
        f"seed.path {path}, line 1,002, 1,003: no prompt and response (its fields are none)",
        f"seed.path {path}, line 1,004: not JSON (Expecting value)",
    ]
    assert str(error.value) == (
        f"seed.path {path}: 1,003 of 1,004 rows cannot be used, each kind named above (no prompt and response 1,002, "
        "not JSON 1); write the question into a field `prompt` and the answer into `response`, or set seed.on_bad: drop"
    )


def test_different_problems_of_one_kind_are_a_line_each_only_at_first(tmp_path, capsys):
    path = written(tmp_path, "rows.jsonl", [PAIR, *({"prompt": "Why?", "response": [], f"{n}": n} for n in range(99))])
    path.write_text(path.read_text() + "".join(f'{{"prompt": {number}, "response": "so"}}\n' for number in range(99)))
    with pytest.raises(UserError, match=r"198 of 199 rows cannot be used, each kind named above"):
        read(path)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 22
    assert lines[1].endswith(", line 101: a number instead of text in the prompt (0)")
    assert "line 121, 122" in lines[-1]
    assert lines[-1].endswith(" and 69 more: a number instead of text in the prompt")


@pytest.mark.parametrize("on_bad", ["fail", "drop"])
def test_where_no_row_can_be_used_the_error_says_how_to_name_the_columns_that_would_read_them(tmp_path, capsys, on_bad):
    path = written(tmp_path, "rows.csv", [{"frage": f"{number}?", "antwort": "so"} for number in range(3)])
    with pytest.raises(UserError) as error:
        read(path, on_bad=on_bad)
    assert str(error.value) == (
        f"seed.path {path}: 3 of 3 rows cannot be used, each named above (no prompt and response 3); "
        "write seed.columns={prompt: NAME, response: NAME}, with columns of frage, antwort for NAME, or with fields of "
        "your own"
    )
    assert capsys.readouterr().err.endswith("line 2, 3, 4: no prompt and response (its fields are frage, antwort)\n")


@pytest.mark.parametrize("on_bad", ["fail", "drop"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"])
@pytest.mark.parametrize("prompt", ["fraeg", ["frage", "fraeg"], "{frage} {fraeg}"])
def test_a_column_that_no_row_has_is_one_line_with_those_of_the_file(tmp_path, capsys, name, prompt, on_bad):
    path = written(tmp_path, name, [{"frage": "Why?", "antwort": f"so {number}"} for number in range(3)])
    with pytest.raises(UserError) as error:
        read(path, {"prompt": prompt, "response": "antwort"}, on_bad)
    reason = f"seed.path {path} has no column 'fraeg', its first row has frage, antwort; correct seed.columns"
    assert str(error.value) == reason
    assert capsys.readouterr().err == ""


def test_a_column_that_some_rows_lack_is_a_problem_of_these_rows(tmp_path, capsys):
    path = written(tmp_path, "rows.jsonl", [{"prompt": "Why?"}, {"frage": PAIR["prompt"], "antwort": "is 5"}])
    columns = {"prompt": "frage", "response": "antwort"}
    with pytest.raises(UserError, match=r"1 of 2 rows cannot be used, each named above \(no column 'frage' 1\)"):
        read(path, columns)
    assert "line 1: no column 'frage' (its fields are prompt)" in capsys.readouterr().err
    assert read(path, columns, "drop") == [PAIR]


def test_fields_that_were_not_read_and_texts_that_were_mended_are_counted(tmp_path):
    rows = [{"instruction": f"{n}?", "input": "<noinput>", "output": "so</s>", "id": n} for n in range(3)]
    tally = SeedTally()
    assert read(written(tmp_path, "rows.jsonl", rows), tally=tally)[0] == {"prompt": "0?", "response": "so"}
    assert tally.noted == {
        "id not read": 3,
        "'<noinput>' in input taken for no text": 3,
        "a begin- or end-of-text marker removed from output": 3,
    }


def test_of_rows_that_differ_in_blanks_only_the_first_stays_as_it_was_written(tmp_path):
    texts = ["e\u0301 is  5", "é is 5", "é is\u00a05"]
    path = written(tmp_path, "rows.jsonl", [{"prompt": "Which?", "response": text} for text in texts])
    assert read(path, on_bad="drop") == [{"prompt": "Which?", "response": texts[0]}]


COMMIT = "0123456789" * 4
HUB = {"id": "openai/gsm8k", "config": "main", "split": "train", "revision": COMMIT}


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A Hugging Face cache as one download of openai/gsm8k leaves it, with one row of ours."""
    from huggingface_hub import constants

    folder = tmp_path / "datasets--openai--gsm8k/snapshots" / COMMIT
    (folder / "main").mkdir(parents=True)
    written(folder, "main/train-00000-of-00001.parquet", [{"question": PAIR["prompt"], "answer": "is 5"}])
    configs = "- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n"
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nothing answers


def test_a_hub_data_set_is_read_from_the_cache_at_its_revision(hub_cache):
    assert list(pairs(of_hub(HUB), "seed.hub", SeedTally())) == [PAIR]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"revision": "9" * 40}, r"seed\.hub: openai/gsm8k is not in the Hugging Face cache, and .* cannot be reached"),
        ({"split": "validation"}, r"seed\.hub: openai/gsm8k: .*; correct config or split"),
        ({"config": "socratic"}, r"seed\.hub: openai/gsm8k: .*; correct config or split"),
    ],
)
def test_a_hub_data_set_that_is_not_to_be_had_is_one_line(hub_cache, other, reason):
    with pytest.raises(UserError, match=reason):
        list(of_hub(HUB | other))


ROWS = [{"prompt": f"question {number}", "response": "answer"} for number in range(50)]


def test_the_choice_of_rows_does_not_depend_on_the_order_of_the_file():
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    assert chosen(ROWS, 10, 0) == chosen(shuffled, 10, 0)
    assert chosen(ROWS, None, 0) == chosen(shuffled, None, 0)


def test_a_larger_limit_keeps_the_rows_of_a_smaller_one():
    assert chosen(ROWS, 20, 0)[:10] == chosen(ROWS, 10, 0) == chosen(ROWS, None, 0)[:10]


def test_another_random_state_chooses_other_rows():
    assert chosen(ROWS, 10, 0) != chosen(ROWS, 10, 1)
