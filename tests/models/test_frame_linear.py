from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from seqdsd.models.frame_linear import ROWS, FrameLinear, frame_linear


class Products(TorchDispatchMode):
    """Notes the rows of each product's first matrix, or the length that is summed over in a weight's gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.shapes += [tuple(one.shape) for one in args if one.ndim == 2]
        return func(*args, **kwargs or {})


def bfloat16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 5])
@pytest.mark.parametrize("precision", [nullcontext, bfloat16])
def test_it_is_torchs_with_its_gradients(rows, bias, precision):
    ours = FrameLinear(12, 8, bias=bias)
    frames = torch.randn(rows, 12, requires_grad=True)
    others = frames.detach().clone().requires_grad_()
    with precision():
        outputs, expected = ours(frames), F.linear(others, ours.weight, ours.bias)
    assert outputs.dtype == expected.dtype
    torch.testing.assert_close(outputs, expected)
    weighting = torch.randn_like(expected)
    parameters = list(ours.parameters())
    gradients = torch.autograd.grad((outputs * weighting).sum(), [*parameters, frames])
    torch.testing.assert_close(
        gradients, torch.autograd.grad((expected * weighting).sum(), [*parameters, others])
    )


def shapes_of(rows: range, precision: type) -> set[tuple[int, ...]]:
    """Of all products, forward and backward, of batches of so many rows."""
    weight = torch.randn(8, 12, requires_grad=True)
    with Products() as products:
        for count in rows:
            with precision():
                outputs = frame_linear(torch.randn(count, 12, requires_grad=True), weight, None)
            outputs.float().sum().backward()
    return set(products.shapes)


def test_in_bfloat16_batches_of_many_sizes_are_products_of_few():
    rows = range(ROWS + 1, 2 * ROWS + 1)
    assert {size for shape in shapes_of(rows, bfloat16) for size in shape} == {8, 12, 2 * ROWS}
    assert len({size for shape in shapes_of(rows, nullcontext) for size in shape}) > ROWS / 2


def test_double_precision_stays_so_under_autocast():
    layer, frames = FrameLinear(12, 8).double(), torch.randn(5, 12, dtype=torch.float64)
    with bfloat16():
        assert torch.equal(layer(frames), F.linear(frames, layer.weight, layer.bias))
