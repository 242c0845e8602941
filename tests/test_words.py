"""What a word is, in every script."""

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.data.words import count_words, fold, mean_words, ngrams, sentence_bounds, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat’s hat — isn't it?", "the cat's hat - isn't it"),
        ("Die Straße nach Köln, z.B. über Bonn", "die strasse nach köln z.b über bonn"),
        ("我喜欢C++，你呢？", "我 喜 欢 c + + 你 呢"),
        ("コンピューターを使う。", "コンピューター を 使 う"),
        ("ｺﾝﾋﾟｭｰﾀｰ", "コンピューター"),
        ("ภาษาไทย", "ภ า ษ า ไ ท ย"),
        ("ที่นี่", "ที่ นี่"),
        ("ខ្ញុំ", "ខ្ ញុំ"),
        ("काला किला हिन्दी", "काला किला हिन्दी"),
        ("السَّلامُ عليكم، كيف؟", "السَّلامُ عليكم كيف"),
        ("한국어 문장입니다.", "한국어 문장입니다"),
        ("def f(x):\n    return my_var[0] == -1.5", "def f ( x ) return my_var [ 0 ] = = - 1.5"),
        (r"$\frac{1}{2} \cup x^{2}$", r"\ frac { 1 } { 2 } \ cup x ^ { 2 }"),
        ("It costs €1,000.50 or .5 %", "it costs € 1,000.50 or . 5 %"),
        ("5! x != y; Stop!", "5 ! x ! = y stop"),
        ("f'(x) and 'f(x)'", "f ' ( x ) and f ( x )"),
        ("y'' + 2y' = (fg)' and 'y' is '15'", "y '' + 2y ' = ( fg ) ' and y is 15"),
        ("5' 3'' of ‘rock ’n’ roll’, the dogs' tails", "5 ' 3 '' of rock n roll the dogs tails"),
        ("(1,2), 0.1,0.2; 1,234,567.89 and 1,234,5", "( 1 2 ) 0.1 0.2 1,234,567.89 and 1 234 5"),
        ("“Yes,” she said… `ok`", "yes she said ok"),
        ("_____ is 🙂", "_____ is 🙂"),
        ("", ""),
    ],
)
def test_words_are_cut_at_the_boundaries_of_unicode_and_signs_are_words(text, expected):
    assert words(text) == tuple(expected.split())


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("3 - 2", "3 + 2"), ("x<3", "x>3"), ("42", "-42"), ("a == b", "a != b"), ("C++", "C#"), ("1.5", "1,5"),
        ("1,000", "1.000"), ("A ∪ B", "A ∩ B"), ("काला", "किला"), ("কলা", "কিলা"), ("ปา", "ป่า"), ("5!", "5"),
        ("!x", "x"), (".5", "5"), ("$5", "€5"), ("[0, 1)", "(0, 1]"), ("f(x)", "fx"), ("a/b", "a*b"), ("x^2", "x_2"),
        (r"\cup", r"\cap"), ("a & b", "a | b"),
        ("2⁵", "25"), ("x²", "x2"), ("(n+1)!", "(n+1)"), ("3:2", "3 2"), ("a::b", "a b"), ("2**3", "23"),
        ("n!!", "n!"), ("a⁻¹", "a-1"), ("50%", "50"), ("résumé", "resume"), ("2^10", "210"), ("f'(x)", "f(x)"),
        ("y''", "y'"), ("y'", "y"), ("f''(x)", "f'(x)"), ("f″", "f′"), ("(fg)'", "(fg)"), ("5'", "5''"), ("½", "12"),
        ("1½", "11/2"), ("x½", "x1/2"), ("5①", "51"), ("①2", "12"), ("101₂", "1012"), ("1,234", "1, 234"),
        ("1,000", "1000.0"), ("1,2", "12"), ("1,2", "1.2"), ("1/2", "1 2"), ("١٫٥", "١٬٥٠٠"),
    ],
)  # fmt: skip
def test_texts_that_mean_something_else_differ(text, other):
    assert words(text) != words(other)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("café", "cafe\u0301"), ("ap\u200bple", "apple"), ("so\u00adft", "soft"), ("ＡＢＣ１", "abc1"),
        ("don’t", "don't"),
        ("−3", "-3"), ("Straße", "STRASSE"), ("a\u00a0b", "a  b"), ("Why?", "why"), ("क\u200dा", "का"), ("ﬁne", "fine"),
        ("2⁵", "2^5"), ("a **12** b", "a 12 b"), ("**Bold:** yes", "Bold: yes"), (r"so \(x\) is", "so $x$ is"),
        (r"\[x\]", "$$x$$"), ("so $x$ is", "so x is"), ("One.<br>Two.", "One. Two."),
        ("f′", "f'"), ("f″(x)", "f''(x)"), ("y´", "y’"), ("½ cup", "1/2 cup"), ("1½", "1 1/2"), ("1 ∕ 2", "1/2"),
        ("1,2,3", "1, 2, 3"), ("(1,2)", "(1, 2)"), ("1;2", "1; 2"), ("١،٢،٣", "1, 2, 3"), ("1，2", "1, 2"),
        ("محـــمد", "محمد"), ("٣ + ४ = 〇", "3 + 4 = 〇"), ("१,०००", "1,000"), ("١٬٠٠٠٫٥", "1,000.5"), ("𝟛", "3"),
        ("H₂O", "H2O"),
        ("\u2068x\u2069", "x"), ("🙂\ufe0f", "🙂"), ("ΣΟΦΟΣ", "σοφος"), ("a\u200fb", "ab"),
    ],
)  # fmt: skip
def test_texts_that_read_the_same_are_the_same(text, other):
    assert words(text) == words(other)


@given(st.text())
def test_folding_twice_is_folding_once_and_forms_of_the_same_text_are_one(text):
    assert fold(fold(text)) == fold(text)
    assert words(unicodedata.normalize("NFD", text)) == words(unicodedata.normalize("NFC", text))
    assert count_words(text) <= len(words(text))


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=5), max_size=6))
def test_no_letter_or_digit_is_lost(runs):
    def letters_and_digits(text: str) -> list[str]:
        return [sign for sign in text if sign.isalnum()]

    assert letters_and_digits("".join(words(" ".join(runs)))) == letters_and_digits("".join(map(fold, runs)))


def test_length_counts_words_and_no_signs():
    assert count_words("- **3 + 2** is 5!") == 4
    assert count_words("你好吗 C++") == 3
    assert count_words("ที่นี่ ครับ") == 3  # two and three signs
    assert count_words("?!") == 0
    assert mean_words(["one two", "three four five six"]) == 3.0
    assert mean_words([]) is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Hi, Jo. Why so? It is 1.5.", ["hi jo", "why so", "it is 1.5"]),
        ('He says "Come in" : go', ["he says", "come in", "go"]),
        ("是什么？请解释。", ["是 什 么", "请 解 释"]),
        ("One\ntwo; three", ["one", "two", "three"]),
        ("- 3 is\n* **more** `than`\n2) two", ["-", "3 is", "*", "more", "than", "2", ")", "two"]),
        ("say (why so) to <b>me</b>", ["say", "(", "why so", ")", "to", "<", "b", ">", "me", "<", "/ b", ">"]),
        ("a - b", ["a - b"]),
        ("", [""]),
    ],
)
def test_sentences_end_at_their_marks_at_quotations_brackets_and_lines(text, parts):
    bounds = sorted(sentence_bounds(text))
    assert [" ".join(words(text)[start:end]) for start, end in pairwise(bounds)] == [part for part in parts if part]
    assert [bounds[0], bounds[-1]] == [0, len(words(text))]


def test_ngrams_overlap_and_a_shorter_text_has_none():
    assert ngrams("abcd", 3) == [("a", "b", "c"), ("b", "c", "d")]
    assert ngrams("ab", 3) == []
