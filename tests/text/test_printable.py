"""What may be shown, against Python's own way of writing it."""

import unicodedata

import pytest

from seqdsd.text import printable


@pytest.mark.parametrize("text", ["", "plain", "ça va?\n\tdeux", "語 🎉 \u200d e\u0301", "back\\slash"])
def test_text_stays_as_it_is(text):
    assert printable(text) == text


def test_no_control_character_is_left():
    for code in range(0x110000):
        category = unicodedata.category(chr(code))
        shown = printable(chr(code))
        if category in ("Cc", "Cs", "Zl", "Zp") and chr(code) not in "\t\n":
            assert shown.isascii() and shown.isprintable() and eval(f"'{shown}'") == chr(code)
    assert printable("a\x1b[31mb\rc\x9bd") == "a\\x1b[31mb\\rc\\x9bd"
    assert printable("caf\udce9 \u202etxt.exe") == "caf\\udce9 \\u202etxt.exe"
