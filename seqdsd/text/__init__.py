"""Transcripts as text and as token ids: normalisation, characters with the CTC blank, sub-words.

Nothing here knows of audio, models or torch.
"""

from seqdsd.text.characters import ENGLISH_ALPHABET, CharacterTokenizer
from seqdsd.text.normalise import Normalised, normalise_transcript
from seqdsd.text.registry import load_tokenizer
from seqdsd.text.subwords import SubwordTokenizer
from seqdsd.text.tokenizer import OutOfAlphabet, Tokenizer

__all__ = [
    "ENGLISH_ALPHABET",
    "CharacterTokenizer",
    "Normalised",
    "OutOfAlphabet",
    "SubwordTokenizer",
    "Tokenizer",
    "load_tokenizer",
    "normalise_transcript",
]
