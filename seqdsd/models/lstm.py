"""NeuralTalk's LSTM: one bias, one matrix for input and state, and by default no tanh on the cell's way out.

``nn.LSTM`` cannot leave out that tanh. Where it is asked for, torch's fast LSTM does the work; otherwise a scan of our
own, whose backward pass forms the weight gradients in one matmul each. Both directions and several layers are left out.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seqdsd.models.recurrence_operators import neuraltalk_lstm

State = tuple[Tensor, Tensor]
"""Hidden and cell state, each [batch, hidden]."""


class LSTM(nn.Module):
    """``C = i * g + f * C``; ``H = o * C``, or ``o * tanh(C)`` with ``tanh_output``.

    ``weight`` [4 hidden, input + hidden] and ``bias`` [4 hidden] hold the gates in the order i, f, o, g, as NeuralTalk
    does; pruning judges the weight as the one tensor that it is there.

    Reference: karpathy/neuraltalk, imagernn/lstm_generator.py; without the output's tanh as in Sutskever et al. 2014
    (its comment's source). No departure; the original's gradients are those of ``_Scan``.
    """

    def __init__(self, *, input_size: int, hidden_size: int, tanh_output: bool = False) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.tanh_output = tanh_output
        self.weight = nn.Parameter(torch.empty(4 * hidden_size, input_size + hidden_size))
        self.bias = nn.Parameter(torch.empty(4 * hidden_size))
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -0.1, 0.1)

    def forward(self, inputs: Float[Tensor, "time batch input"]) -> Float[Tensor, "time batch hidden"]:
        """Hidden states after each input, beginning from states of 0."""
        if torch.compiler.is_exporting():
            return neuraltalk_lstm(inputs, self.weight, self.bias, self.tanh_output)
        if self.tanh_output:
            return self._by_torch(inputs)
        input_weight, recurrent_weight = self.weight.split((self.input_size, self.hidden_size), dim=1)
        projected = nn.functional.linear(inputs, input_weight, self.bias)
        return _Scan.apply(projected, recurrent_weight.to(projected.dtype))

    def step(self, inputs: Float[Tensor, "batch input"], state: State | None) -> State:
        """The state after one more input; None stands for states of 0."""
        if state is None:
            zeros = inputs.new_zeros(inputs.shape[0], self.hidden_size)
            state = (zeros, zeros)
        hidden, cell = state
        gates = nn.functional.linear(torch.cat((inputs, hidden), dim=1), self.weight, self.bias)
        i, f, o, g = gates.chunk(4, dim=1)
        cell = i.sigmoid() * g.tanh() + f.sigmoid() * cell
        return o.sigmoid() * (cell.tanh() if self.tanh_output else cell), cell

    def _by_torch(self, inputs: Float[Tensor, "time batch input"]) -> Float[Tensor, "time batch hidden"]:
        weights = self._in_torchs_order()
        inputs = inputs.to(self.weight.dtype)
        zeros = inputs.new_zeros(1, inputs.shape[1], self.hidden_size)
        # cuDNN must be told of training wherever gradients are wanted, and autocast would run it in float16.
        with torch.autocast(inputs.device.type, enabled=False):
            outputs, _, _ = torch.lstm(
                inputs, (zeros, zeros), weights, True, 1, 0.0, torch.is_grad_enabled(), False, False
            )
        return outputs

    def _in_torchs_order(self) -> list[Tensor]:
        """Input and recurrent weights and two biases: gates as i, f, g, o, and all in one piece, for cuDNN."""
        i, f, o, g = self.weight.chunk(4)
        weight = torch.cat((i, f, g, o))
        i, f, o, g = self.bias.chunk(4)
        bias = torch.cat((i, f, g, o))
        parts = [weight[:, : self.input_size], weight[:, self.input_size :], bias, torch.zeros_like(bias)]
        pieces = torch.cat([part.flatten() for part in parts]).split([part.numel() for part in parts])
        return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]


class _Scan(torch.autograd.Function):
    """The recurrence without the output's tanh, over inputs that are projected already."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, weight: Tensor) -> Tensor:
        time, batch, width = projected.shape
        hidden_size = width // 4
        gates = projected.clone()
        cells = projected.new_empty(time, batch, hidden_size)
        hidden = torch.empty_like(cells)
        weight_t = weight.t().contiguous()
        for t in range(time):
            if t > 0:
                gates[t].addmm_(hidden[t - 1], weight_t)
            gates[t, :, : 3 * hidden_size].sigmoid_()
            gates[t, :, 3 * hidden_size :].tanh_()
            i, f, o, g = gates[t].chunk(4, dim=1)
            torch.mul(i, g, out=cells[t])
            if t > 0:
                cells[t].addcmul_(f, cells[t - 1])
            torch.mul(o, cells[t], out=hidden[t])
        ctx.save_for_backward(gates, cells, hidden, weight)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_hidden: Tensor) -> tuple[Tensor, Tensor]:
        gates, cells, hidden, weight = ctx.saved_tensors
        time, batch, width = gates.shape
        grad_gates = torch.empty_like(gates)
        grad_cell = torch.zeros_like(cells[0])
        for t in range(time - 1, -1, -1):
            i, f, o, g = gates[t].chunk(4, dim=1)
            grad_i, grad_f, grad_o, grad_g = grad_gates[t].chunk(4, dim=1)
            grad_out = grad_hidden[t]
            if t < time - 1:
                grad_out = torch.addmm(grad_out, grad_gates[t + 1], weight)
            grad_cell.addcmul_(grad_out, o)
            torch.mul(grad_cell, g, out=grad_i)
            if t > 0:
                torch.mul(grad_cell, cells[t - 1], out=grad_f)
            else:
                grad_f.zero_()
            torch.mul(grad_out, cells[t], out=grad_o)
            torch.mul(grad_cell, i, out=grad_g)
            _through_the_nonlinearities(grad_gates[t], gates[t])
            grad_cell.mul_(f)
        grad_weight = grad_gates[1:].reshape(-1, width).t() @ hidden[:-1].reshape(-1, width // 4)
        return grad_gates, grad_weight


def _through_the_nonlinearities(grad: Tensor, gates: Tensor) -> None:
    """Turn gradients of the gates' values into those before sigmoid and tanh, in place."""
    width = 3 * gates.shape[1] // 4
    sigmoids, tanhs = gates[:, :width], gates[:, width:]
    grad[:, :width].mul_(sigmoids - sigmoids * sigmoids)
    grad[:, width:].mul_(1 - tanhs * tanhs)
