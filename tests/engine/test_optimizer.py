"""The optimizers by their settings: what they clip, what they skip, and which weights decay."""

import math

import pytest
import torch
from torch import nn

from seqdsd.engine import AdaptiveSettings, NesterovSettings, OptimizerSettings
from seqdsd.optim import NeuralTalkRMSprop

EVERY = [NesterovSettings(), AdaptiveSettings(), AdaptiveSettings(kind="adam")]
NAMES = ["nesterov", "rmsprop", "adam"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


@pytest.mark.parametrize("settings", EVERY, ids=NAMES)
def test_they_are_what_the_engine_asks_for(settings):
    assert isinstance(settings, OptimizerSettings)


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


@pytest.mark.parametrize("settings", [NesterovSettings(clip_norm=0.5), AdaptiveSettings(clip_value=0.1)])
def test_clipping_returns_the_norm_before_it(settings, model, fabric):
    module = fabric.setup_module(model)
    optimizer = fabric.setup_optimizers(settings.make(model.parameters(), 0.1))
    fabric.backward(module(torch.ones(2, 4)).sum())
    before = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    norm = settings.clip_(fabric, module, optimizer)
    after = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert float(norm) == pytest.approx(float(before.norm()))
    if isinstance(settings, NesterovSettings):
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
