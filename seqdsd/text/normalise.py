"""Making transcripts fit an alphabet without changing what was said.

The rule: typography may go, speech may not. Case, accents, quotes, hyphens and punctuation are folded or
dropped, and the result says what was dropped. Digits, signs that are read aloud (``%``, ``&``, ``$``, ``+``)
and letters of other scripts stay as they are even outside the alphabet, so that the tokenizer refuses the
transcript and names them: dropping the ``5`` of "5 pounds" would train on something nobody said. Writing
numbers out as words is left to the user.
"""

import unicodedata
from dataclasses import dataclass

# Backtick, acute accent typed as an apostrophe, curly quotes, modifier letters, prime, full-width apostrophe.
# Folded before NFKC, which would turn the acute accent into a space and a combining mark.
_APOSTROPHES = dict.fromkeys(map(ord, "`\u00b4\u2018\u2019\u201b\u02bc\u02bb\u2032\uff07"), "'")
_READ_ALOUD = frozenset("%&@#*°‰§№")


@dataclass(frozen=True, slots=True)
class Normalised:
    """A transcript that was made to fit."""

    text: str
    dropped: str
    """Every character that was dropped, as often as it occurred, a stripped accent as its combining mark.
    Case changes, folded apostrophes and white space do not count."""


def normalise_transcript(text: str, *, alphabet: str) -> Normalised:
    """Fold a transcript into an alphabet; see the module's rule for what is never dropped.

    In this order, for each character after Unicode NFKC: one that the alphabet has is kept; else its other
    case is taken; else its letter without the accents; else, if it is punctuation, it becomes a space (an
    apostrophe joins its neighbours instead: "don't" becomes "dont"); else it is kept. An apostrophe that
    touches no letter is dropped, and white space is collapsed.
    """
    dropped: list[str] = []
    composed = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES))
    folded = "".join(_fold_character(character, alphabet, dropped) for character in composed)
    words = []
    for word in folded.split():
        if word.strip("'"):
            words.append(word)
        else:
            dropped.extend(word)
    return Normalised((" " if " " in alphabet else "").join(words), "".join(dropped))


def _fold_character(character: str, alphabet: str, dropped: list[str]) -> str:
    """Return what stands for one character, and add to ``dropped`` what is lost."""
    if character.isspace():
        return " "
    for variant in (character, character.lower(), character.upper()):
        if all(part in alphabet for part in variant):
            return variant
    decomposed = unicodedata.normalize("NFKD", character)
    if len(decomposed) > 1:
        return "".join(_fold_character(part, alphabet, dropped) for part in decomposed)
    if not _is_typography(character):
        return character
    dropped.append(character)
    # Marks and invisible characters (zero-width joiner, soft hyphen) sit inside words; punctuation ends them.
    return "" if character == "'" or unicodedata.category(character) in ("Mn", "Cf") else " "


def _is_typography(character: str) -> bool:
    """Whether a character is only how speech is written down, and not itself spoken."""
    category = unicodedata.category(character)
    return character not in _READ_ALOUD and (category[0] in "PC" or category in ("Mn", "Sk"))
