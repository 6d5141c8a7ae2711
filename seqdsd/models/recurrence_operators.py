"""Recurrences as single operators, for graphs that are exported: their length depends on the data, a graph's must not.

``torch.export`` keeps them as they are (whoever loads such a program imports ``seqdsd.models`` first); ONNX has
operators of its own that do the same (``seqdsd.inference.export``).
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


@torch.library.custom_op("seqdsd::clipped_rnn", mutates_args=())
def clipped_rnn(
    inputs: Tensor, num_frames: Tensor, weight: Tensor, bias: Tensor, recurrent: Tensor, clip: float
) -> Tensor:
    """Sum over the directions of ``h[t] = clamp(W x[t] + b + R h[t-1], 0, clip)``, each item within its own length.

    Args:
        inputs: [batch, frames, features].
        num_frames: [batch], each in [1, frames].
        weight: W of all directions [hidden, features].
        bias: b of all directions [hidden].
        recurrent: R by direction [1 or 2, hidden, hidden]: forward, backward.
        clip: Upper bound of the states.

    Returns:
        [batch, frames, hidden], 0 past an item's end.
    """
    projected = F.linear(inputs, weight, bias)
    frames = torch.arange(inputs.shape[1], device=inputs.device)
    is_valid = (frames < num_frames.unsqueeze(1)).unsqueeze(-1)
    total = torch.zeros_like(projected)
    for direction, matrix in enumerate(recurrent):
        state = torch.zeros_like(projected[:, 0])
        for t in frames.tolist() if direction == 0 else frames.flip(0).tolist():
            after = torch.addmm(projected[:, t], state, matrix.t()).clamp(0, clip)
            state = torch.where(is_valid[:, t], after, 0)  # backward begins from 0 at each item's last frame
            total[:, t] += state
    return total


@clipped_rnn.register_fake
def _(
    inputs: Tensor, num_frames: Tensor, weight: Tensor, bias: Tensor, recurrent: Tensor, clip: float
) -> Tensor:
    return inputs.new_empty(inputs.shape[0], inputs.shape[1], weight.shape[0])


@torch.library.custom_op("seqdsd::neuraltalk_lstm", mutates_args=())
def neuraltalk_lstm(inputs: Tensor, weight: Tensor, bias: Tensor, tanh_output: bool) -> Tensor:
    """The hidden states of ``seqdsd.models.LSTM``, beginning from states of 0.

    Args:
        inputs: [time, batch, input].
        weight: [4 hidden, input + hidden], gates in the order i, f, o, g.
        bias: [4 hidden].
        tanh_output: Whether the cell goes through tanh on its way out.

    Returns:
        [time, batch, hidden].
    """
    hidden = inputs.new_zeros(inputs.shape[1], len(bias) // 4)
    cell, outputs = hidden, []
    for one in inputs:
        i, f, o, g = F.linear(torch.cat((one, hidden), dim=1), weight, bias).chunk(4, dim=1)
        cell = i.sigmoid() * g.tanh() + f.sigmoid() * cell
        hidden = o.sigmoid() * (cell.tanh() if tanh_output else cell)
        outputs.append(hidden)
    return torch.stack(outputs)


@neuraltalk_lstm.register_fake
def _(inputs: Tensor, weight: Tensor, bias: Tensor, tanh_output: bool) -> Tensor:
    return inputs.new_empty(inputs.shape[0], inputs.shape[1], weight.shape[0] // 4)


@torch.library.custom_op("seqdsd::gated_states", mutates_args=())
def gated_states(
    inputs: Tensor, num_frames: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor, cell: str
) -> Tensor:
    """The outputs of ``torch.nn.GRU`` or ``LSTM``, the directions side by side, each item within its own length.

    Args:
        inputs: [batch, frames, features].
        num_frames: [batch], each in [1, frames].
        weight: By direction, forward and backward, torch's ``weight_ih_l0`` [1 or 2, gates hidden, features].
        recurrent: ``weight_hh_l0`` [1 or 2, gates hidden, hidden].
        bias: ``bias_ih_l0`` and ``bias_hh_l0`` [1 or 2, 2, gates hidden].
        cell: ``gru`` or ``lstm``.

    Returns:
        [batch, frames, 1 or 2 hidden], 0 past an item's end.
    """
    directions, _, hidden = recurrent.shape
    packed = pack_padded_sequence(inputs, num_frames.cpu(), batch_first=True, enforce_sorted=False)
    state = inputs.new_zeros(directions, len(inputs), hidden)
    parameters = [one for of in zip(weight, recurrent, bias[:, 0], bias[:, 1], strict=True) for one in of]
    options = (parameters, True, 1, 0.0, False, directions == 2)  # biases, layers, dropout, training
    if cell == "gru":
        outputs = torch.gru(packed.data, packed.batch_sizes, state, *options)[0]
    else:
        outputs = torch.lstm(packed.data, packed.batch_sizes, (state, state), *options)[0]
    states = packed._replace(data=outputs)
    return pad_packed_sequence(states, batch_first=True, total_length=inputs.shape[1])[0]


@gated_states.register_fake
def _(
    inputs: Tensor, num_frames: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor, cell: str
) -> Tensor:
    directions, _, hidden = recurrent.shape
    return inputs.new_empty(inputs.shape[0], inputs.shape[1], directions * hidden)
