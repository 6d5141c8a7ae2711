"""What every tokenizer can do, and the file that says which one a folder holds.

The concrete tokenizers are in ``characters.py`` and ``subwords.py``; ``registry.py`` loads either.
"""

import json
import os
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

_FILE_NAME = "tokenizer.json"


class OutOfAlphabet(ValueError):
    """A transcript that the tokenizer cannot write; the message names the characters and the remedy."""


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back, for CTC: one id is the blank, which no text contains."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, the blank included."""

    @property
    def blank_id(self) -> int:
        """The id of CTC's blank: 0 in every tokenizer here."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, never the blank.

        Raises:
            OutOfAlphabet: If the text cannot be written with this vocabulary.
        """

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids from which blanks were removed.

        Raises:
            ValueError: If an id is the blank or outside the vocabulary.
        """

    def save(self, folder: Path) -> None:
        """Write all that ``load_tokenizer`` needs into a folder, which is made where it is missing."""

    def to_json(self) -> dict[str, str]:
        """All that ``tokenizer_from_json`` needs, as JSON can hold it."""


def check_ids(ids: list[int], *, vocab_size: int) -> None:
    """Raise ``ValueError`` if an id is not that of a written token, in [1, vocab_size)."""
    for id_ in ids:
        if not 0 < id_ < vocab_size:
            what = "the blank" if id_ == 0 else f"outside [1, {vocab_size})"
            raise ValueError(f"cannot decode token id {id_}: it is {what}. Remove blanks before decoding.")


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Write ``tokenizer.json`` in one step; ``description["kind"]`` says which class reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{_FILE_NAME}.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(description, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, folder / _FILE_NAME)


def read_description(folder: Path) -> dict[str, Any]:
    """Read ``tokenizer.json``.

    Raises:
        ValueError: If the file is missing or damaged.
    """
    path = folder / _FILE_NAME
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file. Name a folder that a tokenizer was saved to.") from error
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}). Save the tokenizer again.") from error
    if not isinstance(description, dict) or not isinstance(description.get("kind"), str):
        raise ValueError(f"{path}: does not say the tokenizer's 'kind'. Save the tokenizer again.")
    return description
