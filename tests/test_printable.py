"""What must not reach a terminal from a file's name or a caption."""

import unicodedata

import pytest

from seqdsd.printable import printable, printable_json, printable_lines


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


def test_a_message_keeps_its_lines():
    assert printable_lines("ça va?\n\tdeux \x1b[31m\r") == "ça va?\n\tdeux \\x1b[31m\\r"


def test_json_is_escaped_only_where_it_has_to_be():
    assert printable_json({"a": "ça\n"}) == '{"a": "ça\\n"}'
    assert printable_json({"a": "ça\x9b"}) == '{"a": "\\u00e7a\\u009b"}'


def test_no_control_character_is_left():
    for code in range(0x110000):
        if unicodedata.category(chr(code)) in ("Cc", "Cs", "Zl", "Zp"):
            shown = printable(chr(code))
            assert shown.isascii() and shown.isprintable() and eval(f"'{shown}'") == chr(code)
