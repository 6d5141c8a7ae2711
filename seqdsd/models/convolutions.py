"""DeepSpeech 2's two convolutions in forms that CPUs are faster at; the results differ by rounding alone.

``convolve_by_products`` is for the second in single precision. Across the bins its kernel is long (21), so the sum over
them is taken as a product of discrete Fourier transforms, which are so small that they are multiplied with as matrices;
over the frames it is summed as it stands. That is a fifth of the multiplications, and an output frame depends on the
same input frames as before and on no others. ``convolve_folded`` is for the first in bfloat16, and on processors
with AVX2 alone. GPUs are given neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class BinProducts:
    """Three matrices that make a correlation across bins a product: ``output @ ((kernel @ w) * (inputs @ x))``.

    Attributes:
        inputs: [products, bins].
        kernel: [products, kernel bins].
        output: [output bins, products].
    """

    inputs: Float[Tensor, "products bins"]
    kernel: Float[Tensor, "products kernel_bins"]
    output: Float[Tensor, "out_bins products"]


@lru_cache(maxsize=8)
def bin_products(bins: int, kernel_bins: int, stride: int, dtype: torch.dtype) -> BinProducts:
    """The matrices for an odd kernel, padded by half of it at both ends.

    A complex product is formed by three real ones (Gauss): with a + ib of the inputs and c + id of the kernel, a c,
    b d and (a + b)(c + d).
    """
    with torch.inference_mode(False):  # else what an evaluation has made first could not be trained with
        return _bin_products(bins, kernel_bins, stride, dtype)


def _bin_products(bins: int, kernel_bins: int, stride: int, dtype: torch.dtype) -> BinProducts:
    size = bins + kernel_bins // 2  # so long that what wraps around meets padding
    positions = torch.arange(bins, dtype=torch.float64)
    a, b = _wave(size, -positions)
    c, d = _wave(size, torch.arange(kernel_bins, dtype=torch.float64) - kernel_bins // 2)
    cos, sin = _wave(size, positions[::stride])
    is_real = (torch.arange(size // 2 + 1) * 2) % size == 0  # frequencies that stand for themselves alone
    pair = ~is_real
    weight = torch.where(is_real, 1.0, 2.0).unsqueeze(1).double() / size
    # The output's real part is (a c - b d) cos - ((a + b)(c + d) - a c - b d) sin.
    output = ((cos * weight)[is_real], ((cos + sin) * weight)[pair], ((sin - cos) * weight)[pair])
    return BinProducts(
        inputs=torch.cat((a[is_real], a[pair], b[pair], (a + b)[pair])).to(dtype),
        kernel=torch.cat((c[is_real], c[pair], d[pair], (c + d)[pair])).to(dtype),
        output=torch.cat((*output, (-sin * weight)[pair])).t().contiguous().to(dtype),
    )


def _wave(size: int, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine [frequencies, positions] of each frequency of a transform of ``size`` points."""
    frequencies = torch.arange(size // 2 + 1, dtype=torch.float64)
    phase = 2 * math.pi / size * frequencies.unsqueeze(1) * positions
    return phase.cos(), phase.sin()


def convolve_by_products(
    frames: Float[Tensor, "batch frames channel_bins"],
    weight: Float[Tensor, "out_channels channels kernel_bins kernel_frames"],
    *,
    bins_stride: int,
) -> Float[Tensor, "batch frames out_channel_bins"]:
    """What ``conv2d`` gives over bins and frames with padding of half the kernel, its stride in time 1.

    Args:
        frames: The bins of a channel side by side, 0 past each item's end.
        weight: Its kernel has odd sizes.
        bins_stride: From one output bin to the next.
    """
    out_channels, channels, kernel_bins, kernel_frames = weight.shape
    per_channel = frames.unflatten(2, (channels, -1))
    by = bin_products(per_channel.shape[3], kernel_bins, bins_stride, frames.dtype)
    # Channels last in memory, as these products leave them, is also what such convolutions are fastest on.
    inputs = (by.inputs @ per_channel.transpose(2, 3)).flatten(2)
    kernel = (by.kernel @ weight.permute(2, 0, 3, 1).flatten(1)).view(-1, 1, kernel_frames, channels)
    products = F.conv2d(
        inputs.transpose(1, 2).unsqueeze(2),
        kernel.permute(0, 3, 1, 2),
        padding=(0, kernel_frames // 2),
        groups=len(by.inputs),
    )
    of_frames = products.squeeze(2).transpose(1, 2).unflatten(2, (-1, out_channels))
    return (of_frames.transpose(2, 3) @ by.output.t()).flatten(2)


def convolve_folded(
    images: Float[Tensor, "batch 1 bins frames"],
    weight: Float[Tensor, "out_channels 1 kernel_bins kernel_frames"],
) -> Float[Tensor, "batch out_channels out_bins out_frames"]:
    """What ``conv2d`` gives with padding of half the kernel and strides of 2, from four channels instead of one.

    Each square of two by two becomes a channel's four, and the strides 1: with one channel most of a processor's lanes
    are idle, above all in the weight's gradient.

    Args:
        images: Of any size.
        weight: Its kernel has odd sizes.
    """
    (bins, frames), (kernel_bins, kernel_frames) = images.shape[2:], weight.shape[2:]
    after_frames = kernel_frames // 2 + frames % 2
    after_bins = kernel_bins // 2 + bins % 2
    padded = F.pad(images, (kernel_frames // 2, after_frames, kernel_bins // 2, after_bins))
    return F.conv2d(F.pixel_unshuffle(padded, 2), F.pixel_unshuffle(F.pad(weight, (0, 1, 0, 1)), 2))
