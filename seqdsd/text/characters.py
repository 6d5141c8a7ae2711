"""The character tokenizer of DeepSpeech: one id for each character of a fixed alphabet, and the blank.

It never changes a text: what it cannot write it refuses. ``normalise.py`` makes transcripts fit.
"""

import unicodedata
from collections import Counter
from pathlib import Path

from seqdsd.text.tokenizer import OutOfAlphabet, check_ids, read_description, write_description

ENGLISH_ALPHABET = " 'abcdefghijklmnopqrstuvwxyz"


class CharacterTokenizer:
    """Characters to ids: the blank is 0, the alphabet's characters follow from 1 in its order.

    The default is the 29 symbols of DeepSpeech: blank, space, apostrophe, a to z.

    Args:
        alphabet: The characters that can be written, each once.

    Raises:
        ValueError: If the alphabet is empty or repeats a character.
    """

    kind = "characters"
    blank_id = 0

    def __init__(self, alphabet: str = ENGLISH_ALPHABET) -> None:
        repeated = sorted(character for character, count in Counter(alphabet).items() if count > 1)
        if not alphabet or repeated:
            what = f"repeats {repeated}" if repeated else "is empty"
            raise ValueError(f"the alphabet {alphabet!r} {what}. Give each character once.")
        self.alphabet = alphabet
        self._ids = {character: id_ for id_, character in enumerate(alphabet, start=1)}

    @property
    def vocab_size(self) -> int:
        """Number of ids, the blank included."""
        return len(self.alphabet) + 1

    def encode(self, text: str) -> list[int]:
        """Return one id for each character.

        Raises:
            OutOfAlphabet: If a character is not in the alphabet.
        """
        try:
            return [self._ids[character] for character in text]
        except KeyError:
            raise OutOfAlphabet(_refusal(text, self.alphabet)) from None

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids from which blanks were removed.

        Raises:
            ValueError: If an id is the blank or outside the vocabulary.
        """
        check_ids(ids, vocab_size=self.vocab_size)
        return "".join(self.alphabet[id_ - 1] for id_ in ids)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` into a folder."""
        write_description(folder, {"kind": self.kind, "alphabet": self.alphabet})

    def to_json(self) -> dict[str, str]:
        """Kind and alphabet."""
        return {"kind": self.kind, "alphabet": self.alphabet}

    @classmethod
    def load(cls, folder: Path) -> "CharacterTokenizer":
        """Read what ``save`` wrote.

        Raises:
            ValueError: If ``tokenizer.json`` is missing or damaged.
        """
        alphabet = read_description(folder).get("alphabet")
        if not isinstance(alphabet, str):
            raise ValueError(f"{folder / 'tokenizer.json'}: has no 'alphabet'. Save the tokenizer again.")
        return cls(alphabet)


def _refusal(text: str, alphabet: str) -> str:
    """Say which characters of a text are outside the alphabet, and what to do."""
    outside = [character for character in dict.fromkeys(text) if character not in alphabet]
    position = text.index(outside[0])
    if all(character.lower() in alphabet for character in outside):
        remedy = "case mismatch: transcripts are upper-case but the alphabet is lower-case. Lower-case them."
    elif all(character.upper() in alphabet for character in outside):
        remedy = "case mismatch: transcripts are lower-case but the alphabet is upper-case. Upper-case them."
    elif any(set(unicodedata.normalize(form, text)) <= set(alphabet) for form in ("NFC", "NFD")):
        remedy = (
            "the alphabet's letters, in another Unicode form: bring all transcripts to one (unicodedata.normalize "
            "with 'NFC')."
        )
    elif all(unicodedata.category(character)[0] in "LM" for character in outside):
        remedy = (
            "other letters: add them to the alphabet (--tokenizer.alphabet), learn sub-words "
            "(--tokenizer.kind subwords), or fold them (data_prep/from_csv.py; seqdsd.text.normalise_transcript)."
        )
    else:
        remedy = "use seqdsd.text.normalise_transcript (with this alphabet), and write digits and signs out as words."
    return (
        f"{text!r} has {', '.join(map(repr, outside))} (first at position {position}), "
        f"not in the alphabet {alphabet!r}: {remedy}"
    )
