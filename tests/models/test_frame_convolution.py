import pytest
import torch
from torch.nn import functional as F

from seqdsd.models.frame_convolution import FrameConvolution
from seqdsd.models.packing import FramePacking, zero_padding

BINS, OUTPUTS = 7, 5


def convolution(size: int, stride: int, *, bias: bool = True) -> FrameConvolution:
    return FrameConvolution(BINS, OUTPUTS, size, stride=stride, bias=bias)


def by_torch(layer: FrameConvolution, frames: torch.Tensor, packing: FramePacking) -> torch.Tensor:
    outputs = F.conv1d(frames.transpose(1, 2), layer.weight, layer.bias, layer.stride, layer.padding)
    return packing.pack(outputs.transpose(1, 2))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("size", "stride"), [(11, 2), (11, 1), (3, 3), (1, 1), (5, 4)])
@pytest.mark.parametrize("lengths", [[1], [1, 1], [2, 9, 4], [30, 30], [23, 1], [12, 37, 36, 5]])
def test_it_is_torchs_convolution_of_the_valid_frames(lengths, size, stride, bias):
    layer, num_frames = convolution(size, stride, bias=bias), torch.tensor(lengths)
    frames = zero_padding(torch.randn(len(lengths), max(lengths), BINS), num_frames)
    packing = FramePacking.of((num_frames - 1) // stride + 1, (max(lengths) - 1) // stride + 1, frames.device)
    inputs, other_inputs = (frames.clone().requires_grad_() for _ in range(2))
    parameters = list(layer.parameters())
    outputs, expected = layer(inputs, packing), by_torch(layer, other_inputs, packing)
    torch.testing.assert_close(outputs, expected)
    weighting = torch.randn_like(expected)
    ours = torch.autograd.grad((outputs * weighting).sum(), [*parameters, inputs])
    theirs = torch.autograd.grad((expected * weighting).sum(), [*parameters, other_inputs])
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("size", [1, 11])
def test_frames_may_lie_in_any_order_in_memory(size):
    layer, num_frames = convolution(size, 1), torch.tensor([30, 21])
    frames = zero_padding(torch.randn(2, 30, BINS), num_frames)
    packing = FramePacking.of(num_frames, 30, frames.device)
    turned = frames.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(layer(turned, packing), by_torch(layer, frames, packing))


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="size must be odd, got 4"):
        convolution(4, 1)


def test_in_bfloat16_it_is_torchs_but_for_rounding():
    layer, num_frames = convolution(11, 2), torch.tensor([40, 33])
    frames = zero_padding(torch.randn(2, 40, BINS), num_frames)
    packing = FramePacking.of((num_frames + 1) // 2, 20, frames.device)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = layer(frames, packing)
    assert outputs.dtype == torch.bfloat16
    torch.testing.assert_close(outputs.float(), by_torch(layer, frames, packing), atol=0.03, rtol=0.03)


def test_its_parameters_are_named_and_shaped_as_torchs():
    ours, theirs = convolution(11, 2).state_dict(), torch.nn.Conv1d(BINS, OUTPUTS, 11).state_dict()
    assert {name: one.shape for name, one in ours.items()} == {
        name: one.shape for name, one in theirs.items()
    }
