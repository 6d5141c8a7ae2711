"""How a recogniser's log-probabilities become text: max decoding, beam search, or a search with a language model."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from jaxtyping import Float, Int
from torch import Tensor

from seqdsd.decode import beam_decode, greedy_decode
from seqdsd.decode.ctc_lexicon import LanguageModelError, LexiconDecoder, LexiconSearch, Spelling
from seqdsd.text import CharacterTokenizer, Tokenizer

log = logging.getLogger(__name__)

LM_BEAM_WIDTH = 100
MAX_BEAM = 10_000
"""Of any search, captions' too: more would fill the memory and find nothing better."""

Decoder = Callable[[Float[Tensor, "batch frames vocab"], Int[Tensor, "batch"]], list[list[int]]]
"""Log-probabilities [batch, frames, vocab] and valid frames [batch] to each item's tokens, without blanks."""


@dataclass(frozen=True)
class DecodingSettings:
    """How text is found. Without any of it: max decoding, by which phases and runs are compared."""

    beam: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Width of a beam search; by default none, and 100 with a language model."""
    lm: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Word n-gram model, ARPA or KenLM's binary; only its words and hot words are found. seqdsd build-lm makes one."""
    words: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File with a word a line: what can be found, where the language model's file does not say its words or knows too
    few."""
    lm_weight: Annotated[float | None, tyro.conf.arg(metavar="W")] = None
    """Of the language model's log10 probabilities; by default what seqdsd tune-decoding found on dev, or 1."""
    word_bonus: Annotated[float | None, tyro.conf.arg(metavar="B")] = None
    """Added for each word; by default what seqdsd tune-decoding found on dev, or 0."""
    hot_words: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD ...")] = ()
    """Words to be found more readily, whether the language model knows them or not."""
    hot_word_bonus: Annotated[float, tyro.conf.arg(metavar="B")] = 5.0
    """Added for each hot word."""

    def __post_init__(self) -> None:
        check_beam(1 if self.beam is None else self.beam)
        if self.lm is None:
            for name in ("words", "lm_weight", "word_bonus", "hot_words"):
                if getattr(self, name):
                    raise ValueError(f"{name} needs a language model (--lm FILE)")
        else:
            _ = self.search  # raises for weights out of range

    @property
    def search(self) -> LexiconSearch:
        """Of the search with a language model."""
        return LexiconSearch(
            beam_width=self.beam or LM_BEAM_WIDTH,
            lm_weight=1.0 if self.lm_weight is None else self.lm_weight,
            word_bonus=self.word_bonus or 0.0,
            hot_words=self.hot_words,
            hot_word_bonus=self.hot_word_bonus,
        )

    def __str__(self) -> str:
        """As a score's signature says it."""
        if self.lm is not None:
            search = self.search
            words = f"|words {_named(self.words)}" if self.words else ""
            hot = "+".join(search.hot_words)
            return (
                f"beam {search.beam_width}|lm {_named(self.lm)} weight {search.lm_weight:g}|word bonus "
                f"{search.word_bonus:g}{words}"
                + (f"|hot words {hot} at {search.hot_word_bonus:g}" if hot else "")
            )
        return "max decoding" if self.beam is None else f"beam {self.beam}"


def check_beam(beam: int) -> None:
    """See that a search may be so wide.

    Raises:
        ValueError: If not.
    """
    if beam < 1:
        raise ValueError(f"beam must be at least 1, got {beam}")
    if beam > MAX_BEAM:
        raise ValueError(f"beam must be at most {MAX_BEAM}, got {beam}")


def digest_of(path: Path) -> str:
    """By which a file is known, whatever it is called."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _named(path: Path) -> str:
    """A file's name, and the beginning of its digest: two files may have one name."""
    return f"{path.name} {digest_of(path)[:8]}"


def make_decoder(settings: DecodingSettings, tokenizer: Tokenizer) -> Decoder:
    """The search asked for.

    Raises:
        ValueError: If a language model cannot be used, or not with this tokenizer.
    """
    if settings.lm is not None:
        search = make_lexicon_decoder(settings, tokenizer)
        return lambda log_probs, num_frames: [
            tokenizer.encode(" ".join(one.words)) for one in search(log_probs, num_frames)
        ]
    if settings.beam is None:
        return partial(greedy_decode, blank_id=tokenizer.blank_id)
    width = settings.beam

    def beam_search(log_probs: Tensor, num_frames: Tensor) -> list[list[int]]:
        found = beam_decode(log_probs, num_frames, beam_width=width, blank_id=tokenizer.blank_id)
        return [hypotheses[0].tokens for hypotheses in found]

    return beam_search


def make_lexicon_decoder(settings: DecodingSettings, tokenizer: Tokenizer) -> LexiconDecoder:
    """The search with a language model.

    Raises:
        LanguageModelError: If the model cannot be used, or not with this tokenizer.
        OSError, UnicodeDecodeError: If the list of words cannot be read.
    """
    if settings.lm is None:
        raise LanguageModelError("no language model is named (--lm FILE)")
    decoder = LexiconDecoder(
        settings.lm,
        Spelling(
            tokenizer.encode,
            tokenizer.encode(" ")[0] if isinstance(tokenizer, CharacterTokenizer) else None,
            vocab_size=tokenizer.vocab_size,
            blank_id=tokenizer.blank_id,
        ),
        None if settings.words is None else settings.words.read_text(encoding="utf-8").split(),
        settings.search,
    )
    if decoder.unspelt:
        examples = ", ".join(map(repr, decoder.unspelt[:3]))
        log.warning(
            "%s: %d words that the network cannot spell are never found (%s)",
            settings.lm,
            len(decoder.unspelt),
            examples,
        )
    return decoder
