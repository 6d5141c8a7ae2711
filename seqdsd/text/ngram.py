"""Word n-gram language models from sentences: modified Kneser-Ney, written in the ARPA format that decoders read.

For transcripts of a training set, held in memory. For billions of words use KenLM's ``lmplz``, which computes the same
on disk; pruning of rare n-grams is left out.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
MARKS = {BEGIN, END, UNKNOWN}
_NEVER = -99.0  # log10 probability of BEGIN, which is never predicted

NGram = tuple[str, ...]


@dataclass(frozen=True)
class NGramModel:
    """Probabilities of words after words, and what a history passes on to shorter ones.

    Attributes:
        order: Longest n-gram.
        log10_probs: Of each n-gram's last word after the others, for each length from 1 on.
        log10_backoffs: Of each n-gram as a history: what is added for a word that was never seen after it.
    """

    order: int
    log10_probs: tuple[dict[NGram, float], ...]
    log10_backoffs: dict[NGram, float]

    def log10_prob(self, word: str, history: Sequence[str]) -> float:
        """Log10 probability of a word after others, of which the last ``order`` - 1 count."""
        if (word,) not in self.log10_probs[0]:
            word = UNKNOWN
        before = tuple(history)[max(0, len(history) - self.order + 1) :]
        passed_on = 0.0
        while (*before, word) not in self.log10_probs[len(before)]:
            passed_on += self.log10_backoffs.get(before, 0.0)
            before = before[1:]
        return passed_on + self.log10_probs[len(before)][(*before, word)]

    def arpa(self) -> str:
        """The model in ARPA format."""
        lines = [
            "\\data\\",
            *(f"ngram {n}={len(probs)}" for n, probs in enumerate(self.log10_probs, start=1)),
        ]
        for length, probs in enumerate(self.log10_probs, start=1):
            lines += ["", f"\\{length}-grams:"]
            for ngram, prob in sorted(probs.items()):
                backoff = f"\t{self.log10_backoffs[ngram]:.7g}" if ngram in self.log10_backoffs else ""
                lines.append(f"{prob:.7g}\t{' '.join(ngram)}{backoff}")
        return "\n".join([*lines, "", "\\end\\", ""])


def estimate_ngrams(sentences: Iterable[str], *, order: int = 3) -> NGramModel:
    """Estimate a model by interpolated modified Kneser-Ney smoothing.

    Args:
        sentences: Words between spaces; empty ones are passed over.
        order: Longest n-gram, at least 1.

    Raises:
        ValueError: If ``order`` is below 1, there is no word, or a word is one of the format's own marks.

    Reference: Chen and Goodman 1998, section 3, in the form of Heafield et al. 2013, section 3: n-grams that begin a
    sentence count as often as they were seen, the unknown word takes a share of the unigrams' smoothing, and where the
    discounts cannot be estimated they are 0.5, 1 and 1.5.
    """
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
    counts = _adjusted_counts(sentences, order)
    vocabulary = {ngram[0] for ngram in counts[0]} - {BEGIN} | {UNKNOWN}
    if vocabulary <= MARKS:
        raise ValueError("no words to make a language model of")
    probs: list[dict[NGram, float]] = []
    backoffs: dict[NGram, float] = {}
    for by_ngram in counts:
        shares = _discounted(by_ngram)
        lower = probs[-1] if probs else {}
        found = {
            ngram: shares.kept[ngram]
            + shares.passed_on[ngram[:-1]] * lower.get(ngram[1:], 1 / len(vocabulary))
            for ngram in shares.kept
        }
        if not probs:
            found |= {(UNKNOWN,): shares.passed_on[()] / len(vocabulary)}
        else:
            backoffs |= shares.passed_on
        probs.append(found)
    log10_probs = [{ngram: math.log10(prob) for ngram, prob in one.items()} for one in probs]
    log10_probs[0][(BEGIN,)] = _NEVER
    log10_backoffs = {history: math.log10(share) for history, share in backoffs.items()}
    return NGramModel(order, tuple(log10_probs), log10_backoffs)


def _adjusted_counts(sentences: Iterable[str], order: int) -> list[Counter[NGram]]:
    """For each length how often n-grams count.

    Those of full length, and those that begin a sentence, as often as they were seen; others once for each different
    word before them.
    """
    seen: list[Counter[NGram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        words = sentence.split()
        if not words:
            continue
        if marks := MARKS.intersection(words):
            raise ValueError(
                f"{sentence!r}: {marks.pop()} is a mark of the ARPA format, not a word; take it out"
            )
        tokens = (BEGIN, *words, END)
        for length in range(1, order + 1):
            seen[length - 1].update(tokens[i : i + length] for i in range(len(tokens) - length + 1))
    adjusted = [seen[-1]]
    for shorter, longer in zip(seen[-2::-1], seen[:0:-1], strict=True):
        counts = Counter(ngram[1:] for ngram in longer)
        counts.update({ngram: count for ngram, count in shorter.items() if ngram[0] == BEGIN})
        adjusted.insert(0, counts)
    del adjusted[0][(BEGIN,)]  # never predicted
    return adjusted


@dataclass(frozen=True)
class _Shares:
    """What each n-gram keeps of its history's probability, and what histories pass on to shorter n-grams."""

    kept: dict[NGram, float]
    passed_on: dict[NGram, float]


def _discounted(counts: Counter[NGram]) -> _Shares:
    discounts = _discounts(counts)
    totals: dict[NGram, int] = defaultdict(int)
    taken: dict[NGram, float] = defaultdict(float)
    for ngram, count in counts.items():
        totals[ngram[:-1]] += count
        taken[ngram[:-1]] += discounts[min(count, 3) - 1]
    kept = {
        ngram: (count - discounts[min(count, 3) - 1]) / totals[ngram[:-1]] for ngram, count in counts.items()
    }
    return _Shares(kept, {history: taken[history] / total for history, total in totals.items()})


def _discounts(counts: Counter[NGram]) -> tuple[float, float, float]:
    """What is taken off counts of 1, 2, and 3 or more."""
    n1, n2, n3, n4 = (sum(count == k for count in counts.values()) for k in (1, 2, 3, 4))
    fallback = (0.5, 1.0, 1.5)
    if not (n1 and n2 and n3):
        return fallback
    share = n1 / (n1 + 2 * n2)
    found = (1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3)
    return found if all(0 < one <= k for k, one in enumerate(found, start=1)) else fallback
