"""The t-tests: do the scores of several runs, another seed each, have another mean?"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# The distributions themselves: scipy.stats wraps them, and takes a second to import.
from scipy.special import stdtr, stdtrit

from seqdsd.metrics.significance.intervals import check_confidence, relative_change

_ROUNDING = 1e-12
"""Of a score. Scores are shares of some 1e4 words or images, so that what really differs differs by far more."""


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
        standard_error: Of the difference; 0 where nothing varies by more than rounding.
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
    standard_error: float
    degrees_of_freedom: float
    p_value: float


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
    check_confidence(confidence)
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
        relative=relative_change(difference, before.mean),
        low=difference - margin,
        high=difference + margin,
        statistic=statistic,
        standard_error=error if error > rounding else 0.0,
        degrees_of_freedom=freedom,
        p_value=float(2 * stdtr(freedom, -abs(statistic))),
    )
