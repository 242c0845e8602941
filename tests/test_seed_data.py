"""Seed files as people have them: each common format and shape, and every problem told with its place."""

import csv
import json
import random
import re
from decimal import Decimal

import pytest

from stages.core.errors import UserError
from stages.core.records import Tally
from stages.data.seed_data import chosen, pairs
from stages.data.seed_files import of_file, of_hub
from stages.data.seed_text import LONGEST

PAIR = {"prompt": "Which is larger, 4 or 5?", "response": "is 5"}
SHAPES = [
    PAIR,
    {"prompt": PAIR["prompt"], "completion": "is 5"},
    {"question": PAIR["prompt"], "answer": "is 5", "id": 7},
    {"instruction": PAIR["prompt"], "input": "", "output": " is 5\n"},
    {"messages": [{"role": "user", "content": PAIR["prompt"]}, {"role": "assistant", "content": "is 5"}]},
]


def read(path, columns=None, on_bad="fail", tally=None):
    return list(pairs(of_file(path, "seed.path"), f"seed.path {path}", tally or Tally(0), columns, on_bad))


def written(folder, name, rows):
    """A file in the format that its name says."""
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow
        from pyarrow.parquet import write_table

        write_table(pyarrow.Table.from_pylist(rows), path)
    return path


FORMATS = [(suffix, shape) for suffix in (".jsonl", ".json", ".csv", ".parquet") for shape in SHAPES]
FORMATS.remove((".csv", SHAPES[-1]))  # a field of a CSV file holds no list


@pytest.mark.parametrize(
    ("suffix", "shape"), FORMATS, ids=lambda each: each if isinstance(each, str) else "-".join(each)
)
def test_a_common_shape_is_recognised_in_every_format(tmp_path, suffix, shape):
    assert read(written(tmp_path, f"rows{suffix}", [shape])) == [PAIR]


def test_an_input_follows_its_instruction(tmp_path):
    row = {"instruction": "Translate to French.", "input": "the cat", "output": "le chat"}
    assert read(written(tmp_path, "rows.json", [row])) == [
        {"prompt": "Translate to French.\n\nthe cat", "response": "le chat"}
    ]


def test_columns_name_what_no_shape_has(tmp_path):
    path = written(
        tmp_path, "rows.jsonl", [{"frage": PAIR["prompt"], "antwort": "is 5", "prompt": "x", "response": "y"}]
    )
    assert read(path, {"prompt": "frage", "response": "antwort"}) == [PAIR]


@pytest.mark.parametrize("on_bad", ["fail", "drop"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"])
def test_a_column_that_no_row_has_is_one_line_with_those_of_the_file(tmp_path, capsys, name, on_bad):
    path = written(tmp_path, name, [{"frage": "Why?", "antwort": f"so {number}"} for number in range(3)])
    with pytest.raises(UserError) as error:
        read(path, {"prompt": "fraeg", "response": "antwort"}, on_bad)
    said = f"seed.path {path} has no column 'fraeg', its first row has frage, antwort; correct seed.columns"
    assert str(error.value) == said
    assert capsys.readouterr().err == ""


def test_a_column_that_some_rows_lack_is_a_problem_of_these_rows(tmp_path, capsys):
    path = written(tmp_path, "rows.jsonl", [{"prompt": "Why?"}, {"frage": PAIR["prompt"], "antwort": "is 5"}])
    columns = {"prompt": "frage", "response": "antwort"}
    with pytest.raises(UserError, match=r"1 of 2 rows cannot be used, each named above \(no column 'frage' 1\)"):
        read(path, columns)
    assert "line 1: no column 'frage' (its fields are prompt)" in capsys.readouterr().err
    assert read(path, columns, "drop") == [PAIR]


def test_a_byte_order_mark_and_windows_line_ends_are_no_problem(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(PAIR).encode() + b"\r\n")
    assert read(path) == [PAIR]


TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"not json", "not JSON (Expecting value)"),
        (b'{"prompt": "caf\xe9", "response": "x"}', "not UTF-8"),
        (b"[1, 2]", "not a row of named fields"),
        (b'{"prompt": "Why?"}', "no prompt and response (its fields are prompt)"),
        (b'{"text": "Why?"}', "no prompt and response (its fields are text)"),
        (b'{"prompt": "Why?", "response": "  "}', "no text in the response"),
        (b'{"prompt": "Why?", "response": null}', "no text in the response"),
        (b'{"prompt": "Why?", "response": true}', "a truth value instead of text in the response (True)"),
        (b'{"prompt": "Why?", "response": NaN}', "a number instead of text in the response (nan)"),
        (b'{"prompt": 7, "response": "is 7"}', "a number instead of text in the prompt (7)"),
        (b'{"prompt": "cut \\ud83d", "response": "x"}', "half of a surrogate pair"),
        (b'{"prompt": "bell \\u0007", "response": "x"}', "control characters ('\\x07' in the prompt)"),
        (json.dumps({"prompt": "a" * (LONGEST + 1), "response": "x"}).encode(), "absurdly long prompt (100,001 char"),
        (json.dumps({"messages": TURNS * 2}).encode(), "not a single turn (user, assistant, user, assistant)"),
        (json.dumps({"messages": [{"role": "system", "content": "c"}, *TURNS]}).encode(), "not a single turn (system"),
        (json.dumps(PAIR).encode(), "duplicate"),
    ],
)
def test_a_row_that_cannot_be_used_is_told_with_its_line_and_counted_where_it_is_dropped(tmp_path, capsys, line, said):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(PAIR).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(UserError, match=r"rows.jsonl: 1 of 2 rows cannot be used, each named above"):
        read(path)
    assert capsys.readouterr().err.startswith(f"seed.path {path}, line 3: {said}")
    tally = Tally(0)
    assert read(path, on_bad="drop", tally=tally) == [PAIR]
    assert tally.counts(1)["dropped"] == {said.split(" (")[0]: 1}


@pytest.mark.parametrize("digits", ["42", "-3", "3.10", "42.0", "12345678901234567890123"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_response_that_is_a_number_in_json_keeps_its_digits(tmp_path, name, digits):
    row = f'{{"question": "How many?", "answer": {digits}}}'
    (tmp_path / name).write_text(row if name.endswith("l") else f"[{row}]")
    assert read(tmp_path / name) == [{"prompt": "How many?", "response": digits}]


def test_whole_and_decimal_numbers_of_a_parquet_file_are_responses_and_floats_are_not(tmp_path, capsys):
    for number in (42, Decimal("1.50")):
        path = written(tmp_path, "rows.parquet", [{"question": "How many?", "answer": number}])
        assert read(path) == [{"prompt": "How many?", "response": str(number)}]
    with pytest.raises(UserError, match=r"a number instead of text in the response 1"):
        read(written(tmp_path, "rows.parquet", [{"question": "How many?", "answer": 42.0}]))
    assert "row 1: a number instead of text in the response (42.0)" in capsys.readouterr().err


def test_all_problems_are_told_at_once_each_with_its_place(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(PAIR) + "\n" + "{}\n" * 14 + "[\n")
    with pytest.raises(UserError, match=r"15 of 16 rows .* named above \(no prompt and response 14, not JSON 1\)"):
        read(path)
    told = capsys.readouterr().err.splitlines()
    assert [int(re.search(r"line (\d+):", line)[1]) for line in told] == list(range(2, 17))


def test_a_csv_row_with_an_unquoted_comma_is_told_and_not_cut(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    path.write_text('prompt,response\n"Why, then?",so\nWhy?,so, or not\n')
    assert read(path, on_bad="drop") == [{"prompt": "Why, then?", "response": "so"}]
    with pytest.raises(UserError, match="1 of 2 rows"):
        read(path)
    assert "line 3: more fields than the header names" in capsys.readouterr().err


@pytest.mark.parametrize(("mark", "said"), [(";", "';'"), ("\t", "tabs"), ("|", "'|'")])
@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("on_bad", ["fail", "drop"])
def test_a_csv_file_with_another_separator_is_one_line_that_names_it(tmp_path, capsys, mark, said, quote, on_bad):
    path = tmp_path / "rows.csv"
    path.write_text("".join(f"{quote}{a}{quote}{mark}{b}\n" for a, b in (("prompt", "response"), ("Why, then?", "so"))))
    with pytest.raises(UserError) as error:
        read(path, on_bad=on_bad)
    said = f"its header looks separated by {said} where commas should be; save it again"
    assert str(error.value) == f"seed.path {path} is not a csv file: {said}"
    assert capsys.readouterr().err == ""


def test_a_csv_file_may_have_another_separator_in_a_columns_name(tmp_path):
    (tmp_path / "rows.csv").write_text('prompt,response,"a; b"\nWhy?,so,c\n')
    assert read(tmp_path / "rows.csv") == [{"prompt": "Why?", "response": "so"}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.json", b"[1, 2", "rows.json is not a json file"),
        ("rows.json", b'{"prompt": "x"}', "it does not hold a list of rows"),
        ("rows.parquet", b"not parquet", "rows.parquet is not a parquet file"),
        ("rows.csv", b'prompt,response\n"open', "rows.csv is not a csv file: line 2: "),
        ("rows.xlsx", b"", "rows.xlsx is none of .jsonl, .json, .csv, .parquet"),
        ("rows.jsonl", None, "rows.jsonl does not exist"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(said)):
        read(tmp_path / name)


def test_a_folder_is_not_a_seed_file(tmp_path):
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(UserError, match=r"rows\.jsonl cannot be read: Is a directory; name a file"):
        read(tmp_path / "rows.jsonl")


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
    assert list(pairs(of_hub(HUB), "seed.hub", Tally(0))) == [PAIR]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"revision": "9" * 40}, r"seed\.hub: openai/gsm8k is not in the Hugging Face cache, and .* cannot be reached"),
        ({"split": "validation"}, r"seed\.hub: openai/gsm8k: .*; correct config or split"),
        ({"config": "socratic"}, r"seed\.hub: openai/gsm8k: .*; correct config or split"),
    ],
)
def test_a_hub_data_set_that_is_not_to_be_had_is_one_line(hub_cache, other, said):
    with pytest.raises(UserError, match=said):
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
