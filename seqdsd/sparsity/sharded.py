"""Magnitude masks of tensors that are split over processes (``DTensor``, as of ``fully_shard``), never gathered.

The threshold is found by bisection: each process counts how many of its own weights lie below a candidate, and only the
counts are added up. A 32-bit weight has 31 bits of magnitude, so that 31 sums of one number find it exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class _Part:
    """What this process holds of a tensor, and the processes that hold the rest."""

    weight: DTensor

    def __post_init__(self) -> None:
        if not all(type(one) in (Shard, Replicate) for one in self.weight.placements):
            raise ValueError(
                "masks need tensors that are sharded or replicated over each mesh dimension, got "
                f"{self.weight.placements}"
            )

    def sum(self, count: Tensor | int) -> int:
        """Over the parts of all processes, each part once however often it is replicated."""
        return self._reduced(count, distributed.ReduceOp.SUM)

    def largest(self, value: Tensor | int) -> int:
        """Over the parts of all processes."""
        return self._reduced(value, distributed.ReduceOp.MAX)

    def _reduced(self, value: Tensor | int, how: distributed.ReduceOp.RedOpType) -> int:
        local = self.weight.to_local()
        total = torch.as_tensor(value, dtype=torch.int64, device=local.device).clone()
        for dimension, placement in enumerate(self.weight.placements):
            if isinstance(placement, Shard):
                distributed.all_reduce(total, how, group=self.weight.device_mesh.get_group(dimension))
        return int(total)

    def flat_index(self, where: Bool[Tensor, "..."]) -> Int[Tensor, "chosen"]:
        """Where the chosen ones of this part's weights lie in the whole tensor, flattened."""
        _, offsets = compute_local_shape_and_global_offset(
            self.weight.shape, self.weight.device_mesh, self.weight.placements
        )
        index = torch.zeros(int(where.sum()), dtype=torch.int64, device=where.device)
        for size, offset, position in zip(
            self.weight.shape, offsets, where.nonzero(as_tuple=True), strict=True
        ):
            index = index * size + position + offset
        return index


def sharded_magnitude_mask(weight: DTensor, num_pruned: int) -> DTensor:
    """The mask of ``magnitude_mask``, bit for bit, sharded as the weight is.

    Args:
        weight: Of at least one dimension; every process of its mesh must call this.
        num_pruned: How many of all its weights are pruned.

    Raises:
        ValueError: If a weight is NaN or infinite, or the tensor is distributed in another way than by shards of
            dimensions or replicas.
    """
    part = _Part(weight)
    local = weight.to_local().detach().abs()
    # Of numbers that are not negative, the bits are in the order of the values; those of NaN lie above all.
    bits = local.view(_BITS[local.element_size()]).long()
    infinite = int(torch.tensor(math.inf, dtype=local.dtype).view(_BITS[local.element_size()]))
    largest = part.largest(bits.max() if bits.numel() else 0)
    if largest >= infinite:
        bad = part.sum((bits >= infinite).sum())
        raise ValueError(f"cannot rank weights: {bad} of {weight.numel()} are NaN or infinite")
    if num_pruned == 0:
        mask = torch.ones_like(local, dtype=torch.bool)
    else:
        threshold = _smallest(largest, lambda one: part.sum((bits <= one).sum()) >= num_pruned)
        mask = bits > threshold
        num_tied_kept = weight.numel() - num_pruned - part.sum(mask.sum())
        mask |= _first(part, bits == threshold, num_tied_kept)
    return DTensor.from_local(
        mask,
        weight.device_mesh,
        weight.placements,
        run_check=False,
        shape=weight.shape,
        stride=weight.stride(),
    )


def _first(part: _Part, tied: Bool[Tensor, "..."], count: int) -> Bool[Tensor, "..."]:
    """The ``count`` of the tied weights that come first in the whole tensor."""
    if count == 0:
        return torch.zeros_like(tied)
    index = part.flat_index(tied)
    last = _smallest(part.weight.numel() - 1, lambda one: part.sum((index <= one).sum()) >= count)
    kept = tied.clone()
    kept[tied] = index <= last
    return kept


def _smallest(high: int, is_enough: Callable[[int], bool]) -> int:
    """The smallest number in [0, high] that is enough; ``high`` is."""
    low = 0
    while low < high:
        middle = (low + high) // 2
        if is_enough(middle):
            high = middle
        else:
            low = middle + 1
    return low
