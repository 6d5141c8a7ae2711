"""How far restored weights have come back, against copies of the weights, one by one."""

import copy
import logging

import pytest
import torch
from torch import nn

from seqdsd.sparsity import DSD, NEARLY_SPARSE, Regrowth, Rule, Schedule

SCHEDULE = Schedule.dsd(1, 1, (0.5,), (0.1, 0.1, 0.1))


def make(dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.Linear(10, 2)).to(dtype)
    return model, DSD(model, SCHEDULE, [Rule("*")])


def in_redense_phase(dtype=torch.float32):
    """A DSD within its redense phase, its weights before pruning, and which were pruned."""
    model, dsd = make(dtype)
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    for _ in range(2):
        dsd.enter(torch.optim.SGD(model.parameters(), lr=0.1))
        if dsd.masks is not None:
            pruned = {name: ~mask for name, mask in dsd.masks.masks.items()}
        dsd.leave()
    dsd.enter(torch.optim.SGD(model.parameters(), lr=0.1))
    return model, dsd, before, pruned


def set_(model, before, pruned, factor):
    """Restored weights at a factor of what they were."""
    with torch.no_grad():
        for name, where in pruned.items():
            model.get_parameter(name)[where] = factor * before[name][where]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_against_the_weights_one_by_one(dtype):
    model, dsd, before, pruned = in_redense_phase(dtype)
    with torch.no_grad():
        for one in model.parameters():
            one.copy_(torch.randn(one.shape, generator=torch.Generator().manual_seed(1)) / 4)
    former, now, above = [], [], 0
    for name, where in pruned.items():
        was = [abs(float(one)) for one in before[name][where]]
        has = [abs(float(one)) for one in model.get_parameter(name).detach()[where]]
        above += sum(one > max(was) for one in has)
        former, now = former + was, now + has
    found = dsd.regrowth()
    assert found.weights == 30 + 10 and 0 < above == found.above_threshold < 40
    assert found.former_mean_abs == pytest.approx(sum(former) / 40, rel=1e-5)
    assert found.mean_abs == pytest.approx(sum(now) / 40, rel=1e-5)
    assert found.share == pytest.approx(sum(now) / sum(former), rel=1e-5)
    assert found.above_share == above / 40


def test_at_first_nothing_has_come_back_and_outside_of_the_phase_there_is_nothing_to_tell():
    _, dsd = make()
    assert dsd.regrowth() is None
    model, dsd, before, pruned = in_redense_phase()
    first = dsd.regrowth()
    assert (first.share, first.above_share, first.is_nearly_sparse) == (0, 0, True)
    set_(model, before, pruned, factor=0.5)
    dsd.leave()
    assert dsd.regrowth() is None
    assert dsd.regrown["Dense Iter 1"].share == pytest.approx(0.5)
    said = (
        "Dense Iter 1: 1 epochs at 0.1; restored weights have 50.0% of their former mean |w|, 0.0% are above"
    )
    assert said in dsd.summary()


@pytest.mark.parametrize(
    ("factor", "is_warned"), [(NEARLY_SPARSE - 0.01, True), (NEARLY_SPARSE + 0.01, False)]
)
def test_a_phase_that_leaves_a_nearly_sparse_network_is_warned_of(caplog, factor, is_warned):
    model, dsd, before, pruned = in_redense_phase()
    dsd.release()
    with caplog.at_level(logging.WARNING, logger="seqdsd"):
        with dsd.hold(torch.optim.SGD(model.parameters(), lr=0.1)):
            set_(model, before, pruned, factor)
            dsd.epoch_done()
    assert dsd.phase is None and len(caplog.messages) == is_warned
    for said in caplog.messages:
        assert said.startswith("Dense Iter 1 was too short or too slow: this network is still nearly sparse")
        assert (
            "24.0% of their former" in said
            and "learning rate, up to the sparse phase's, or its epochs" in said
        )


def test_what_was_before_is_kept_in_the_state():
    model, dsd, before, pruned = in_redense_phase()
    set_(model, before, pruned, factor=0.3)
    other, again = make()
    other.load_state_dict(model.state_dict())
    again.load_state_dict(copy.deepcopy(dsd.state_dict()))
    assert again.regrowth() == dsd.regrowth()
    dsd.leave()
    last = make()[1]
    last.load_state_dict(dsd.state_dict())
    assert last.regrown == dsd.regrown


def test_a_state_of_before_this_was_measured_has_nothing_to_tell():
    _, dsd, _, _ = in_redense_phase()
    state = {name: one for name, one in dsd.state_dict().items() if name not in ("former", "regrown")}
    other, again = make()
    again.load_state_dict(state)
    again.enter(torch.optim.SGD(other.parameters(), lr=0.1))
    assert again.regrowth() is None
    again.leave()
    assert again.regrown == {}


def test_weights_that_were_zero_have_no_share():
    nothing = Regrowth(weights=3, former_mean_abs=0.0, mean_abs=0.1, above_threshold=3)
    assert nothing.share is None and not nothing.is_nearly_sparse and "no share" in str(nothing)
