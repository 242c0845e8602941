"""Identity by content, and no row lost without a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.records import Tally, content_id, read, write


def test_a_lost_row_is_an_error():
    tally = Tally(3)
    tally.drop("too long")
    with pytest.raises(AssertionError, match="1 of 3 rows were lost without a reason"):
        tally.counts(1)


def test_rows_that_are_dropped_keep_their_reason_and_count_like_a_number_of_them():
    tally = Tally(4)
    tally.drop("too long", [{"id": "a"}, {"id": "b"}])
    tally.drop("too long")
    assert tally.counts(1)["dropped"] == {"too long": 3}
    assert tally.reasons == {"a": "too long", "b": "too long"}


def test_the_identity_keeps_the_fields_apart():
    assert content_id("ab", "c") != content_id("a", "bc")


json_text = st.text(st.characters(codec="utf-8"))


@given(rows=st.lists(st.dictionaries(json_text, json_text)))
def test_what_is_written_is_read_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write(path, rows)
    assert read(path, dict) == rows
