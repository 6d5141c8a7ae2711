"""An epoch of MNIST from memory against `torchvision.datasets.MNIST` with a `DataLoader`: batches, and training.

    python -m benchmarks.image_loading --data ../shared/data/mnist
    python -m benchmarks.image_loading --data ../shared/data/mnist --num-workers 2    # of torchvision's loader

Both give shuffled batches of the same size, scaled and normalised by the same functions of torchvision; torchvision's
data set takes images one by one, ours a batch at once. Training is by SGD. What comes before the first epoch
is not timed: torchvision reads its four files, we find the pixels in the cache, or read a folder of 60,000 images once.
"""

import gzip
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import v2

from benchmarks.timing import Ratio, seconds_in_turns
from seqdsd.data.labelled_images import (
    HeldImages,
    ImageBatchSampler,
    ImageFormat,
    LabelledImage,
)
from seqdsd.tasks.classification import Normalisation, Pixels

MEAN, STD = (0.1307,), (0.3081,)

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Settings:
    """What is timed."""

    data: Path
    """Folder with MNIST's four gz files."""
    images: int = 60_000
    """Digits in an epoch: fewer, and more rounds, on a busy machine."""
    batch_size: int = 128
    """Images in a batch."""
    num_workers: int = 0
    """Worker processes of torchvision's loader; ours has none."""
    threads: int = 1
    """Of torch, in this process."""
    rounds: int = 5
    """Timings of each way, in turns."""


def torchvision_batches(dataset: MNIST, settings: Settings) -> Batches:
    loader = DataLoader(
        dataset,
        batch_size=settings.batch_size,
        shuffle=True,
        num_workers=settings.num_workers,
        persistent_workers=settings.num_workers > 0,
    )
    return lambda: iter(loader)


def our_batches(dataset: MNIST, settings: Settings) -> Batches:
    images = [
        LabelledImage(f"{index:05d}", Path(), int(label)) for index, label in enumerate(dataset.targets)
    ]
    held = HeldImages(ImageFormat(1, 28, 28), images, dataset.data[:, None], dataset.targets)
    epochs, pixels = count(), Pixels(Normalisation(MEAN, STD))

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        sampler = ImageBatchSampler(len(images), batch_size=settings.batch_size, epoch=next(epochs))
        for batch in held.batches(sampler):
            yield pixels(batch.images), batch.labels

    return batches


def exhausted(batches: Batches) -> Callable[[], None]:
    def run() -> None:
        for _ in batches():
            pass

    return run


def trained(batches: Batches, network: nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def run() -> None:
        for images, labels in batches():
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()

    return run


def lenet_300_100() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def lenet_5() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


def open_mnist(packed: Path, folder: Path, num_images: int) -> MNIST:
    """The training digits, unpacked to where torchvision looks for them."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in packed.glob("*-ubyte.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    scaled = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    dataset = MNIST(folder, train=True, transform=v2.Compose(scaled))
    dataset.data, dataset.targets = dataset.data[:num_images], dataset.targets[:num_images]
    return dataset


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    torch.set_num_threads(settings.threads)
    table = Table(f"{settings.images:,} digits", "torchvision, s", "ours, s", "torchvision over ours")
    with tempfile.TemporaryDirectory() as name:
        dataset = open_mnist(settings.data, Path(name), settings.images)
        sources = {
            "torchvision": torchvision_batches(dataset, settings),
            "ours": our_batches(dataset, settings),
        }
        uses: dict[str, Callable[[Batches], Callable[[], None]]] = {
            "batches": exhausted,
            "training LeNet-300-100": lambda batches: trained(batches, lenet_300_100()),
            "training LeNet-5": lambda batches: trained(batches, lenet_5()),
        }
        for what, use in uses.items():
            ways = {name: use(source) for name, source in sources.items()}
            seconds = seconds_in_turns(ways, rounds=settings.rounds)
            table.add_row(
                what,
                *(f"{statistics.median(seconds[name]):.2f}" for name in sources),
                str(Ratio.of(seconds["torchvision"], seconds["ours"])),
            )
    Console().print(table)


if __name__ == "__main__":
    main()
