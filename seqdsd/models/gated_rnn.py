"""Recurrent layers of gated cells on packed frames: GRU and LSTM as torch has them, where they fit DeepSpeech 2.

On a CPU torch takes a packed batch's frames by slices, a step at a time, and the backward pass of each slice fills a
tensor of all frames, so that its time grows with their square. Therefore GRUs are scanned here as in
``shared_input_rnn.py``, and LSTMs work on padded frames, for which torch has a fast operator; for GRUs it has none.
"""

from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from seqdsd.models.frame_linear import frame_linear
from seqdsd.models.frame_norm import FrameNorm
from seqdsd.models.packing import FramePacking, PaddedFrames
from seqdsd.models.recurrence_operators import gated_states

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}

Directions = Literal["summed", "concatenated"]
"""What becomes of a layer's two directions."""


class _GRUScan(torch.autograd.Function):
    """States of gated recurrent units, those of a frame's directions side by side.

    Reset r = sigmoid(x_r + R_r h), update z = sigmoid(x_z + R_z h), candidate n = tanh(x_n + r (R_n h + b)), and
    the next state is n + z (h - n). Each x is an input's projection with the other biases.

    Reference: Cho et al. 2014, section 2.3, as torch writes it: the reset gate multiplies the candidate's product
    with its bias, not the state before it.
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, weight: Tensor, bias: Tensor, packing: FramePacking) -> Tensor:
        blocks, hidden = packing.time_blocks(len(weight)), weight.shape[2]
        rows = projected.reshape(blocks.positions.numel(), -1)  # a row's directions side by side
        gates = torch.empty_like(rows).index_copy_(0, blocks.positions.t().flatten(), rows)
        candidates = gates[:, 2 * hidden :].clone(memory_format=torch.contiguous_format)
        gates.unflatten(1, (3, hidden))[blocks.positions, 2] = bias.unsqueeze(1)
        states = torch.empty_like(candidates)
        weight_t = weight.transpose(1, 2).contiguous()
        before = states.new_zeros(len(weight), packing.active[0], hidden)
        for gate, n, now in zip(*map(blocks.split, (gates, candidates, states)), strict=True):
            before = before[:, : now.shape[1]]
            gate.baddbmm_(before, weight_t)
            gate[..., : 2 * hidden].sigmoid_()
            r, z, product = gate.chunk(3, dim=2)
            n.addcmul_(r, product).tanh_()
            before = torch.lerp(n, before, z, out=now)
        ctx.save_for_backward(gates, candidates, states, weight)
        ctx.packing = packing
        return blocks.side_by_side(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_states: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        gates, n, states, weight = ctx.saved_tensors
        blocks = ctx.packing.time_blocks(len(weight))
        r, z, product = gates.chunk(3, dim=1)
        by_candidate = (1 - z) * (1 - n * n)
        by_product = by_candidate * r
        # First what does not depend on later steps: the factors of a state's gradient in those of its gates. z (h - n)
        # is the next state less n.
        deltas = torch.cat((by_product * product * (1 - r), (states - n) * (1 - z), by_product), dim=1)
        grads = torch.empty_like(n)
        grads.index_copy_(0, blocks.positions.t().flatten(), grad_states.reshape_as(n))
        steps = [reversed(blocks.split(one)) for one in (grads, deltas, z)]
        later = None
        for grad, delta, update in zip(*steps, strict=True):
            if later is not None:
                later_grad, later_delta, later_update = later
                carried = grad[:, : later_grad.shape[1]]
                carried.addcmul_(later_grad, later_update).baddbmm_(later_delta, weight)
            delta.view(*grad.shape[:2], 3, -1).mul_(grad.unsqueeze(2))
            later = grad, delta, update
        # Backward runs outside autocast, so that this product too is in the states' precision.
        after, before = blocks.pairs(deltas, states)
        grad_weight = after.transpose(1, 2) @ before
        of_input = deltas[:, 2 * n.shape[1] :]
        grad_bias = of_input[blocks.positions].sum(1)
        torch.mul(grads, by_candidate, out=of_input)
        grad_rows = deltas.index_select(0, blocks.positions.t().flatten())
        return grad_rows.view(len(grad_states), -1), grad_weight, grad_bias, None


class GatedRNN(nn.Module):
    """A layer of GRU or LSTM cells whose directions are summed, or concatenated.

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
        directions: Directions = "summed",
    ) -> None:
        super().__init__()
        self.directions = directions
        self.norm = FrameNorm(input_size) if batch_norm else nn.Identity()
        self.cell = cell
        self.rnn = CELLS[cell](input_size, hidden_size, bidirectional=bidirectional)

    def forward(
        self, inputs: Float[Tensor, "valid features"], packing: FramePacking | PaddedFrames
    ) -> Float[Tensor, "valid output"]:
        """The directions' outputs for each packed frame; each item starts from 0 at either end."""
        states = self._states(inputs, packing)
        if self.directions == "concatenated" or not self.rnn.bidirectional:
            return states
        forward, backward = states.chunk(2, dim=-1)
        return forward + backward

    def _states(
        self, inputs: Float[Tensor, "valid features"], packing: FramePacking | PaddedFrames
    ) -> Float[Tensor, "valid directions_hidden"]:
        """Each frame's, the directions side by side."""
        if isinstance(packing, PaddedFrames):
            return self._exported(inputs, packing)
        frames = self.norm(inputs)
        if frames.device.type == "cpu":
            # Under autocast too in the weights' precision, as in ``SharedInputRNN``.
            return {"gru": self._scanned_gru, "lstm": self._padded_lstm}[self.cell](frames, packing)
        return self.rnn(PackedSequence(frames, torch.tensor(packing.active)))[0].data

    def _scanned_gru(
        self, inputs: Float[Tensor, "valid features"], packing: FramePacking
    ) -> Float[Tensor, "valid directions_hidden"]:
        weight, recurrent, of_input, of_state = self._weights()
        of_gates, of_product = of_state.split([2 * self.rnn.hidden_size, self.rnn.hidden_size], dim=1)
        bias = of_input + F.pad(of_gates, (0, self.rnn.hidden_size))
        projected = frame_linear(inputs, weight.flatten(0, 1), bias.flatten())
        return _GRUScan.apply(projected.to(recurrent.dtype), recurrent, of_product, packing)

    def _padded_lstm(
        self, inputs: Float[Tensor, "valid features"], packing: FramePacking
    ) -> Float[Tensor, "valid directions_hidden"]:
        """Each direction begins with an item's first or last frame, so that what follows its other end is never read.

        Reference: Hochreiter and Schmidhuber 1997, with forget gates, as torch writes it.
        """
        mirrored = replace(packing, rows=packing.rows[packing.reverse])
        outputs = []
        with torch.autocast("cpu", enabled=False):
            for weights, way in zip(self.rnn.all_weights, (packing, mirrored), strict=False):
                padded = way.unpack(inputs.to(weights[0].dtype))
                state = padded.new_zeros(1, packing.batch, self.rnn.hidden_size)
                # biases, layers, dropout, training, bidirectional, batch first
                options = (True, 1, 0.0, self.training, False, True)
                outputs.append(way.pack(torch.lstm(padded, (state, state), weights, *options)[0]))
        return torch.cat(outputs, dim=-1)

    def _exported(
        self, inputs: Float[Tensor, "rows features"], packing: PaddedFrames
    ) -> Float[Tensor, "rows directions_hidden"]:
        """The same by one operator; in evaluation mode."""
        weight, recurrent, of_input, of_state = self._weights()
        bias = torch.stack((of_input, of_state), dim=1)
        frames = packing.padded(self.norm(inputs))
        return packing.pack(gated_states(frames, packing.num_frames, weight, recurrent, bias, self.cell))

    def _weights(self) -> tuple[Tensor, ...]:
        """Torch's ``weight_ih``, ``weight_hh``, ``bias_ih`` and ``bias_hh``, each by direction."""
        each = [self.rnn.all_weights[direction] for direction in range(1 + self.rnn.bidirectional)]
        return tuple(torch.stack(one) for one in zip(*each, strict=True))
