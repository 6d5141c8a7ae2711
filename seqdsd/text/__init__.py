"""Text as token ids: normalisation, characters with the CTC blank, sub-words, whole words for captions.

Nothing here knows of audio, models or torch.
"""

from seqdsd.text.characters import ENGLISH_ALPHABET, CharacterTokenizer
from seqdsd.text.normalise import Normalised, normalise_transcript
from seqdsd.text.printable import printable
from seqdsd.text.registry import load_tokenizer, tokenizer_from_json
from seqdsd.text.subwords import SubwordTokenizer
from seqdsd.text.tokenizer import OutOfAlphabet, Tokenizer
from seqdsd.text.vocabulary import WordVocabulary

__all__ = [
    "ENGLISH_ALPHABET",
    "CharacterTokenizer",
    "Normalised",
    "OutOfAlphabet",
    "SubwordTokenizer",
    "Tokenizer",
    "WordVocabulary",
    "load_tokenizer",
    "normalise_transcript",
    "printable",
    "tokenizer_from_json",
]
