"""Weight sharing: a tensor as a short codebook and one small code a weight, of which 0 stands for a pruned weight.

Which weights are pruned is the caller's choice. Training of the codebook is ``tuning.py``, the file ``container.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor

from seqdsd.compression.kmeans import linear_kmeans, nearest

MAX_BITS = 8
_PART = 2**20
"""Weights: so many at a time are looked up, since an index takes eight bytes a weight."""


@dataclass(frozen=True, eq=False)
class SharedTensor:
    """A tensor whose kept weights have few different values.

    Attributes:
        codebook: Float32 [centroids], at most 255: ascending, none twice, none 0.
        codes: Uint8, of the tensor's shape: 0 for a pruned weight, otherwise 1 + index into ``codebook``.

    Raises:
        TypeError: If a type is another.
        ValueError: If the codebook is not as above or not finite, or a code has no centroid.
    """

    codebook: Float[Tensor, "centroids"]
    codes: UInt8[Tensor, "*shape"]

    def __post_init__(self) -> None:
        if self.codebook.dtype != torch.float32 or self.codes.dtype != torch.uint8:
            raise TypeError(
                f"a codebook is float32, its codes are uint8; got {self.codebook.dtype} and {self.codes.dtype}"
            )
        if self.codebook.dim() != 1 or not is_codebook(self.codebook):
            raise ValueError(
                "a codebook is a vector of ascending finite numbers, without 0; see SharedTensor.tidied"
            )
        if self.codes.numel() == 0:
            raise ValueError("a tensor without weights cannot be shared; leave it dense")
        if (largest := int(self.codes.max())) > len(self.codebook):
            raise ValueError(f"code {largest} of a codebook of {len(self.codebook)}")

    @classmethod
    def tidied(cls, codebook: Float[Tensor, "centroids"], codes: UInt8[Tensor, "*shape"]) -> SharedTensor:
        """The same tensor with an ascending codebook of the values that occur; equal ones are merged, 0 is pruned."""
        table = torch.cat([codebook.new_zeros(1), codebook]).cpu()
        counts = torch.bincount(codes.flatten().cpu(), minlength=len(table))
        used = [
            value for value, count in zip(table.tolist(), counts.tolist(), strict=True) if count and value
        ]
        values = sorted(set(used))
        code_of = {0.0: 0, **{value: 1 + index for index, value in enumerate(values)}}
        renamed = torch.tensor([code_of.get(value, 0) for value in table.tolist()], dtype=torch.uint8)
        new_codebook = torch.tensor(values, dtype=torch.float32, device=codebook.device)
        return cls(new_codebook, looked_up(renamed.to(codes.device), codes))

    @property
    def mask(self) -> Bool[Tensor, "*shape"]:
        """True = kept."""
        return self.codes != 0

    @property
    def shape(self) -> torch.Size:
        """Of the tensor."""
        return self.codes.shape

    def dense(self) -> Float[Tensor, "*shape"]:
        """The weights in float32; pruned ones are +0.0."""
        return looked_up(torch.cat([self.codebook.new_zeros(1), self.codebook]), self.codes)


def share_weights(
    weight: Float[Tensor, "*shape"], mask: Bool[Tensor, "..."] | None = None, *, bits: int
) -> SharedTensor:
    """Share the kept weights of a tensor: k-means of their values, 2^bits - 1 centroids beside the code of pruned ones.

    The codebook's values are rounded to 16 bits where ``half_where_safe`` does. Unused centroids are left out. The same
    weights give the same result on every machine.

    Args:
        weight: Of any shape.
        mask: Of the same shape, True = kept; None keeps all.
        bits: 1 to 8. More than these do not pay: leave the tensor dense.

    Raises:
        TypeError: If the weight is not of real floating-point numbers, or the mask not of truth values.
        ValueError: If ``bits`` is another, the shapes differ, or a kept weight is NaN or infinite.

    Reference: Han et al. 2016 (Deep Compression), section 3, as known from memory. Departure: the code of pruned
    weights is one of the 2^bits.
    """
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"bits: 1 to {MAX_BITS}, got {bits}; leave a tensor dense that needs more")
    if not weight.is_floating_point():
        raise TypeError(f"weights to share are floating-point numbers, got {weight.dtype}; leave it dense")
    if mask is not None and mask.dtype != torch.bool:  # NumPy would take integers for places
        raise TypeError(f"a mask is torch.bool, True = kept, got {mask.dtype}; give mask.bool()")
    if mask is not None and mask.shape != weight.shape:
        raise ValueError(f"the mask has shape {tuple(mask.shape)}, the weight {tuple(weight.shape)}")
    values = weight.detach().float().cpu().numpy()
    kept = np.ones(values.shape, bool) if mask is None else mask.cpu().numpy()
    chosen = values[kept]
    if not np.isfinite(chosen).all():
        raise ValueError(f"cannot share weights: {np.sum(~np.isfinite(chosen))} of them are NaN or infinite")
    codes = np.zeros(values.shape, np.uint8)
    if chosen.size == 0:
        return SharedTensor(torch.zeros(0), torch.from_numpy(codes))
    centroids = linear_kmeans(chosen, 2**bits - 1)
    codes[kept] = nearest(chosen, centroids) + 1
    return SharedTensor.tidied(half_where_safe(torch.from_numpy(centroids).float()), torch.from_numpy(codes))


def half_where_safe(values: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Float32 numbers rounded to what float16 can hold, where that is safe for all of them; otherwise as they are.

    It is where no number becomes infinite or 0, and each moves by at most 2^-11 of itself or 2^-17 of the largest. A
    file has two bytes for each number so rounded. Tensors of other types are returned as they are.
    """
    if values.dtype != torch.float32:
        return values
    values = values.detach()
    rounded = values.half().float()
    size = values.abs()
    allowed = torch.maximum(size * 2.0**-11, size.max() * 2.0**-17) if values.numel() else size
    is_safe = ((rounded - values).abs() <= allowed) & ((rounded == 0) == (values == 0))
    return rounded if bool(is_safe.all()) else values


def is_codebook(values: Float[Tensor, "centroids"]) -> bool:
    """Whether numbers are finite, ascending, each larger than the one before, and none is 0."""
    ascending = values[1:] > values[:-1]  # of which NaN is not
    return bool(torch.isfinite(values).all() and ascending.all() and values.all())


def looked_up(table: Tensor, codes: UInt8[Tensor, "*shape"]) -> Tensor:
    """``table[codes]``, without an index of eight bytes for every code at once."""
    flat = codes.flatten()
    found = torch.empty(flat.shape, dtype=table.dtype, device=codes.device)
    for into, some in zip(found.split(_PART), flat.split(_PART), strict=True):
        torch.index_select(table, 0, some.int(), out=into)
    return found.view(codes.shape)
