"""Classifiers by name: what the paper's rules prune of each, one step of each, what they refuse."""

import pytest
import torch
from torch import nn

from seqdsd.models import CLASSIFIERS, make_classifier, split_logits
from seqdsd.sparsity import VISION_RULES, MaskSet, resolve

# Parameters with 1000 classes, those of the first convolution (with its bias where it has one), and how many weights
# besides lie in convolutions and layers: counted with the published tables of layers, not with our code.
PUBLISHED = {
    "alexnet": (61_100_840, 64 * 3 * 11 * 11, 8),
    "vgg16": (138_357_544, 64 * 3 * 3 * 3, 16),
    "resnet18": (11_689_512, 64 * 3 * 7 * 7, 21),
    "resnet50": (25_557_032, 64 * 3 * 7 * 7, 54),
    "googlenet": (13_004_888, 64 * 3 * 7 * 7, 58 + 2 * 3),
    "squeezenet1_0": (1_248_424, 96 * 3 * 7 * 7, 26),
    "squeezenet1_1": (1_235_496, 64 * 3 * 3 * 3, 26),
    "resnet20": (269_722 + 990 * 64 + 990, 16 * 3 * 3 * 3, 20),
}


def made_on_meta(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return make_classifier(name, **{"num_classes": 1000, **options})


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_plan_prunes_all_but_the_first_convolution(name):
    count, first, layers = PUBLISHED[name]
    network = made_on_meta(name)
    assert sum(one.numel() for one in network.parameters()) == count
    plan = resolve(network, VISION_RULES, 0.3)
    weights = [row for row in plan.rows if len(row.shape) > 1]  # no norm or bias is a matrix here
    assert len(weights) == layers
    assert (weights[0].numel, weights[0].sparsity) == (first, 0)
    assert all(row.sparsity == 0.3 for row in weights[1:])
    assert all(row.sparsity == 0 for row in plan.rows if len(row.shape) == 1)
    pruned = sum(round(0.3 * row.numel) for row in weights[1:])
    assert plan.overall_sparsity == pytest.approx(pruned / count, abs=1e-12)


def test_lenet_300_100_has_no_convolution_to_keep():
    plan = resolve(make_classifier("lenet300", num_classes=10, channels=1), VISION_RULES, 0.9)
    assert plan.sparsities == {"fc1.weight": 0.9, "fc2.weight": 0.9, "fc3.weight": 0.9}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_one_step_of_each_on_its_smallest_images(name):
    torch.manual_seed(0)
    smallest = max(CLASSIFIERS[name].smallest, 2)
    network = make_classifier(name, num_classes=3, image_size=smallest)
    masks = MaskSet.from_magnitude(network, resolve(network, VISION_RULES, 0.3))
    masks.apply_()
    before = {key: one.detach().clone() for key, one in network.named_parameters() if one.numel() < 1e6}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.001)
    with masks.attach(optimizer):
        main, auxiliary = split_logits(network(torch.randn(2, 3, smallest, smallest)))
        assert [one.shape for one in (main, *auxiliary)] == [(2, 3)] * (3 if name == "googlenet" else 1)
        sum(nn.functional.cross_entropy(one, torch.tensor([0, 2])) for one in (main, *auxiliary)).backward()
        optimizer.step()
    assert any(not torch.equal(one, before.get(key, one)) for key, one in network.named_parameters())
    # As many zeros as planned, but for the weights that began at zero.
    for key in resolve(network, VISION_RULES, 0.3).sparsities:
        weight = network.get_parameter(key)
        assert (weight == 0).sum() >= round(0.3 * weight.numel())
    network(torch.randn(1, 3, smallest, smallest))  # norms can make do with a batch of one
    main, auxiliary = split_logits(network.eval()(torch.randn(1, 3, smallest, smallest)))
    assert main.isfinite().all() and auxiliary == ()


def test_images_of_other_sizes_and_channels():
    for name, channels, side in (("lenet5", 3, 32), ("lenet300", 1, 20), ("resnet8", 1, 28)):
        network = make_classifier(name, num_classes=4, channels=channels, image_size=side).eval()
        assert network(torch.zeros(1, channels, side, side)).shape == (1, 4)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("resnet19", {}, "no network 'resnet19'; choose one of resnet8, "),
        ("alexnet", {"image_size": 62}, "alexnet takes images of side 63 or more, got 62"),
        ("lenet5", {"image_size": 15}, "lenet5 takes images of side 16 or more, got 15"),
        ("vgg16", {"channels": 1}, "vgg16 takes images of 3 channels, got 1"),
        ("resnet50", {"hidden_size": 32}, "resnet50 is of one size; leave out hidden_size"),
    ],
)
def test_what_cannot_be_made(name, options, said):
    with pytest.raises(ValueError, match=said):
        make_classifier(name, num_classes=10, **options)


def test_images_smaller_than_a_networks_smallest_fail():
    """The sizes in the table are the smallest: one pixel less and torch itself refuses."""
    for name, kind in CLASSIFIERS.items():
        if name.startswith("lenet"):
            continue
        side = kind.smallest - 1
        with torch.device("meta"), pytest.raises((RuntimeError, ValueError)):
            network = kind.build(
                num_classes=3, channels=3, image_size=side, hidden_size=kind.hidden_size
            ).train()
            network(torch.zeros(1, 3, side, side))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_head_is_what_has_another_shape_for_other_classes(name):
    """And of GoogLeNet's auxiliary classifiers the rest, too: torchvision's weights of them were never trained."""
    few, many = (made_on_meta(name, num_classes=count).state_dict() for count in (3, 7))
    differing = {key.rpartition(".")[0] for key, one in few.items() if one.shape != many[key].shape}
    if name == "googlenet":
        assert differing == {"fc", "aux1.fc2", "aux2.fc2"}
        differing = {one.split(".")[0] for one in differing}
    assert set(CLASSIFIERS[name].head) == differing
