"""The test across parents against the mixed model that it stands for, sums of squares by hand, and what is known."""

import math
from statistics import fmean

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from seqdsd.metrics import across_parents, unpaired_t_test


def drawn(
    seed: int, *, parents: int = 8, repeats: int = 4, effect: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of two arms, [parents, repeats]; SD of parents 1, of the effect between them 0.5, of repeats 0.3."""
    generator = np.random.default_rng(seed)
    level = 10 + generator.normal(size=(parents, 1))
    effects = effect + 0.5 * generator.normal(size=(parents, 1))
    before, after = (level + 0.3 * generator.normal(size=(parents, repeats)) for _ in range(2))
    return before, after + effects


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_as_the_mixed_model_has_it(seed):
    """REML of balanced data, where no component falls on zero, gives the very estimates of the sums of squares."""
    before, after = drawn(seed, effect=0.4)
    table = pd.DataFrame(
        {"score": score, "parent": parent, "arm": float(arm)}
        for arm, scores in enumerate((before, after))
        for parent, repeats in enumerate(scores)
        for score in repeats
    )
    # An effect of its own for each parent is a random slope; as is usual, level and slope may be correlated.
    fit = smf.mixedlm("score ~ arm", table, groups="parent", re_formula="~arm").fit(reml=True, method="bfgs")
    found = across_parents(before.tolist(), after.tolist())
    assert found.difference == pytest.approx(fit.params["arm"], abs=1e-6)
    standard_error = found.difference / found.test.statistic
    assert standard_error == pytest.approx(fit.bse["arm"], rel=1e-3)
    assert found.sd_between_parents == pytest.approx(math.sqrt(fit.cov_re.loc["arm", "arm"]), rel=5e-3)
    assert found.sd_between_repeats == pytest.approx(math.sqrt(fit.scale), rel=5e-3)


@pytest.mark.parametrize("seed", range(3))
def test_is_the_f_test_of_the_sums_of_squares(seed):
    scores = np.stack(drawn(seed))  # [arm, parent, repeat]
    arms, parents, repeats = scores.shape
    cells, grand = scores.mean(2), scores.mean()
    of_arm = parents * repeats * ((cells.mean(1) - grand) ** 2).sum()
    both = cells - cells.mean(1, keepdims=True) - cells.mean(0, keepdims=True) + grand
    f = of_arm / (repeats * (both**2).sum() / (parents - 1))
    found = across_parents(*scores.tolist())
    assert found.test.statistic**2 == pytest.approx(f)
    assert found.p_value == pytest.approx(stats.f.sf(f, 1, parents - 1))
    within = ((scores - cells[..., None]) ** 2).sum() / (arms * parents * (repeats - 1))
    assert found.sd_between_repeats == pytest.approx(math.sqrt(within))
    assert found.num_parents == parents and found.num_repeats == (repeats, repeats)


def test_more_repeats_of_as_many_parents_are_no_more_parents():
    """Every score a hundred times over: the test of Table 10 becomes sure, the test across parents stays."""
    before, after = (arm.tolist() for arm in drawn(0, parents=3, repeats=2))
    many_before, many_after = ([repeats * 100 for repeats in arm] for arm in (before, after))
    few, many = across_parents(before, after), across_parents(many_before, many_after)
    assert (many.p_value, *many.interval) == pytest.approx((few.p_value, *few.interval))
    assert unpaired_t_test(many_before[0], many_after[0]).p_value < 1e-10 < few.p_value


def test_unequal_repeats_count_a_parent_once():
    even = across_parents([[1, 1], [2, 2]], [[2, 2], [5, 5]])
    uneven = across_parents([[1], [2, 2, 2]], [[2, 2, 2, 2], [5]])
    assert uneven.difference == even.difference == 2
    assert uneven.p_value == even.p_value
    assert (even.num_repeats, uneven.num_repeats) == ((2, 2), (1, 4))


def test_without_repeats_it_is_the_paired_test_and_the_two_scatters_are_one():
    before, after = drawn(3, repeats=1)
    found = across_parents(before.tolist(), after.tolist(), confidence=0.9)
    expected = stats.ttest_rel(after[:, 0], before[:, 0])
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.9)))
    assert math.isnan(found.sd_between_parents) and math.isnan(found.sd_between_repeats)
    assert found.sd_seen == pytest.approx(np.std(after - before, ddof=1))


def test_what_repeats_explain_is_no_scatter_of_parents():
    """Parents' effects of 1 and 1 with repeats of ±1 around them; means a bit apart, as chance alone sets them."""
    found = across_parents([[0, 2], [0, 2]], [[1, 3], [1.5, 3.5]])
    assert found.sd_between_parents == 0 and found.sd_seen == pytest.approx(0.5 / math.sqrt(2))


def test_the_components_are_found_again():
    before, after = drawn(0, parents=4000, repeats=3, effect=0.2)
    found = across_parents(before.tolist(), after.tolist())
    assert found.sd_between_parents == pytest.approx(0.5, rel=0.05)
    assert found.sd_between_repeats == pytest.approx(0.3, rel=0.05)
    assert found.difference == pytest.approx(0.2, abs=0.03)


def by_seed(arm: np.ndarray) -> list[dict[int, float]]:
    return [dict(enumerate(repeats)) for repeats in arm.tolist()]


def test_by_seed_the_components_are_those_of_the_paired_differences():
    """Balanced: what repeats leave in a parent's mean is their paired differences' variance by their number."""
    before, after = drawn(5, parents=6, repeats=3)
    after = after + 0.7 * (before - before.mean(1, keepdims=True))
    found = across_parents(by_seed(before), by_seed(after))
    differences = after - before
    within = differences.var(1, ddof=1).mean()
    assert found.sd_between_parents**2 == pytest.approx(differences.mean(1).var(ddof=1) - within / 3)
    assert 0 < found.correlation < 1
    # Seeds say which belong together, not places; one that the other arm lacks pairs with none.
    turned = [dict(reversed(repeats.items())) for repeats in by_seed(after)]
    assert across_parents(by_seed(before), turned).correlation == pytest.approx(found.correlation)
    more = [{**repeats, 9: fmean(repeats.values())} for repeats in turned]
    uneven = across_parents(by_seed(before), more)
    assert (
        uneven.num_repeats == (3, 4) and uneven.correlation > found.correlation
    )  # the mean scatters in nothing


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([[1], [2]], [[1]], "2 parents before but 1 after"),
        ([[1, 2]], [[1, 2]], "two or more of them, got 1"),
        ([[1], [2]], [[1], []], r"^after\[1\] has no score"),
        ([[1], [2, math.nan]], [[1], [1]], r"^before\[1\]\[1\] is nan"),
    ],
)
def test_what_does_not_pair_up_is_named(before, after, said):
    with pytest.raises(ValueError, match=said):
        across_parents(before, after)
