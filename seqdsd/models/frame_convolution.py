"""DeepSpeech 1's convolution: over time alone, so that it is a product of each window's frames with the kernel."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from seqdsd.models.frame_linear import frame_linear
from seqdsd.models.packing import FramePacking, PaddedFrames


class FrameConvolution(nn.Conv1d):
    """``nn.Conv1d``, padded by half its odd kernel, over the frames of a padded batch; its outputs are packed.

    As a product of the valid frames' windows it computes nothing for padding, and on CPUs needs no kernel for
    each size of a batch (oneDNN compiles one, for milliseconds).
    """

    def __init__(self, in_features: int, out_features: int, size: int, *, stride: int, bias: bool) -> None:
        if size % 2 == 0:
            raise ValueError(f"size must be odd, got {size}")
        super().__init__(in_features, out_features, size, stride=stride, padding=size // 2, bias=bias)

    def forward(  # type: ignore[override]
        self, frames: Float[Tensor, "batch frames bins"], packing: FramePacking | PaddedFrames
    ) -> Float[Tensor, "valid outputs"]:
        """Each valid output frame's outputs.

        Args:
            frames: 0 past each item's end.
            packing: Of the output frames.
        """
        if isinstance(packing, PaddedFrames):
            return packing.pack(super().forward(frames.transpose(1, 2)).transpose(1, 2))
        (size,), (stride,) = self.kernel_size, self.stride
        padding = size // 2
        # An item's padding is such that all items' windows are one view: a window each ``stride`` frames.
        after = padding + -(frames.shape[1] + 2 * padding) % stride
        padded = F.pad(frames, (0, 0, padding, after)).contiguous()
        every = padded.shape[1] // stride
        bins, count = frames.shape[2], (padded[..., 0].numel() - size) // stride + 1
        windows = padded.as_strided((count, size * bins), (stride * bins, 1))
        rows = packing.rows // packing.frames * every + packing.rows % packing.frames
        kernel = self.weight.transpose(1, 2).flatten(1)
        return frame_linear(windows.index_select(0, rows), kernel, self.bias)
