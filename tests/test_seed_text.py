"""A seed's text stays as it was written; what is no part of it is removed and noted, or the text is refused."""

import contextlib
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.data.seeds.source import RowError
from stages.data.seeds.text import LONGEST, comparable, context_text, field_text, response_text

CODE = "    if x:\n        return 1\n    return 0"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (CODE, CODE),
        ("\n \r\n" + CODE + "\n\t\n", CODE),
        ("\tx = 1", "\tx = 1"),
        ("    return 1", "    return 1"),
        (" context\n-old\n+new", " context\n-old\n+new"),
        (" is 5\n", "is 5"),  # the space that completions began with
        ("a\u2028b\u00a0c\u3000d", "a\u2028b\u00a0c\u3000d"),
        ("cafe\u0301", "cafe\u0301"),
        (r"C:\new $x$ {y} %s <b>&amp;</b>", r"C:\new $x$ {y} %s <b>&amp;</b>"),
        ("👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"),
    ],
)
def test_a_text_keeps_its_indentation_and_all_that_is_in_it(written, read):
    notes = []
    assert field_text(written, "answer", notes) == read
    assert notes == []


INK = st.text(
    st.characters(exclude_categories=["C", "Z", "M"], exclude_characters="\u115f\u1160\u2800\u3164\uffa0<>[]"),
    min_size=1,
)


@given(INK, st.text(st.sampled_from(" \t\n"), max_size=6), st.text(st.sampled_from(" \t\n"), max_size=6), INK)
def test_any_visible_text_loses_nothing_but_blanks_around_it(first, before, between, last):
    written = before + first + between + last + before
    read = field_text(written, "answer", [])
    assert written.strip() == read.strip()
    assert read == read.rstrip()
    lines = [line for line in written.split("\n") if line.strip()]
    assert read.split("\n")[0].rstrip() in (lines[0].rstrip(), lines[0].strip())


@given(st.text())
def test_any_text_is_read_as_part_of_what_was_written_or_refused(written):
    notes = []
    with contextlib.suppress(RowError):
        read = field_text(written, "answer", notes)
        before, _, after = written.partition(read)
        assert read in written
        assert notes or not (before + after).strip()


@pytest.mark.parametrize(
    "marker",
    [
        *"<|endoftext|> <|im_end|> </s> <eos> <|eot_id|> <|end_of_text|> <|eom_id|> <|eot|> <|end|> <|return|>".split(),
        *"<|EOT|> <end_of_turn> <|end_of_turn|> <|END_OF_TURN_TOKEN|> <EOS_TOKEN> <|endofprompt|> <|eos|>".split(),
        *"<|end_of_solution|> <pad> [PAD] <|/assistant|> <eom>".split(),
        *"[|endofturn|] [EOS] <｜end▁of▁sentence｜> <|endoftext|><|endoftext|>".split(),
        "< |endoftext|>",  # as the chat format of this project defuses it
        "<|im_end|>\n<|endoftext|>\n",
    ],
)
def test_a_leftover_end_of_text_marker_is_removed_and_noted(marker):
    for written in (f"So it is.{marker}", f"So it is. \n{marker}\n"):
        notes = []
        assert response_text(written, "completion", notes) == "So it is."
        assert notes == ["a begin- or end-of-text marker removed from completion"]


@pytest.mark.parametrize(
    "marker",
    [
        *"<s> <bos> <pad> <|begin_of_solution|> <|begin_of_text|> <|endoftext|>".split(),
        "<｜begin▁of▁sentence｜>",
        "<|startoftext|>",
    ],
)
def test_a_leftover_begin_of_text_marker_is_removed_and_noted(marker):
    notes = []
    assert field_text(f"{marker} Why so?", "prompt", notes) == "Why so?"
    assert len(notes) == 1


@pytest.mark.parametrize(
    "text",
    [
        "The token <|eot_id|> ends a turn of Llama 3, so write <|eot_id|>",
        "x = <|legend|>",
        "ChatML writes <|im_start|>user before what the user says, and [INST] is Mistral's.",
        "Use this:\n```\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n```\nin your code.",
        "A: Who is there?\nUser: me.",
        "```xml\n<scratchpad>x</scratchpad>\n```\nis a tag.",
        "<reasoning>All that you asked for.</reasoning>",
        "<analysis>It grows.</analysis>\n<advice>Buy.</advice>",
        "<plan>1. Sow.</plan>",
        "<details><summary>More</summary>x</details> and so on",
        "It ends with `<|endoftext|>`.",
        "The token <|endoftext|> ends a text",
        "a price of <s>5</s>",
        "<s>5</s> 4",
        "Use a list [1, 2]",
        "List<List<String>>",
        "<end>",
        "a[end]",
        "<html><body></body></html>",
        "x <y and z> <|",
    ],
)
def test_other_texts_with_brackets_stay_whole(text):
    notes = []
    assert response_text(text, "answer", notes) == text
    assert notes == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<s>either struck out or marked</s>", "'<s>' and '</s>' around a text"),
        ("<|im_start|>user\nWhy?<|im_end|>", "a rendered chat template in the answer"),
        ("<s>[INST] Why? [/INST] So.", "a rendered chat template in the answer"),
        ("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhy?", "a rendered chat template in the answer"),
        ("<think>\nHm.\n</think>\n\nSo.", "reasoning in the answer"),
        ("<think>\n\n</think>\n\nSo.", "reasoning in the answer"),
        ("<think >Hm.</think>So.", "reasoning in the answer"),
        ("<reasoning>\nHm.\n</reasoning>\n<answer>\nSo.\n</answer>", "reasoning in the answer"),
        ("<scratchpad>Hm.</scratchpad>So.", "reasoning in the answer"),
        ("<Thoughts>Hm.</Thoughts>\nSo.", "reasoning in the answer"),
        ("<inner_monologue>Hm.</inner_monologue> So.", "reasoning in the answer"),
        ("<|thinking|>Hm.<|/thinking|>So.", "reasoning in the answer"),
        ("<analysis>Hm.</analysis>\n<final_answer>So.</final_answer>", "reasoning in the answer"),
        ("<reflection>Hm.</reflection>\nSo.", "reasoning in the answer"),
        ('<details type="reasoning" done="true">Hm.</details>\nSo.', "reasoning in the answer"),
        ("So.<|im_end|>\n<|im_start|>user\nAnd?", "a next turn in the answer"),
        ("So.<end_of_turn>\n<start_of_turn>user", "a next turn in the answer"),
        ("So.\n<|im_start|>user\nAnd?<|im_end|>", "a next turn in the answer"),
        ("So.</s>[INST] And? [/INST]", "a next turn in the answer"),
        ("So. [/INST]", "a next turn in the answer"),
        ("So.<|user|>", "a next turn in the answer"),
        ("So.\n### Human:", "a next turn in the answer"),
        ("So.\nUser:", "a next turn in the answer"),
        ("Hm.\n</think>\n\nSo.", "reasoning in the answer"),
        ("[{'content': 'Why?', 'role': 'user'}]", "messages written as a text in the answer"),
        ("<nooutput>", "no text in the answer"),
        ("<|endoftext|>", "no text in the answer"),
        ("  \n\t ", "no text in the answer"),
        ("bell \x07", "control characters"),
        ("\x85", "control characters"),
        *((f"cut {sign}", "half of a surrogate pair") for sign in "\ud800 \ud83d \udc7f \udd00 \udfff".split()),
        *((f"caf{byte}", "not UTF-8") for byte in "\udc80 \udce9 \udcff".split()),
        ("a" * (LONGEST + 1), "absurdly long answer"),
    ],
)
def test_a_text_that_is_more_or_less_than_a_response_is_refused(text, reason):
    with pytest.raises(RowError) as error:
        response_text(text, "answer", [])
    assert error.value.reason == reason


@pytest.mark.parametrize(
    "sign", "\u200b \u200e \u00ad \u3164 \ufe0f \u2060 \u2800 \uffa0 \u115f \ue000 \u0301 \U000e0041".split(" ")
)
def test_a_text_of_invisible_signs_is_no_text(sign):
    with pytest.raises(RowError, match="no text in the answer"):
        field_text(f" {sign}\n{sign} ", "answer", [])
    assert field_text(f"a{sign}", "answer", []) == f"a{sign}"


@pytest.mark.parametrize("sign", ["7", "。", "が", "😀", "+", "é", "\U0001fae8"])
def test_a_text_of_one_visible_sign_is_one(sign):
    assert field_text(sign, "answer", []) == sign


@pytest.mark.parametrize(
    "text", ["<noinput>", "<no input>", "< NoInput >", "Noinput", "No input.", "<none>", "no_input"]
)
def test_a_placeholder_for_no_input_is_none_and_noted(text):
    notes = []
    assert context_text(text, "input", notes) == ""
    assert notes == [f"'{text}' in input taken for no text"]


@pytest.mark.parametrize("text", ["N/A", "None", "null", "nan", "-"])
def test_what_may_be_a_placeholder_or_a_text_stays_and_is_noted(text):
    notes = []
    assert context_text(text, "input", notes) == text
    assert notes == [f"'{text}' in input kept as text"]


@pytest.mark.parametrize("text", ["no input was given", "<input>", "0", "none of them"])
def test_another_input_is_a_text(text):
    notes = []
    assert context_text(text, "input", notes) == text
    assert notes == []


SAME = "Die Straße é 한 が\n    is 5"


@pytest.mark.parametrize(
    "other",
    [
        unicodedata.normalize("NFD", SAME),
        SAME.replace(" é", "  é"),
        SAME.replace(" é", "\u00a0é"),
        SAME.replace("Str", "Str\u00ad"),
        SAME.replace(" é", "\u200b é\u200e"),
        SAME.replace(" é", "\té"),
        SAME.replace("\n", "  \r\n"),
        "\ufeff" + SAME,
    ],
)
def test_texts_that_differ_in_encoding_or_blanks_are_the_same_for_comparison(other):
    assert other != SAME
    assert comparable(other) == comparable(SAME)


@pytest.mark.parametrize("other", ["x²", "X2", "x 2", "x\n2", "  x2", "х2", "x2."])
def test_other_texts_are_not(other):
    assert comparable(other) != comparable("x2")


@given(st.text())
def test_what_was_made_comparable_stays_so(text):
    assert comparable(comparable(text)) == comparable(text)


@pytest.mark.parametrize(
    "text",
    [
        "So." + "<|im_start|>" + "\n" * 80_000 + "x",
        "<scratchpad>" * 8_000,
        "<|a_" * 24_000 + "x<|end|>",
        "<|" + "end" * 30_000 + ">",
        "<" * 90_000,
        "<|begin" * 12_000,
        " " * 90_000 + "x",
        "[" * 90_000,
    ],
)
def test_a_long_text_that_looks_like_markers_is_read_in_no_time(text):
    before = time.process_time()
    response_text(text, "answer", [])
    comparable(text)
    assert time.process_time() - before < 1
