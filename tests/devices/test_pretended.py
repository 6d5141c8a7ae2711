"""The pretended device itself: what must not pass is an error that names the line."""

from pathlib import Path

import pytest
import torch
from pretended import CUDA, DeviceMixUp, HostWaits, PretendedCuda, pretended_fabric
from torch import nn

from seqdsd.engine import NesterovSettings
from seqdsd.engine.loop import LossMeter, train_epoch
from seqdsd.sparsity import MaskSet, Rule, resolve

HERE = Path(__file__)


class Wrong(nn.Module):
    """A layer with a fault."""

    def __init__(self, fault=lambda hidden: hidden):
        super().__init__()
        self.fc, self.fault = nn.Linear(4, 3), fault

    def forward(self, inputs):
        return self.fault(self.fc(inputs))


def line_of(text: str) -> str:
    """Where this file has a text first."""
    number = next(n for n, line in enumerate(HERE.read_text().splitlines(), 1) if text in line)
    return rf"tests/devices/test_pretended\.py:{number} in "


def reads_its_sum(hidden):
    return hidden / hidden.sum().item()


def asks_whether(hidden):
    return hidden if (hidden > 0).any() else -hidden


def adds_what_lies_on_the_cpu(hidden):
    return hidden + torch.ones(3)


def picks_by_a_mask(hidden):
    return hidden * hidden[hidden > 0].mean()


def picks_by_a_list(hidden):
    return hidden[:, [0, 2, 1]]


def brings_numbers(hidden):
    return hidden + torch.ones(3).to(hidden.device)


def makes_a_tensor(hidden):
    return hidden * torch.tensor([1.0, 2.0, 3.0], device=hidden.device)


def draws_by_another_generator(hidden):
    return hidden + torch.rand(3, device=hidden.device, generator=torch.Generator())


def goes_through_numpy(hidden):
    return hidden * float(hidden.detach().cpu().numpy().max())


def repeats_rows(hidden):
    return hidden.repeat_interleave(torch.ones(2, dtype=torch.long, device=hidden.device), dim=0)


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden):
        return hidden.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad / grad.max().item()  # in the backward pass


WAITING = {
    reads_its_sum: "hidden.sum().item()",
    asks_whether: "if (hidden > 0).any()",
    picks_by_a_mask: "hidden[hidden > 0]",
    picks_by_a_list: "hidden[:, [0, 2, 1]]",
    brings_numbers: "torch.ones(3).to(hidden.device)",
    makes_a_tensor: "torch.tensor([1.0, 2.0, 3.0]",
    goes_through_numpy: "hidden.detach().cpu().numpy()",
    repeats_rows: "hidden.repeat_interleave(",
    Backward.apply: "grad / grad.max().item()",
}
MIXING = {
    adds_what_lies_on_the_cpu: "hidden + torch.ones(3)",
    draws_by_another_generator: "torch.rand(3, device=hidden.device, generator",
}


class OneBatch:
    """A task of one batch."""

    def __init__(self, model):
        self.model = model

    def __len__(self):
        return 2

    ids, test_splits, fingerprint, num_batches = ("a", "b"), (), "", 1
    skipped: dict[str, str] = {}
    largest_batch = evaluate = staticmethod(lambda *_: None)

    def batches(self, epoch, *, first):
        yield [self]

    def to(self, device):
        return torch.ones(2, 4).to(device, non_blocking=True)

    def loss(self, model, inputs):
        return model(inputs).square().sum()


def take_a_step(model, *, after_backward=lambda: None, allowed=("seqdsd/engine/loop.py _read",)):
    with PretendedCuda(*allowed) as cuda:
        fabric, settings = pretended_fabric(), NesterovSettings()
        with cuda.between_steps():
            wrapped = fabric.setup_module(model)
            optimizer = fabric.setup_optimizers(settings.make(model.parameters(), 0.1))
        train_epoch(
            *(fabric, wrapped, optimizer, OneBatch(model)),
            epoch=0,
            first=0,
            seed=0,
            settings=settings,
            meter=LossMeter(),
            after_step=lambda step: None,
            after_backward=after_backward,
        )
        return cuda.waits


def test_a_step_without_a_fault_passes():
    assert take_a_step(Wrong()) == ["seqdsd/engine/loop.py _read"]


@pytest.mark.parametrize("fault", WAITING)
def test_a_wait_in_a_step_is_named(fault):
    with pytest.raises(HostWaits, match=line_of(WAITING[fault])):
        take_a_step(Wrong(fault))


@pytest.mark.parametrize("fault", MIXING)
def test_a_mix_up_in_a_step_is_named(fault):
    with pytest.raises(DeviceMixUp, match=line_of(MIXING[fault])):
        take_a_step(Wrong(fault))


def test_a_wait_of_the_engine_is_named():
    """In the product's own code: what is allowed is a function of a file, nothing else."""
    with pytest.raises(HostWaits, match=r"seqdsd/engine/loop\.py:\d+ in _read: values = .*waits"):
        take_a_step(Wrong(), allowed=())


def test_masks_follow_a_model_that_was_moved_by_one_wait():
    model = Wrong()
    masks = MaskSet.from_magnitude(model, resolve(model, [Rule("fc.weight")], 0.5))  # before it is moved
    with pytest.raises(
        HostWaits, match=r"seqdsd/sparsity/held_weights\.py:\d+ in laid_as: .*the CPU at once"
    ):
        take_a_step(model, after_backward=masks.mask_gradients_)
    moved, read = "seqdsd/sparsity/held_weights.py laid_as", "seqdsd/engine/loop.py _read"
    model = Wrong()
    masks = MaskSet.from_magnitude(model, resolve(model, [Rule("fc.weight")], 0.5))
    waits = take_a_step(
        model, after_backward=lambda: [masks.mask_gradients_() for _ in range(2)], allowed=(moved, read)
    )
    assert waits == [moved, read]


def test_all_else_stays_on_the_cpu():
    """Lengths and whatever else no pretended tensor meets is as ever, and can be read."""
    with PretendedCuda():
        lengths = torch.tensor([3, 1])
        assert (
            type(lengths) is torch.Tensor and int(lengths.max()) == 3 and lengths[lengths > 2].tolist() == [3]
        )


def test_values_are_the_cpus():
    torch.manual_seed(0)
    model, inputs = (
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)),
        torch.randn(6, 4),
    )
    model(inputs).sum().backward()
    expected = [one.grad.clone() for one in model.parameters()]
    model.zero_grad()
    before = list(model.parameters())
    with PretendedCuda() as cuda:
        with cuda.between_steps():
            model.to(CUDA)
        assert all(one is other for one, other in zip(before, model.parameters(), strict=True))
        model(inputs.to(CUDA, non_blocking=True)).sum().backward()
        with cuda.between_steps():
            for one, gradient in zip(model.parameters(), expected, strict=True):
                assert one.device == one.grad.device == CUDA
                torch.testing.assert_close(one.grad.cpu(), gradient)


def test_nothing_is_left_behind():
    is_available = torch.cuda.is_available()
    with pytest.raises(ZeroDivisionError), PretendedCuda() as cuda:
        with cuda.between_steps():
            raise ZeroDivisionError
    assert torch.cuda.is_available() == is_available and torch.tensor([1]).item() == 1
    assert not torch.__future__.get_swap_module_params_on_conversion()
