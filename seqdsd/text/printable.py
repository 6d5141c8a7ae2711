"""What comes from files, as it may be shown: nothing in it moves a cursor, hides text or cannot be written as UTF-8."""

import re

# All controls but tab and newline, those that turn the direction of writing, and halves of surrogate pairs, which stand
# for bytes of a file name that are not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Write control characters as Python does (ESC is ``\x1b``); the rest stays as it is."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
