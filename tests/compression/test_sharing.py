import inspect

import numpy as np
import pytest
import torch

from seqdsd.compression import SharedTensor, half_where_safe, share_weights


def heavy_tailed(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    return torch.from_numpy(0.05 * generator.standard_t(4, shape)).float()


def test_kept_weights_get_their_nearest_centroid_and_pruned_ones_none():
    weight = heavy_tailed(40, 50)
    mask = weight.abs() > 0.05
    shared = share_weights(weight, mask, bits=4)
    assert torch.equal(shared.mask, mask) and shared.shape == weight.shape
    assert 2 <= len(shared.codebook) <= 15
    dense = shared.dense()
    assert torch.equal(dense[~mask], torch.zeros(int((~mask).sum())))
    for value, given in zip(dense[mask], weight[mask], strict=True):
        assert (value - given).abs() <= (shared.codebook - given).abs().min() + 1e-4  # rounded to 16 bits


def test_of_the_codes_one_is_the_pruned_weights():
    weight = torch.arange(1.0, 101)
    assert len(share_weights(weight, bits=1).codebook) == 1
    assert len(share_weights(weight, bits=3).codebook) == 7
    assert len(share_weights(torch.arange(1.0, 10_001), bits=8).codebook) == 255


def test_shared_weights_are_shared_again_without_loss():
    shared = share_weights(heavy_tailed(30, 30), bits=3)
    again = share_weights(shared.dense(), bits=3)
    assert torch.equal(again.codes, shared.codes) and torch.equal(again.codebook, shared.codebook)


def test_a_kept_weight_of_zero_and_a_tensor_without_kept_weights():
    shared = share_weights(torch.tensor([0.0, -1.0, 2.0]), bits=2)
    assert shared.dense().tolist() == [0, -1, 2] and shared.codes.tolist() == [0, 1, 2]
    nothing = share_weights(torch.ones(3, 2), torch.zeros(3, 2, dtype=torch.bool), bits=5)
    assert len(nothing.codebook) == 0 and not nothing.dense().any()


@pytest.mark.parametrize("bits", [0, 9])
def test_other_numbers_of_bits_are_refused(bits):
    with pytest.raises(ValueError, match=f"bits: 1 to 8, got {bits}"):
        share_weights(torch.ones(3), bits=bits)


def test_weights_that_cannot_be_ranked_are_refused():
    weight = torch.tensor([1.0, float("nan"), float("inf")])
    with pytest.raises(ValueError, match="2 of them are NaN or infinite"):
        share_weights(weight, bits=2)
    pruned = share_weights(weight, torch.tensor([True, False, False]), bits=2)
    assert pruned.dense().tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match=r"mask has shape \(2,\), the weight \(3,\)"):
        share_weights(weight, torch.ones(2, dtype=torch.bool), bits=2)


def test_masks_of_integers_and_weights_that_are_not_floating_are_refused():
    share = inspect.unwrap(share_weights)  # as users have it, without the tests' own checks of types
    with pytest.raises(TypeError, match=r"a mask is torch\.bool, True = kept, got torch\.int64"):
        share(torch.ones(3), torch.tensor([1, 0, 0]), bits=2)
    for weight in (torch.tensor([1j, 2.0]), torch.tensor([1, 2])):
        with pytest.raises(TypeError, match=f"floating-point numbers, got {weight.dtype}"):
            share(weight, bits=2)


@pytest.mark.parametrize(
    ("codebook", "codes", "message"),
    [
        ([1.0, 1.0], [1, 2], "ascending"),
        ([2.0, 1.0], [1, 2], "ascending"),
        ([0.0, 1.0], [1, 2], "without 0"),
        ([float("nan")], [1, 1], "finite"),
        ([float("inf")], [1, 1], "finite"),
        ([1.0], [1, 2], "code 2 of a codebook of 1"),
        ([1.0], [], "without weights"),
    ],
)
def test_what_is_no_shared_tensor_is_refused(codebook, codes, message):
    with pytest.raises(ValueError, match=message):
        SharedTensor(torch.tensor(codebook), torch.tensor(codes, dtype=torch.uint8))


def test_other_types_are_refused():
    with pytest.raises(TypeError):
        SharedTensor(torch.ones(1), torch.ones(1, dtype=torch.int64))


def test_tidied_keeps_every_weight():
    codebook = torch.tensor([0.5, -1.0, 0.5, 0.0, 9.0])
    codes = torch.tensor([[0, 1, 2], [3, 4, 0]], dtype=torch.uint8)
    tidied = SharedTensor.tidied(codebook, codes)
    assert tidied.codebook.tolist() == [-1, 0.5]
    assert tidied.dense().tolist() == [[0, 0.5, -1], [0.5, 0, 0]]


@pytest.mark.parametrize(
    ("values", "is_rounded"),
    [
        ([0.1, -0.3, 0.0], True),
        ([1e-6, 0.1], True),  # off by less than the largest one's last bit
        ([1e-6, 1e-3], False),
        ([1e-9, 0.1], False),  # would become 0
        ([70_000.0, 1.0], False),  # would become infinite
        ([float("nan"), 1.0], False),
        ([2.0**-20, 2.0**-24], True),  # nothing is lost
        ([], True),
    ],
)
def test_numbers_are_rounded_where_nothing_of_them_is_lost(values, is_rounded):
    given = torch.tensor(values)
    rounded = half_where_safe(given)
    expected = given.half().float() if is_rounded else given
    assert torch.equal(rounded.nan_to_num(-1), expected.nan_to_num(-1))


def test_other_types_are_not_rounded():
    for given in (torch.tensor([0.1], dtype=torch.float64), torch.tensor([3])):
        assert half_where_safe(given) is given
