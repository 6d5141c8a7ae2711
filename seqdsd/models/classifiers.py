"""Image classifiers by name: those of the paper's Tables 2 to 4 and 10, and Deep Compression's two of MNIST.

Leaves out their weights, and how pixels become inputs (``seqdsd.tasks.classification``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from seqdsd.models.lenet import LeNet5, LeNet300100
from seqdsd.models.small_resnet import SmallResNet

COLOURS = 3
IMAGENET_SIZE = 224


@dataclass(frozen=True)
class Classifier:
    """How to come by a classifier, and what it takes.

    Attributes:
        build: Makes it, with ``num_classes``, ``channels`` and ``image_size`` of the images, and ``hidden_size`` where
            it has one.
        head: Its modules, by name, that belong to the classes that it was trained on: its last layer, and all of
            its auxiliary classifiers.
        image_size: Side of the images that it was made for, in pixels.
        channels: Of the images, where it takes no others; None where it takes any.
        smallest: Side of the smallest images that it takes.
        hidden_size: What can be made wider or narrower, as it was published; None where nothing can.
        has_published_weights: Torchvision has weights for ImageNet's 1000 classes.
    """

    build: Callable[..., nn.Module]
    head: tuple[str, ...]
    image_size: int
    channels: int | None = None
    smallest: int = 1
    hidden_size: int | None = None
    has_published_weights: bool = False


def make_classifier(
    name: str,
    *,
    num_classes: int,
    channels: int = COLOURS,
    image_size: int | None = None,
    hidden_size: int | None = None,
) -> nn.Module:
    """Make a classifier of ``CLASSIFIERS`` with fresh weights: images [batch, channels, side, side] to logits.

    Where it has auxiliary classifiers (GoogLeNet), it gives their logits too while it trains: see ``split_logits``.

    Args:
        name: A key of ``CLASSIFIERS``.
        num_classes: Outputs.
        channels: Of the images.
        image_size: Their side in pixels; by default what the network was made for.
        hidden_size: Channels of the first stage of a ResNet for small images, units of a LeNet's (first) hidden layer;
            by default as published.

    Raises:
        ValueError: If there is no classifier of that name, or it cannot take such images or be of such a size.
    """
    if name not in CLASSIFIERS:
        raise ValueError(f"there is no network {name!r}; choose one of {', '.join(CLASSIFIERS)}")
    kind = CLASSIFIERS[name]
    size = kind.image_size if image_size is None else image_size
    if size < kind.smallest:
        raise ValueError(f"{name} takes images of side {kind.smallest} or more, got {size}; make them larger")
    if kind.channels not in (None, channels):
        raise ValueError(f"{name} takes images of {kind.channels} channels, got {channels}")
    if hidden_size is not None and kind.hidden_size is None:
        raise ValueError(f"{name} is of one size; leave out hidden_size (got {hidden_size})")
    return kind.build(
        num_classes=num_classes,
        channels=channels,
        image_size=size,
        hidden_size=hidden_size or kind.hidden_size,
    )


def split_logits(outputs: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A classifier's logits, and those of its auxiliary classifiers: GoogLeNet's two, while it trains."""
    if isinstance(outputs, Tensor):
        return outputs, ()
    logits, *auxiliary = outputs
    return logits, tuple(auxiliary)


def _small_resnet(depth: int) -> Classifier:
    def build(*, num_classes: int, channels: int, image_size: int, hidden_size: int) -> nn.Module:
        return SmallResNet(depth=depth, num_classes=num_classes, channels=channels, width=hidden_size)

    return Classifier(build, head=("output",), image_size=32, smallest=5, hidden_size=16)


def _torchvision(name: str, smallest: int, *head: str, **options: Any) -> Classifier:
    def build(*, num_classes: int, **_: Any) -> nn.Module:
        from torchvision import models  # over a second that the others need not wait

        network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
        return network

    return Classifier(
        build, head, image_size=IMAGENET_SIZE, channels=COLOURS, smallest=smallest, has_published_weights=True
    )


# Where there are batch norms, smaller images would come to one pixel before the last of them: of a single image,
# nothing to take statistics of.
CLASSIFIERS: Mapping[str, Classifier] = {
    "resnet8": _small_resnet(8),
    "resnet20": _small_resnet(20),
    "resnet32": _small_resnet(32),
    "resnet44": _small_resnet(44),
    "resnet56": _small_resnet(56),
    "lenet5": Classifier(LeNet5, head=("fc2",), image_size=28, smallest=16, hidden_size=500),
    "lenet300": Classifier(LeNet300100, head=("fc3",), image_size=28, hidden_size=300),
    # With its auxiliary classifiers, which the paper's 13 million parameters count: they are trained and pruned like
    # the rest, and only what they say is thrown away. transform_input: what torchvision's weights expect. Of the
    # auxiliary ones its file holds weights, which were never trained (torchvision's models/googlenet.py warns of it).
    "googlenet": _torchvision(
        "googlenet", 47, "fc", "aux1", "aux2", aux_logits=True, init_weights=True, transform_input=True
    ),
    "vgg16": _torchvision("vgg16", 32, "classifier.6"),
    "resnet18": _torchvision("resnet18", 33, "fc"),
    "resnet50": _torchvision("resnet50", 33, "fc"),
    "alexnet": _torchvision("alexnet", 63, "classifier.6"),
    "squeezenet1_0": _torchvision("squeezenet1_0", 21, "classifier.1"),
    "squeezenet1_1": _torchvision("squeezenet1_1", 17, "classifier.1"),
}
"""Every classifier by its name. Torchvision's GoogLeNet has batch norms, and 3 x 3 convolutions in the place of the
original's 5 x 5; its SqueezeNet 1.0 is the one of the papers' 4.8 MB."""
