"""CTC beam search over the words of an n-gram language model, in C++ (flashlight-text, which brings KenLM with it).

An extra: ``pip install 'seqdsd[lm]'``. Only words of the model can be found, and hot words beside them. The tokens
spell words letter by letter with a separator between them, or by sub-words, whose first says that a word begins.

Flashlight ends a word in the first frame of its last token, and cannot hold that token in the frames that follow: with
sub-words, of which one may be a whole word, it finds little that way. Letters have their separator to end in. Words of
sub-words are given a second spelling, whose last token stands there twice: it is held in the first of the two. That
admits paths with a blank between them, which CTC reads as the token twice ("two two" found as "two"). So a score of
the search is a bound from above, and what it found is scored again, by CTC itself, until no bound is above the best.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

UNKNOWN = "<unk>"
_BEAM_THRESHOLD = 50.0
"""Hypotheses that are so much worse than the best are dropped; flashlight's own value."""
_NOT_WORDS = {UNKNOWN, "<s>", "</s>", "<UNK>", "<unknown>"}


class LanguageModelError(ValueError):
    """A language model that cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class LexiconSearch:
    """How a search over words weighs what it finds."""

    beam_width: int = 100
    """Hypotheses kept after each frame."""
    lm_weight: float = 1.0
    """Of the language model's log10 probability of each word, beside the network's natural log."""
    word_bonus: float = 0.0
    """Added for each word; a language model alone would rather leave words out."""
    hot_words: Sequence[str] = ()
    """Words to be found more readily, whether the language model knows them or not."""
    hot_word_bonus: float = 5.0
    """Added for each of them, as natural log."""

    def __post_init__(self) -> None:
        if self.beam_width < 1:
            raise ValueError(f"beam_width must be at least 1, got {self.beam_width}")
        if not 0 <= self.lm_weight < math.inf:
            raise ValueError(f"lm_weight must be in [0, inf), got {self.lm_weight}")
        if not math.isfinite(self.word_bonus) or not math.isfinite(self.hot_word_bonus):
            raise ValueError(
                f"word_bonus and hot_word_bonus must be finite, got {self.word_bonus}, {self.hot_word_bonus}"
            )
        if self.hot_words and not self.lm_weight > 0:
            raise ValueError("hot words need an lm_weight above 0")


@dataclass(frozen=True)
class Spelling:
    """How the network's tokens spell words."""

    spell: Callable[[str], list[int]]
    """A word's tokens; a ``ValueError`` says that it cannot be spelt."""
    separator_id: int | None
    """The token between two words; none where a word's first token says that it begins."""
    vocab_size: int
    blank_id: int

    @property
    def silence_id(self) -> int:
        """What flashlight may put between words: the separator, or a token after the last, which never comes."""
        return self.vocab_size if self.separator_id is None else self.separator_id

    @property
    def num_searched(self) -> int:
        """Tokens, and that one."""
        return max(self.vocab_size, self.silence_id + 1)


@dataclass(frozen=True)
class WordHypothesis:
    """Words that a search found."""

    words: list[str]
    score: float
    """Log-probability of the network's paths, language model and bonuses together."""


@dataclass
class LexiconDecoder:
    """A search over the words of a language model."""

    language_model: Path
    """ARPA file, or KenLM's binary one."""
    spelling: Spelling
    words: Iterable[str] | None = None
    """What can be found; by default the words of the ARPA file. A binary one does not say them."""
    search: LexiconSearch = field(default_factory=LexiconSearch)
    unspelt: list[str] = field(default_factory=list, init=False)
    """Words that the network's tokens cannot spell: they are never found."""

    def __post_init__(self) -> None:
        """Read the language model and spell its words.

        Raises:
            LanguageModelError: If flashlight-text is not installed, the file cannot be used, or it has another
                alphabet than the network.
        """
        self._flashlight = _import_flashlight()
        known = self._spelt(read_arpa_words(self.language_model) if self.words is None else self.words)
        self._spellings = {**known, **self._spelt(self.search.hot_words)}
        self._check_alphabet(known)
        self._dictionary = self._flashlight.dictionary.Dictionary()
        for word in (*self._spellings, UNKNOWN):
            self._dictionary.add_entry(word)
        self._lm = self._load()
        self._trie = self._make_trie()
        self._decoder = self._make_decoder()

    def with_search(self, search: LexiconSearch) -> LexiconDecoder:
        """The same words and language model, weighed in another way."""
        if search.hot_words or self.search.hot_words:
            return LexiconDecoder(self.language_model, self.spelling, self.words, search)
        other = object.__new__(LexiconDecoder)
        other.__dict__.update(self.__dict__, search=search)
        other._decoder = other._make_decoder()
        return other

    def __call__(
        self, log_probs: Float[Tensor, "batch frames vocab"], num_frames: Int[Tensor, "batch"]
    ) -> list[WordHypothesis]:
        """The best words of each item, on the CPU, one item after the other.

        Args:
            log_probs: Natural-log probabilities; frames past ``num_frames`` are ignored.
            num_frames: Valid frames of each item, each in [1, frames].

        Raises:
            ValueError: If a length is outside that range, or the vocabulary has another size.
        """
        frames, vocab = log_probs.shape[1:]
        if vocab != self.spelling.vocab_size:
            raise ValueError(f"log_probs are of {vocab} tokens, the spelling of {self.spelling.vocab_size}")
        lengths = num_frames.tolist()
        if not all(1 <= length <= frames for length in lengths):
            raise ValueError(f"num_frames must lie in [1, {frames}], got {lengths}")
        emissions = log_probs.detach().float().cpu()
        return [self._decode(item[:length]) for item, length in zip(emissions, lengths, strict=True)]

    def _decode(self, log_probs: Float[Tensor, "frames vocab"]) -> WordHypothesis:
        emissions = self._emissions(log_probs)
        found = self._decoder.decode(emissions.data_ptr(), *emissions.shape)
        found = [one for one in found if math.isfinite(one.score)]
        if not found:
            raise ValueError("the log-probabilities are not finite: nothing can be found in them")
        found.sort(key=lambda one: -one.score)
        if self.spelling.separator_id is None:
            return self._best_by_ctc(found, log_probs)
        return WordHypothesis(self._words_of(found[0]), found[0].score)

    def _emissions(self, log_probs: Float[Tensor, "frames vocab"]) -> Float[Tensor, "frames_and_end tokens"]:
        """What flashlight searches."""
        if self.spelling.separator_id is None:
            return torch.cat((log_probs, torch.full_like(log_probs[:, :1], -math.inf)), dim=1)
        # Each word's spelling ends in a separator; the last one's is given for nothing.
        end = torch.full_like(log_probs[:1], -1e9)
        end[0, self.spelling.separator_id] = 0
        return torch.cat((log_probs, end)).contiguous()

    def _best_by_ctc(self, found: Sequence[Any], log_probs: Float[Tensor, "frames vocab"]) -> WordHypothesis:
        """The best of what was found, from the highest bound on, by the paths that CTC allows."""
        best = WordHypothesis([], -math.inf)
        for one in found:
            if one.score <= best.score:
                break
            words = self._words_of(one)
            tokens = [token for word in words for token in self._spellings[word]]
            score = _ctc_log_prob(log_probs, tokens, blank_id=self.spelling.blank_id)
            score += self.search.lm_weight * one.lmScore + self.search.word_bonus * len(words)
            if score > best.score:
                best = WordHypothesis(words, score)
        return best

    def _words_of(self, found: Any) -> list[str]:
        return [self._dictionary.get_entry(index) for index in found.words if index >= 0]

    def _spelt(self, words: Iterable[str]) -> dict[str, list[int]]:
        separator = self.spelling.separator_id
        end = [] if separator is None else [separator]
        spellings = {}
        for word in words:
            try:
                tokens = self.spelling.spell(word)
            except ValueError:
                tokens = []
            if tokens:
                spellings[word] = [*tokens, *end]
            else:
                self.unspelt.append(word)
        return spellings

    def _check_alphabet(self, known: Mapping[str, Any]) -> None:
        if bad := [word for word in self.search.hot_words if word in self.unspelt]:
            raise LanguageModelError(f"hot words that the network cannot spell: {', '.join(bad)}")
        if len(self.unspelt) >= len(known):
            examples = ", ".join(repr(word) for word in self.unspelt[:3]) or "none at all"
            raise LanguageModelError(
                f"{self.language_model}: the network cannot spell {len(self.unspelt)} of its "
                f"{len(self.unspelt) + len(known)} words ({examples}); it is of another alphabet. Make one from "
                "transcripts as the network writes them (seqdsd build-lm)"
            )

    def _load(self) -> Any:
        _check_arpa(self.language_model)
        try:
            with _stderr_hidden():  # KenLM draws a progress bar there
                lm = self._flashlight.kenlm.KenLM(str(self.language_model), self._dictionary)
        except (RuntimeError, ValueError) as error:
            raise LanguageModelError(f"{self.language_model}: KenLM cannot read it: {error}") from error
        if not self.search.hot_words:
            return lm
        indices = {self._dictionary.get_index(word) for word in self.search.hot_words}
        return self._flashlight.hot_words(lm, indices, self.search.hot_word_bonus / self.search.lm_weight)

    def _make_trie(self) -> Any:
        decoder = self._flashlight.decoder
        trie = decoder.Trie(self.spelling.num_searched, self.spelling.silence_id)
        start = self._lm.start(False)
        for word, tokens in self._spellings.items():
            index = self._dictionary.get_index(word)
            score = self._lm.score(start, index)[1]
            trie.insert(tokens, index, score)
            if self.spelling.separator_id is None:
                trie.insert([*tokens, tokens[-1]], index, score)  # to be held; see above
        trie.smear(decoder.SmearingMode.MAX)  # a word that is begun counts as the likeliest it can become
        return trie

    def _make_decoder(self) -> Any:
        decoder, search = self._flashlight.decoder, self.search
        options = decoder.LexiconDecoderOptions(
            beam_size=search.beam_width,
            beam_size_token=self.spelling.num_searched,
            beam_threshold=_BEAM_THRESHOLD,
            lm_weight=search.lm_weight,
            word_score=search.word_bonus,
            unk_score=-math.inf,
            sil_score=0.0,
            log_add=True,
            criterion_type=decoder.CriterionType.CTC,
        )
        return decoder.LexiconDecoder(
            options,
            self._trie,
            self._lm,
            self.spelling.silence_id,
            self.spelling.blank_id,
            self._dictionary.get_index(UNKNOWN),
            [],
            False,
        )


def _ctc_log_prob(log_probs: Float[Tensor, "frames vocab"], tokens: Sequence[int], *, blank_id: int) -> float:
    """Of all paths that spell the tokens; minus infinity where there are too few frames."""
    lengths = torch.tensor([len(log_probs)]), torch.tensor([len(tokens)])
    loss = F.ctc_loss(
        log_probs[:, None],
        torch.tensor([tokens], dtype=torch.int64),
        *lengths,
        blank=blank_id,
        reduction="sum",
    )
    return -float(loss)


def _check_arpa(path: Path) -> None:
    """Refuse counts that KenLM would take memory for, or crash on; a file that is not ARPA is left to KenLM.

    Raises:
        LanguageModelError: If a count is none, or more than the file can hold.
    """
    if not path.is_file():
        return
    with path.open("rb") as lines:
        if lines.readline(100).strip() != b"\\data\\":
            return
        size_bytes = os.fstat(lines.fileno()).st_size
        for number, line in enumerate(iter(lambda: lines.readline(200), b""), start=2):
            if line.startswith(b"\\"):
                return
            count = line.partition(b"=")[2].strip()
            # An n-gram takes a probability, a tab, a word and a newline.
            if line.strip() and not (count.isdigit() and len(count) < 16 and 4 * int(count) <= size_bytes):
                raise LanguageModelError(
                    f"{path}:{number}: {line[:80]!r} is no number of n-grams that this file can hold. Copy it again, "
                    "or make it anew (seqdsd build-lm)"
                )


def read_arpa_words(path: Path) -> list[str]:
    """The words of an n-gram model in ARPA format, but for its marks of begin, end and unknown.

    Raises:
        LanguageModelError: If it cannot be read or is not such a file.
    """
    words, in_unigrams = [], False
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("\\"):
                    if in_unigrams:
                        break
                    in_unigrams = line.strip() == "\\1-grams:"
                elif in_unigrams and line.strip():
                    words.append(line.split("\t")[1].strip() if "\t" in line else line.split()[1])
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise LanguageModelError(
            f"{path}: cannot be read as an ARPA file ({error}). A binary KenLM file does not say its words: name "
            "them by --words, a file with a word a line"
        ) from error
    words = [word for word in words if word not in _NOT_WORDS]
    if not words:
        raise LanguageModelError(f"{path}: no words; it is not an ARPA file (\\1-grams: …)")
    return words


@dataclass(frozen=True)
class _Flashlight:
    decoder: Any
    dictionary: Any
    kenlm: Any

    def hot_words(self, lm: Any, indices: set[int], bonus: float) -> Any:
        """A language model that gives these words a bonus."""

        class HotWords(self.decoder.LM):  # type: ignore[name-defined]
            def start(self, start_with_nothing: bool) -> Any:
                return lm.start(start_with_nothing)

            def score(self, state: Any, index: int) -> Any:
                after, score = lm.score(state, index)
                return after, score + bonus * (index in indices)

            def finish(self, state: Any) -> Any:
                return lm.finish(state)

        return HotWords()


def _import_flashlight() -> _Flashlight:
    try:
        from flashlight.lib.text import decoder, dictionary
        from flashlight.lib.text.decoder import kenlm
    except ImportError as error:
        raise LanguageModelError(
            "language models need flashlight-text, which has wheels for Python 3.11 and 3.12: "
            "pip install 'seqdsd[lm]' there (or leave --lm out)"
        ) from error
    return _Flashlight(decoder, dictionary, kenlm)


@contextmanager
def _stderr_hidden() -> Iterator[None]:
    """Without what C++ writes to standard error."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)
