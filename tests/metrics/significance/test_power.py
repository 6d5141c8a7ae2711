"""Power against statsmodels and simulations; and what each test does where nothing differs."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from seqdsd.metrics import (
    across_parents,
    detectable,
    items_needed,
    runs_needed,
    sd_interval,
    sd_of_parents,
    t_test_power,
    unpaired_t_test,
)

ALPHAS = (0.05, 0.05 / 6)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("count", [2, 3, 5, 8, 30, 400])
@pytest.mark.parametrize("size", [0.1, 0.8, 3.0])
def test_power_as_statsmodels_has_it(count, size, alpha):
    """Of two sides only the right one is asked for: half of alpha."""
    expected = TTestPower().power(size, count, alpha / 2, alternative="larger")
    found = t_test_power(
        -size * 7, standard_error=7 / math.sqrt(count), degrees_of_freedom=count - 1, alpha=alpha
    )
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("count", [2, 3, 5, 8, 30, 400])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_what_is_detectable_is_found_so_often(count, power, alpha):
    freedom = count - 1
    found = detectable(standard_error=0.3, degrees_of_freedom=freedom, alpha=alpha, power=power)
    again = TTestPower().power(found / 0.3 / math.sqrt(count), count, alpha / 2, alternative="larger")
    assert again == pytest.approx(power, abs=1e-5)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("size", [0.05, 0.3, 1.0, 2.0, 20.0])
def test_runs_needed_are_the_fewest_that_suffice(size, alpha):
    count = runs_needed(size, sd=1, alpha=alpha)
    power = [TTestPower().power(size, n, alpha / 2, alternative="larger") for n in (count - 1, count)]
    assert power[1] >= 0.8 and (count == 2 or power[0] < 0.8)


def test_a_textbooks_answer():
    """Half a standard deviation, 80 % at 5 %: 34 pairs (any table of the paired t-test); one: 10."""
    assert (runs_needed(0.5, sd=1), runs_needed(1, sd=1)) == (34, 10)


def test_repeats_take_away_only_what_they_scatter():
    def needed(repeats: int) -> int:
        sd = sd_of_parents(sd_between_parents=1, sd_between_repeats=3, num_repeats=repeats)
        return runs_needed(1, sd=sd)

    assert sd_of_parents(sd_between_parents=3, sd_between_repeats=4, num_repeats=2) == 5
    assert sd_of_parents(sd_between_parents=3, sd_between_repeats=4, num_repeats=1, correlation=0.5) == 5
    assert needed(1) > needed(4) > needed(10**6) == runs_needed(1, sd=1) == 10


def test_twice_the_precision_is_four_times_the_items():
    one = items_needed(1.0, standard_error=1, count=1000)
    assert one == math.ceil(1000 * (1.959964 + 0.841621) ** 2)
    assert items_needed(-0.5, standard_error=1, count=1000) == pytest.approx(4 * one, abs=4)


@pytest.mark.parametrize("freedom", [1, 4, 40])
def test_the_scatters_own_interval_holds_the_truth_so_often(freedom):
    sds = np.sqrt(np.random.default_rng(0).chisquare(freedom, 20_000) / freedom)
    low, high = sd_interval(1, degrees_of_freedom=freedom, confidence=0.9)
    assert ((sds * low <= 1) & (sds * high >= 1)).mean() == pytest.approx(0.9, abs=0.01)
    assert [sd_interval(2, degrees_of_freedom=4)[0] / 2, sd_interval(2, degrees_of_freedom=4)[1] / 2] == (
        pytest.approx([0.599, 2.874], abs=1e-3)  # the tables' chi-squared of 4 degrees: 11.143 and 0.4844
    )


def studies(effect: float, *, num: int, parents: int, repeats: int, correlation: float = 0.0) -> np.ndarray:
    """[arm, study, parent, repeat]: SD between parents 1, of their effects 0.5, between repeats 0.8."""
    generator = np.random.default_rng(16)
    level = 10 + generator.normal(size=(num, parents, 1))
    own = generator.normal(size=(2, num, parents, repeats))
    if correlation:
        common = generator.normal(size=(num, parents, repeats))
        own = math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own
    scores = level + 0.8 * own
    scores[1] += effect + 0.5 * generator.normal(size=(num, parents, 1))
    return scores


def share_found(scores: np.ndarray, alpha: float) -> float:
    """Of the studies in which scipy's paired t-test of the parents' means finds a gain."""
    means = scores.mean(3)
    test = stats.ttest_rel(means[1], means[0], axis=1)
    return float(((test.pvalue < alpha) & (test.statistic > 0)).mean())


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize(("parents", "repeats"), [(5, 1), (5, 4), (12, 2)])
def test_the_power_said_is_the_power_simulated(parents, repeats, alpha):
    sd = sd_of_parents(sd_between_parents=0.5, sd_between_repeats=0.8, num_repeats=repeats)
    error = sd / math.sqrt(parents)
    for effect in (0.0, 0.8, detectable(standard_error=error, degrees_of_freedom=parents - 1, alpha=alpha)):
        scores = studies(effect, num=10_000, parents=parents, repeats=repeats)
        said = t_test_power(effect, standard_error=error, degrees_of_freedom=parents - 1, alpha=alpha)
        assert share_found(scores, alpha) == pytest.approx(said, abs=0.012)
    assert said == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("repeats", [2, 8])
def test_where_repeats_share_seeds_the_power_said_is_the_power_simulated(repeats):
    """By the components of a large study whose repeats have half of their variance in common with the other arm's."""
    large = studies(0.4, num=1, parents=4000, repeats=2, correlation=0.5)[:, 0]
    found = across_parents(*([dict(enumerate(one)) for one in arm.tolist()] for arm in large))
    assert found.correlation == pytest.approx(0.5, abs=0.03)
    assert found.sd_between_parents == pytest.approx(0.5, rel=0.1)
    sd = sd_of_parents(
        sd_between_parents=found.sd_between_parents,
        sd_between_repeats=found.sd_between_repeats,
        correlation=found.correlation,
        num_repeats=repeats,
    )
    said = t_test_power(0.8, standard_error=sd / math.sqrt(6), degrees_of_freedom=5)
    scores = studies(0.8, num=10_000, parents=6, repeats=repeats, correlation=0.5)
    assert share_found(scores, 0.05) == pytest.approx(said, abs=0.02)
    apart = across_parents(*large.tolist())  # without seeds what they have in common counts as chance
    assert apart.correlation == 0 and apart.sd_between_parents < 0.2
    assert (apart.p_value, apart.sd_between_repeats) == (found.p_value, found.sd_between_repeats)


def test_without_effect_the_test_across_parents_rejects_one_in_twenty_and_table_10s_many():
    """Parents' effects scatter around none. The paper's test of one parent takes what that one has for the rule."""
    scores = studies(0.0, num=300, parents=6, repeats=16)
    across = [across_parents(*one.tolist()).p_value < 0.05 for one in scores.swapaxes(0, 1)]
    assert np.mean(across) == pytest.approx(0.05, abs=0.025)
    of_one = [unpaired_t_test(*one[:, 0].tolist()).p_value for one in scores.swapaxes(0, 1)]
    assert np.mean(np.array(of_one) < 0.05) > 0.25
    alike = np.random.default_rng(0).normal(size=(300, 2, 16))  # no effect, not even of this one
    of_one = [unpaired_t_test(*one.tolist()).p_value for one in alike]
    assert np.mean(np.array(of_one) < 0.05) == pytest.approx(0.05, abs=0.025)


def test_table_10_rejects_with_opposite_signs_and_the_test_across_parents_does_not():
    """What was measured on LeNet-300-100 with 5,000 digits (% error): one parent, and then twenty.

    One parent, 16 retrainings a side: LLR 4.920 ± 0.008; DSD at 30 % 4.878 ± 0.007, better, at 50 % 4.929 ± 0.009,
    worse. Twenty parents: DSD's gain is -0.002 ± 0.009 points (its standard error) and -0.006 ± 0.012.
    """
    llr, dsd_30, dsd_50 = (
        of_moments(16, mean, sd) for mean, sd in ((4.920, 0.008), (4.878, 0.007), (4.929, 0.009))
    )
    better, worse = unpaired_t_test(llr, dsd_30), unpaired_t_test(llr, dsd_50)
    assert better.difference < 0 and better.p_value < 1e-10
    assert worse.difference > 0 and worse.p_value < 0.01
    for gain, error, one_parents in ((-0.002, 0.009, dsd_30), (-0.006, 0.012, dsd_50)):
        effects = of_moments(20, -gain, error * math.sqrt(20))
        before = [[*llr]] + [[score + 0.1 * parent for score in llr] for parent in range(1, 20)]
        after = [
            [score + effect for score in repeats] for repeats, effect in zip(before, effects, strict=True)
        ]
        assert across_parents(before, after).p_value > 0.5
        # That one parent in place of one of the twenty does not change that.
        assert across_parents(before, [one_parents, *after[1:]]).p_value > 0.2


def of_moments(count: int, mean: float, sd: float) -> list[float]:
    """Numbers that have this mean and standard deviation."""
    spread = stats.norm.ppf((np.arange(count) + 0.5) / count)
    return (mean + sd * spread / spread.std(ddof=1)).tolist()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: t_test_power(1, standard_error=0, degrees_of_freedom=4),
            "standard_error must be .* above 0, got 0",
        ),
        (lambda: t_test_power(1, standard_error=1, degrees_of_freedom=4, alpha=5.0), "alpha .* got 5"),
        (
            lambda: detectable(standard_error=1, degrees_of_freedom=4, power=0.2),
            "power .* 0.5 to below 1.* got 0.2",
        ),
        (lambda: detectable(standard_error=1, degrees_of_freedom=0), "degrees_of_freedom"),
        (lambda: runs_needed(0, sd=1), "improvement must be a number above 0"),
        (lambda: runs_needed(1, sd=math.nan), "sd must be .* got nan"),
        (lambda: items_needed(1, standard_error=1, count=0), "count"),
        (lambda: sd_of_parents(sd_between_parents=1, sd_between_repeats=1, num_repeats=0), "num_repeats"),
        (
            lambda: sd_of_parents(sd_between_parents=1, sd_between_repeats=1, num_repeats=1, correlation=1.5),
            "correlation",
        ),
        (lambda: sd_interval(1, degrees_of_freedom=4, confidence=95.0), "confidence"),
    ],
)
def test_what_makes_no_sense_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()
