"""Is a difference between two systems more than chance? Tests across seeds, and of one pair of runs.

Two sources of chance, two kinds of test. Another seed gives another network: the t-tests compare the scores of
several runs. Another test set gives another score: MAPSSWE and the bootstrap compare two networks item by item, and
say nothing of what another seed would give. Which runs are compared is left to the caller, and so is saying how many
comparisons were made; ``holm`` corrects for them.

Everywhere a difference is after minus before: fewer errors are negative, a better BLEU is positive.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import jiwer
import numpy as np
from jaxtyping import Float

# The distributions themselves: scipy.stats wraps them, and takes a second to import.
from scipy.special import ndtr, stdtr, stdtrit

from seqdsd.metrics.caption_input import check_captions

_BOUNDARY_WORDS = 2
_MAX_ORDER = 4  # what ``Bleu`` counts
_ROUNDING = (
    1e-12  # of a score; a rate has some 1e4 words or images behind it, so real differences are far larger
)
_DRAWS_AT_ONCE = 100_000  # what the processor's cache holds: larger blocks are slower


@dataclass(frozen=True)
class Sample:
    """Scores of one system's runs, in the units that they came in."""

    count: int
    mean: float
    sd: float
    """Standard deviation, estimated: the squares are divided by ``count - 1``."""


@dataclass(frozen=True)
class MeanTest:
    """Two samples of scores and how likely chance alone sets their means this far apart.

    Attributes:
        test: Which t-test.
        before: The system that the other is compared with.
        after: The other.
        difference: ``after.mean - before.mean``, in the scores' units.
        relative: The difference as a fraction of ``before.mean``; NaN where that is 0.
        low: Lower end of the difference's confidence interval; NaN where ``p_value`` is.
        high: Upper end.
        statistic: Student's t; NaN where ``p_value`` is.
        degrees_of_freedom: Of t; after Welch not a whole number.
        p_value: Two-sided. NaN where the means differ and nothing varies: no test is possible then.
    """

    test: Literal["unpaired t-test", "paired t-test"]
    before: Sample
    after: Sample
    difference: float
    relative: float
    low: float
    high: float
    statistic: float
    degrees_of_freedom: float
    p_value: float


@dataclass(frozen=True)
class SegmentTest:
    """What MAPSSWE counted, and how likely chance alone does that.

    Attributes:
        num_segments: Stretches of text in which at least one system erred.
        mean: Word errors a segment after minus before, its mean over the segments.
        sd: Standard deviation of that difference; 0 for fewer than two segments.
        z: The mean over its standard error; 0 where the standard deviation is 0.
        p_value: Two-sided, from the normal distribution.
        errors_before: Word errors of the one system; all of them lie in a segment.
        errors_after: Word errors of the other.
    """

    num_segments: int
    mean: float
    sd: float
    z: float
    p_value: float
    errors_before: int
    errors_after: int


@dataclass(frozen=True)
class Interval:
    """A score, or a difference of scores, and its confidence interval."""

    value: float
    """On the items as they are, not the mean of the resamples."""
    low: float
    high: float


@dataclass(frozen=True)
class BootstrapTest:
    """Two systems' scores on resampled test sets: WER as a fraction, BLEU from 0 to 100.

    Attributes:
        before: Score of the system that the other is compared with.
        after: Score of the other.
        difference: After minus before.
        relative: The difference's value as a fraction of the score before; NaN where that is 0.
        p_value: Two-sided: twice the share of resamples in which the difference is 0 or has the other sign. Not below
            2 / 2^m, where the systems differ on m items: the chance that all m favour one of two equal systems.
            Resamples of a few items that do would not show it.
        resamples: How many test sets were drawn that have a score.
    """

    before: Interval
    after: Interval
    difference: Interval
    relative: float
    p_value: float
    resamples: int


def unpaired_t_test(
    before: Sequence[float | int], after: Sequence[float | int], *, confidence: float = 0.95
) -> MeanTest:
    """Compare the mean scores of two sets of runs, as the paper's Table 10 does.

    Where no score varies by more than rounding, nothing is known of chance: equal means give t = 0 and p = 1, and for
    unequal ones t, p and the interval are NaN. Few runs that agree to the last digit are no proof.

    Args:
        before: A score a run, at least two.
        after: A score a run, at least two; the counts may differ.
        confidence: Of the interval, in (0, 1).

    Raises:
        ValueError: If a side has fewer than two scores or one that is not finite (it is named), or ``confidence`` is
            out of range.

    Reference: Han et al. 2017 (DSD), appendix A, Table 10, which says "t-test (unpaired)" and no more. Here it is
        Welch's, which does not take the variances for equal: the paper's own differ (SD 0.04 and 0.03). Compared
        with ``scipy.stats.ttest_ind``; where nothing varies, the degrees of freedom are those of Student's test.
    """
    one, other = _sample(_scores(before, "before")), _sample(_scores(after, "after"))
    errors = [side.sd / math.sqrt(side.count) for side in (one, other)]
    error = math.hypot(*errors)
    freedom = float(one.count + other.count - 2)
    if error:
        # As shares of the whole: the squares of tiny variances would vanish.
        shares = [(part / error) ** 2 for part in errors]
        freedom = 1 / (shares[0] ** 2 / (one.count - 1) + shares[1] ** 2 / (other.count - 1))
    return _mean_test("unpaired t-test", one, other, error, freedom, confidence)


def paired_t_test(
    before: Sequence[float | int], after: Sequence[float | int], *, confidence: float = 0.95
) -> MeanTest:
    """Compare two systems run by run, where run i of both started from the same seed.

    What a seed does to both systems alike is no longer noise, so smaller differences show than without pairing.
    Where every pair differs by the same amount, to rounding, there is no test, as in ``unpaired_t_test``.

    Args:
        before: A score a seed, at least two.
        after: Scores of the same seeds in the same order.
        confidence: Of the interval, in (0, 1).

    Raises:
        ValueError: If the scores do not pair up, there are fewer than two pairs, a score is not finite (it is named),
            or ``confidence`` is out of range.

    Reference: ``scipy.stats.ttest_rel``, with which it was compared: a one-sample t-test of the differences against
        0. The DSD paper has no such test.
    """
    one, other = _scores(before, "before"), _scores(after, "after")
    if len(one) != len(other):
        raise ValueError(f"got {len(one)} scores before but {len(other)} after; pairs need both of each seed")
    sd = statistics.stdev(late - early for early, late in zip(one, other, strict=True))
    error = sd / math.sqrt(len(one))
    return _mean_test("paired t-test", _sample(one), _sample(other), error, len(one) - 1.0, confidence)


def mapsswe(refs: Sequence[str], hyps_before: Sequence[str], hyps_after: Sequence[str]) -> SegmentTest:
    """Matched-pairs sentence-segment word error test: do two recognisers err equally often on the same speech?

    Errors in a row depend on each other, so words are no sample. A segment holds the errors of both systems up to
    the next two neighbouring words that both got right, or to the utterance's end; stretches without error are no
    segments. The difference of the two error counts is averaged over the segments and divided by its standard error.
    The normal distribution is right for many segments (the textbook below says more than 50): look at
    ``num_segments``. Where the difference does not vary, or there is one segment, nothing is known of its spread;
    z is 0 and p is 1 then, as NIST's program has it.

    Args:
        refs: What was said; words are what white space separates.
        hyps_before: What the one system heard.
        hyps_after: What the other system heard.

    Raises:
        ValueError: If the lists differ in length, or the references hold no word at all.

    Reference: Gillick & Cox 1989 (matched-pairs test), in the words of Jurafsky & Martin, Speech and Language
        Processing, 3rd ed. draft, section "Statistical significance for ASR"; segments as NIST's ``sc_stats``
        (SCTK 2.4.10, ``mtchprs.c``) bounds them, with which it was compared. Departures: the mean is after minus
        before (``sc_stats``: first minus second system), and words are aligned by jiwer, with equal costs; sclite's
        costs of 4 (substitution), 3 and 3 sometimes choose another alignment.
    """
    _check_utterances(refs, hyps_before, hyps_after)
    edits = zip(_edits(refs, hyps_before), _edits(refs, hyps_after), strict=True)
    segments = [segment for before, after in edits for segment in _segments(before, after)]
    differences = np.array([of_after - of_before for of_before, of_after in segments])
    count = len(segments)
    mean = float(differences.mean()) if count else 0.0
    sd = float(differences.std(ddof=1)) if count > 1 else 0.0
    z = mean / (sd / math.sqrt(count)) if sd else 0.0
    return SegmentTest(
        num_segments=count,
        mean=mean,
        sd=sd,
        z=z,
        p_value=float(2 * ndtr(-abs(z))),
        errors_before=sum(of_before for of_before, _ in segments),
        errors_after=sum(of_after for _, of_after in segments),
    )


def bootstrap_wer(
    refs: Sequence[str],
    hyps_before: Sequence[str],
    hyps_after: Sequence[str],
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> BootstrapTest:
    """Confidence intervals of two word error rates and of their difference, by drawing utterances again and again.

    Each resample draws as many utterances as there are, with replacement, the same ones for both systems, and pools
    their counts. Utterances are taken as independent: where few speakers said many of them, intervals are too narrow
    (arXiv:1912.09508). A resample of utterances that hold no reference word has no rate and is left out.

    Args:
        refs: What was said; words are what white space separates, and nothing is normalised.
        hyps_before: What the one system heard.
        hyps_after: What the other system heard.
        resamples: Test sets to draw.
        confidence: Of the intervals, in (0, 1); they are percentiles of the resamples.
        seed: Of the drawing; the same seed and number of utterances draw the same.

    Raises:
        ValueError: If the lists differ in length, there are fewer than two utterances, the references hold no word at
            all, or ``resamples`` or ``confidence`` is out of range.

    Reference: Bisani & Ney 2004 (bootstrap estimates in ASR), which Kaldi's ``compute-wer-bootci`` follows. Departure:
        their probability of improvement, the share of resamples in which a system is better, is turned into a
        two-sided p-value (see ``BootstrapTest``). It is below 1 - ``confidence`` where the difference's interval
        leaves out 0, to within one resample, unless the systems differ on a handful of utterances.
    """
    _check_utterances(refs, hyps_before, hyps_after)
    # 2n + 1 places for n words: see _edits.
    before, after = (
        np.array([[sum(edits), len(edits) // 2] for edits in _edits(refs, hyps)], dtype=float)
        for hyps in (hyps_before, hyps_after)
    )
    return _bootstrap(before, after, _error_rates, resamples=resamples, confidence=confidence, seed=seed)


def bootstrap_bleu(
    refs_per_item: Sequence[Sequence[str]],
    hyps_before: Sequence[str],
    hyps_after: Sequence[str],
    *,
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
    check_captions(refs_per_item, hyps_before)
    check_captions(refs_per_item, hyps_after)
    if not 1 <= order <= _MAX_ORDER:
        raise ValueError(f"order must be from 1 to {_MAX_ORDER}, got {order}")
    before, after = (_ngram_counts(refs_per_item, hyps, order) for hyps in (hyps_before, hyps_after))
    score = partial(_bleu_scores, order=order)
    return _bootstrap(before, after, score, resamples=resamples, confidence=confidence, seed=seed)


def holm(p_values: Sequence[float | int]) -> list[float]:
    """Correct p-values for their number, so that the chance of even one false alarm among them stays below alpha.

    The smallest of m is multiplied by m, the next by m - 1 and so on; none ends below a smaller one, or above 1. An
    adjusted p-value is compared with alpha as a single one would be. The tests need not be independent.

    Args:
        p_values: Of all comparisons that were made, in any order.

    Returns:
        The adjusted p-values, in the order given.

    Raises:
        ValueError: If one is not within [0, 1]; it is named.

    Reference: Holm 1979, as adjusted p-values (R's ``p.adjust``, statsmodels' ``multipletests``).
    """
    for index, p_value in enumerate(p_values):
        if not 0 <= p_value <= 1:
            raise ValueError(f"p_values[{index}] is {p_value}; a p-value lies within [0, 1]")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * float(p_values[index])))
        adjusted[index] = largest
    return adjusted


def in_words(p_value: float | int, *, alpha: float = 0.05) -> str:
    """Say a p-value as it is printed: "p = 0.013", "p < 0.001", or "not significant (p = 0.21)".

    It is rounded to two digits, or as many as it takes to stay on its side of ``alpha``.

    Args:
        p_value: In [0, 1]; corrected for the number of comparisons, where there are several. NaN, as ``MeanTest`` has
            it, is "no test possible: nothing varies".
        alpha: What it must fall below to be significant.
    """
    if math.isnan(p_value):
        return "no test possible: nothing varies"
    is_significant = p_value < alpha
    said = "p < 0.001" if p_value < 0.001 else f"p = {_round(p_value, alpha)}"
    return said if is_significant else f"not significant ({said})"


def _round(p_value: float | int, alpha: float) -> str:
    rounded = (f"{p_value:.{digits}g}" for digits in range(2, 18))
    return next(text for text in rounded if (float(text) < alpha) == (p_value < alpha))


def _scores(values: Sequence[float | int], name: str) -> list[float]:
    if len(values) < 2:
        raise ValueError(
            f"a t-test needs two or more scores a side, got {len(values)} {name}: run more seeds"
        )
    for index, value in enumerate(values):
        if not math.isfinite(value):
            raise ValueError(f"{name}[{index}] is {value}; leave out a run that has no score, on both sides")
    return [float(value) for value in values]


def _sample(scores: Sequence[float]) -> Sample:
    # Exact sums: scores that are all the same have no variance at all, not one of rounding.
    return Sample(count=len(scores), mean=statistics.mean(scores), sd=statistics.stdev(scores))


def _mean_test(
    test: Literal["unpaired t-test", "paired t-test"],
    before: Sample,
    after: Sample,
    error: float,
    freedom: float,
    confidence: float,
) -> MeanTest:
    """Student's t of the difference, whose standard error is given."""
    _check_confidence(confidence)
    difference = after.mean - before.mean
    rounding = _ROUNDING * max(abs(side.mean) for side in (before, after))
    if error > rounding:
        statistic = difference / error
        margin = error * float(stdtrit(freedom, (1 + confidence) / 2))
    else:  # a spread of rounding alone would pass for certainty
        statistic, margin = (math.nan, math.nan) if abs(difference) > rounding else (0.0, 0.0)
    return MeanTest(
        test=test,
        before=before,
        after=after,
        difference=difference,
        relative=_relative(difference, before.mean),
        low=difference - margin,
        high=difference + margin,
        statistic=statistic,
        degrees_of_freedom=freedom,
        p_value=float(2 * stdtr(freedom, -abs(statistic))),
    )


def _relative(difference: float, before: float) -> float:
    return difference / before if before else math.nan


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, such as 0.95, got {confidence}")


def _check_utterances(refs: Sequence[str], hyps_before: Sequence[str], hyps_after: Sequence[str]) -> None:
    if any(isinstance(texts, str) for texts in (refs, hyps_before, hyps_after)):
        raise ValueError("refs and hyps are lists of utterances; wrap a single one in a list")
    for name, hyps in (("before", hyps_before), ("after", hyps_after)):
        if len(hyps) != len(refs):
            counts = f"{len(refs)} references but {len(hyps)} hypotheses {name}"
            raise ValueError(f"got {counts}; they must pair up")
    if not any(map(str.split, refs)):
        raise ValueError(f"nothing to score: the {len(refs)} references hold no words")


def _edits(refs: Sequence[str], hyps: Sequence[str]) -> list[list[int]]:
    """Count the errors at each place of each utterance.

    The places are: words added before word 0, word 0 wrong (1) or right (0), words added before word 1, and so on to
    those added at the end: 2n + 1 of them for a reference of n words.
    """
    # jiwer's own transforms split at blanks: with words so joined they split as seqdsd.metrics.wer does.
    ref_lines, hyp_lines = ([" ".join(text.split()) for text in texts] for texts in (refs, hyps))
    aligned = jiwer.process_words(ref_lines, hyp_lines)
    pairs = zip(aligned.alignments, aligned.references, strict=True)
    return [_edits_of(chunks, len(words)) for chunks, words in pairs]


def _edits_of(chunks: Sequence[jiwer.AlignmentChunk], num_words: int) -> list[int]:
    errors = [0] * (2 * num_words + 1)
    for chunk in chunks:
        if chunk.type == "insert":
            errors[2 * chunk.ref_start_idx] += chunk.hyp_end_idx - chunk.hyp_start_idx
        elif chunk.type != "equal":
            for word in range(chunk.ref_start_idx, chunk.ref_end_idx):
                errors[2 * word + 1] = 1
    return errors


def _segments(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Word errors of both systems in each segment of an utterance, from where ``_edits`` finds the errors."""
    of_before = of_after = num_right = 0
    for place, errors in enumerate(zip(before, after, strict=True)):
        if any(errors):
            of_before, of_after = of_before + errors[0], of_after + errors[1]
            num_right = 0
        elif place % 2:
            num_right += 1
        if num_right == _BOUNDARY_WORDS and (of_before or of_after):
            yield of_before, of_after
            of_before = of_after = 0
    if of_before or of_after:
        yield of_before, of_after


def _bootstrap(
    before: Float[np.ndarray, "items counts"],
    after: Float[np.ndarray, "items counts"],
    score: Callable[[np.ndarray], np.ndarray],
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> BootstrapTest:
    """Draw items, the same for both systems, and score the summed counts; ``score`` gives NaN where there is none."""
    _check_confidence(confidence)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if len(before) < 2:
        raise ValueError("nothing can be said of chance from 1 item: a bootstrap needs two or more")
    num_unlike = int((before != after).any(axis=1).sum())
    sums = _resampled_sums(np.hstack([before, after]), resamples, seed)
    scores = np.array([score(half) for half in np.split(sums, 2, axis=1)])
    scores = scores[:, np.isfinite(scores).all(axis=0)]
    values = [float(score(counts.sum(axis=0, keepdims=True))[0]) for counts in (before, after)]
    differences = scores[1] - scores[0]
    difference = values[1] - values[0]
    return BootstrapTest(
        before=_interval(values[0], scores[0], confidence),
        after=_interval(values[1], scores[1], confidence),
        difference=_interval(difference, differences, confidence),
        relative=_relative(difference, values[0]),
        p_value=max(_two_sided(differences), min(1.0, 2.0 ** (1 - num_unlike))),
        resamples=len(differences),
    )


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


def _interval(value: float, resampled: Float[np.ndarray, "resamples"], confidence: float) -> Interval:
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value=value, low=float(low), high=float(high))


def _two_sided(differences: Float[np.ndarray, "resamples"]) -> float:
    """Twice the smaller tail at 0; the observed test set counts as one more resample, so p is never 0."""
    tail = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(differences) + 1))


def _error_rates(counts: Float[np.ndarray, "resamples 2"]) -> Float[np.ndarray, "resamples"]:
    errors, words = counts.T
    return np.divide(errors, words, out=np.full(len(counts), math.nan), where=words > 0)


def _ngram_counts(
    refs_per_item: Sequence[Sequence[str]], hyps: Sequence[str], order: int
) -> Float[np.ndarray, "items counts"]:
    """Of each item: matches and totals of 1- to ``order``-grams, words of the hypothesis and of the reference."""
    return np.array(
        [_item_counts(tuple(refs), hyp, order) for refs, hyp in zip(refs_per_item, hyps, strict=True)],
        dtype=float,
    )


def _item_counts(refs: tuple[str, ...], hyp: str, order: int) -> list[int]:
    """As ``seqdsd.metrics.bleu`` counts, but many times faster where references come again with another system."""
    most, lengths = _reference_counts(refs)
    words = hyp.split()
    matches = [0] * _MAX_ORDER
    for ngram, count in _ngrams(words).items():
        matches[len(ngram) - 1] += min(count, most[ngram])
    totals = [max(0, len(words) - longer) for longer in range(order)]
    closest = min(lengths, key=lambda length: (abs(length - len(words)), length))
    return [*matches[:order], *totals, len(words), closest]


@lru_cache(maxsize=5_000)  # images of the largest usual test set
def _reference_counts(refs: tuple[str, ...]) -> tuple[Counter[tuple[str, ...]], list[int]]:
    """How often each n-gram may be matched, and the references' lengths."""
    split = [ref.split() for ref in refs]
    most: Counter[tuple[str, ...]] = Counter()
    for words in split:
        most |= _ngrams(words)
    return most, [len(words) for words in split]


def _ngrams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    lengths = range(1, _MAX_ORDER + 1)
    return Counter(tuple(words[i : i + n]) for n in lengths for i in range(len(words) - n + 1))


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
