"""The one reader of records: lines of JSON, each held against a shape; what does not fit is named by file and line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

REMEDY = "bring the file back, or train again into a new folder"
MAX_DEPTH = 32
"""Objects and lists within each other; no record has more than five."""


class RunFolderError(ValueError):
    """A run folder that cannot be used as asked; the message names it and the remedy."""


def read_json_lines(
    path: Path, shape: Any = dict[str, Any], *, remedy: str = REMEDY
) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file, as plain dicts; keys that the shape does not know are kept.

    Args:
        path: The file.
        shape: What each line must be: one of ``shapes``, or another type that msgspec can check.
        remedy: What the message ends in.

    Raises:
        RunFolderError: Naming the first line that is damaged, or of another shape.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            yield checked(
                _decoded(line, f"{path}:{number}", remedy), shape, f"{path}:{number}", remedy=remedy
            )


def checked(value: Any, shape: Any, where: str, *, remedy: str = REMEDY) -> Any:
    """The value itself, if it has the shape.

    Args:
        value: As it was read from JSON or TOML.
        shape: As for ``read_json_lines``.
        where: File and line.
        remedy: What the message ends in.

    Raises:
        RunFolderError: If it has another.
    """
    try:
        msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise RunFolderError(f"{where}: {_said(error)}; {remedy}") from None
    if is_deeper(value, MAX_DEPTH):
        raise RunFolderError(f"{where}: more than {MAX_DEPTH} lists within each other; {remedy}")
    return value


def _decoded(line: bytes, where: str, remedy: str) -> Any:
    try:
        return msgspec.json.decode(line.decode())
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{where}: not UTF-8 text ({error}); {remedy}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise RunFolderError(f"{where}: damaged record ({error}); {remedy}") from error


def _said(error: msgspec.ValidationError) -> str:
    """The library's message, with the place in front of it."""
    message, _, place = str(error).partition(" - at `$")
    message = message[:1].lower() + message[1:]
    return f"{place.strip('.`')}: {message}" if place else message


def is_deeper(value: Any, levels: int) -> bool:
    """Whether more than so many objects and lists stand within each other."""
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(is_deeper(one, levels - 1) for one in inner)
