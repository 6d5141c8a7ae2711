"""Measured sparsity, counted by hand."""

import pytest
import torch
from torch import nn

from seqdsd.sparsity import measured_sparsity


@pytest.fixture
def model() -> nn.Linear:
    layer = nn.Linear(3, 2)
    layer.weight.data = torch.tensor([[0.0, 1.0, -0.0], [1e-30, 2.0, 0.0]])
    layer.bias.data = torch.zeros(2)
    return layer


@pytest.mark.parametrize(
    ("names", "share"), [(["weight"], 3 / 6), (["weight", "bias"], 5 / 8), (["bias"], 1), ([], 0)]
)
def test_by_hand(model, names, share):
    assert measured_sparsity(model, names) == share
    assert measured_sparsity(model, iter(names)) == share


def test_a_name_that_the_model_does_not_have(model):
    with pytest.raises(ValueError, match="no parameters 'wait'"):
        measured_sparsity(model, ["weight", "wait"])
