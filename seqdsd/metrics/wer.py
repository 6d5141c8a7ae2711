"""Word and character error rates: edit operations counted by jiwer, pooled over all utterances.

Leaves normalisation out on purpose: text is compared as it comes, case and punctuation included. Whoever
wants another comparison changes both sides before calling. Significance tests are left out too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import jiwer
from jiwer.transforms import AbstractTransform

from seqdsd import __version__

Unit = Literal["words", "characters"]


class _Split(AbstractTransform):
    """Takes the place of jiwer's default transforms, which also strip text and merge its spaces."""

    def __init__(self, split: Callable[[str], list[str]]) -> None:
        self._split = split

    def __call__(self, sentences: Sequence[str]) -> list[list[str]]:
        return [self._split(sentence) for sentence in sentences]


_SPLIT: dict[Unit, _Split] = {"words": _Split(str.split), "characters": _Split(list)}
_HOW = {"words": "split on white space", "characters": "every character, spaces included"}


@dataclass(frozen=True)
class ErrorRate:
    """Edit counts of a set of utterances, and the rate they give; ``a + b`` pools two shards."""

    unit: Unit
    hits: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def ref_length(self) -> int:
        """Words or characters in the references."""
        return self.hits + self.substitutions + self.deletions

    @property
    def ref_words(self) -> int:
        """Words in the references; an AttributeError on a character error rate."""
        return self._ref_length_in("words")

    @property
    def ref_chars(self) -> int:
        """Characters in the references, spaces included; an AttributeError on a word error rate."""
        return self._ref_length_in("characters")

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per unit of reference, as a fraction: insertions can take it past 1.

        Raises:
            ValueError: If the references are empty.
        """
        if not self.ref_length:
            raise ValueError(f"nothing to score: the references hold no {self.unit}")
        return self.errors / self.ref_length

    @property
    def signature(self) -> str:
        """How the rate was computed: two rates compare only if these strings are equal."""
        return f"{self.unit}|{_HOW[self.unit]}|no normalisation|seqdsd {__version__}"

    def __add__(self, other: "ErrorRate") -> "ErrorRate":
        if self.unit != other.unit:
            raise ValueError(f"cannot pool an error rate over {self.unit} with one over {other.unit}")
        return ErrorRate(
            self.unit,
            hits=self.hits + other.hits,
            substitutions=self.substitutions + other.substitutions,
            deletions=self.deletions + other.deletions,
            insertions=self.insertions + other.insertions,
        )

    def _ref_length_in(self, unit: Unit) -> int:
        if self.unit != unit:
            raise AttributeError(f"this error rate counts {self.unit}, not {unit}")
        return self.ref_length


def wer(refs: Sequence[str], hyps: Sequence[str]) -> ErrorRate:
    """Count word errors over all utterances; words are what white space separates.

    A single reference may be empty: every word of its hypothesis is then an insertion.

    Raises:
        ValueError: If the two lists differ in length, or the references hold no word at all.
    """
    return _score(refs, hyps, "words")


def cer(refs: Sequence[str], hyps: Sequence[str]) -> ErrorRate:
    """Count character errors over all utterances; spaces count, nothing is stripped.

    Raises:
        ValueError: If the two lists differ in length, or the references hold no character at all.
    """
    return _score(refs, hyps, "characters")


def _score(refs: Sequence[str], hyps: Sequence[str], unit: Unit) -> ErrorRate:
    if isinstance(refs, str) or isinstance(hyps, str):
        raise ValueError("refs and hyps are lists of utterances; wrap a single one in a list")
    if len(refs) != len(hyps):
        raise ValueError(f"got {len(refs)} references but {len(hyps)} hypotheses; they must pair up")
    split = _SPLIT[unit]
    if not any(split(refs)):
        raise ValueError(f"nothing to score: the {len(refs)} references hold no {unit}")

    counts = jiwer.process_words(list(refs), list(hyps), split, split)
    return ErrorRate(
        unit,
        hits=counts.hits,
        substitutions=counts.substitutions,
        deletions=counts.deletions,
        insertions=counts.insertions,
    )
