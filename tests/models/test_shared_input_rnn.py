"""The recurrent layer against its equations in a loop over utterances and frames, and against ``nn.RNN``."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from seqdsd.models import FramePacking, SharedInputRNN

MIXED = [5, 9, 1, 9, 3]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build(*, clip: float = 20.0, batch_norm: bool = False, scale: float = 1.0) -> SharedInputRNN:
    """A layer 4 -> 6 in double precision whose recurrent weights are ``scale`` times orthogonal."""
    layer = SharedInputRNN(input_size=4, hidden_size=6, clip=clip, batch_norm=batch_norm).double()
    with torch.no_grad():
        layer.weight_recurrent.mul_(scale)
    return layer


def utterances(lengths: list[int]) -> list[Tensor]:
    return [torch.randn(length, 4, dtype=torch.double) for length in lengths]


def run(layer: SharedInputRNN, items: list[Tensor]) -> list[Tensor]:
    """The layer on a padded, packed batch; an output an item."""
    padded = nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=math.nan)
    packing = FramePacking.of(torch.tensor([len(item) for item in items]), padded.shape[1], CPU)
    outputs = packing.unpack(layer(packing.pack(padded), packing))
    return [output[: len(item)] for output, item in zip(outputs, items, strict=True)]


def slow_direction(projected: list[Tensor], weight: Tensor, clip: float) -> list[Tensor]:
    """``h[t] = min(max(0, x[t] + W h[t-1]), clip)``, one frame at a time."""
    states: list[Tensor] = []
    for x in projected:
        before = states[-1] if states else torch.zeros_like(x)
        states.append((x + weight @ before).clamp(0, clip))
    return states


def slow_recurrence(projected: Tensor, weight: Tensor, clip: float) -> Tensor:
    """Sum of the states of both directions for one utterance's projected frames."""
    forward = slow_direction(list(projected), weight[0], clip)
    backward = slow_direction(list(projected.flip(0)), weight[1], clip)[::-1]
    return torch.stack(forward) + torch.stack(backward)


def slow_layer(layer: SharedInputRNN, items: list[Tensor]) -> list[Tensor]:
    """The layer's equations, an utterance at a time; batch norm by its formula over all their frames."""
    projected = [item @ layer.input.weight.T for item in items]
    if isinstance(layer.norm, nn.BatchNorm1d):
        frames = torch.cat(projected)
        mean, variance = frames.mean(0), frames.var(0, unbiased=False)
        scale = layer.norm.weight / (variance + layer.norm.eps).sqrt()
        projected = [(one - mean) * scale + layer.norm.bias for one in projected]
    else:
        projected = [one + layer.input.bias for one in projected]
    return [slow_recurrence(one, layer.weight_recurrent, layer.clip) for one in projected]


def gradients(layer: nn.Module, items: list[Tensor], outputs: list[Tensor]) -> list[Tensor]:
    """Of a random weighting of the outputs, by the inputs and by the layer's parameters."""
    generator = torch.Generator().manual_seed(1)
    weighted = [(output * torch.randn(output.shape, generator=generator)).sum() for output in outputs]
    return list(torch.autograd.grad(sum(weighted), [*items, *layer.parameters()]))


@pytest.mark.parametrize(
    ("lengths", "batch_norm"),
    [
        ([1], False),
        *((lengths, norm) for lengths in (MIXED, [1, 1], [7], [4, 4, 4]) for norm in (False, True)),
    ],
)
@pytest.mark.parametrize("clip", [20.0, 0.7])
def test_against_the_equations_frame_by_frame(lengths, batch_norm, clip):
    layer = build(clip=clip, batch_norm=batch_norm, scale=1.3)
    items = [item.requires_grad_() for item in utterances(lengths)]
    ours, slow = run(layer, items), slow_layer(layer, items)
    torch.testing.assert_close(ours, slow)
    torch.testing.assert_close(gradients(layer, items, ours), gradients(layer, items, slow))


def test_the_clip_and_the_zero_of_the_test_above_do_act():
    states = torch.cat(slow_layer(build(clip=0.7, scale=1.3), utterances(MIXED)))
    assert states.max() == 1.4  # both directions at their clip
    assert (states == 0).any()


@pytest.mark.parametrize("clip", [20.0, 0.7])
def test_gradients_against_finite_differences(clip):
    layer = build(clip=clip, scale=1.3)
    packing = FramePacking.of(torch.tensor([4, 1, 3]), 4, CPU)
    frames = torch.randn(8, 4, dtype=torch.double, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def function(frames: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (frames, packing))

    assert torch.autograd.gradcheck(function, (frames, *layer.parameters()))


def tied_torch_rnn(layer: SharedInputRNN) -> nn.RNN:
    """``nn.RNN`` of the same weights: the input matrix and the bias copied into both directions."""
    rnn = nn.RNN(4, 6, nonlinearity="relu", bidirectional=True, dtype=torch.double)
    with torch.no_grad():
        for suffix, recurrent in zip(("l0", "l0_reverse"), layer.weight_recurrent, strict=True):
            rnn.get_parameter(f"weight_ih_{suffix}").copy_(layer.input.weight)
            rnn.get_parameter(f"bias_ih_{suffix}").copy_(layer.input.bias)
            rnn.get_parameter(f"weight_hh_{suffix}").copy_(recurrent)
            rnn.get_parameter(f"bias_hh_{suffix}").zero_()
    return rnn


def test_against_torchs_rnn_where_nothing_is_clipped():
    layer = build(clip=math.inf)
    rnn = tied_torch_rnn(layer)
    items = utterances(MIXED)
    ours = run(layer, items)
    both = nn.utils.rnn.unpack_sequence(rnn(pack_sequence(items, enforce_sorted=False))[0])
    theirs = [one[:, :6] + one[:, 6:] for one in both]
    torch.testing.assert_close(ours, theirs)
    torch.cat(ours).square().sum().backward()
    torch.cat(theirs).square().sum().backward()
    for name, gradient in {
        "weight_ih": layer.input.weight.grad,
        "bias_ih": layer.input.bias.grad,
    }.items():
        tied = rnn.get_parameter(f"{name}_l0").grad + rnn.get_parameter(f"{name}_l0_reverse").grad
        torch.testing.assert_close(gradient, tied)
    hidden = torch.stack([rnn.weight_hh_l0.grad, rnn.weight_hh_l0_reverse.grad])
    torch.testing.assert_close(layer.weight_recurrent.grad, hidden)


def test_an_utterance_does_not_depend_on_its_batch():
    layer, items = build(), utterances(MIXED)
    alone = [run(layer, [item])[0] for item in items]
    torch.testing.assert_close(run(layer, items), alone)
    torch.testing.assert_close(run(layer, items[::-1])[::-1], alone)


def test_recurrent_weights_start_orthogonal():
    for weight in build().weight_recurrent:
        torch.testing.assert_close(weight @ weight.T, torch.eye(6, dtype=torch.double), atol=1e-6, rtol=0)


def test_bf16_autocast_stays_near():
    layer = build(scale=0.5).float()
    packing = FramePacking.of(torch.tensor([9, 4]), 9, CPU)
    frames = torch.randn(13, 4)
    exact = layer(frames, packing)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = layer(frames, packing)
    torch.testing.assert_close(rounded.float(), exact, atol=0.05, rtol=0.05)
    rounded.float().sum().backward()
    assert layer.weight_recurrent.grad.dtype == torch.float32


def test_under_autocast_the_recurrence_itself_is_exact():
    """The projection is rounded to bfloat16; from there on each frame's error would go into all later ones."""
    layer = build(scale=0.9).float()
    packing = FramePacking.of(torch.tensor([50, 30]), 50, CPU)
    frames = torch.randn(80, 4)
    with torch.autocast("cpu", torch.bfloat16):
        projected = layer.input(frames)
        actual = layer(frames, packing)
    assert projected.dtype == torch.bfloat16 and actual.dtype == torch.float32
    items = [packing.unpack(projected.float())[item, :length] for item, length in enumerate([50, 30])]
    expected = [slow_recurrence(one, layer.weight_recurrent, layer.clip) for one in items]
    unpacked = packing.unpack(actual)
    torch.testing.assert_close([unpacked[0], unpacked[1, :30]], expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_on_the_gpu():
    layer, items = build(clip=0.7, scale=1.3), utterances(MIXED)
    frames = torch.cat(items)
    lengths = torch.tensor(MIXED)
    expected = layer(frames, FramePacking.of(lengths, 9, CPU))
    expected.sum().backward()
    gradient = layer.weight_recurrent.grad
    layer.zero_grad()
    packing = FramePacking.of(lengths, 9, torch.device("cuda"))
    actual = layer.cuda()(frames.cuda(), packing)
    actual.sum().backward()
    torch.testing.assert_close(actual.cpu(), expected)
    torch.testing.assert_close(layer.weight_recurrent.grad.cpu(), gradient)
