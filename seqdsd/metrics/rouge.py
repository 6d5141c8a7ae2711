"""ROUGE-L: how much of a caption stands in the references in the same order.

Leaves stemming and tokenizing out: words are what white space separates, compared as they come.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from rapidfuzz.distance import LCSseq

from seqdsd import __version__
from seqdsd.metrics.caption_input import check_captions, describe_input

_BETA = 1.2


@dataclass(frozen=True)
class RougeL:
    """ROUGE-L of a set of captions.

    Attributes:
        score: Mean F-measure of the items, a fraction.
        settings: How many references, and how text is read.
    """

    score: float
    settings: str

    @property
    def signature(self) -> str:
        """How the score was computed: two compare only if these strings are equal."""
        return f"ROUGE-L|F, beta:{_BETA:g}|refs:max of precision and of recall|{self.settings}|seqdsd {__version__}"


def rouge_l(refs_per_item: Sequence[Sequence[str]], hyps: Sequence[str]) -> RougeL:
    """Score captions by the longest common subsequence of words with their references.

    Args:
        refs_per_item: References of each item, at least one; their number may vary.
        hyps: One caption an item; an empty one scores 0.

    Raises:
        ValueError: If there is no item, the lists differ in length, or an item has no reference (it is named).

    Reference: Lin 2004 (ROUGE), section 3.1, equations 2 to 4. Departure, after coco-caption (pycocoevalcap 1.2,
        ``rouge.py``), with which it was compared: the best precision and the best recall are taken each from the
        reference that gives it, with beta 1.2, which weighs recall more. Unlike there, an empty caption scores 0
        also where a reference is empty too.
    """
    check_captions(refs_per_item, hyps)
    scores = [_f_measure(refs, hyp) for refs, hyp in zip(refs_per_item, hyps, strict=True)]
    return RougeL(score=fmean(scores), settings=describe_input(refs_per_item))


def _f_measure(refs: Sequence[str], hyp: str) -> float:
    hyp_words = hyp.split()
    lengths = [(LCSseq.similarity(hyp_words, words), len(words)) for words in map(str.split, refs)]
    precision = max(common for common, _ in lengths) / max(len(hyp_words), 1)
    recall = max(common / max(length, 1) for common, length in lengths)
    if not precision:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)
