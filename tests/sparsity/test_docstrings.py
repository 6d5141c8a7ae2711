"""The examples in docstrings run as printed."""

import doctest

import torch

from seqdsd.sparsity import masks


def test_the_own_loop_of_mask_set():
    torch.manual_seed(0)
    result = doctest.testmod(masks)
    assert result.attempted >= 10
    assert result.failed == 0
