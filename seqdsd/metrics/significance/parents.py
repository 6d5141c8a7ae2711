"""The test across parents: many retrainings of the same converged parents in two arms, the parent being the unit.

Retrainings of one parent hardly differ from each other, so a test over them (``unpaired_t_test``, as in Table 10 of
the paper) speaks of that parent alone. What another parent would give, only other parents can say.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seqdsd.metrics.significance.bootstrap import BootstrapTest
from seqdsd.metrics.significance.intervals import Interval
from seqdsd.metrics.significance.t_tests import MeanTest, paired_t_test

Repeats = Sequence[float | int] | Mapping[int, float | int]
"""Scores of one parent in an arm; or by their seed: those of both arms that have one begin alike."""
Scores = Sequence[Repeats]
"""Of one arm, by parent."""


@dataclass(frozen=True)
class ParentsTest:
    """What retrainings of several parents say of the difference between two arms, after minus before.

    Attributes:
        test: The paired t-test over the parents, of each the mean over its repeats. ``test.before.count`` is the number
            of parents.
        num_repeats: Fewest and most retrainings of a parent in an arm; equal where the design is balanced.
        sd_between_parents: Standard deviation of the effect from parent to parent, without what repeats scatter; 0
            where these explain all of it, NaN where no parent has repeats: then the two cannot be told apart.
        sd_between_repeats: Standard deviation of the retrainings of one parent in one arm; NaN where there are none.
        correlation: Of the retrainings of one parent in both arms by the same seed, which rise and fall together where
            it is above 0, and then scatter less in the difference; 0 where no parent has two such pairs.
        sd_seen: Of the parents' mean differences, with what repeats leave in them: what the test goes by.
    """

    test: MeanTest
    num_repeats: tuple[int, int]
    sd_between_parents: float
    sd_between_repeats: float
    correlation: float
    sd_seen: float

    @property
    def num_parents(self) -> int:
        """How many there are: what makes the test stronger; more repeats of few parents soon do not."""
        return self.test.before.count

    @property
    def difference(self) -> float:
        """After minus before: of the means over parents, each parent counting once."""
        return self.test.difference

    @property
    def interval(self) -> tuple[float, float]:
        """The difference's confidence interval; NaN where ``p_value`` is."""
        return self.test.low, self.test.high

    @property
    def p_value(self) -> float:
        """Two-sided. NaN where the means differ and nothing varies: no test is possible then."""
        return self.test.p_value


def across_parents(before: Scores, after: Scores, *, confidence: float = 0.95) -> ParentsTest:
    """Compare two arms over the parents that both retrained, some times each.

    Where every parent has as many repeats in an arm as the others, this is exactly the F-test of the arm in the mixed
    model with random parents, random parent × arm and repeats within: F(1, parents - 1) = t². Where numbers of repeats
    differ, every parent still counts once (unweighted means): the difference stays unbiased and p becomes an
    approximation, since the means of fewer repeats scatter more. The components take retrainings to scatter alike in
    both arms; where numbers of repeats differ and they do not, that of parents is off.

    Args:
        before: Scores of one arm, by parent and then by repeat; one repeat or more of each of two or more parents.
        after: Those of the other, of the same parents in the same order; the repeats need not pair up. Where both are
            given by seed, the components know that those of one seed are alike.
        confidence: Of the interval, in (0, 1).

    Raises:
        ValueError: If the parents do not pair up, there are fewer than two, one has no score in an arm or one that is
            not finite (it is named), or ``confidence`` is out of range.

    Reference: the mixed model of statsmodels (MixedLM by REML), with which it was compared; components are from the
        mean squares, as in an analysis of variance. The DSD paper has no such test: its Table 10 repeats one parent.
    """
    _check(before, after)
    means = [[statistics.mean(_values(repeats)) for repeats in arm] for arm in (before, after)]
    test = paired_t_test(*means, confidence=confidence)
    sd_seen = statistics.stdev(late - early for early, late in zip(*means, strict=True))
    sd_between_repeats = _sd_within([*before, *after])
    correlation = _correlation(before, after, sd_between_repeats)
    # What repeats add to the variance of a parent's difference of means.
    left_in = sd_between_repeats**2 * statistics.mean(
        1 / len(early) + 1 / len(late) - 2 * correlation * len(_pairs(early, late)) / (len(early) * len(late))
        for early, late in zip(before, after, strict=True)
    )
    counts = [len(repeats) for repeats in (*before, *after)]
    return ParentsTest(
        test=test,
        num_repeats=(min(counts), max(counts)),
        sd_between_parents=math.nan if math.isnan(left_in) else math.sqrt(max(0.0, sd_seen**2 - left_in)),
        sd_between_repeats=sd_between_repeats,
        correlation=correlation,
        sd_seen=sd_seen,
    )


def of_other_items(parents: ParentsTest, items: BootstrapTest) -> Interval:
    """The difference's confidence interval over other parents and another test set, both at once.

    Of two sources of chance: squares of their intervals' halves are added, so it is wider than either. What parents and
    items do to each other is in both, so it is rather too wide than too narrow.

    Args:
        parents: The test across parents.
        items: Of the mean scores of the same retrainings (``bootstrap_means``), at the same confidence.

    Returns:
        The interval; its ends are NaN where no test across parents is possible.

    Reference: Zou & Donner 2008 (intervals of a sum from those of its parts); Owen 2007 (the pigeonhole bootstrap), of
        two crossed factors, whose resampled variances together err upwards.
    """
    point, low, high = parents.difference, *parents.interval
    return Interval(
        point,
        point - math.hypot(point - low, items.difference.value - items.difference.low),
        point + math.hypot(high - point, items.difference.high - items.difference.value),
    )


def _sd_within(cells: Scores) -> float:
    """Of the repeats of each cell around its mean, pooled; NaN where no cell has two."""
    repeated = [cell for cell in cells if len(cell) > 1]
    freedom = sum(len(cell) - 1 for cell in repeated)
    squares = math.fsum((len(cell) - 1) * statistics.variance(_values(cell)) for cell in repeated)
    return math.sqrt(squares / freedom) if freedom else math.nan


def _correlation(before: Scores, after: Scores, sd_within: float) -> float:
    """Within parents, of the pairs by one seed; 0 where no parent has two, or nothing varies."""
    pairs = [found for sides in zip(before, after, strict=True) if len(found := _pairs(*sides)) > 1]
    if not pairs or not sd_within:
        return 0.0
    freedom = sum(len(one) - 1 for one in pairs)
    products = math.fsum(
        (len(one) - 1) * statistics.covariance(*map(list, zip(*one, strict=True))) for one in pairs
    )
    return max(-1.0, min(1.0, products / freedom / sd_within**2))


def _pairs(before: Repeats, after: Repeats) -> list[tuple[float, float]]:
    """Scores of one parent in both arms by the same seed; none where seeds are not said."""
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        return []
    return [(float(before[seed]), float(after[seed])) for seed in before if seed in after]


def _values(repeats: Repeats) -> list[float]:
    return [float(one) for one in (repeats.values() if isinstance(repeats, Mapping) else repeats)]


def _check(before: Scores, after: Scores) -> None:
    if len(before) != len(after):
        raise ValueError(
            f"got {len(before)} parents before but {len(after)} after; the test needs both arms of each"
        )
    if len(before) < 2:
        raise ValueError(
            f"the test across parents needs two or more of them, got {len(before)}: train more parents"
        )
    for name, arm in (("before", before), ("after", after)):
        for parent, repeats in enumerate(arm):
            if not repeats:
                raise ValueError(f"{name}[{parent}] has no score; leave that parent out, in both arms")
            for repeat, score in enumerate(_values(repeats)):
                if not math.isfinite(score):
                    raise ValueError(
                        f"{name}[{parent}][{repeat}] is {score}; leave out a run that has no score"
                    )
