"""Loading whichever tokenizer a folder holds: one small table from its kind to its class."""

from collections.abc import Callable
from pathlib import Path

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
