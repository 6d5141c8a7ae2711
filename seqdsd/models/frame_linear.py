"""A linear layer over packed frames, whose number is another one in each batch."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

ROWS = 64
"""In bfloat16 the rows are filled up to a multiple of so many."""


def frame_linear(
    frames: Float[Tensor, "valid features"],
    weight: Float[Tensor, "outputs features"],
    bias: Float[Tensor, "outputs"] | None,
) -> Float[Tensor, "valid outputs"]:
    """``F.linear``, by few kernels where each number of rows would have one compiled.

    On CPUs that is so in bfloat16 (autocast): a kernel takes milliseconds to compile, a product of a batch of speech a
    tenth of one, and no two batches have as many frames.
    """
    if not _compiles_by_size(frames):
        return F.linear(frames, weight, bias)
    filled = F.pad(frames.to(torch.get_autocast_dtype("cpu")), (0, 0, 0, -len(frames) % ROWS))
    return F.linear(filled, weight, bias)[: len(frames)]


def _compiles_by_size(frames: Tensor) -> bool:
    is_cast = torch.is_autocast_enabled("cpu") and frames.dtype != torch.float64
    return is_cast and frames.device.type == "cpu" and not torch.compiler.is_exporting()


class FrameLinear(nn.Linear):
    """``nn.Linear`` by ``frame_linear``."""

    def forward(self, frames: Float[Tensor, "valid features"]) -> Float[Tensor, "valid outputs"]:
        """Each frame's outputs."""
        return frame_linear(frames, self.weight, self.bias)
