"""Batch norm over packed frames, and over those of all processes where several train together."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from seqdsd.models.recompute import is_computed_again


class _SynchronisedNorm(torch.autograd.Function):
    """``(x - mean) / sqrt(variance + eps)``, mean and variance over the rows of all processes."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count = frames.new_full((1,), len(frames))
        mean = frames.sum(0) / count.clamp(min=1)
        squares = (frames - mean).square().sum(0)
        everyone = [torch.empty(2 * len(mean) + 1).to(frames) for _ in range(distributed.get_world_size())]
        distributed.all_gather(everyone, torch.cat((mean, squares, count)))
        means, square_sums, counts = torch.stack(everyone).split((len(mean), len(mean), 1), dim=1)
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        # Each process's squares are about its own mean.
        variance = (square_sums + counts * (means - mean).square()).sum(0) / total
        scale = (variance + eps).rsqrt()
        normalised = (frames - mean) * scale
        ctx.save_for_backward(normalised, scale, total)
        ctx.mark_non_differentiable(mean, variance, total)
        return normalised, mean, variance, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        normalised, scale, total = ctx.saved_tensors
        sums = torch.stack((grad.sum(0), (grad * normalised).sum(0)))
        distributed.all_reduce(sums)
        return scale * (grad - (sums[0] + normalised * sums[1]) / total), None


class FrameNorm(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` over the valid frames of a batch, whichever process computes them.

    In training by several processes (``torch.distributed``) statistics and gradients are those of the whole batch, so
    that a batch gives the same result however many share it. A process may have no frame at all.
    """

    def forward(self, frames: Float[Tensor, "valid features"]) -> Float[Tensor, "valid features"]:
        """Normalise, scale and shift each feature."""
        if self.training and _has_company():
            return self._with_company(frames)
        return self._again(frames) if self.training and is_computed_again() else super().forward(frames)

    def _with_company(self, frames: Tensor) -> Tensor:
        normalised, mean, variance, total = _SynchronisedNorm.apply(frames.float(), self.eps)
        if not is_computed_again():
            with torch.no_grad():
                self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
                self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr, arg-type]
                unbiased = variance * (total / (total - 1).clamp(min=1))
                self.running_var.lerp_(unbiased, self.momentum)  # type: ignore[union-attr, arg-type]
        return (normalised * self.weight + self.bias).to(frames.dtype)

    def _again(self, frames: Tensor) -> Tensor:
        """The same output as before; the running statistics, which have this batch already, stay as they are."""
        assert self.running_mean is not None and self.running_var is not None
        # Copies rather than none: a recomputed layer must save as many tensors as it did before.
        running = self.running_mean.clone(), self.running_var.clone()
        return nn.functional.batch_norm(frames, *running, self.weight, self.bias, training=True, eps=self.eps)


def _has_company() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
