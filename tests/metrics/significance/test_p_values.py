"""Holm's correction against its procedure and statsmodels, and p-values in words."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqdsd.metrics import holm, in_words


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx(
        [0.03, 0.06, 0.06]
    )  # 0.01 x 3, 0.03 x 2, 0.04 is pulled up
    assert holm([0.5, 0.01]) == pytest.approx([0.5, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_as_statsmodels_has_it():
    """Pinned: statsmodels 0.15.0, ``multipletests(p_values, method="holm")[1]``."""
    p_values = [0.01, 0.04, 0.03, 0.005, 0.2, 0.03]
    assert holm(p_values) == pytest.approx([0.05, 0.12, 0.12, 0.03, 0.2, 0.12])


def steps_down(p_values: list[float], alpha: float) -> list[bool]:
    """Holm's procedure as it was published: reject the smallest while it is small enough, then stop."""
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] * (len(p_values) - rank) > alpha:
            break
        rejected[index] = True
    return rejected


p_value_lists = st.lists(st.integers(0, 1000).map(lambda n: n / 1000), max_size=8)


@given(p_value_lists, st.sampled_from([0.01, 0.05, 0.1, 0.3]))
def test_holm_rejects_what_the_procedure_rejects(p_values, alpha):
    assert [adjusted <= alpha for adjusted in holm(p_values)] == steps_down(p_values, alpha)


@given(p_value_lists, st.randoms())
def test_holm_keeps_order_and_bounds(p_values, source):
    adjusted = holm(p_values)
    assert all(p_value <= larger <= 1 for p_value, larger in zip(p_values, adjusted, strict=True))
    assert [a for _, a in sorted(zip(p_values, adjusted, strict=True))] == sorted(adjusted)
    shuffled = source.sample(range(len(p_values)), len(p_values))
    assert holm([p_values[i] for i in shuffled]) == [adjusted[i] for i in shuffled]


@pytest.mark.parametrize("bad", [-0.1, 1.5, math.nan])
def test_holm_names_what_is_no_p_value(bad):
    with pytest.raises(ValueError, match=rf"p_values\[1\] is {bad}"):
        holm([0.5, bad])


@pytest.mark.parametrize(
    ("p_value", "words"),
    [
        (0.00099, "p < 0.001"),
        (0.001, "p = 0.001"),
        (0.0123, "p = 0.012"),
        (0.0499, "p = 0.0499"),  # 0.05 would be on the other side
        (0.04996, "p = 0.04996"),
        (0.05, "not significant (p = 0.05)"),
        (0.0501, "not significant (p = 0.05)"),
        (0.21, "not significant (p = 0.21)"),
        (1, "not significant (p = 1)"),
        (0, "p < 0.001"),
    ],
)
def test_p_values_in_words(p_value, words):
    assert in_words(p_value) == words


def test_words_depend_on_alpha():
    assert in_words(0.02, alpha=0.01) == "not significant (p = 0.02)"
    assert in_words(0.0005, alpha=0.0001) == "not significant (p < 0.001)"
