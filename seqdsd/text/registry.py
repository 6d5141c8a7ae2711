"""Loading whichever tokenizer a folder or a file holds: small tables from its kind to its class."""

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seqdsd.text.characters import CharacterTokenizer
from seqdsd.text.subwords import SubwordTokenizer
from seqdsd.text.tokenizer import Tokenizer, read_description

_LOADERS: dict[str, Callable[[Path], Tokenizer]] = {
    CharacterTokenizer.kind: CharacterTokenizer.load,
    SubwordTokenizer.kind: SubwordTokenizer.load,
}


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer that was saved to a folder.

    Raises:
        ValueError: If there is none, its files are damaged or its kind is not known.
    """
    kind = read_description(folder)["kind"]
    if kind not in _LOADERS:
        raise ValueError(
            f"{folder / 'tokenizer.json'}: unknown kind {kind!r}. Known kinds: {', '.join(sorted(_LOADERS))}."
        )
    return _LOADERS[kind](folder)


_FROM_JSON: dict[str, Callable[[Mapping[str, str]], Tokenizer]] = {
    CharacterTokenizer.kind: lambda values: CharacterTokenizer(values["alphabet"]),
    SubwordTokenizer.kind: lambda values: SubwordTokenizer(base64.b64decode(values["model"])),
}


def tokenizer_from_json(values: Any) -> Tokenizer:
    """The tokenizer that ``to_json`` described.

    Raises:
        ValueError: If it is not such a description.
    """
    try:
        return _FROM_JSON[values["kind"]](values)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not the description of a tokenizer ({error!r})") from error
