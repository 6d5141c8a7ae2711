"""What must not reach a terminal from a file's name or a caption."""

import pytest

from seqdsd.printable import printable


@pytest.mark.parametrize("text", ["", "a dog runs", "Größe 漢字 🐕 e\u0301", "back\\slash 'quotes'"])
def test_other_text_stays_as_it_is(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("two\nlines\r\tand\x00", r"two\nlines\r\tand\x00"),
        ("\x9b31m\x7f\x85", r"\x9b31m\x7f\x85"),
        ("\u202egpj.exe\u2066\u2028", r"\u202egpj.exe\u2066\u2028"),
        ("lone \udcff", r"lone \udcff"),
    ],
)
def test_what_steers_a_terminal_is_escaped(text, shown):
    assert printable(text) == shown
    assert shown.encode()
