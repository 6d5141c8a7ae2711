"""NeuralTalk's RMSProp against its formula in numpy, and what a step that is to be skipped leaves."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from seqdsd.optim import NeuralTalkRMSprop


def by_hand(weight, grads, *, lr, decay, eps, weight_decay):
    """The original's update, written from its description."""
    weight, cache = weight.copy(), np.zeros_like(weight)
    for grad in grads:
        grad = grad + weight_decay * weight
        cache = decay * cache + (1 - decay) * grad**2
        weight -= lr * grad / np.sqrt(cache + eps)
    return weight


def step(optimizer, parameter, grad):
    parameter.grad = torch.as_tensor(grad)
    optimizer.step()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_it_is_the_formula(weight_decay):
    rng = np.random.default_rng(0)
    weight, grads = rng.standard_normal((3, 4)), rng.standard_normal((20, 3, 4))
    parameter = nn.Parameter(torch.tensor(weight))
    settings = {"lr": 0.01, "decay": 0.9, "eps": 1e-4, "weight_decay": weight_decay}
    optimizer = NeuralTalkRMSprop([parameter], **settings)
    for grad in grads:
        step(optimizer, parameter, grad)
    np.testing.assert_allclose(parameter.detach().numpy(), by_hand(weight, grads, **settings), rtol=1e-12)


def test_epsilon_is_inside_the_root():
    tiny = torch.tensor([1e-9], dtype=torch.double)
    ours, torchs = (nn.Parameter(torch.zeros(1, dtype=torch.double)) for _ in range(2))
    step(NeuralTalkRMSprop([ours], 1.0, decay=0.0, eps=0.25), ours, tiny)
    step(torch.optim.RMSprop([torchs], 1.0, alpha=0.0, eps=0.25), torchs, tiny)
    assert ours.item() == pytest.approx(-1e-9 / 0.5)
    assert torchs.item() == pytest.approx(-1e-9 / 0.25)


@pytest.mark.parametrize("grad", [1.0, math.nan, math.inf])
def test_a_skipped_step_changes_nothing(grad):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = NeuralTalkRMSprop([parameter], 0.1, weight_decay=0.1)
    step(optimizer, parameter, [1.0, 2.0, 3.0])
    weight, cache = parameter.detach().clone(), optimizer.state[parameter]["cache"].clone()
    optimizer.found_inf = torch.tensor(1.0)
    step(optimizer, parameter, [grad] * 3)
    assert torch.equal(parameter, weight) and torch.equal(optimizer.state[parameter]["cache"], cache)
    optimizer.found_inf = torch.tensor(0.0)
    step(optimizer, parameter, [1.0, 1.0, 1.0])
    assert not torch.equal(parameter, weight)


def test_a_copy_steps_like_the_original():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = NeuralTalkRMSprop([parameter], 0.1)
    step(optimizer, parameter, [1.0, 2.0])
    copied = copy.deepcopy(optimizer)
    [its_own] = copied.param_groups[0]["params"]
    step(copied, its_own, [3.0, 4.0])
    step(optimizer, parameter, [3.0, 4.0])
    assert its_own is not parameter and torch.equal(its_own, parameter)


def test_a_parameter_without_gradient_stays():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = NeuralTalkRMSprop([used, unused], 0.1, weight_decay=0.5)
    step(optimizer, used, [1.0, 1.0])
    assert torch.equal(unused, torch.ones(2)) and not torch.equal(used, torch.ones(2))


def test_a_closure_gives_the_gradient():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = NeuralTalkRMSprop([parameter], 0.1)

    def closure():
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert (parameter < 1).all()


@pytest.mark.parametrize(
    ("name", "value"), [("lr", -1.0), ("eps", math.nan), ("weight_decay", -0.1), ("decay", 1.0)]
)
def test_bad_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must .* got {value}"):
        NeuralTalkRMSprop([nn.Parameter(torch.ones(1))], **{name: value})
