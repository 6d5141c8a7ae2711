"""DeepSpeech 2 as the DSD paper trains it: two convolutions, recurrent layers with batch norm, an FC, CTC output."""

from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqdsd.models.clipped_relu import ClippedReLU
from seqdsd.models.convolutions import convolve_by_products, convolve_folded
from seqdsd.models.frame_linear import FrameLinear
from seqdsd.models.frame_norm import FrameNorm
from seqdsd.models.gated_rnn import Directions, GatedRNN
from seqdsd.models.packing import FramePacking, PaddedFrames, pack_frames, zero_padding
from seqdsd.models.recompute import compute
from seqdsd.models.row_convolution import RowConvolution
from seqdsd.models.shared_input_rnn import SharedInputRNN

Cell = Literal["relu", "gru", "lstm"]
Count = TypeVar("Count", int, Tensor)

CHANNELS = 32
CONV_FRAMES = 11
BINS_STRIDE = 2
"""Of both."""
ON_AVX2 = torch.backends.cpu.get_cpu_capability() == "AVX2"
"""And no AVX-512: there a convolution of one channel is slow in single precision, too."""


class ConvLayer(nn.Module):
    """A convolution over bins and frames, batch norm by channel and bin over valid frames, clipped ReLU.

    The norm's scale and shift for each bin, rather than for each channel alone, is what gives Table 8's counts.
    """

    def __init__(
        self, *, channels: int, num_bins: int, kernel_bins: int, time_stride: int, clip: float
    ) -> None:
        super().__init__()
        # Bins before frames: the other way round took twice as long on a CPU (docs/experiments.md).
        self.conv = nn.Conv2d(
            channels,
            CHANNELS,
            (kernel_bins, CONV_FRAMES),
            stride=(BINS_STRIDE, time_stride),
            padding=(kernel_bins // 2, CONV_FRAMES // 2),
            bias=False,
        )
        self.out_bins = (num_bins - 1) // BINS_STRIDE + 1
        self.norm = FrameNorm(CHANNELS * self.out_bins)
        self.relu = ClippedReLU(clip)

    def forward(
        self, frames: Float[Tensor, "batch frames channel_bins"], packing: FramePacking | PaddedFrames
    ) -> Float[Tensor, "valid out_channel_bins"]:
        """Packed outputs, the bins of a channel side by side.

        Args:
            frames: The bins of a channel side by side, 0 past each item's end.
            packing: Of the outputs' frames.
        """
        return self.relu(self.norm(packing.pack(self._convolved(frames))))

    def _convolved(
        self, frames: Float[Tensor, "batch frames channel_bins"]
    ) -> Float[Tensor, "batch out_frames out_channel_bins"]:
        has_one_channel = self.conv.in_channels == 1
        on_cpu = frames.device.type == "cpu" and not torch.compiler.is_exporting()
        in_bfloat16 = torch.is_autocast_enabled("cpu") or frames.dtype == torch.bfloat16
        if on_cpu and not has_one_channel and not in_bfloat16:
            return convolve_by_products(frames, self.conv.weight, bins_stride=BINS_STRIDE)
        images = frames.unflatten(2, (self.conv.in_channels, -1)).permute(0, 2, 3, 1).contiguous()
        if on_cpu and has_one_channel and (in_bfloat16 or ON_AVX2):
            return _frames_first(convolve_folded(images, self.conv.weight))
        outputs = self.conv(images)
        return _frames_first(outputs) if on_cpu else outputs.permute(0, 3, 1, 2).flatten(2)


def _frames_first(
    images: Float[Tensor, "batch channels bins frames"],
) -> Float[Tensor, "batch frames channel_bins"]:
    """A permutation, image by image: a CPU transposes matrices block by block, other tensors element by element."""
    return torch.stack([image.t() for image in images.flatten(1, 2).unbind()])


class DeepSpeech2(nn.Module):
    """Two convolutions, recurrent layers with sequence-wise batch norm, an FC layer, log-probabilities.

    At the defaults the layers have 19,616 + 239,168 + 8,507,840 + 6 x 9,296,320 + 3,101,120 parameters, as printed in
    Table 8, and the output layer 1,761 x 29 = 51,069. The table prints 95,054 for it, which no number of output
    symbols gives. Padding never changes a result, nor does the batch size.

    Args:
        vocab_size: Output symbols, the blank included.
        num_bins: Feature bins a frame.
        hidden_size: Units of every recurrent layer and of the FC layer.
        num_recurrent_layers: At least 1.
        cell: ``relu``, the papers' plain clipped cell with one input matrix for both directions; ``gru``; ``lstm``.
        recurrent_norm: Batch norm in the recurrent layers, as in the papers; small corpora learn sooner with
            gated cells and without (docs/experiments.md).
        directions: Of gated cells: a layer's two are summed, as in the papers, or concatenated (compared in
            docs/experiments.md).
        last_fc: Have the FC layer, as Table 8; small corpora learn sooner without.
        bidirectional: Without it the recurrent layers look back only, and a row convolution follows them.
        future_frames: Output frames (of 20 ms) that the row convolution looks ahead.
        dropout: In training, on what enters each recurrent layer but the first and on what follows the last. 0 in the
            papers.
        blank_bias: Added to the output bias of CTC's blank (symbol 0) as torch draws it, in natural-log units. At 0
            some seeds stay long where they hear nothing (docs/experiments.md).
        clip: Upper bound of the clipped ReLU.
        recompute_layers: In training, compute each layer again in the backward pass: less memory, more time.

    Reference: Han et al. 2017 (DSD), Table 8; Amodei et al. 2015 (Deep Speech 2), sections 3.1, 3.2, 3.5 and 3.7. The
    tables do not fix the strides in time (here 2, then 1) nor the padding in time (here half the kernel).
    """

    time_stride = 2
    """Feature frames from one output frame to the next: the first convolution's stride, the second has 1."""

    def __init__(
        self,
        *,
        vocab_size: int = 29,
        num_bins: int = 161,
        hidden_size: int = 1760,
        num_recurrent_layers: int = 7,
        cell: Cell = "relu",
        recurrent_norm: bool = True,
        directions: Directions = "summed",
        last_fc: bool = True,
        bidirectional: bool = True,
        future_frames: int = 20,
        dropout: float = 0.0,
        blank_bias: float = 0.0,
        clip: float = 20.0,
        recompute_layers: bool = False,
    ) -> None:
        super().__init__()
        if num_recurrent_layers < 1:
            raise ValueError(f"num_recurrent_layers must be at least 1, got {num_recurrent_layers}")
        if cell not in get_args(Cell):
            raise ValueError(f"cell must be one of {get_args(Cell)}, got {cell!r}")
        if directions not in get_args(Directions):
            raise ValueError(f"directions must be one of {get_args(Directions)}, got {directions!r}")
        if directions == "concatenated" and (cell == "relu" or not bidirectional):
            raise ValueError(
                "directions can be concatenated of bidirectional gru or lstm cells only: relu cells share their input "
                "matrix and are summed"
            )
        if future_frames < 0:
            raise ValueError(f"future_frames must not be negative, got {future_frames}")
        output_size = hidden_size * (2 if directions == "concatenated" else 1)

        def recurrent(input_size: int) -> nn.Module:
            if cell == "relu":
                return SharedInputRNN(
                    input_size=input_size,
                    hidden_size=hidden_size,
                    bidirectional=bidirectional,
                    batch_norm=recurrent_norm,
                    clip=clip,
                )
            return GatedRNN(
                cell=cell,
                input_size=input_size,
                hidden_size=hidden_size,
                bidirectional=bidirectional,
                batch_norm=recurrent_norm,
                directions=directions,
            )

        self.conv1 = ConvLayer(
            channels=1, num_bins=num_bins, kernel_bins=41, time_stride=self.time_stride, clip=clip
        )
        self.conv2 = ConvLayer(
            channels=CHANNELS, num_bins=self.conv1.out_bins, kernel_bins=21, time_stride=1, clip=clip
        )
        input_sizes = [CHANNELS * self.conv2.out_bins] + [output_size] * (num_recurrent_layers - 1)
        self.recurrent = nn.ModuleList(recurrent(size) for size in input_sizes)
        self.row_conv = (
            None if bidirectional else RowConvolution(hidden_size=hidden_size, future_frames=future_frames)
        )
        self.fc = (
            nn.Sequential(
                FrameLinear(output_size, hidden_size, bias=False), FrameNorm(hidden_size), ClippedReLU(clip)
            )
            if last_fc
            else nn.Identity()
        )
        self.dropout = nn.Dropout(dropout)
        self.output = FrameLinear(hidden_size if last_fc else output_size, vocab_size)
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
        frames = zero_padding(features, num_frames)
        out_num_frames = self.output_frames(num_frames)
        packing = pack_frames(out_num_frames, self.output_frames(features.shape[1]), features.device)
        hidden = self._compute(self.conv1, frames, packing)
        hidden = self._compute(self.conv2, packing.unpack(hidden), packing)
        for index, layer in enumerate(self.recurrent):
            hidden = self._compute(layer, self.dropout(hidden) if index else hidden, packing)
        if self.row_conv is not None:
            hidden = self._compute(self.row_conv, hidden, packing)
        hidden = self._compute(self.fc, self.dropout(hidden))
        log_probs = self.output(hidden).float().log_softmax(dim=-1)
        return packing.unpack(log_probs), out_num_frames
