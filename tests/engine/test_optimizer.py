"""The optimizers by their settings: what they clip, what they skip, and which weights decay."""

import math

import pytest
import torch
from torch import nn

from seqdsd.engine import AdamWSettings, AdaptiveSettings, NesterovSettings, OptimizerSettings
from seqdsd.optim import NeuralTalkRMSprop

EVERY = [NesterovSettings(), AdamWSettings(), AdaptiveSettings(), AdaptiveSettings(kind="adam")]
NAMES = ["nesterov", "adamw", "rmsprop", "adam"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


@pytest.mark.parametrize("settings", EVERY, ids=NAMES)
def test_they_are_what_the_engine_asks_for(settings):
    assert isinstance(settings, OptimizerSettings)


@pytest.mark.parametrize("settings", EVERY, ids=NAMES)
def test_the_size_of_the_state_is_what_a_step_leaves(settings, model):
    optimizer = settings.make(model.parameters(), 0.1)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    for parameter in model.parameters():
        kept = sum(
            one.numel() for one in optimizer.state[parameter].values() if one.ndim
        )  # not its count of steps
        assert kept == settings.state_size * parameter.numel()


@pytest.mark.parametrize("settings", EVERY, ids=NAMES)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_step_with_found_inf_changes_nothing(settings, is_first, model):
    optimizer = settings.make(model.parameters(), 0.1)
    if not is_first:
        model(torch.ones(2, 4)).sum().backward()
        optimizer.found_inf = torch.tensor(0.0)
        optimizer.step()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert all(
        torch.isfinite(new).all() and not torch.equal(old, new)
        for old, new in zip(before, model.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    "settings",
    [NesterovSettings(clip_norm=0.5), AdamWSettings(clip_norm=0.5), AdaptiveSettings(clip_value=0.1)],
)
def test_clipping_returns_the_norm_before_it(settings, model, fabric):
    module = fabric.setup_module(model)
    optimizer = fabric.setup_optimizers(settings.make(model.parameters(), 0.1))
    fabric.backward(module(torch.ones(2, 4)).sum())
    before = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    norm = settings.clip_(fabric, module, optimizer)
    after = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert float(norm) == pytest.approx(float(before.norm()))
    if not isinstance(settings, AdaptiveSettings):
        assert float(after.norm()) == pytest.approx(0.5, rel=1e-4)
    else:
        assert torch.equal(after, before.clamp(-0.1, 0.1))


def test_an_infinite_gradient_is_seen_although_it_is_clipped(model, fabric):
    module = fabric.setup_module(model)
    settings = AdaptiveSettings()
    optimizer = fabric.setup_optimizers(settings.make(model.parameters(), 0.1))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.inf)
    assert not math.isfinite(float(settings.clip_(fabric, module, optimizer)))


def test_only_matrices_decay(model):
    optimizer = AdaptiveSettings(weight_decay=0.5, kind="rmsprop").make(model.parameters(), 0.1)
    assert isinstance(optimizer, NeuralTalkRMSprop)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert not torch.equal(model.weight, before[0]) and torch.equal(model.bias, before[1])


def test_adamw_by_its_formula(model):
    """Loshchilov & Hutter 2019, Algorithm 2, in double precision; only the matrix decays."""
    settings = AdamWSettings(momentum=0.8, decay=0.9, epsilon=1e-3, weight_decay=0.5)
    optimizer, rate = settings.make(model.parameters(), 0.1), 0.1
    weights = [one.detach().double() for one in model.parameters()]
    means, squares = [torch.zeros_like(one) for one in weights], [torch.zeros_like(one) for one in weights]
    for step in range(1, 4):
        optimizer.found_inf = torch.tensor(0.0)
        for index, (parameter, share) in enumerate(zip(model.parameters(), (0.5, 0.0), strict=True)):
            parameter.grad = torch.full_like(parameter, step * (index + 1.0))
            gradient = parameter.grad.double()
            means[index] = 0.8 * means[index] + 0.2 * gradient
            squares[index] = 0.9 * squares[index] + 0.1 * gradient**2
            mean, square = means[index] / (1 - 0.8**step), squares[index] / (1 - 0.9**step)
            weights[index] = weights[index] - rate * (mean / (square.sqrt() + 1e-3) + share * weights[index])
        optimizer.step()
    for parameter, expected in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("decay", 1.0), ("momentum", -0.1), ("epsilon", 0.0), ("clip_value", math.nan)),
        *(("weight_decay", math.nan), ("anneal", 0.5)),
    ],
)
def test_bad_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must .* got {value}"):
        AdaptiveSettings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("decay", 1.0), ("momentum", math.nan), ("epsilon", 0.0), ("clip_norm", 0.0)),
        *(("weight_decay", -0.1), ("warmup", 1.0)),
    ],
)
def test_bad_settings_of_adamw_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must .* got {value}"):
        AdamWSettings(**{name: value})
