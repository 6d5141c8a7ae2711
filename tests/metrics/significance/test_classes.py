"""McNemar's test and the bootstrap of classes: SciPy's binomial test, coins by hand, WER of one word an item."""

import random
from dataclasses import asdict

import pytest
from scipy import stats

from seqdsd.metrics import McNemarTest, bootstrap_error_rate, bootstrap_wer, mcnemar


def said(*counts: int) -> tuple[list[str], list[str], list[str]]:
    """Items that both got right, only before, only after, neither."""
    both, before, after, neither = counts
    refs = ["cat"] * sum(counts)
    return (
        refs,
        ["cat"] * (both + before) + ["dog"] * (after + neither),
        ["cat"] * both + ["dog"] * before + ["cat"] * after + ["cow"] * neither,
    )


def test_by_hand():
    # Three coins that all fall on one side: 2 x 1/8.
    assert mcnemar(*said(5, 0, 3, 2)) == McNemarTest(0, 3, 0.25)
    # Of four, one or none on the rarer side: 2 x (1 + 4) / 16.
    assert mcnemar(*said(0, 3, 1, 7)) == McNemarTest(3, 1, 0.625)
    # As many on both sides, or no coin at all: nothing is unusual.
    assert mcnemar(*said(1, 2, 2, 0)).p_value == 1 == mcnemar(*said(4, 0, 0, 4)).p_value


@pytest.mark.parametrize(("before", "after"), [(1, 0), (10, 2), (30, 45), (500, 610), (0, 1100)])
def test_as_the_binomial_test_has_it(before, after):
    expected = stats.binomtest(before, before + after, 0.5).pvalue
    assert mcnemar(*said(100, before, after, 50)).p_value == pytest.approx(expected, rel=1e-9)


def test_the_bootstrap_is_that_of_words_where_each_item_is_one():
    generator = random.Random(0)
    refs, before, after = ([generator.choice("abc") for _ in range(60)] for _ in range(3))
    ours = bootstrap_error_rate(refs, before, after, resamples=300, seed=3)
    assert asdict(ours) == asdict(bootstrap_wer(refs, before, after, resamples=300, seed=3))
    assert ours.before.value == sum(map(str.__ne__, refs, before)) / 60


def test_a_class_of_several_words_is_one_item():
    test = bootstrap_error_rate(["ice cream", "cat"], ["ice bear", "cat"], ["ice cream", "cat"], resamples=50)
    assert (test.before.value, test.after.value) == (0.5, 0.0)


def test_what_does_not_pair_up_is_refused():
    for test in (mcnemar, bootstrap_error_rate):
        with pytest.raises(ValueError, match="got 2 references but 1 hypotheses before"):
            test(["a", "b"], ["a"], ["a", "b"])
        with pytest.raises(ValueError, match="got 1 references but 2 hypotheses after"):
            test(["a"], ["a"], ["a", "b"])
        with pytest.raises(ValueError, match="nothing to score"):
            test([], [], [])
