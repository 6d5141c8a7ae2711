"""DeepSpeech 1 as the DSD paper trains it: conv, two FC, a bidirectional recurrent, an FC, CTC output."""

from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqdsd.models.clipped_relu import ClippedReLU
from seqdsd.models.frame_convolution import FrameConvolution
from seqdsd.models.frame_linear import FrameLinear
from seqdsd.models.frame_norm import FrameNorm
from seqdsd.models.packing import pack_frames, zero_padding
from seqdsd.models.recompute import compute
from seqdsd.models.shared_input_rnn import SharedInputRNN

Count = TypeVar("Count", int, Tensor)

CONV_FRAMES = 11


class DeepSpeech1(nn.Module):
    """Conv over time, two FC layers, a shared-input bidirectional RNN, an FC layer, log-probabilities.

    At the defaults the layers have 1,814,528 + 1,049,600 + 1,049,600 + 3,146,752 + 1,049,600 + 29,725
    parameters, as printed in Table 6. Padding never changes a result, nor does the batch size: after the
    convolution the network works on packed frames.

    Args:
        vocab_size: Output symbols, the blank included.
        num_bins: Feature bins a frame.
        hidden_size: Units of every hidden layer.
        batch_norm: Batch norm over valid frames on every hidden layer, in place of its bias. Off in the
            paper's network; small corpora need it.
        last_fc: Have the FC layer after the recurrent one. Table 6 has it; small corpora learn sooner without
            (docs/experiments.md).
        dropout: On the feed-forward layers' outputs, in training. 0 in the DSD paper.
        blank_bias: Added to the output bias of CTC's blank (symbol 0) as torch draws it, in natural-log units. At 0
            some seeds stay long where they hear nothing (docs/experiments.md).
        clip: Upper bound of the clipped ReLU.
        recompute_layers: In training, compute each layer again in the backward pass: less memory, more time.

    Reference: Han et al. 2017 (DSD), Table 6; Hannun et al. 2014, section 2. The table fixes neither the
    convolution's stride in time (here 2) nor its padding (here half the kernel).
    """

    time_stride = 2
    """Feature frames from one output frame to the next."""

    def __init__(
        self,
        *,
        vocab_size: int = 29,
        num_bins: int = 161,
        hidden_size: int = 1024,
        batch_norm: bool = False,
        last_fc: bool = True,
        dropout: float = 0.0,
        blank_bias: float = 0.0,
        clip: float = 20.0,
        recompute_layers: bool = False,
    ) -> None:
        super().__init__()

        def nonlinearity() -> nn.Sequential:
            norm = FrameNorm(hidden_size) if batch_norm else nn.Identity()
            return nn.Sequential(norm, ClippedReLU(clip), nn.Dropout(dropout))

        def fully_connected() -> nn.Sequential:
            return nn.Sequential(FrameLinear(hidden_size, hidden_size, bias=not batch_norm), nonlinearity())

        self.conv = FrameConvolution(
            num_bins, hidden_size, CONV_FRAMES, stride=self.time_stride, bias=not batch_norm
        )
        self.conv_nonlinearity = nonlinearity()
        self.fc1 = fully_connected()
        self.fc2 = fully_connected()
        self.rnn = SharedInputRNN(
            input_size=hidden_size, hidden_size=hidden_size, batch_norm=batch_norm, clip=clip
        )
        self.fc3 = fully_connected() if last_fc else nn.Dropout(dropout)
        self.output = FrameLinear(hidden_size, vocab_size)
        with torch.no_grad():
            self.output.bias[0] += blank_bias
        self.recompute_layers = recompute_layers

    def _compute(self, layer: nn.Module, *inputs: Any) -> Tensor:
        return compute(layer, *inputs, recompute=self.recompute_layers and self.training)

    @classmethod
    def output_frames(cls, num_frames: Count) -> Count:
        """Output frames for ``num_frames`` feature frames (an int, or a tensor of counts)."""
        return (num_frames - 1) // cls.time_stride + 1

    def forward(
        self, features: Float[Tensor, "batch frames bins"], num_frames: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch out_frames vocab"], Int[Tensor, "batch"]]:
        """Natural-log probabilities of each symbol per output frame, and each item's number of output frames.

        Args:
            features: Frames past an item's ``num_frames`` are ignored. Log-probabilities past its number of
                output frames are 0 and mean nothing.
            num_frames: Each in [1, frames]; best kept on the CPU (see ``FramePacking.of``).

        Raises:
            ValueError: If a length is outside [1, frames].
        """
        features = zero_padding(features, num_frames)
        out_num_frames = self.output_frames(num_frames)
        packing = pack_frames(out_num_frames, self.output_frames(features.shape[1]), features.device)
        hidden = self._compute(self.conv, features, packing)
        hidden = self._compute(self.conv_nonlinearity, hidden)
        hidden = self._compute(self.fc2, self._compute(self.fc1, hidden))
        hidden = self._compute(self.fc3, self._compute(self.rnn, hidden, packing))
        log_probs = self.output(hidden).float().log_softmax(dim=-1)
        return packing.unpack(log_probs), out_num_frames
