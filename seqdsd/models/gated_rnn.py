"""Recurrent layers of gated cells on packed frames: torch's GRU and LSTM, where they fit DeepSpeech 2."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from seqdsd.models.frame_norm import FrameNorm
from seqdsd.models.packing import FramePacking, PaddedFrames
from seqdsd.models.recurrence_operators import gated_rnn

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}


class GatedRNN(nn.Module):
    """A layer of GRU or LSTM cells whose directions are summed.

    Reference: Amodei et al. 2015 (Deep Speech 2), sections 3.1 and 3.2. Departures: each direction has its own input
    matrix, and the norm acts on the layer's inputs, not on their projection, since torch's cells do both in one.
    """

    def __init__(
        self,
        *,
        cell: Literal["gru", "lstm"],
        input_size: int,
        hidden_size: int,
        bidirectional: bool = True,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.norm = FrameNorm(input_size) if batch_norm else nn.Identity()
        self.cell = cell
        self.rnn = CELLS[cell](input_size, hidden_size, bidirectional=bidirectional)

    def forward(
        self, inputs: Float[Tensor, "valid features"], packing: FramePacking | PaddedFrames
    ) -> Float[Tensor, "valid hidden"]:
        """Sum of the directions' outputs for each packed frame; each item starts from 0 at either end."""
        if isinstance(packing, PaddedFrames):
            return self._exported(inputs, packing)
        frames = PackedSequence(self.norm(inputs), torch.tensor(packing.active))
        outputs = self.rnn(frames)[0].data
        return sum(outputs.chunk(2, dim=-1)) if self.rnn.bidirectional else outputs

    def _exported(
        self, inputs: Float[Tensor, "rows features"], packing: PaddedFrames
    ) -> Float[Tensor, "rows hidden"]:
        """The same by one operator; in evaluation mode."""
        each = [self.rnn.all_weights[direction] for direction in range(1 + self.rnn.bidirectional)]
        weight, recurrent, of_input, of_state = (torch.stack(one) for one in zip(*each, strict=True))
        bias = torch.stack((of_input, of_state), dim=1)
        frames = packing.padded(self.norm(inputs))
        return packing.pack(gated_rnn(frames, packing.num_frames, weight, recurrent, bias, self.cell))
