"""Batch norm over packed frames, and over those of all processes where several train together."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from seqdsd.models.recompute import is_computed_again


class _SynchronisedNorm(torch.autograd.Function):
    """``weight (x - mean) / sqrt(variance + eps) + bias``, mean and variance over the rows of all processes."""

    @staticmethod
    def forward(
        ctx: Any, frames: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, total = _of_all_processes(frames, like=weight)
        outputs = frames.clone()
        if len(frames):  # torch's kernels divide by the number of rows
            outputs = torch.native_batch_norm(frames, weight, bias, mean, variance, False, 0.0, eps)[0]
        ctx.save_for_backward(frames, weight, mean, variance, total)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, total)
        return outputs, mean, variance, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        frames, weight, mean, variance, total = ctx.saved_tensors
        # As if mean and variance were constants; what follows from their not being so is linear in the frames.
        grad_frames, grad_weight, grad_bias = grad, torch.zeros_like(weight), torch.zeros_like(weight)
        if len(frames):
            grad_frames, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
                grad, frames, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
            )
        sums = torch.stack((grad_bias, grad_weight))
        distributed.all_reduce(sums)
        scale = (variance + ctx.eps).rsqrt()
        by_frame = -weight * scale.square() * sums[1] / total
        constant = -weight * scale * sums[0] / total - by_frame * mean
        through_statistics = torch.addcmul(constant, frames, by_frame).to(frames.dtype)
        return grad_frames + through_statistics, grad_weight, grad_bias, None


def _of_all_processes(frames: Tensor, *, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance over the rows of all, and their number; in the type and on the device of ``like``."""
    mean, variance = torch.zeros_like(like), torch.zeros_like(like)
    if len(frames):
        # Its running statistics, which stay as they are, make it sum in their type.
        mean, variance = torch.batch_norm_update_stats(frames, mean.clone(), variance.clone(), 0.0)
    count = like.new_full((1,), len(frames))
    everyone = [like.new_empty(2 * len(mean) + 1) for _ in range(distributed.get_world_size())]
    distributed.all_gather(everyone, torch.cat((mean, variance, count)))
    means, variances, counts = torch.stack(everyone).split((len(mean), len(mean), 1), dim=1)
    total = counts.sum()
    mean = (means * counts).sum(0) / total
    # Each process's variance is about its own mean.
    return mean, (counts * (variances + (means - mean).square())).sum(0) / total, total


class FrameNorm(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` over the valid frames of a batch, whichever process computes them.

    In training by several processes (``torch.distributed``) statistics and gradients are those of the whole batch, so
    that a batch gives the same result however many share it. A process may have no frame at all.
    """

    def forward(self, frames: Float[Tensor, "valid features"]) -> Float[Tensor, "valid features"]:
        """Normalise, scale and shift each feature."""
        if not self.training:
            return super().forward(frames)
        if _has_company():
            return self._with_company(frames)
        if is_computed_again():
            return self._again(frames)
        return super().forward(frames) if len(frames) > 1 else self._alone(frames)

    def _with_company(self, frames: Tensor) -> Tensor:
        outputs, mean, variance, total = _SynchronisedNorm.apply(frames, self.weight, self.bias, self.eps)
        if not is_computed_again():
            with torch.no_grad():
                self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
                self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr, arg-type]
                unbiased = variance * (total / (total - 1).clamp(min=1))
                self.running_var.lerp_(unbiased, self.momentum)  # type: ignore[union-attr, arg-type]
        return outputs

    def _alone(self, frames: Tensor) -> Tensor:
        """One frame, which has no variance, by the running statistics; torch would refuse it, and stop the run."""
        running = self.running_mean, self.running_var
        return nn.functional.batch_norm(frames, *running, self.weight, self.bias, eps=self.eps)

    def _again(self, frames: Tensor) -> Tensor:
        """The same output as before; the running statistics, which have this batch already, stay as they are."""
        if len(frames) == 1:
            return self._alone(frames)
        assert self.running_mean is not None and self.running_var is not None
        # Copies rather than none: a recomputed layer must save as many tensors as it did before.
        running = self.running_mean.clone(), self.running_var.clone()
        return nn.functional.batch_norm(frames, *running, self.weight, self.bias, training=True, eps=self.eps)


def _has_company() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
