"""Convolutions in other forms against torch's own, in values and gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seqdsd.models.convolutions import convolve_by_products, convolve_folded


def with_gradients(outputs: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs)
    return (outputs.detach(), *torch.autograd.grad((outputs * weights).sum(), inputs))


# Channels, bins, frames, output channels, kernel: as in DeepSpeech 2, shorter than the kernel, an even transform.
@pytest.mark.parametrize(
    ("channels", "bins", "frames", "out_channels", "kernel"),
    [(32, 81, 20, 32, (21, 11)), (3, 5, 7, 4, (21, 11)), (2, 8, 9, 3, (5, 3)), (1, 1, 1, 1, (3, 1))],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_products_of_transforms(channels, bins, frames, out_channels, kernel, stride):
    torch.manual_seed(0)
    images = torch.randn(2, channels, bins, frames, dtype=torch.double, requires_grad=True)
    weight = torch.randn(out_channels, channels, *kernel, dtype=torch.double, requires_grad=True)
    padding = (kernel[0] // 2, kernel[1] // 2)
    expected = F.conv2d(images, weight, stride=(stride, 1), padding=padding).permute(0, 3, 1, 2).flatten(2)
    rows = images.permute(0, 3, 1, 2).flatten(2)
    actual = convolve_by_products(rows, weight, bins_stride=stride)
    torch.testing.assert_close(
        with_gradients(actual, images, weight), with_gradients(expected, images, weight), rtol=0, atol=1e-9
    )


def test_rounding_of_products_in_single_precision():
    torch.manual_seed(0)
    rows, weight = torch.rand(2, 50, 32 * 81), torch.randn(32, 32, 21, 11)
    exact = convolve_by_products(rows.double(), weight.double(), bins_stride=2)
    difference = convolve_by_products(rows, weight, bins_stride=2) - exact
    assert difference.square().mean().sqrt() < 3e-6 * exact.square().mean().sqrt()


def test_products_look_no_further_than_the_kernel():
    torch.manual_seed(0)
    rows, weight = torch.rand(1, 30, 3 * 9), torch.randn(2, 3, 5, 11)
    changed = rows.clone()
    changed[0, 20:] += 1
    before, after = (convolve_by_products(one, weight, bins_stride=2)[0] for one in (rows, changed))
    assert torch.equal(before[:15], after[:15])
    assert not (before[15:] == after[15:]).all(-1).any()


@pytest.mark.parametrize("bins", [1, 8, 161])
@pytest.mark.parametrize("frames", [1, 2, 11, 30])
def test_folded(bins, frames):
    torch.manual_seed(0)
    images = torch.randn(2, 1, bins, frames, dtype=torch.double, requires_grad=True)
    weight = torch.randn(4, 1, 41, 11, dtype=torch.double, requires_grad=True)
    expected = F.conv2d(images, weight, stride=2, padding=(20, 5))
    actual = convolve_folded(images, weight)
    torch.testing.assert_close(
        with_gradients(actual, images, weight), with_gradients(expected, images, weight), rtol=0, atol=1e-9
    )
