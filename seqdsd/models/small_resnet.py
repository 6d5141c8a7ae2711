"""Residual networks for small images: ResNet-8, 20, 32, 44, 56, made for CIFAR-10's 32 x 32 pixels."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

NUM_STAGES = 3


class SmallResNet(nn.Module):
    """A convolution, three stages of basic blocks (each half the size and twice the channels), pooling, one layer.

    ``depth`` = 6 n + 2 layers with n blocks a stage: ResNet-20 has 269,722 parameters for 10 classes of colour images,
    ResNet-56 853,018. Images may be of any size from 5 x 5 on.

    Args:
        depth: Layers with weights: 8, 14, 20 …
        num_classes: Outputs.
        channels: Of the images; 3 for colour.
        width: Channels of the first stage.

    Raises:
        ValueError: If ``depth`` is not 6 n + 2.

    Reference: He et al. 2015 (Deep Residual Learning), section 4.2: shortcuts are the identity, with zeros in the new
    channels (option A). Weights start from a normal distribution by the outputs' fan, as in Facebook's fb.resnet.torch,
    which the DSD paper began from; the last layer's as torch's.
    """

    def __init__(self, *, depth: int, num_classes: int, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 2 * NUM_STAGES)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6 n + 2 with n from 1 on (8, 14, 20 …), got {depth}")
        self.conv = _conv(channels, width)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.stages = nn.ModuleList()
        for number in range(NUM_STAGES):
            before, after = width << max(0, number - 1), width << number
            first = BasicBlock(before, after, stride=after // before)
            rest_of_stage = (BasicBlock(after, after) for _ in range(blocks - 1))
            self.stages.append(nn.Sequential(first, *rest_of_stage))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.output = nn.Linear(after, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of each class."""
        hidden = self.relu(self.norm(self.conv(images)))
        for stage in self.stages:
            hidden = stage(hidden)
        return self.output(self.pool(hidden).flatten(1))


class BasicBlock(nn.Module):
    """Two convolutions, each with a norm, around which a shortcut leads."""

    def __init__(self, before: int, after: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv(before, after, stride=stride)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = _conv(after, after)
        self.norm2 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.stride = stride
        self.new_channels = after - before

    def forward(
        self, images: Float[Tensor, "batch before height width"]
    ) -> Float[Tensor, "batch after out_height out_width"]:
        """What the shortcut carries and what the convolutions add."""
        hidden = self.relu(self.norm1(self.conv1(images)))
        hidden = self.norm2(self.conv2(hidden))
        return self.relu(hidden + self._shortcut(images))

    def _shortcut(
        self, images: Float[Tensor, "batch before height width"]
    ) -> Float[Tensor, "batch after out_height out_width"]:
        if self.stride == 1:
            return images
        every_second = images[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(every_second, (0, 0, 0, 0, 0, self.new_channels))


def _conv(before: int, after: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
