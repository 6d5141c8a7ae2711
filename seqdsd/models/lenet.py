"""LeNet-300-100 and LeNet-5, the two networks that pruning and compression are measured with on MNIST."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class LeNet300100(nn.Module):
    """Two hidden layers of 300 and 100 units: 266,610 parameters for MNIST (1070 KB as float32).

    Args:
        num_classes: Outputs.
        channels: Of the images.
        image_size: Side of the images in pixels.
        hidden_size: Units of the first layer; the second has a third of them, rounded.

    Reference: LeCun et al. 1998, section III.C; Han et al. 2016 (Deep Compression), section 5.1. With ReLU in place of
    the original's tanh, as the latter have it; weights start as torch's.
    """

    def __init__(
        self, *, num_classes: int = 10, channels: int = 1, image_size: int = 28, hidden_size: int = 300
    ) -> None:
        super().__init__()
        second = max(1, round(hidden_size / 3))
        self.fc1 = nn.Linear(channels * image_size**2, hidden_size)
        self.fc2 = nn.Linear(hidden_size, second)
        self.fc3 = nn.Linear(second, num_classes)

    def forward(self, images: Float[Tensor, "batch channels side side"]) -> Float[Tensor, "batch classes"]:
        """Logits of each class."""
        hidden = nn.functional.relu(self.fc1(images.flatten(1)))
        hidden = nn.functional.relu(self.fc2(hidden))
        return self.fc3(hidden)


class LeNet5(nn.Module):
    """Two convolutions with pooling, one hidden layer: 431,080 parameters for MNIST (1720 KB as float32).

    Args:
        num_classes: Outputs.
        channels: Of the images.
        image_size: Side of the images in pixels; at least 16.
        hidden_size: Units of the hidden layer.

    Reference: Caffe's examples/mnist/lenet.prototxt, which Deep Compression took: 20 and 50 channels, 500 units, no
    nonlinearity after the convolutions but the pooling's. Weights start as torch's, where Caffe has Xavier's.
    """

    def __init__(
        self, *, num_classes: int = 10, channels: int = 1, image_size: int = 28, hidden_size: int = 500
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        side = ((image_size - 4) // 2 - 4) // 2
        self.fc1 = nn.Linear(50 * side**2, hidden_size)
        self.fc2 = nn.Linear(hidden_size, num_classes)

    def forward(self, images: Float[Tensor, "batch channels side side"]) -> Float[Tensor, "batch classes"]:
        """Logits of each class."""
        hidden = nn.functional.max_pool2d(self.conv1(images), 2)
        hidden = nn.functional.max_pool2d(self.conv2(hidden), 2)
        hidden = nn.functional.relu(self.fc1(hidden.flatten(1)))
        return self.fc2(hidden)
