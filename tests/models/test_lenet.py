"""The two LeNets: Deep Compression's parameter counts, and Caffe's definition layer by layer."""

import torch
from torch import nn

from seqdsd.models import LeNet5, LeNet300100


def count(network: nn.Module) -> int:
    return sum(one.numel() for one in network.parameters())


def test_as_many_parameters_as_deep_compression_counts():
    assert [count(LeNet300100()), count(LeNet5())] == [266_610, 431_080]  # 1070 and 1720 KB in the paper


def test_lenet_5_is_caffes():
    torch.manual_seed(0)
    network = LeNet5()
    layers = nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2, 2),
        nn.Conv2d(20, 50, 5), nn.MaxPool2d(2, 2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip
    for theirs, ours in zip(layers.parameters(), network.parameters(), strict=True):
        theirs.data = ours.data
    images = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(network(images), layers(images))


def test_lenet_300_100_is_three_layers():
    torch.manual_seed(0)
    network = LeNet300100(num_classes=4, channels=3, image_size=5, hidden_size=9)
    w1, b1, w2, b2, w3, b3 = network.parameters()
    assert [w1.shape, w2.shape, w3.shape] == [(9, 75), (3, 9), (4, 3)]
    images = torch.randn(2, 3, 5, 5)
    hidden = (images.reshape(2, 75) @ w1.T + b1).clamp(min=0)
    expected = (hidden @ w2.T + b2).clamp(min=0) @ w3.T + b3
    torch.testing.assert_close(network(images), expected)


def test_lenet_5_of_other_images():
    assert LeNet5(channels=3, image_size=16, num_classes=2)(torch.zeros(1, 3, 16, 16)).shape == (1, 2)
    assert LeNet5(channels=3, image_size=33, hidden_size=7)(torch.zeros(2, 3, 33, 33)).shape == (2, 10)
