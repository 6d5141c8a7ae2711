"""Row convolution: a few future frames for a network that otherwise only looks back."""

from jaxtyping import Float
from torch import Tensor, nn

from seqdsd.models.packing import FramePacking, PaddedFrames


class RowConvolution(nn.Module):
    """Each unit's weighted sum of its output at a frame and at the ``future_frames`` after it.

    Past an item's end the outputs count as 0.

    Reference: Amodei et al. 2015 (Deep Speech 2), section 3.7.
    """

    def __init__(self, *, hidden_size: int, future_frames: int) -> None:
        super().__init__()
        self.future_frames = future_frames
        self.conv = nn.Conv1d(hidden_size, hidden_size, future_frames + 1, groups=hidden_size, bias=False)

    def forward(
        self, inputs: Float[Tensor, "valid hidden"], packing: FramePacking | PaddedFrames
    ) -> Float[Tensor, "valid hidden"]:
        """Convolve the packed frames of each item."""
        padded = packing.unpack(inputs).transpose(1, 2)
        ahead = nn.functional.pad(padded, (0, self.future_frames))
        return packing.pack(self.conv(ahead).transpose(1, 2))
