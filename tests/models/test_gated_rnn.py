"""The gated layers against torch's own on packed sequences, and against finite differences."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from seqdsd.models import FramePacking, GatedRNN
from seqdsd.models.gated_rnn import Directions

MIXED = [5, 9, 1, 9, 3]
CPU = torch.device("cpu")

pytestmark = pytest.mark.parametrize("cell", ["gru", "lstm"])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build(
    cell: str, *, bidirectional: bool = True, directions: Directions = "summed", scale: float = 2.0
) -> GatedRNN:
    """A layer 4 -> 6 in double precision whose weights and biases are ``scale`` times torch's."""
    sizes = {"input_size": 4, "hidden_size": 6}
    layer = GatedRNN(cell=cell, **sizes, bidirectional=bidirectional, directions=directions).double()
    with torch.no_grad():
        for weight in layer.parameters():
            weight.mul_(scale)
    return layer


def utterances(lengths: list[int]) -> list[Tensor]:
    return [torch.randn(length, 4, dtype=torch.double, requires_grad=True) for length in lengths]


def run(layer: GatedRNN, items: list[Tensor]) -> list[Tensor]:
    """The layer on a padded, packed batch; an output an item."""
    padded = nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=math.nan)
    packing = FramePacking.of(torch.tensor([len(item) for item in items]), padded.shape[1], CPU)
    outputs = packing.unpack(layer(packing.pack(padded), packing))
    return [output[: len(item)] for output, item in zip(outputs, items, strict=True)]


def torchs(layer: GatedRNN, items: list[Tensor]) -> list[Tensor]:
    """The same by ``nn.GRU`` or ``nn.LSTM``."""
    outputs = unpack_sequence(layer.rnn(pack_sequence(items, enforce_sorted=False))[0])
    return [one.unflatten(1, (-1, 6)).sum(1) if layer.directions == "summed" else one for one in outputs]


def gradients(layer: GatedRNN, items: list[Tensor], outputs: list[Tensor]) -> dict[str, Tensor]:
    """Of a random weighting of the outputs, by the inputs and by each parameter."""
    generator = torch.Generator().manual_seed(1)
    weighted = [(output * torch.randn(output.shape, generator=generator)).sum() for output in outputs]
    names = [*(f"input {index}" for index in range(len(items))), *dict(layer.named_parameters())]
    grads = torch.autograd.grad(sum(weighted), [*items, *layer.parameters()])
    return dict(zip(names, grads, strict=True))


@pytest.mark.parametrize("lengths", [MIXED, [1], [1, 1], [7], [4, 4, 4], [2, 40, 11]])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("directions", get_args(Directions))
def test_against_torchs_cells(cell, lengths, bidirectional, directions):
    layer = build(cell, bidirectional=bidirectional, directions=directions)
    items = utterances(lengths)
    ours, theirs = run(layer, items), torchs(layer, items)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)
    actual, expected = gradients(layer, items, ours), gradients(layer, items, theirs)
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-10)


def test_where_gates_are_shut_or_wide_open(cell):
    layer, items = build(cell, scale=60.0), utterances(MIXED)
    ours, theirs = run(layer, items), torchs(layer, items)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)
    actual, expected = gradients(layer, items, ours), gradients(layer, items, theirs)
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-7)  # of 1e9, what is left of great sums


def test_the_names_of_the_weights_are_torchs(cell):
    """Of which checkpoints are made."""
    rnn = (nn.GRU if cell == "gru" else nn.LSTM)(4, 6, bidirectional=True)
    expected = {f"rnn.{name}": weight.shape for name, weight in rnn.state_dict().items()}
    assert {name: weight.shape for name, weight in build(cell).state_dict().items()} == expected


@pytest.mark.parametrize(
    ("bidirectional", "directions"), [(True, "summed"), (True, "concatenated"), (False, "summed")]
)
def test_gradients_against_finite_differences(cell, bidirectional, directions):
    layer = build(cell, bidirectional=bidirectional, directions=directions)
    packing = FramePacking.of(torch.tensor([4, 1, 3]), 4, CPU)
    frames = torch.randn(8, 4, dtype=torch.double, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def function(frames: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (frames, packing))

    assert torch.autograd.gradcheck(function, (frames, *layer.parameters()))


def second_order(outputs: list[Tensor], weight: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(torch.cat(outputs).square().sum(), weight, create_graph=True)
    weight.grad = None
    grad.square().sum().backward()
    return weight.grad.clone()


def test_gradients_of_gradients_are_right_or_refused(cell):
    layer, items = build(cell, scale=1.0), utterances(MIXED)
    if cell == "gru":
        with pytest.raises(RuntimeError, match="once_differentiable"):
            second_order(run(layer, items), layer.rnn.weight_hh_l0)
    else:
        expected = second_order(torchs(layer, items), layer.rnn.weight_hh_l0)
        layer, items = layer.float(), [item.float() for item in items]
        actual = second_order(run(layer, items), layer.rnn.weight_hh_l0)
        torch.testing.assert_close(actual, expected.float(), atol=1e-4, rtol=1e-4)


def test_an_utterance_does_not_depend_on_its_batch(cell):
    layer, items = build(cell), utterances(MIXED)
    alone = [run(layer, [item])[0] for item in items]
    torch.testing.assert_close(run(layer, items), alone)
    torch.testing.assert_close(run(layer, items[::-1])[::-1], alone)


@pytest.mark.parametrize("lengths", [[60, 41], MIXED, [1]])
@pytest.mark.parametrize("training", [True, False])
def test_single_precision_is_as_near_to_double_as_torchs(cell, lengths, training):
    """For LSTMs torch has an operator of its own in it."""
    layer, items = build(cell).train(training), utterances(lengths)
    exact = gradients(layer, items, torchs(layer, items))
    layer, items = layer.float(), [item.detach().float().requires_grad_() for item in items]
    for way in (run, torchs):
        actual = gradients(layer, items, way(layer, items))
        for name, expected in exact.items():
            assert actual[name].dtype == torch.float32
            assert (actual[name] - expected).abs().max() < 1e-5 * max(1, float(expected.abs().max())), name


def test_weights_and_frames_are_left_as_they_were(cell):
    layer, packing = build(cell), FramePacking.of(torch.tensor([4, 1, 3]), 4, CPU)
    frames = torch.randn(8, 4, dtype=torch.double)
    before = {"frames": frames.clone(), **{name: one.clone() for name, one in layer.state_dict().items()}}
    outputs = layer(frames, packing)
    outputs.sum().backward()
    torch.testing.assert_close({"frames": frames, **layer.state_dict()}, before, atol=0, rtol=0)
    torch.testing.assert_close(layer(frames, packing), outputs, atol=0, rtol=0)


def test_bf16_autocast_stays_near(cell):
    layer, items = build(cell, scale=1.0).float(), [item.float() for item in utterances(MIXED)]
    exact = run(layer, items)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = run(layer, items)
    assert rounded[0].dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.02, rtol=0.02)
    torch.cat(rounded).sum().backward()
    assert all(weight.grad.dtype == torch.float32 for weight in layer.parameters())


def test_under_autocast_the_recurrence_itself_is_exact(cell):
    """The inputs' projection is rounded to bfloat16; from there on each frame's error would go into all later ones."""
    layer = build(cell).float()
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if "_hh_" not in name:  # exact in bfloat16, and so is a sum of few of them
                weight.copy_(weight.mul(4).round() / 4)
            elif "bias" in name:
                weight[:12].zero_() if cell == "gru" else weight.zero_()
    items = [torch.randint(-1, 2, (length, 4)).float() for length in (50, 30)]
    with torch.autocast("cpu", torch.bfloat16):
        actual = run(layer, items)
    torch.testing.assert_close(actual, torchs(layer, items))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_on_the_gpu(cell):
    layer, lengths = build(cell), torch.tensor(MIXED)
    frames = torch.randn(sum(MIXED), 4, dtype=torch.double)
    expected = layer(frames, FramePacking.of(lengths, 9, CPU))
    expected.sum().backward()
    gradient = layer.rnn.weight_hh_l0.grad
    layer.zero_grad()
    actual = layer.cuda()(frames.cuda(), FramePacking.of(lengths, 9, torch.device("cuda")))
    actual.sum().backward()
    torch.testing.assert_close(actual.cpu(), expected)
    torch.testing.assert_close(layer.rnn.weight_hh_l0.grad.cpu(), gradient)
