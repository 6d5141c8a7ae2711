"""The DeepSpeech papers' nonlinearity."""

from torch import Tensor, nn


class ClippedReLU(nn.Module):
    """``min(max(0, x), clip)`` (Hannun et al. 2014, section 2); no gradient at 0, at ``clip`` and past them."""

    def __init__(self, clip: float) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, inputs: Tensor) -> Tensor:
        """Clip each element."""
        return nn.functional.hardtanh(inputs, 0, self.clip)  # one pass for its gradient; clamp takes four
