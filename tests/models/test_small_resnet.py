"""Residual networks for small images: the paper's sizes, and what a shortcut carries."""

import pytest
import torch
from torch import nn

from seqdsd.models import SmallResNet


@pytest.mark.parametrize(
    # Table 6 of He et al. says 0.27, 0.46, 0.66 and 0.85 million.
    ("depth", "count"),
    [(8, 75_290), (20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)],
)
def test_as_many_parameters_as_published(depth, count):
    with torch.device("meta"):
        network = SmallResNet(depth=depth, num_classes=10)
    assert sum(one.numel() for one in network.parameters()) == count
    layers = [one for one in network.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


def test_shortcuts_carry_the_image_on_and_pad_new_channels_with_zeros():
    network = SmallResNet(depth=8, num_classes=3, width=2).eval()
    for stage in network.stages:
        nn.init.zeros_(stage[0].norm2.weight)  # the blocks add nothing
    network.output = nn.Identity()
    images = torch.randn(2, 3, 8, 8)
    hidden = network.relu(network.norm(network.conv(images)))
    # Every second pixel, twice: a mean of the four that are left; six channels are new.
    kept = hidden[:, :, ::4, ::4].mean((2, 3))
    torch.testing.assert_close(network(images), torch.cat((kept, torch.zeros(2, 6)), dim=1))


def test_weights_start_by_the_outputs_fan():
    torch.manual_seed(0)
    network = SmallResNet(depth=20, num_classes=10)
    # Of 64 x 64 x 3 x 3 normal draws with variance 2 / (9 x 64).
    assert network.stages[2][1].conv1.weight.std().item() == pytest.approx((2 / 576) ** 0.5, rel=0.02)


@pytest.mark.parametrize("depth", [0, 2, 7, 18, 21])
def test_other_depths_are_refused(depth):
    with pytest.raises(ValueError, match=rf"6 n \+ 2 .* got {depth}"):
        SmallResNet(depth=depth, num_classes=10)
