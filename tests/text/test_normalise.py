import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqdsd.text import ENGLISH_ALPHABET, normalise_transcript


@pytest.mark.parametrize(
    ("text", "expected", "dropped"),
    [
        ("ERASE C Q Q F SEVEN", "erase c q q f seven", ""),
        ("  Hello,\tworld!\n", "hello world", ",!"),
        ("It’s a rock‘n’roll show — don´t…", "it's a rock'n'roll show don't", "—..."),
        ("well-known half–baked", "well known half baked", "-–"),
        ("«Où», café, naïve", "ou cafe naive", "«\u0300»,\u0301,\u0308"),
        ("cafe\u0301", "cafe", "\u0301"),
        ("ﬁne ｗｉｄｅ", "fine wide", ""),
        ("so\u00adft zero\u200bwidth", "soft zerowidth", "\u00ad\u200b"),
        ("he said ' and ''", "he said and", "'''"),
        ("", "", ""),
        ("?!", "", "?!"),
        ("5 pounds, 3%", "5 pounds 3%", ","),
        ("R&D @ home £5 + 2", "r&d @ home £5 + 2", ""),
        ("Straße Привет 你好", "straße Привет 你好", ""),
    ],
)
def test_english(text, expected, dropped):
    result = normalise_transcript(text, alphabet=ENGLISH_ALPHABET)
    assert (result.text, result.dropped) == (expected, dropped)


def test_the_alphabet_decides_case_accents_and_punctuation():
    assert (
        normalise_transcript("Grüße aus Köln", alphabet=" abcdefghijklmnopqrstuvwxyzäöüß").text
        == "grüße aus köln"
    )
    assert normalise_transcript("don't shout", alphabet=" ABCDEFGHIJKLMNOPQRSTUVWXYZ'").text == "DON'T SHOUT"
    assert normalise_transcript("yes, 5.", alphabet=" abcdefghijklmnopqrstuvwxyz,5").text == "yes, 5"
    assert normalise_transcript("don't", alphabet="abcdefghijklmnopqrstuvwxyz").text == "dont"


@given(st.text())
def test_nothing_spoken_is_lost_and_a_second_pass_changes_nothing(text):
    result = normalise_transcript(text, alphabet=ENGLISH_ALPHABET)
    assert normalise_transcript(result.text, alphabet=ENGLISH_ALPHABET).text == result.text
    spoken = [c for c in result.dropped if unicodedata.category(c)[0] in "LN" or c in "%&@#*"]
    assert spoken == []
