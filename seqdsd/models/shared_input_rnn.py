"""The DeepSpeech papers' recurrent layer: both directions share an input matrix, clip, and are summed.

``nn.RNN`` can neither share the input matrix nor clip, and it is slow. Here the input projection of all
frames is one matmul, both directions are scanned together over packed frames, and the backward pass forms the
recurrent weight gradient in one matmul at the end. Gated cells are in ``gated_rnn.py``.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seqdsd.models.frame_linear import FrameLinear
from seqdsd.models.frame_norm import FrameNorm
from seqdsd.models.packing import FramePacking, PaddedFrames, TimeBlocks
from seqdsd.models.recurrence_operators import clipped_rnn

PERSISTENT = "SEQDSD_PERSISTENT_SCAN"
"""Environment variable: 1 has CUDA devices scan by one launch (``persistent_scan``). Off until it has run on a GPU.

Triton wants a C compiler and Python's headers, which it makes its launcher with.
"""


class _Scan(torch.autograd.Function):
    """Sum over the directions of the states ``h[t] = clamp(x[t] + W h[t-1], 0, clip)``: forward, or both.

    The backward direction runs over each item mirrored within its own length, so both directions step through
    the same packed rows, and what an item's last state is followed by is never read. A step's rows of both lie
    together, ``TimeBlocks``, so that it is one product of two contiguous matrices, in place.
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, weight: Tensor, packing: FramePacking, clip: float) -> Tensor:
        blocks = packing.time_blocks(len(weight))
        states = projected.index_select(0, blocks.rows)
        if is_persistent(states, weight):
            from seqdsd.models.persistent_scan import scan_  # which imports Triton

            scan_(states, weight, blocks, clip)
        else:
            _scan_(states, weight, blocks, clip)
        ctx.save_for_backward(states, weight)
        ctx.packing, ctx.clip = packing, clip
        return blocks.summed(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sum: Tensor) -> tuple[Tensor, Tensor, None, None]:
        states, weight = ctx.saved_tensors
        blocks = ctx.packing.time_blocks(len(weight))
        deltas = grad_sum.index_select(0, blocks.rows)
        if is_persistent(deltas, weight):
            from seqdsd.models.persistent_scan import scan_back_

            scan_back_(deltas, states, weight, blocks, ctx.clip)
        else:
            _scan_back_(deltas, states, weight, blocks, ctx.clip)
        # Backward runs outside autocast, so that this product too is in the states' precision.
        after, before = blocks.pairs(deltas, states)
        return blocks.summed(deltas), after.transpose(1, 2) @ before, None, None


def is_persistent(values: Tensor, weight: Tensor) -> bool:
    """Whether a scan in place of these is one launch."""
    return (
        os.environ.get(PERSISTENT) == "1"
        and values.is_cuda
        and values.dtype == weight.dtype == torch.float32
        and find_spec("triton") is not None
    )


def _scan_(states: Tensor, weight: Tensor, blocks: TimeBlocks, clip: float) -> None:
    """Projected inputs to states, in place, a product a time step."""
    weight_t = weight.transpose(1, 2).contiguous()
    before = None
    for now in blocks.split(states):
        if before is not None:
            now.baddbmm_(before[:, : now.shape[1]], weight_t)
        before = now.clamp_(0, clip)


def _scan_back_(deltas: Tensor, states: Tensor, weight: Tensor, blocks: TimeBlocks, clip: float) -> None:
    """Gradients of states to those of what was clamped, in place."""
    later = None
    for now, state in zip(reversed(blocks.split(deltas)), reversed(blocks.split(states)), strict=True):
        if later is not None:
            now[:, : later.shape[1]].baddbmm_(later, weight)
        later = _through_clamp_(now, state, clip)


def _through_clamp_(grad: Tensor, state: Tensor, clip: float) -> Tensor:
    """Set the gradients of what was clamped to 0, in place."""
    return torch.ops.aten.hardtanh_backward.grad_input(grad, state, 0, clip, grad_input=grad)


class SharedInputRNN(nn.Module):
    """Clipped-ReLU RNN whose directions share one input matrix and one bias and are summed.

    Parameters at width H with input H: 3 H^2 + H. With ``batch_norm`` the bias gives way to a scale and a
    shift per unit on the projected input (sequence-wise norm, Amodei et al. 2015, section 3.2). Without
    ``bidirectional`` it runs forward only and has H^2 weights less.

    Reference: Hannun et al. 2014 (Deep Speech), section 2: the equations of the two recurrences and their
    sum. The shared input matrix is forced by the parameter counts of Han et al. 2017 (DSD), Table 6.
    """

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        bidirectional: bool = True,
        batch_norm: bool = False,
        clip: float = 20.0,
    ) -> None:
        super().__init__()
        self.input = FrameLinear(input_size, hidden_size, bias=not batch_norm)
        self.norm = FrameNorm(hidden_size) if batch_norm else nn.Identity()
        self.weight_recurrent = nn.Parameter(torch.empty(1 + bidirectional, hidden_size, hidden_size))
        self.clip = clip
        # Uniform ones learn far slower on AN4: docs/experiments.md.
        for weight in self.weight_recurrent:
            nn.init.orthogonal_(weight)

    def forward(
        self, inputs: Float[Tensor, "valid features"], packing: FramePacking | PaddedFrames
    ) -> Float[Tensor, "valid hidden"]:
        """Sum of the directions' states for each packed frame; each item starts from 0 at either end."""
        if isinstance(packing, PaddedFrames):
            return self._exported(inputs, packing)
        # Under autocast too in the weights' precision: errors of a frame would run on through all later ones, and in
        # bfloat16 products this small took longer.
        projected = self.norm(self.input(inputs)).to(self.weight_recurrent.dtype)
        return _Scan.apply(projected, self.weight_recurrent, packing, self.clip)

    def _exported(
        self, inputs: Float[Tensor, "rows features"], packing: PaddedFrames
    ) -> Float[Tensor, "rows hidden"]:
        """The same by one operator, which has the projection with it; in evaluation mode."""
        weight, bias = self._projection()
        states = clipped_rnn(
            packing.padded(inputs), packing.num_frames, weight, bias, self.weight_recurrent, self.clip
        )
        return packing.pack(states)

    def _projection(self) -> tuple[Float[Tensor, "hidden features"], Float[Tensor, "hidden"]]:
        """Weight and bias of the input matrix and the norm by its running statistics in one."""
        if not isinstance(self.norm, FrameNorm):
            return self.input.weight, self.input.bias
        mean, variance = self.norm.running_mean, self.norm.running_var
        scale = self.norm.weight * (variance + self.norm.eps).rsqrt()  # type: ignore[operator, union-attr]
        return self.input.weight * scale.unsqueeze(1), self.norm.bias - mean * scale  # type: ignore[operator]
