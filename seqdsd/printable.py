"""Text from files as a terminal may show it: what would steer the terminal, or cannot be written, is escaped."""

import json
import re
from typing import Any

_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters (ESC begins a command), line ends, what turns the direction of writing, lone surrogates."""


def printable(text: str) -> str:
    r"""The text on one line, with ``\x1b`` and the like for what is not to be sent to a terminal."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_lines(text: str) -> str:
    """The same of a message of several lines: its line ends and tabs stay."""
    return "".join(one if one in "\t\n" else printable(one) for one in re.split(r"([\t\n])", text))


def printable_json(value: Any) -> str:
    """JSON on one line, in which what would not be printable is escaped."""
    line = json.dumps(value, ensure_ascii=False)
    return line if printable(line) == line else json.dumps(value)
