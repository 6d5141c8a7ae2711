"""The paired bootstrap: two systems' scores, and their difference, on test sets drawn again and again.

Items are drawn; or, where they depend on each other as one speaker's utterances do, groups of them as they are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr, stdtrit

from seqdsd.metrics.bleu import MAX_ORDER, ngram_counts
from seqdsd.metrics.caption_input import check_captions
from seqdsd.metrics.significance.classes import check_classes
from seqdsd.metrics.significance.intervals import Interval, check_confidence, relative_change
from seqdsd.metrics.significance.word_errors import check_utterances, errors_by_place

MeanScore = Literal["wer", "bleu4", "error_rate"]

_DRAWS_AT_ONCE = 100_000  # what the processor's cache holds: larger blocks are slower


@dataclass(frozen=True)
class BootstrapTest:
    """Two systems' scores on resampled test sets: error rates as fractions, BLEU from 0 to 100.

    Attributes:
        before: Score of the system that the other is compared with.
        after: Score of the other.
        difference: After minus before.
        relative: The difference's value as a fraction of the score before; NaN where that is 0.
        p_value: Two-sided: twice the share of resamples in which the difference is 0 or has the other sign. Not below
            2 / 2^m, where the systems differ on m items: the chance that all m favour one of two equal systems.
            Resamples of a few items that do would not show it. Where groups are drawn, that of Student's t, and m is of
            groups.
        resamples: How many test sets were drawn that have a score.
        standard_error: Of the difference: what it scatters by over them.
        num_groups: Of how many groups of items they were drawn; None where they were of the items themselves.
    """

    before: Interval
    after: Interval
    difference: Interval
    relative: float
    p_value: float
    resamples: int
    standard_error: float
    num_groups: int | None = None


def bootstrap_wer(
    refs: Sequence[str],
    hyps_before: Sequence[str],
    hyps_after: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> BootstrapTest:
    """Confidence intervals of two word error rates and of their difference, by drawing utterances again and again.

    Each resample draws as many utterances as there are, with replacement, the same ones for both systems, and pools
    their counts. Utterances are taken as independent: where few speakers said many of them, intervals are too narrow
    (arXiv:1912.09508), unless ``groups`` says whose they are. A resample of utterances that hold no reference word has
    no rate and is left out.

    Args:
        refs: What was said; words are what white space separates, and nothing is normalised.
        hyps_before: What the one system heard.
        hyps_after: What the other system heard.
        groups: Who speaks, of each utterance. Speakers are drawn then, each with all of theirs, as many as there are.
        resamples: Test sets to draw.
        confidence: Of the intervals, in (0, 1); they are percentiles of the resamples.
        seed: Of the drawing; the same seed and number of utterances draw the same.

    Raises:
        ValueError: If the lists differ in length, there are fewer than two utterances or speakers to draw, the
            references hold no word at all or those of no resample do, or ``resamples`` or ``confidence`` is out of
            range.

    Reference: Bisani & Ney 2004 (bootstrap estimates in ASR), which Kaldi's ``compute-wer-bootci`` follows. Departure:
        their probability of improvement, the share of resamples in which a system is better, is turned into a
        two-sided p-value (see ``BootstrapTest``). It is below 1 - ``confidence`` where the difference's interval
        leaves out 0, to within one resample, unless the systems differ on a handful of utterances. Speakers
        are few, and percentiles of resamples of few are too narrow: where they are drawn, interval and p-value are
        those of Student's t, by the resamples' standard error and one degree of freedom less than speakers.
    """
    check_utterances(refs, hyps_before, hyps_after)
    before, after = (_word_counts(refs, hyps) for hyps in (hyps_before, hyps_after))
    sides = (_Side.of_one(counts, _error_rates) for counts in (before, after))
    return _bootstrap(*sides, groups=groups, resamples=resamples, confidence=confidence, seed=seed)


def bootstrap_bleu(
    refs_per_item: Sequence[Sequence[str]],
    hyps_before: Sequence[str],
    hyps_after: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    order: int = 4,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> BootstrapTest:
    """Confidence intervals of two systems' BLEU and of the difference, by drawing images again and again.

    Each resample draws as many images as there are, with replacement, the same ones for both systems, and pools
    their n-gram counts; standard BLEU, with the brevity penalty, unsmoothed.

    Args:
        refs_per_item: References of each image, at least one; their number may vary.
        hyps_before: A caption an image from the one system.
        hyps_after: A caption an image from the other.
        groups: As of ``bootstrap_wer``: what images belong together.
        order: Longest n-grams that count, from 1 to 4.
        resamples: Test sets to draw.
        confidence: Of the intervals, in (0, 1); they are percentiles of the resamples.
        seed: Of the drawing; the same seed and number of images draw the same.

    Raises:
        ValueError: If there are fewer than two images, the lists differ in length, an image has no reference (it is
            named), or ``order``, ``resamples`` or ``confidence`` is out of range.

    Reference: Koehn 2004, paired bootstrap resampling. Intervals as sacreBLEU 2.6's paired bootstrap has them, but
        from end to end around the score: it prints half their width around the resamples' mean. Its p-value is
        another: it asks how often a resample's absolute difference exceeds the mean absolute difference by more than
        the observed one. A clear difference has the same sign in every resample, and then this looks at one side
        only and gives about half of the p-value here, which is two-sided (see ``BootstrapTest``).
    """
    _check_both(refs_per_item, hyps_before, hyps_after)
    if not 1 <= order <= MAX_ORDER:
        raise ValueError(f"order must be from 1 to {MAX_ORDER}, got {order}")
    before, after = (_ngram_counts(refs_per_item, hyps, order) for hyps in (hyps_before, hyps_after))
    score = partial(_bleu_scores, order=order)
    sides = (_Side.of_one(counts, score) for counts in (before, after))
    return _bootstrap(*sides, groups=groups, resamples=resamples, confidence=confidence, seed=seed)


def bootstrap_error_rate(
    refs: Sequence[str],
    hyps_before: Sequence[str],
    hyps_after: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> BootstrapTest:
    """Confidence intervals of two classifiers' error rates and of their difference, by drawing items again and again.

    Args:
        refs: The class of each item.
        hyps_before: What the one system takes it for.
        hyps_after: What the other takes it for.
        groups: As of ``bootstrap_wer``: what items belong together.
        resamples: As of ``bootstrap_wer``, like the two that follow.
        confidence: See there.
        seed: See there.

    Raises:
        ValueError: If the lists differ in length, there are fewer than two items, or ``resamples`` or ``confidence`` is
            out of range.
    """
    check_classes(refs, hyps_before, hyps_after)
    before, after = (_class_counts(refs, hyps) for hyps in (hyps_before, hyps_after))
    sides = (_Side.of_one(counts, _error_rates) for counts in (before, after))
    return _bootstrap(*sides, groups=groups, resamples=resamples, confidence=confidence, seed=seed)


def bootstrap_means(
    score: MeanScore,
    refs_per_item: Sequence[Sequence[str]],
    hyps_before: Sequence[Sequence[str]],
    hyps_after: Sequence[Sequence[str]],
    *,
    weights_before: Sequence[float] | None = None,
    weights_after: Sequence[float] | None = None,
    groups: Sequence[str] | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> BootstrapTest:
    """Confidence intervals of two mean scores of several systems each, such as the retrainings in two arms.

    All systems are scored on the same drawn items. So what is said is of these systems on another test set; of other
    systems nothing is.

    Args:
        score: Of words (``bootstrap_wer``), captions (``bootstrap_bleu``) or classes (``bootstrap_error_rate``).
        refs_per_item: References of each item: of words and classes one.
        hyps_before: Of each system on the one side what it says of each item.
        hyps_after: Of each on the other.
        weights_before: Of each system in its side's mean; None: all alike.
        weights_after: Likewise.
        groups: As of ``bootstrap_wer``, like the three that follow.
        resamples: See there.
        confidence: See there.
        seed: See there.

    Raises:
        ValueError: See there; and if a side has no system, or not as many weights, or such as have no mean, or an item
            of words or classes has not one reference.
    """
    sides = [
        _side(score, refs_per_item, hyps, weights)
        for hyps, weights in ((hyps_before, weights_before), (hyps_after, weights_after))
    ]
    return _bootstrap(*sides, groups=groups, resamples=resamples, confidence=confidence, seed=seed)


@dataclass(frozen=True)
class _Side:
    """What was counted of each item for each of a side's systems, and their score."""

    counts: Float[np.ndarray, "items systems counts"]
    weights: Float[np.ndarray, "systems"]
    """In the mean."""
    score: Callable[[np.ndarray], np.ndarray]
    """Of summed counts of one system [resamples, counts]; NaN where there is none."""

    @classmethod
    def of_one(
        cls, counts: Float[np.ndarray, "items counts"], score: Callable[[np.ndarray], np.ndarray]
    ) -> "_Side":
        """That of one system."""
        return cls(counts[:, None], np.ones(1), score)

    @property
    def flat(self) -> Float[np.ndarray, "items all_counts"]:
        """All systems' counts beside each other."""
        return self.counts.reshape(len(self.counts), -1)

    @property
    def mean_counts(self) -> Float[np.ndarray, "items counts"]:
        """Over the systems."""
        return np.average(self.counts, axis=1, weights=self.weights)

    def scores(self, sums: Float[np.ndarray, "resamples all_counts"]) -> Float[np.ndarray, "resamples"]:
        """The mean score of each row of summed ``flat``."""
        of_each = [self.score(one) for one in np.split(sums, len(self.weights), axis=1)]
        return np.average(of_each, axis=0, weights=self.weights)


def _side(
    score: MeanScore,
    refs_per_item: Sequence[Sequence[str]],
    hyps: Sequence[Sequence[str]],
    weights: Sequence[float] | None,
) -> _Side:
    check, count, score_of = _SCORES[score]
    refs: Sequence[Any] = refs_per_item
    if score != "bleu4":
        if any(isinstance(one, str) or len(one) != 1 for one in refs_per_item):
            raise ValueError(
                "refs_per_item: give each item a list of one reference, as words and classes have"
            )
        refs = [one[0] for one in refs_per_item]
    if not hyps:
        raise ValueError("a side has no system; give what one or more say of the items")
    for one in hyps:
        check(refs, one, one)
    each = np.ones(len(hyps)) if weights is None else np.array(weights, dtype=float)
    if len(each) != len(hyps) or not (np.isfinite(each).all() and (each >= 0).all() and each.any()):
        raise ValueError(
            f"weights must be {len(hyps)} numbers, one a system, of 0 or more and not all 0, got {weights}"
        )
    return _Side(np.stack([count(refs, one) for one in hyps], axis=1), each, score_of)


def _bootstrap(
    before: _Side,
    after: _Side,
    *,
    groups: Sequence[str] | None,
    resamples: int,
    confidence: float,
    seed: int,
) -> BootstrapTest:
    """Draw items, the same for all systems, and score the summed counts."""
    check_confidence(confidence)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if groups is not None:
        before, after = (replace(side, counts=_summed_by(groups, side.counts)) for side in (before, after))
    if len(before.counts) < 2:
        what = "item" if groups is None else "group of items"
        raise ValueError(f"nothing can be said of chance from 1 {what}: a bootstrap needs two or more")
    num_groups = None if groups is None else len(before.counts)
    num_unlike = int(
        (~np.isclose(before.mean_counts, after.mean_counts, rtol=1e-12, atol=1e-9)).any(axis=1).sum()
    )
    width = before.flat.shape[1]
    sums = _resampled_sums(np.hstack([before.flat, after.flat]), resamples, seed)
    scores = np.array([before.scores(sums[:, :width]), after.scores(sums[:, width:])])
    scores = scores[:, np.isfinite(scores).all(axis=0)]
    if not scores.size:
        raise ValueError(f"no resample has a score: {resamples} are too few where so many items hold no word")
    values = [float(side.scores(side.flat.sum(axis=0, keepdims=True))[0]) for side in (before, after)]
    differences = scores[1] - scores[0]
    difference = values[1] - values[0]
    return BootstrapTest(
        before=_interval(values[0], scores[0], confidence, num_groups),
        after=_interval(values[1], scores[1], confidence, num_groups),
        difference=_interval(difference, differences, confidence, num_groups),
        relative=relative_change(difference, values[0]),
        p_value=max(_two_sided(difference, differences, num_groups), min(1.0, 2.0 ** (1 - num_unlike))),
        resamples=len(differences),
        standard_error=_standard_error(differences, num_groups),
        num_groups=num_groups,
    )


def _summed_by(
    groups: Sequence[str], counts: Float[np.ndarray, "items systems counts"]
) -> Float[np.ndarray, "groups systems counts"]:
    """The counts of each group's items together."""
    if len(groups) != len(counts):
        raise ValueError(f"got {len(groups)} groups but {len(counts)} items; name the group of each")
    names, places = np.unique(np.array(groups), return_inverse=True)
    summed = np.zeros((len(names), *counts.shape[1:]))
    np.add.at(summed, places, counts)
    return summed


def _resampled_sums(
    counts: Float[np.ndarray, "items counts"], resamples: int, seed: int
) -> Float[np.ndarray, "resamples counts"]:
    """Sum the counts of as many items as there are, drawn with replacement; exact, for counts are whole."""
    generator = np.random.default_rng(seed)
    num_items = len(counts)
    rows_at_once = max(1, _DRAWS_AT_ONCE // num_items)
    sums = []
    for start in range(0, resamples, rows_at_once):
        rows = min(rows_at_once, resamples - start)
        drawn = generator.integers(num_items, size=(rows, num_items))
        in_row = drawn + num_items * np.arange(rows)[:, None]
        times = np.bincount(in_row.ravel(), minlength=rows * num_items).reshape(rows, num_items)
        sums.append(times.astype(float) @ counts)
    return np.concatenate(sums)


def _interval(
    value: float, resampled: Float[np.ndarray, "resamples"], confidence: float, num_groups: int | None
) -> Interval:
    if num_groups is None:
        low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Interval(value=value, low=float(low), high=float(high))
    margin = _standard_error(resampled, num_groups) * float(stdtrit(num_groups - 1, (1 + confidence) / 2))
    return Interval(value=value, low=value - margin, high=value + margin)


def _two_sided(difference: float, resampled: Float[np.ndarray, "resamples"], num_groups: int | None) -> float:
    """Of items, twice the smaller tail at 0; the observed test set counts as one more resample, so p is never 0."""
    if num_groups is None:
        tail = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
        return min(1.0, 2 * (tail + 1) / (len(resampled) + 1))
    error = _standard_error(resampled, num_groups)
    statistic = abs(difference) / error if error else (math.inf if difference else 0.0)
    return float(2 * stdtr(num_groups - 1, -statistic))


def _standard_error(resampled: Float[np.ndarray, "resamples"], num_groups: int | None) -> float:
    """The resamples' spread; a few groups vary more than their resamples, whose squares are divided by their number."""
    widened = 1.0 if num_groups is None else math.sqrt(num_groups / (num_groups - 1))
    return widened * float(resampled.std())


def _word_counts(refs: Sequence[str], hyps: Sequence[str]) -> Float[np.ndarray, "items 2"]:
    """Of each utterance: errors, and words of the reference (2n + 1 places for n words: see ``errors_by_place``)."""
    return np.array([[sum(edits), len(edits) // 2] for edits in errors_by_place(refs, hyps)], dtype=float)


def _class_counts(refs: Sequence[str], hyps: Sequence[str]) -> Float[np.ndarray, "items 2"]:
    """Of each item: whether it is taken for another class, and 1."""
    return np.array([[hyp != ref, 1] for ref, hyp in zip(refs, hyps, strict=True)], dtype=float)


def _error_rates(counts: Float[np.ndarray, "resamples 2"]) -> Float[np.ndarray, "resamples"]:
    errors, total = counts.T
    return np.divide(errors, total, out=np.full(len(counts), math.nan), where=total > 0)


def _check_both(
    refs_per_item: Sequence[Sequence[str]], hyps_before: Sequence[str], hyps_after: Sequence[str]
) -> None:
    check_captions(refs_per_item, hyps_before)
    check_captions(refs_per_item, hyps_after)


def _ngram_counts(
    refs_per_item: Sequence[Sequence[str]], hyps: Sequence[str], order: int
) -> Float[np.ndarray, "items counts"]:
    """Of each item: matches and totals of 1- to ``order``-grams, words of the hypothesis and of the reference."""
    pairs = zip(refs_per_item, hyps, strict=True)
    counts = np.array([ngram_counts(tuple(refs), hyp) for refs, hyp in pairs], dtype=float)
    return counts[:, [*range(order), *range(MAX_ORDER, MAX_ORDER + order), -2, -1]]


def _bleu_scores(
    counts: Float[np.ndarray, "resamples counts"], *, order: int
) -> Float[np.ndarray, "resamples"]:
    """BLEU from 0 to 100 of summed counts; see ``seqdsd.metrics.bleu.Bleu`` for the formula."""
    matches, totals = counts[:, :order], counts[:, order : 2 * order]
    hyp_length, ref_length = counts[:, -2:].T
    precisions = np.divide(matches, totals, out=np.zeros_like(matches), where=totals > 0)
    # No word said: the penalty is undefined, but all matches and so the score are 0.
    penalty = np.exp(np.minimum(0, 1 - ref_length / np.maximum(hyp_length, 1)))
    return 100 * penalty * precisions.prod(axis=1) ** (1 / order)


_SCORES: Mapping[
    MeanScore, tuple[Callable[..., None], Callable[..., np.ndarray], Callable[..., np.ndarray]]
] = {
    "wer": (check_utterances, _word_counts, _error_rates),
    "bleu4": (_check_both, partial(_ngram_counts, order=MAX_ORDER), partial(_bleu_scores, order=MAX_ORDER)),
    "error_rate": (check_classes, _class_counts, _error_rates),
}
"""What texts must be, what is counted of each item, and the score of summed counts."""
