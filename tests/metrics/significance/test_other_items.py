"""Mean scores of several systems on other test sets, and of other parents on them: slow loops, and what they cover."""

from statistics import fmean

import numpy as np
import pytest

from seqdsd.metrics import across_parents, bleu, bootstrap_means, bootstrap_wer, of_other_items, wer
from seqdsd.metrics.significance import BootstrapTest, Interval


def rates(refs, systems) -> list[float]:
    return [wer(refs, hyps).rate for hyps in systems]


def test_mean_error_rates_as_a_slow_loop_has_them(an4_pair):
    """Of two systems on one side and three on the other."""
    refs, dense, last = an4_pair("dense-iter-0", "dense-iter-2")
    _, sparse, _ = an4_pair("sparse-iter-2", "dense-iter-2")
    sides, weights = ([dense, sparse], [last, sparse, dense]), ((3.0, 1.0), (2.0, 1.0, 1.0))
    found = bootstrap_means(
        "wer",
        [(ref,) for ref in refs],
        *sides,
        weights_before=weights[0],
        weights_after=weights[1],
        resamples=100,
        seed=3,
    )
    draws = np.random.default_rng(3).choice(len(refs), size=(100, len(refs)), replace=True)
    scores = [
        [
            np.dot(shares, rates([refs[i] for i in draw], [[hyps[i] for i in draw] for hyps in side])) / 4
            for side, shares in zip(sides, weights, strict=True)
        ]
        for draw in draws
    ]
    differences = np.subtract(*reversed(np.transpose(scores)))
    assert found.standard_error == pytest.approx(differences.std())
    assert (found.difference.low, found.difference.high) == pytest.approx(
        tuple(np.percentile(differences, [2.5, 97.5]))
    )
    assert found.before.value == pytest.approx(np.dot(weights[0], rates(refs, sides[0])) / 4)


def test_one_system_a_side_is_the_usual_bootstrap(an4_pair):
    refs, *hyps = an4_pair("dense-iter-0", "dense-iter-2")
    groups = [str(n % 9) for n in range(len(refs))]
    for one in (None, groups):
        found = bootstrap_means(
            "wer", [(ref,) for ref in refs], hyps[:1], hyps[1:], groups=one, resamples=100
        )
        assert found == bootstrap_wer(refs, *hyps, groups=one, resamples=100)


def test_the_mean_of_bleu_is_not_that_of_pooled_counts(few):
    refs_per_item, hyps = few
    right = [refs[0] for refs in refs_per_item]
    found = bootstrap_means("bleu4", refs_per_item, [hyps, right], [right, right], resamples=50)
    assert found.before.value == pytest.approx(fmean([bleu(refs_per_item, hyps).bleu4, 100.0]))
    assert found.after.value == pytest.approx(100.0)


CLASSES = ([["a"], ["b"]], [["a", "b"]], [["a", "b"]])


@pytest.mark.parametrize(
    ("score", "given", "weights", "said"),
    [
        ("error_rate", (CLASSES[0], [], CLASSES[2]), None, "a side has no system"),
        ("error_rate", (CLASSES[0], CLASSES[1], [["a"]]), None, "got 2 references but 1 hypotheses"),
        ("error_rate", (["ab", "b"], *CLASSES[1:]), None, "give each item a list of one reference"),
        ("wer", ([["a"], ["b", "c"]], *CLASSES[1:]), None, "give each item a list of one reference"),
        ("wer", ([["a"], []], *CLASSES[1:]), None, "give each item a list of one reference"),
        ("bleu4", ([["a"], []], *CLASSES[1:]), None, "reference"),
        ("error_rate", CLASSES, [0.5, 0.5], r"weights must be 1 numbers, one a system"),
        ("error_rate", CLASSES, [0.0], "not all 0, got"),
        ("error_rate", CLASSES, [-1.0], "of 0 or more"),
        ("error_rate", CLASSES, [float("nan")], "of 0 or more"),
    ],
)
def test_what_has_no_mean_is_refused(score, given, weights, said):
    with pytest.raises(ValueError, match=said):
        bootstrap_means(score, *given, weights_before=weights)


def intervals(
    generator, parents: int, items: int, *, by_parent: float, by_item: float
) -> tuple[Interval, ...]:
    """Of an effect of 0: that across parents, that of other items, and that of both."""
    scores = generator.normal(size=(2, 1, items))
    effect = by_parent * generator.normal(size=(parents, 1)) + by_item * generator.normal(size=items)
    noise = 0.5 * generator.normal(size=(2, parents, items))
    sides = scores + noise
    sides[1] += effect - (scores[1] - scores[0])
    across = across_parents(*([[one] for one in side.mean(1)] for side in sides))
    difference = (sides[1] - sides[0]).mean(0)
    error = float(difference.std(ddof=1) / np.sqrt(items))
    point = Interval(across.difference, across.difference - 1.96 * error, across.difference + 1.96 * error)
    drawn = BootstrapTest(point, point, point, 0.0, 1.0, 100, error)
    low, high = across.interval
    return Interval(across.difference, low, high), point, of_other_items(across, drawn)


@pytest.mark.parametrize(("by_parent", "by_item"), [(0.3, 0.0), (0.0, 3.0), (0.4, 2.0)])
def test_only_the_interval_of_both_covers_an_effect_of_none_in_95_of_100(by_parent, by_item):
    """Simulated: crossed effects of 8 parents and 100 items, drawn anew each time."""
    generator = np.random.default_rng(0)
    drawn = [intervals(generator, 8, 100, by_parent=by_parent, by_item=by_item) for _ in range(2000)]
    across, items, both = (
        np.mean([one.low <= 0 <= one.high for one in side]) for side in zip(*drawn, strict=True)
    )
    assert 0.94 <= both <= 0.995
    assert (across < 0.9) == bool(by_item) and (items < 0.9) == bool(by_parent)


def test_both_by_hand():
    across = across_parents([[1.0], [2.0], [4.0]], [[2.0], [4.0], [4.0]])
    low, high = across.interval
    point, wide = Interval(1.0, 1.0, 1.0), Interval(1.0, 0.5, 1.25)
    found = of_other_items(across, BootstrapTest(point, point, wide, 0.0, 1.0, 10, 0.2))
    assert found.value == across.difference == 1.0
    assert (1 - found.low) ** 2 == pytest.approx((1 - low) ** 2 + 0.25)
    assert (found.high - 1) ** 2 == pytest.approx((high - 1) ** 2 + 0.0625)


def test_where_all_parents_differ_by_the_same_nothing_is_said_of_others():
    across = across_parents([[1.0], [2.0]], [[2.0], [3.0]])
    wide = Interval(1.0, 0.5, 1.25)
    found = of_other_items(across, BootstrapTest(wide, wide, wide, 0.0, 1.0, 10, 0.2))
    assert np.isnan([found.low, found.high]).all()
