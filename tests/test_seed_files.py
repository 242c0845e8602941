"""Seed files as people have them: the rows of every format, and what is told of one that cannot be read."""

import bz2
import codecs
import contextlib
import gzip
import json
import lzma
import os
import re
from datetime import datetime
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from seed_sources import read, written

from stages.core.errors import UserError
from stages.data.seeds.files import of_file
from stages.data.seeds.source import RowError

PAIR = {"prompt": "Which is larger, 4 or 5?", "response": "is 5"}
OTHER = {"prompt": "Which is smaller, 4 or 5?", "response": "is 4"}
LINES = f"{json.dumps(PAIR)}\n{json.dumps(OTHER)}\n"
FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


def rows(path):
    """What a file holds: its rows, and the reasons of those that cannot be read."""
    return [row.reason if isinstance(row, RowError) else row for _, row in of_file(path, "seed.path")]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_every_format_is_read_packed_or_not_and_whatever_the_case_of_its_name(tmp_path, suffix, packed):
    path = written(tmp_path, f"rows{suffix}{packed}", [PAIR, OTHER])
    assert read(path) == [PAIR, OTHER]
    if suffix != ".parquet" or not packed:
        assert read(path.rename(tmp_path / f"ROWS{suffix.upper()}{packed.upper()}")) == [PAIR, OTHER]


@pytest.mark.parametrize(("suffix", "pack"), [(".bz2", bz2.compress), (".xz", lzma.compress)])
def test_other_compressions_are_read_too(tmp_path, suffix, pack):
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(pack(LINES.encode()))
    assert read(path) == [PAIR, OTHER]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".ndjson"])
@pytest.mark.parametrize(
    "text",
    [
        LINES,
        "\n\n" + LINES.replace("\n", "\r\n"),
        json.dumps([PAIR, OTHER]),
        json.dumps([PAIR, OTHER], indent=2),
        f"[{json.dumps(PAIR)},\n{json.dumps(OTHER)}]\n",
        f"[\n{json.dumps(PAIR)},\n{json.dumps(OTHER)},\n]\n",
        json.dumps(PAIR, indent=2) + "\n" + json.dumps(OTHER, indent=2),
        json.dumps({"version": "1.0", "data": [PAIR, OTHER]}),
        json.dumps({"train": [PAIR, OTHER]}, indent=1),
        json.dumps({"my seeds": [PAIR, OTHER]}),
        json.dumps({name: [PAIR[name], OTHER[name]] for name in PAIR}),
        json.dumps({name: {"0": PAIR[name], "1": OTHER[name]} for name in PAIR}),
        json.dumps({"0": PAIR, "1": OTHER}),
    ],
)
def test_json_is_read_as_what_it_is_whatever_the_file_is_called(tmp_path, suffix, text):
    path = tmp_path / f"rows{suffix}"
    path.write_text(text)
    assert read(path) == [PAIR, OTHER]


@pytest.mark.parametrize(
    "row", [PAIR, {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}]
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_single_json_object_is_a_row(tmp_path, row, indent):
    (tmp_path / "rows.json").write_text(json.dumps(row, indent=indent))
    assert rows(tmp_path / "rows.json") == [row]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"train": [PAIR], "test": [OTHER]}, "it holds several lists of rows, train, test; keep one of them"),
        ({"prompt": ["a", "b"], "response": ["c"]}, "its columns prompt, response differ in length"),
    ],
)
def test_a_json_object_that_holds_no_one_table_is_told(tmp_path, document, reason):
    (tmp_path / "rows.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=reason):
        rows(tmp_path / "rows.json")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.jsonl", LINES),
        ("rows.json", json.dumps([PAIR, OTHER], ensure_ascii=False)),
        ("rows.csv", 'prompt,response\r\n"Which is larger, 4 or 5?",is 5\r\n"Which is smaller, 4 or 5?",is 4\r\n'),
    ],
)
def test_utf_16_and_byte_order_marks_are_read(tmp_path, name, text, encoding):
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    for bytes_before in {mark, b""}:
        (tmp_path / name).write_bytes(bytes_before + text.encode(encoding))
        assert read(tmp_path / name) == [PAIR, OTHER]


def test_a_broken_sign_of_utf_16_refuses_its_row_alone(tmp_path):
    half = json.dumps(PAIR | {"prompt": "cut HERE"}).replace("HERE", "\ud83d")
    text = f"{half}\n{json.dumps(OTHER)}\n"
    (tmp_path / "rows.jsonl").write_bytes(codecs.BOM_UTF16_LE + text.encode("utf-16-le", "surrogatepass"))
    assert rows(tmp_path / "rows.jsonl") == ["not UTF-8", OTHER]


@pytest.mark.parametrize("digits", ["42", "-0", "0.0000001", "1e3", "3.10", "1E+400", "9" * 5000])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_the_digits_of_a_number_in_json_stay_as_written(tmp_path, name, digits):
    row = f'{{"question": "How many?", "answer": {digits}, "id": {"8" * 5000}}}'
    (tmp_path / name).write_text(row if name.endswith("l") else f"[{row}]")
    assert read(tmp_path / name) == [{"prompt": "How many?", "response": digits}]


@pytest.mark.parametrize("number", [42, Decimal("1.50"), Decimal("0.0000001")])
def test_exact_numbers_of_a_parquet_file_are_responses(tmp_path, number):
    path = written(tmp_path, "rows.parquet", [{"question": "How many?", "answer": number}])
    assert read(path) == [{"prompt": "How many?", "response": f"{number:f}" if number != 42 else "42"}]


BAD_JSON = [
    ("not JSON", '{"prompt": "Why?", "response": "so",,}'),
    ("not JSON", "{'prompt': 'Why?', 'response': 'so'}"),
    ("nested too deeply", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"),
    ("nested too deeply", "[" * 100_000 + "]" * 100_000),
    ("a field that stands twice", '{"prompt": "Why?", "response": "so", "response": "or so"}'),
    ("a field that stands twice", '{"prompt": "Why?", "response": "so", "meta": {"id": 1, "id": 2}}'),
]


@pytest.mark.parametrize(("reason", "bad"), BAD_JSON)
def test_one_bad_row_of_json_leaves_the_others(tmp_path, reason, bad):
    (tmp_path / "rows.jsonl").write_text(f"{bad}\n{json.dumps(PAIR)}\n{bad}\n{json.dumps(OTHER)}\n")
    (tmp_path / "lines.json").write_text(f"{json.dumps(PAIR)}\n{bad}\n{json.dumps(OTHER)}\n")
    (tmp_path / "list.json").write_text(f"[{bad}, {json.dumps(PAIR)},\n {bad},\n{json.dumps(OTHER)}]")
    assert rows(tmp_path / "rows.jsonl") == [reason, PAIR, reason, OTHER]
    assert rows(tmp_path / "lines.json") == [PAIR, reason, OTHER]
    assert rows(tmp_path / "list.json") == [reason, PAIR, reason, OTHER]


@pytest.mark.parametrize("broken", ['[{"prompt": "Why?"', "[7:", "[1, 2", "not JSON", '[{}] "more"'])
def test_a_json_document_without_a_row_is_told(tmp_path, broken):
    (tmp_path / "rows.json").write_text(broken)
    with pytest.raises(UserError, match=r"rows\.json is not a json file: .+; save it again"):
        rows(tmp_path / "rows.json")


THIRD = {"prompt": 'Is it {"prompt": "Why?", "response": "so"} or ]}?', "response": "yes"}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize(
    ("sign", "other"),
    [("{", ""), ("}", ""), ('": ', ": "), (": ", " "), ('"prompt', "prompt"), ("}", "}]"), ("{", "{{"), ("{", '"{')],
)
def test_a_sign_lost_or_too_many_in_a_json_list_loses_its_row_and_invents_none(tmp_path, indent, number, sign, other):
    rows_before = [PAIR, THIRD, OTHER]
    parts = [json.dumps(row, indent=indent) for row in rows_before]
    parts[number] = parts[number].replace(sign, other, 1) if sign != "}" else parts[number].removesuffix("}") + other
    (tmp_path / "rows.json").write_text("[" + ", ".join(parts) + "]")
    read_rows = [row for row in rows(tmp_path / "rows.json") if isinstance(row, dict)]
    assert read_rows == [row for row in rows_before if row in read_rows]
    assert len(read_rows) >= (1 if number == 0 else 2)


def test_what_is_nested_in_a_broken_row_of_a_json_list_is_no_row(tmp_path):
    broken = '{"prompt": "Why?" "response": "so", "meta": [{"prompt": "Was it so?", "id": 1}]}'
    (tmp_path / "rows.json").write_text(f"[{json.dumps(PAIR)}, {broken}, {json.dumps(OTHER)}]")
    assert rows(tmp_path / "rows.json") == [PAIR, "not JSON", OTHER]


def test_a_broken_last_row_of_a_json_list_is_one_problem(tmp_path):
    for end in ("]", " ]\n"):
        (tmp_path / "rows.json").write_text(f'[{json.dumps(PAIR)}, {{"prompt": "Why?" "response": "so"}}{end}')
        assert rows(tmp_path / "rows.json") == [PAIR, "not JSON"]


def test_a_list_that_breaks_off_keeps_the_rows_before(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([PAIR, OTHER])[:-15])
    assert rows(tmp_path / "rows.json") == [PAIR, "not JSON", "the list of rows breaks off"]
    (tmp_path / "rows.json").write_text(json.dumps([PAIR, OTHER])[:-1])
    assert rows(tmp_path / "rows.json") == [PAIR, OTHER, "the list of rows breaks off"]


@pytest.mark.parametrize("name", ["examples", "items", "data", "test"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_row_is_no_container_of_what_it_lists(tmp_path, name, suffix):
    row = PAIR | {name: [{"input": "1", "output": "2"}]}
    (tmp_path / f"rows{suffix}").write_text(json.dumps(row))
    assert rows(tmp_path / f"rows{suffix}") == [row]
    shared = {"Definition": "Translate it.", name: [{"input": "1", "output": "2"}]}  # Natural Instructions
    (tmp_path / f"rows{suffix}").write_text(json.dumps(shared))
    assert rows(tmp_path / f"rows{suffix}") == [shared]


HEAD, FIRST, LAST = "prompt,response\n", "Where?,here\n", '"When, then?",now\n'
WHOLE = [{"prompt": "Where?", "response": "here"}, {"prompt": "When, then?", "response": "now"}]


@pytest.mark.parametrize(
    "bad",
    [
        'Why?,"so "it is"\n',  # a quote too many
        '"Why, then?,so\n',  # one too few
        '"Why "not"?",so\n',
        'Why?,"so" it is\n',
        '"Why?","so \\"it\\" is"\n',
        'Why?,"so\nit "is" so\nand so on"\n',  # over several lines, a wrong quote among them
        'Why?,"so, it is" so\nand, so on"\n',  # the second line looks like a row of its own
        'Why?,"so, it ""is"" so\nand, so on" on\n',
        'Why?,"so, it is" so\nand, so\non"\n',
        'Why?,"It is "so"\nSure, it is\nok"\n',
        'Why?,"It is "so"\nSure, it is\nand, ok"\n',
    ],
)
def test_a_wrong_quote_in_a_csv_file_loses_its_row_and_no_other(tmp_path, bad):
    (tmp_path / "rows.csv").write_text(HEAD + FIRST + bad + LAST)
    first, wrong, last = rows(tmp_path / "rows.csv")
    assert (first, wrong, last) == (WHOLE[0], "a wrong quote", WHOLE[1])


@pytest.mark.parametrize(
    "bad",
    [
        '"Where is it?\nTell me, please,"It is here, there"\n',  # the quote behind "please" is lost
        '"Where is it?\n\nTell me, please,"It is here, there"\n',
        'Where is it?\nTell me","It is here"\n',  # the first one is
        'Where, is it?\nTell me",It is here\n',
        'Where?\nTell me\nmore, please\nand soon",Here\n',
        '"Where",is it?\nTell me",It is here\n',  # one too many
        '"Where is it?\n"Tell me",It is here\n',
        '"Where is it?","It is here\nor there, I think\n',  # the last one
    ],
)
def test_the_rest_of_a_text_with_a_wrong_quote_is_no_row(tmp_path, bad):
    (tmp_path / "rows.csv").write_text(HEAD + LAST + LAST + bad + LAST)
    read_rows = [row for row in rows(tmp_path / "rows.csv") if isinstance(row, dict)]
    assert read_rows in ([WHOLE[1]] * 3, [WHOLE[1]] * 2)
    (tmp_path / "rows.csv").write_text(HEAD + LAST + LAST + bad)
    read_rows = [row for row in rows(tmp_path / "rows.csv") if isinstance(row, dict)]
    assert read_rows in ([WHOLE[1]] * 2, [WHOLE[1]])


def test_blanks_behind_the_commas_of_the_header_are_no_part_of_any_field(tmp_path):
    (tmp_path / "rows.csv").write_text('"prompt", "response"\n"Why, then?", "so"\n')
    assert rows(tmp_path / "rows.csv") == [{"prompt": "Why, then?", "response": "so"}]
    (tmp_path / "rows.csv").write_text(HEAD + '"Why?", "so"\n' + FIRST + '"Why?"," ""so"" "\n')
    quoted = {"prompt": "Why?", "response": ' "so" '}
    assert rows(tmp_path / "rows.csv") == ["blanks before a quote", WHOLE[0], quoted]


def test_files_put_together_repeat_their_header_which_is_no_row(tmp_path):
    (tmp_path / "rows.csv").write_text(HEAD + FIRST + "\ufeff" + HEAD + LAST)
    assert rows(tmp_path / "rows.csv") == [WHOLE[0], "the header again", WHOLE[1]]


@pytest.mark.parametrize("bad", ['Why?,"so "it" is', 'Why?,"so" it "is"'])
@pytest.mark.parametrize("size", ['5"', '5" wide', '"5""\nand more"'])
def test_quotes_in_later_rows_do_not_take_these_for_the_rest_of_a_wrong_one(tmp_path, bad, size):
    (tmp_path / "rows.csv").write_text(f"{HEAD}{bad}\n{FIRST}Size?,{size}\n")
    last = {"prompt": "Size?", "response": '5"\nand more' if "more" in size else size}
    expected = ["a wrong quote", WHOLE[0], last]
    if size == '5"':  # it may close what the wrong one opened
        expected = ["a wrong quote"]
    assert rows(tmp_path / "rows.csv") == expected


def test_an_answer_with_a_wrong_quote_that_nothing_closes_ends_before_the_next_record(tmp_path):
    answer = 'Why?,"so "it" is\nand so on\nSure, it is\n'
    (tmp_path / "rows.csv").write_text(HEAD + answer + '"When,\nthen?",now\n')
    assert rows(tmp_path / "rows.csv") == ["a wrong quote", {"prompt": "When,\nthen?", "response": "now"}]
    (tmp_path / "rows.csv").write_text(HEAD + 'Why?,"so "it" is\nand so on\n' + LAST)
    assert rows(tmp_path / "rows.csv") == ["a wrong quote", "fewer fields than the header names", WHOLE[1]]


def test_a_quote_that_is_never_closed_takes_its_line_where_the_next_ones_are_whole_rows(tmp_path):
    (tmp_path / "rows.csv").write_text(HEAD + '"Why?,so\n' + FIRST + "When?,now\n")
    assert rows(tmp_path / "rows.csv") == ["a wrong quote", WHOLE[0], {"prompt": "When?", "response": "now"}]


def test_of_an_answer_over_several_lines_with_a_wrong_quote_no_line_is_taken_for_a_row(tmp_path):
    (tmp_path / "rows.csv").write_text(HEAD + 'Why?,"It is "so",\nand so on\nSure, it is"\n' + FIRST)
    assert rows(tmp_path / "rows.csv") == ["a wrong quote", WHOLE[0]]


def test_rows_behind_the_rest_of_a_wrong_one_are_read_though_a_quote_opens_far_below(tmp_path):
    rest = "which is no row\n"
    below = "".join(f"Q{number}?,A{number}\n" for number in range(12)) + 'Why?,"so\nand so"\n'
    (tmp_path / "rows.csv").write_text(f'prompt,response\n"Why?" again,so\n{rest}{below}')
    read_rows = rows(tmp_path / "rows.csv")
    assert read_rows[0] == "a wrong quote"
    assert [row["prompt"] for row in read_rows[1:]] == [*(f"Q{number}?" for number in range(12)), "Why?"]


def test_many_wrong_quotes_are_read_past(tmp_path):
    (tmp_path / "rows.csv").write_text(HEAD + ('"Why?,so\n' + FIRST) * 2000 + "When?,now\n")
    assert rows(tmp_path / "rows.csv").count(WHOLE[0]) == 2000


def test_a_csv_row_is_told_by_the_line_where_it_begins(tmp_path):
    (tmp_path / "rows.csv").write_text("\n" + HEAD + '"a\n\nb",c\n' + "x,y,z\n")
    assert [place for place, _ in of_file(tmp_path / "rows.csv", "seed.path")] == ["line 3", "line 6"]


@pytest.mark.parametrize(("line", "reason"), [("Why?,so, or not", "more"), ("Why?", "fewer")])
def test_a_csv_row_with_another_number_of_fields_is_told_and_not_cut(tmp_path, line, reason):
    (tmp_path / "rows.csv").write_text(f'{HEAD}"Why, then?",so\n\n{line}\n')
    assert rows(tmp_path / "rows.csv") == [
        {"prompt": "Why, then?", "response": "so"},
        f"{reason} fields than the header names",
    ]


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
@pytest.mark.parametrize(
    "header", ["prompt,response,response", "prompt, response,response", '"prompt",prompt,response']
)
def test_a_header_with_a_name_twice_is_refused(tmp_path, name, header):
    mark = "," if name == "rows.csv" else "\t"
    (tmp_path / name).write_text(f"{header}\na,b,c\n".replace(",", mark))
    with pytest.raises(UserError, match=r"its header has '(prompt|response)' twice, rename one of them"):
        rows(tmp_path / name)


def test_a_parquet_file_with_a_name_twice_is_refused(tmp_path):
    import pyarrow
    from pyarrow.parquet import write_table

    table = pyarrow.table([["Why?"], ["so"], ["or so"]], names=["prompt", "response", "response"])
    write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=r"its header has 'response' twice"):
        rows(tmp_path / "rows.parquet")


def test_blanks_around_names_and_after_commas_are_no_part_of_them(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt, response\nWhy?, so\n")
    assert read(tmp_path / "rows.csv") == [{"prompt": "Why?", "response": "so"}]


@pytest.mark.parametrize(("mark", "reason"), [(";", "';'"), ("\t", "tabs"), ("|", "'|'")])
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_csv_file_with_another_separator_is_one_line_that_names_it(tmp_path, mark, reason, quote):
    path = tmp_path / "rows.csv"
    path.write_text("".join(f"{quote}{a}{quote}{mark}{b}\n" for a, b in (("prompt", "response"), ("Why, then?", "so"))))
    with pytest.raises(UserError) as error:
        rows(path)
    reason = f"its header looks separated by {reason} where commas should be; save it again"
    assert str(error.value) == f"seed.path {path} is not a csv file: {reason}"


def test_a_csv_file_may_have_another_separator_in_a_columns_name(tmp_path):
    (tmp_path / "rows.csv").write_text('prompt,response,"a; b"\nWhy?,so,c\n')
    assert rows(tmp_path / "rows.csv") == [{"prompt": "Why?", "response": "so", "a; b": "c"}]


def test_a_tsv_file_with_commas_is_told(tmp_path):
    (tmp_path / "rows.tsv").write_text(HEAD + FIRST)
    with pytest.raises(UserError, match=r"its header looks separated by commas where tabs should be"):
        rows(tmp_path / "rows.tsv")


def test_values_of_a_parquet_file_that_are_no_texts_are_refused_only_where_they_are_read(tmp_path):
    import pyarrow

    when = pyarrow.array([datetime(2026, 1, 1), None], pyarrow.timestamp("ns"))
    beyond = pyarrow.array([2**50, None]).cast(pyarrow.timestamp("s"))
    for column in (when, beyond):
        table = pyarrow.table({"prompt": ["a", "b"], "response": ["c", "d"], "when": column, "raw": [b"\xff", b""]})
        pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
        assert len(read(tmp_path / "rows.parquet")) == 2
        with pytest.raises(UserError, match="instead of text"):
            read(tmp_path / "rows.parquet", {"prompt": "prompt", "response": "when"}, "drop")


def test_the_files_of_a_folder_are_read_by_name_each_row_with_its_file(tmp_path):
    written(tmp_path, "b.csv", [OTHER])
    written(tmp_path, "a.jsonl", [PAIR])
    for name in "README.md .hidden.jsonl LICENSE dataset_infos.json state.json _SUCCESS a.jsonl.dvc b.csv~".split():
        (tmp_path / name).write_text("{}")
    (tmp_path / "notes.txt").write_text("")
    placed = list(of_file(tmp_path, "seed.path"))
    assert placed[:2] == [("a.jsonl, line 1", PAIR), ("b.csv, line 2", OTHER)]
    assert (placed[2][0], placed[2][1].reason) == ("notes.txt", "a file of another kind in the folder")


def test_a_folder_with_several_splits_or_without_rows_is_told(tmp_path):
    with pytest.raises(UserError, match=r"is a folder without any \.jsonl, .*; name a file"):
        rows(tmp_path)
    written(tmp_path, "train-00000-of-00001.parquet", [PAIR])
    assert rows(tmp_path) == [PAIR]
    for other, split in [
        ("test-00000-of-00001.parquet", "test"),
        ("myTestset.jsonl", "test"),
        ("testing.json", "test"),
        ("holdout.jsonl", "test"),
        ("dev2.csv", "validation"),
    ]:
        path = written(tmp_path, other, [OTHER])
        listed = sorted(["train (train-00000-of-00001.parquet)", f"{split} ({other})"])
        with pytest.raises(UserError, match=re.escape(f"with several splits, {', '.join(listed)}; name the file or")):
            rows(tmp_path)
        path.unlink()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.parquet", b"not parquet", "rows.parquet is not a parquet file: "),
        ("rows.parquet", b"", "rows.parquet is not a parquet file: "),
        ("rows.jsonl.gz", b"not packed", "rows.jsonl.gz is not a jsonl file: Not a gzipped file"),
        (
            "rows.jsonl.gz",
            gzip.compress(LINES.encode() * 99)[:-20],
            "rows.jsonl.gz is not a jsonl file: Compressed file",
        ),
        ("rows.csv", "prompt,response\n".encode("utf-16")[:-1], "rows.csv is not a csv file: "),
        (
            "rows.tsv",
            b"How many roads must a man walk down before you call him a man, and why is it so many?\t42\n",
            "its first line does not look like the names of columns; add a header",
        ),
        (
            "rows.csv",
            "问题,回答\n为什么,因为\n".encode("gb18030"),
            "rows.csv is not a csv file: its header is not UTF-8;",
        ),
        ("rows.csv", b'prompt,"resp\n', "rows.csv is not a csv file: its header: a wrong quote"),
        ("rows.xlsx", b"", "is none of .jsonl, .ndjson, .json, .csv, .tsv, .parquet; export the sheet as CSV"),
        ("rows.zip", b"", "; unpack it"),
        ("rows.txt", b"", "; convert it, or rename it by what it holds"),
        ("rows.jsonl", None, "rows.jsonl does not exist; create it or correct the path"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(reason)) as error:
        rows(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path):
    written(tmp_path, "rows.jsonl", [PAIR]).chmod(0)
    with pytest.raises(UserError, match=r"rows\.jsonl cannot be read: Permission denied"):
        rows(tmp_path / "rows.jsonl")


quickly = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
anything = st.text(st.characters(exclude_categories=[]), max_size=30)  # surrogates and controls, too
encodable = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
@given(texts=st.lists(st.tuples(anything, anything), min_size=1, max_size=4))
@quickly
def test_any_texts_written_as_json_are_read_back(tmp_path, name, texts):
    table = [{"prompt": prompt, "response": response} for prompt, response in texts]
    assert rows(written(tmp_path, name, table)) == table


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.csv.gz"])
@given(texts=st.lists(st.tuples(encodable, encodable), min_size=1, max_size=4))
@example(texts=[("a\rb", "c\r\nd"), ('"', '""'), (",\t", "\n"), ("\ufeff", "\x00")])
@quickly
def test_any_texts_written_as_csv_or_tsv_are_read_back(tmp_path, name, texts):
    table = [{"prompt": prompt, "response": response} for prompt, response in texts]
    assert rows(written(tmp_path, name, table)) == table


@given(texts=st.lists(st.tuples(encodable, encodable), min_size=1, max_size=4))
@quickly
def test_any_texts_written_as_parquet_are_read_back(tmp_path, texts):
    table = [{"prompt": prompt, "response": response} for prompt, response in texts]
    assert rows(written(tmp_path, "rows.parquet", table)) == table


jsonlike = st.text(st.sampled_from("{}[]\":,\\ \n\r\t1e-tfn'a;|"), max_size=60).map(str.encode)


@pytest.mark.parametrize("suffix", [*FORMATS, ".jsonl.gz", ".parquet.gz"])
@given(content=st.binary(max_size=100) | jsonlike)
@example(content=b"\xff\xfe\x00")
@example(content=b"\x00\x00\xfe\xff\x00")
@example(content=b"null")
@example(content=b"{}{}")
@quickly
def test_no_bytes_are_more_than_an_error_of_the_user(tmp_path, suffix, content):
    path = tmp_path / f"rows{suffix}"
    for stored in (content, gzip.compress(content)):
        path.write_bytes(stored)
        for on_bad in ("fail", "drop"):
            with contextlib.suppress(UserError):
                read(path, on_bad=on_bad)


@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
@quickly
def test_a_damaged_parquet_file_is_no_more_than_an_error_of_the_user(tmp_path, position, byte):
    content = bytearray(written(tmp_path, "rows.parquet", [PAIR, OTHER, {"prompt": "ä", "response": "b"}]).read_bytes())
    content[position % len(content)] = byte
    (tmp_path / "rows.parquet").write_bytes(content)
    with contextlib.suppress(UserError):
        read(tmp_path / "rows.parquet", on_bad="drop")
