"""Densities of several tensors: those that cost least together, judged by trying all."""

import itertools

import numpy as np
import pytest

from seqdsd.sparsity.sensitivity import Sensitivity, allocate

LARGE = Sensitivity("large", 9000, {1.0: 0.1, 0.5: 0.12, 0.25: 0.2, 0.1: 0.6, 0.05: 2.0})
SMALL = Sensitivity("small", 1000, {1.0: 0.1, 0.5: 0.4, 0.25: 1.0, 0.1: 2.2, 0.05: 3.0})


def loss_at(one, density):
    """Between the densities that were measured, straight in their logarithm."""
    measured = sorted(one.losses.items())
    return float(
        np.interp(np.log(density), [np.log(at) for at, _ in measured], [loss for _, loss in measured])
    )


@pytest.mark.parametrize("density", [0.6, 0.3, 0.15])
def test_no_other_densities_of_as_many_weights_cost_less(density):
    found = allocate([LARGE, SMALL], density)
    kept = 9000 * found["large"] + 1000 * found["small"]
    assert 0.95 * density * 10_000 < kept <= density * 10_000
    cost = loss_at(LARGE, found["large"]) + loss_at(SMALL, found["small"])
    grid = np.geomspace(0.05, 1, 150)
    others = [
        loss_at(LARGE, one) + loss_at(SMALL, other)
        for one, other in itertools.product(grid, grid)
        if 9000 * one + 1000 * other <= kept
    ]
    assert cost <= min(others) + 0.01


def test_a_lower_density_gives_no_tensor_a_higher_one():
    steps = [allocate([LARGE, SMALL], 0.8 * 0.7**step) for step in range(12)]
    for before, after in itertools.pairwise(steps):
        assert all(after[name] <= before[name] for name in before)


def test_a_tensor_that_costs_nothing_goes_first():
    idle = Sensitivity("idle", 5000, {1.0: 0.1, 0.5: 0.1, 0.05: 0.1})
    found = allocate([LARGE, idle], 0.6)
    assert found["idle"] <= 0.05 and found["large"] > 0.9


def test_noise_that_makes_a_sparser_tensor_better_is_no_reason_to_keep_less():
    noisy = Sensitivity("noisy", 1000, {1.0: 0.1, 0.5: 0.5, 0.25: 0.3, 0.1: 2.0})
    assert np.all(np.diff(noisy.on_grid()) >= 0)


def test_one_weight_stays_of_a_tiny_tensor():
    tiny = Sensitivity("tiny", 20, {1.0: 0.1, 0.5: 0.1, 0.1: 0.1})
    assert allocate([tiny, LARGE], 0.1)["tiny"] * 20 >= 1


@pytest.mark.parametrize("density", [0.9, 0.7, 0.5])
def test_no_more_is_pruned_than_asked_where_much_of_it_costs_nothing(density):
    idle = Sensitivity("idle", 9000, {1.0: 0.1, 0.5: 0.1, 0.05: 0.1, 0.03: 1.0})
    found = allocate([idle, SMALL], density)
    assert 0.98 * density * 10_000 < 9000 * found["idle"] + 1000 * found["small"] <= density * 10_000
