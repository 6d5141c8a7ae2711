"""The t-tests against cases by hand and SciPy."""

import math
from dataclasses import replace
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from seqdsd.metrics import MeanTest, in_words, paired_t_test, unpaired_t_test

scores = st.lists(st.integers(0, 1000).map(lambda tenths: tenths / 10), min_size=2, max_size=8)


def test_paired_by_hand():
    """Differences 1, 2, 3: mean 2, SD 1; with 2 degrees of freedom p = 1 - t / sqrt(t^2 + 2)."""
    test = paired_t_test([10, 20, 30], [11, 22, 33])
    t = 2 / (1 / math.sqrt(3))
    assert test.test == "paired t-test"
    assert (test.before.count, test.before.mean, test.before.sd) == (3, 20, 10)
    assert (test.difference, test.relative, test.degrees_of_freedom) == (2, 0.1, 2)
    assert test.statistic == pytest.approx(t)
    assert test.p_value == pytest.approx(1 - t / math.sqrt(t**2 + 2))
    margin = 4.302653 / math.sqrt(3)  # the tables' t for 95 % and 2 degrees of freedom
    assert (test.low, test.high) == pytest.approx((2 - margin, 2 + margin))


def test_unpaired_by_hand():
    """Variances 1 and 4 of three each: standard error sqrt(5/3), degrees of freedom (5/3)^2 / (1/18 + 16/18)."""
    test = unpaired_t_test([1, 2, 3], [3, 5, 7])
    assert test.test == "unpaired t-test"
    assert test.statistic == pytest.approx(3 / math.sqrt(5 / 3))
    assert test.degrees_of_freedom == pytest.approx(25 / 9 / (17 / 18))
    assert test.relative == 1.5


@settings(deadline=None, max_examples=30)
@given(scores, scores, st.sampled_from([0.5, 0.95, 0.99]))
def test_unpaired_as_scipy_has_it(before, after, confidence):
    assume(len(set(before)) > 1 and len(set(after)) > 1)  # else it warns; see the next test
    expected = stats.ttest_ind(after, before, equal_var=False)
    test = unpaired_t_test(before, after, confidence=confidence)
    check_against_scipy(test, expected, confidence)
    assert test.difference == pytest.approx(np.mean(after) - np.mean(before))


def test_one_side_that_does_not_vary():
    test = unpaired_t_test([0.1, 0.1, 0.1], [0.1, 0.2, 0.4, 0.3])
    expected = stats.ttest_1samp([0.1, 0.2, 0.4, 0.3], 0.1)
    check_against_scipy(replace(test, low=test.low + 0.1, high=test.high + 0.1), expected, 0.95)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(*[st.integers(0, 1000)] * 2), min_size=2, max_size=8), st.sampled_from([0.5, 0.95]))
def test_paired_as_scipy_has_it(pairs, confidence):
    before, after = map(list, zip(*pairs, strict=True))
    assume(len({late - early for early, late in pairs}) > 1)
    expected = stats.ttest_rel(after, before)
    check_against_scipy(paired_t_test(before, after, confidence=confidence), expected, confidence)


def check_against_scipy(test: MeanTest, expected, confidence: float) -> None:
    interval = expected.confidence_interval(confidence)
    ours = [test.statistic, test.degrees_of_freedom, test.p_value, test.low, test.high]
    theirs = [expected.statistic, expected.df, expected.pvalue, interval.low, interval.high]
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)


def test_table_10_of_the_paper():
    """Sixteen runs each: fine-tuning 7.97 (SD 0.04), DSD 7.89 (SD 0.03); the paper says p < 0.001."""

    def sixteen(mean: float, sd: float) -> list[float]:
        spread = stats.norm.ppf((np.arange(16) + 0.5) / 16)
        return (mean + sd * spread / spread.std(ddof=1)).tolist()

    test = unpaired_t_test(sixteen(7.97, 0.04), sixteen(7.89, 0.03))
    assert (test.after.mean, test.after.sd) == pytest.approx((7.89, 0.03))
    expected = stats.ttest_ind_from_stats(7.89, 0.03, 16, 7.97, 0.04, 16, equal_var=False)
    assert (test.statistic, test.p_value) == pytest.approx((expected.statistic, expected.pvalue))
    assert test.p_value < 0.001
    assert test.relative == pytest.approx(-0.08 / 7.97)


def test_pairing_finds_what_seeds_hide():
    before = [10.0, 12.0, 14.0, 16.0]
    after = [9.4, 11.6, 13.5, 15.5]
    assert unpaired_t_test(before, after).p_value > 0.5
    assert paired_t_test(before, after).p_value < 0.01


@pytest.mark.parametrize("test", [unpaired_t_test, paired_t_test])
def test_nothing_varies(test):
    """0.1 is no binary fraction: sums that round would invent a variance."""
    same = test([0.1] * 3, [0.1] * 3)
    assert (same.difference, same.low, same.high, same.statistic, same.p_value) == (0, 0, 0, 0, 1)
    worse = test([0.1] * 3, [0.3] * 3)
    assert worse.difference == pytest.approx(0.2) and worse.after.sd == 0
    assert all(map(math.isnan, (worse.statistic, worse.p_value, worse.low, worse.high)))
    assert in_words(worse.p_value) == "no test possible: nothing varies"
    assert same.degrees_of_freedom == (4 if test is unpaired_t_test else 2)


def test_a_mean_does_not_depend_on_how_many_say_the_same():
    assert reduce(add, [0.1] * 10) / 10 != 0.1  # as sum is before Python 3.12
    assert unpaired_t_test([0.1] * 3, [0.1] * 10).p_value == 1


@pytest.mark.parametrize("step", [0.01, 0.03, -0.05])
def test_differences_that_are_equal_but_for_rounding_are_no_proof(step):
    before = [0.31, 0.29, 0.347, 0.3, 0.111, 0.0973]
    after = [score + step for score in before]
    assert len({late - early for early, late in zip(before, after, strict=True)}) > 1
    assert math.isnan(paired_t_test(before, after).p_value)
    percent = paired_t_test([100 * score for score in before], [100 * score for score in after])
    assert math.isnan(percent.p_value) and percent.difference == pytest.approx(100 * step)


def test_what_rounding_leaves_of_no_difference_is_none():
    test = paired_t_test([0.1 + 0.2, 0.7], [0.3, 0.7])
    assert 0.1 + 0.2 != 0.3 and (test.statistic, test.p_value) == (0, 1)


def test_variances_may_be_small_as_long_as_they_are_real():
    p_values = [unpaired_t_test([1, 1 + tiny], [2, 2 + tiny]).p_value for tiny in (1e-1, 1e-4, 1e-8)]
    assert p_values == sorted(p_values, reverse=True) and 0 < p_values[-1] < 1e-14
    assert math.isnan(unpaired_t_test([1, 1 + 1e-15], [2, 2 + 1e-15]).p_value)


def test_variances_too_small_to_square():
    test = unpaired_t_test([0, 1e-200], [0, 3e-200])
    assert test.statistic == pytest.approx(stats.ttest_ind([0, 3], [0, 1], equal_var=False).statistic)


def test_identical_samples_that_vary():
    varied = [0.31, 0.29, 0.3]
    paired = paired_t_test(varied, varied)
    assert (paired.difference, paired.statistic, paired.p_value) == (0, 0, 1)
    assert unpaired_t_test(varied, varied).p_value == 1
    assert unpaired_t_test(varied, varied).low < 0 < unpaired_t_test(varied, varied).high


def test_no_share_of_nothing():
    assert math.isnan(unpaired_t_test([0, 0], [1, 2]).relative)


@pytest.mark.parametrize("test", [unpaired_t_test, paired_t_test])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_none_are_named(test, bad):
    with pytest.raises(ValueError, match=rf"^before\[1\] is {bad}"):
        test([1, bad], [1, 2])
    with pytest.raises(ValueError, match=rf"^after\[0\] is {bad}"):
        test([1, 2], [bad, 2])


def test_scores_must_be_two_and_pair_up():
    with pytest.raises(ValueError, match="two or more scores a side, got 1 after"):
        unpaired_t_test([1, 2], [1])
    with pytest.raises(ValueError, match="3 scores before but 2 after"):
        paired_t_test([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, such as 0.95, got 95.0"):
        unpaired_t_test([1, 2], [1, 2], confidence=95.0)
