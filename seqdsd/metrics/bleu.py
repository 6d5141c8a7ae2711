"""BLEU-1 to BLEU-4 of captions, standard and as NeuralTalk's script counts it: n-grams counted once by NLTK.

The standard variant is what sacreBLEU gives, and has its signature. NLTK is imported where it is first used, for that
takes half a second.

Leaves tokenizing out on purpose: words are what white space separates, compared as they come. Whoever wants
another comparison changes both sides before calling. Significance tests are left out too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from sacrebleu.metrics import BLEU

from seqdsd.metrics.caption_input import check_captions

MAX_ORDER = 4
"""Longest n-grams that are counted."""


@dataclass(frozen=True)
class Bleu:
    """What was counted over all items, and the scores that this gives, 0 to 100.

    BLEU-n is the geometric mean of the precisions of 1- to n-grams, times the brevity penalty; it is 0 where one
    of them is 0, since nothing is smoothed.
    """

    matches: tuple[int, ...]
    """N-grams of the hypotheses that a reference of the item has too, clipped to its count there; n from 1 to 4."""
    totals: tuple[int, ...]
    """N-grams of the hypotheses; n from 1 to 4."""
    hyp_length: int
    """Words in the hypotheses."""
    ref_length: int
    """Words in the references: of each item the one closest in length to the hypothesis, the shorter of two."""
    settings: str
    """How it is counted, in sacreBLEU's words."""
    penalises_brevity: bool = True

    @property
    def bleu1(self) -> float:
        """BLEU-1."""
        return self._score(1)

    @property
    def bleu2(self) -> float:
        """BLEU-2."""
        return self._score(2)

    @property
    def bleu3(self) -> float:
        """BLEU-3."""
        return self._score(3)

    @property
    def bleu4(self) -> float:
        """BLEU-4, the one meant by BLEU alone."""
        return self._score(4)

    @property
    def brevity_penalty(self) -> float:
        """The factor in [0, 1] that every score contains: 1 where hypotheses are long enough, or none is asked for."""
        if not self.penalises_brevity or self.hyp_length >= self.ref_length:
            return 1.0
        return math.exp(1 - self.ref_length / self.hyp_length) if self.hyp_length else 0.0

    @property
    def signature(self) -> str:
        """How the scores were computed: two compare only if these strings are equal."""
        variant = "BLEU" if self.penalises_brevity else "multi-bleu without brevity penalty (NeuralTalk)"
        return f"{variant}|{self.settings}"

    def without_brevity_penalty(self) -> "Bleu":
        """The scores that NeuralTalk's ``eval/multi-bleu.perl`` gives, from the same counts."""
        return replace(self, penalises_brevity=False)

    def _score(self, order: int) -> float:
        if not all(self.matches[:order]):
            return 0.0
        pairs = zip(self.matches[:order], self.totals[:order], strict=True)
        return 100 * self.brevity_penalty * math.exp(sum(math.log(m / t) for m, t in pairs) / order)


def bleu(
    refs_per_item: Sequence[Sequence[str]], hyps: Sequence[str], *, brevity_penalty: bool = True
) -> Bleu:
    """Score captions against all references of their items, pooled over the items.

    Args:
        refs_per_item: References of each item, at least one; their number may vary.
        hyps: One caption an item; it may be empty.
        brevity_penalty: Standard BLEU has it. NeuralTalk's script, by which captioning papers of its time report,
            has it commented out. One counting gives both: see ``Bleu.without_brevity_penalty``.

    Raises:
        ValueError: If there is no item, the lists differ in length, or an item has no reference (it is named).

    Reference: Papineni et al. 2002 (BLEU), section 2.3. Its length of closest references has ties resolved to the
        shorter, as sacreBLEU and multi-bleu.perl do.
    """
    check_captions(refs_per_item, hyps)
    counts = [ngram_counts(tuple(refs), hyp) for refs, hyp in zip(refs_per_item, hyps, strict=True)]
    *ngrams, hyp_length, ref_length = (sum(column) for column in zip(*counts, strict=True))
    return Bleu(
        matches=tuple(ngrams[:MAX_ORDER]),
        totals=tuple(ngrams[MAX_ORDER:]),
        hyp_length=hyp_length,
        ref_length=ref_length,
        settings=_sacrebleus_settings(refs_per_item),
        penalises_brevity=brevity_penalty,
    )


@lru_cache(maxsize=20_000)  # of a thousand images, what every phase of a few runs says
def ngram_counts(refs: tuple[str, ...], hyp: str) -> tuple[int, ...]:
    """Count a caption: its matches and totals of 1- to 4-grams, its words and those of the closest reference.

    An n-gram is only in captions of n words or more: ``nltk.translate.bleu_score.corpus_bleu``, which counts one in
    shorter captions too, is not the standard there.
    """
    from nltk.translate.bleu_score import closest_ref_length, modified_precision

    split, words = [ref.split() for ref in refs], hyp.split()
    matches = (modified_precision(split, words, order).numerator for order in range(1, MAX_ORDER + 1))
    totals = (max(0, len(words) - shorter) for shorter in range(MAX_ORDER))
    return (*matches, *totals, len(words), closest_ref_length(split, len(words)))


def sentence_bleu(refs: Sequence[str], hyp: str) -> float:
    """BLEU of one caption, 0 to 100, to rank captions by; its mean is not corpus BLEU.

    NLTK's, smoothed as sacreBLEU smooths sentences: the k-th n-gram order without a match counts as 1 / 2^k matches
    (NLTK's ``method3``), and orders longer than the caption are left out. An empty caption, or one that shares no
    word with the references, scores 0.

    Raises:
        ValueError: If there is no reference.

    Reference: Chen & Cherry 2014, smoothing technique 3.
    """
    from nltk.translate import bleu_score

    check_captions([refs], [hyp])
    words = hyp.split()
    order = min(MAX_ORDER, len(words))
    if not order:
        return 0.0
    score = bleu_score.sentence_bleu(
        [ref.split() for ref in refs],
        words,
        weights=(1 / order,) * order,
        smoothing_function=bleu_score.SmoothingFunction().method3,
    )
    return 100 * float(score)


def _sacrebleus_settings(refs_per_item: Sequence[Sequence[str]]) -> str:
    """The end of the signature under which sacreBLEU gives the same score: others know it, and old records have it."""
    metric = BLEU(tokenize="none", smooth_method="none")
    numbers = {len(refs) for refs in refs_per_item}
    metric.num_refs = numbers.pop() if len(numbers) == 1 else -1  # which means that it varies
    return str(metric.get_signature())
