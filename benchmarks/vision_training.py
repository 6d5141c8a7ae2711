"""Training of image classifiers: our epoch against a plain loop, and a sparse epoch against a dense one.

    python -m benchmarks.vision_training                                                  # ResNet-20, 32 x 32
    python -m benchmarks.vision_training --network resnet50 --steps 20 --device cuda --precision bf16-mixed

The plain loop is torchvision's reference training without its logging: batches to the device, normalised, forward,
cross entropy, backward, SGD with Nesterov momentum and weight decay. All train equal networks on the same batches of
random images; ours clips gradients and looks at each step whether loss and gradients are finite.

Against noise: a block of two steps of each, in turns, there and back, many times; the ratio is the median of those of
blocks that were run one after the other, and said with its 95 % interval, within which what is wanted is not decided.
On one thread of a CPU the processor's seconds are counted, not those in which it did something else.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal, cast

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import nn
from torchvision.transforms.v2 import functional

from benchmarks.timing import Ratio, seconds_in_turns
from seqdsd.data.labelled_images import HeldImages, ImageFormat, LabelledImage
from seqdsd.engine import NesterovSettings
from seqdsd.engine.loop import LossMeter, train_epoch
from seqdsd.fabric import Fabric, FabricOptimizer
from seqdsd.models import CLASSIFIERS, make_classifier, split_logits
from seqdsd.sparsity import VISION_RULES, MaskSet, resolve
from seqdsd.tasks.classification import AUXILIARY_WEIGHT, IMAGENET, ClassificationTask, Labeller

SETTINGS = NesterovSettings(momentum=0.9, weight_decay=1e-4)
LEARNING_RATE = 1e-3
SPARSITY = 0.5
LEAST_SPEED, MOST_SPARSE = 0.97, 1.03


@dataclass(frozen=True)
class Config:
    """What is timed."""

    network: str = "resnet20"
    """One of ``seqdsd.models.CLASSIFIERS``, with images of the size that it was made for."""
    batch_size: int = 128
    """Images in a batch."""
    steps: int = 2
    """Steps in a block; ours begins and ends an epoch in each, so take more where steps are quick."""
    rounds: int = 30
    """Blocks of each way, in turns."""
    threads: int = 1
    """Of torch."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where it is trained."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Of all ways."""


def make_task(config: Config) -> ClassificationTask:
    """As many random images as a block takes, of ten classes."""
    kind, generator = CLASSIFIERS[config.network], torch.Generator().manual_seed(0)
    image_format = ImageFormat(3, kind.image_size, kind.image_size)
    number = config.batch_size * config.steps
    shape = (number, 3, kind.image_size, kind.image_size)
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (number,), generator=generator)
    images = [
        LabelledImage(f"{index}.png", Path(f"/{index}.png"), int(one)) for index, one in enumerate(labels)
    ]
    held = HeldImages(image_format, images, pixels, labels, pin_memory=config.device == "cuda")
    torch.manual_seed(0)
    return ClassificationTask(
        model=make_classifier(config.network, num_classes=10),
        labeller=Labeller("abcdefghij", image_format, IMAGENET),
        sources={"train": held},
        batch_size=config.batch_size,
    )


def our_epoch(config: Config, *, sparsity: float = 0.0) -> Callable[[], None]:
    """The engine's, under masks where there is a sparsity."""
    task, epochs = make_task(config), count()
    fabric = Fabric(accelerator=config.device, devices=1, precision=config.precision)
    model = fabric.setup_module(task.model)
    own = SETTINGS.make(task.model.parameters(), LEARNING_RATE)
    optimizer = cast(FabricOptimizer, fabric.setup_optimizers(own))
    if sparsity:
        MaskSet.from_magnitude(task.model, resolve(task.model, VISION_RULES, sparsity)).attach(own)

    def run() -> None:
        train_epoch(
            *(fabric, model, optimizer, task),
            epoch=next(epochs),
            first=0,
            seed=0,
            settings=SETTINGS,
            meter=LossMeter(),
            after_step=lambda step: None,
        )
        _wait(config)

    return run


def plain_epoch(config: Config) -> Callable[[], None]:
    """As anybody would write it."""
    task, epochs, device = make_task(config), count(), torch.device(config.device)
    model = deepcopy(task.model).to(device)
    normalisation = task.labeller.normalisation
    optimizer = torch.optim.SGD(
        model.parameters(), LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=SETTINGS.weight_decay
    )

    def run() -> None:
        model.train()
        for (batch,) in task.batches(next(epochs), first=0):
            images = batch.images.to(device, non_blocking=True)
            labels = batch.labels.to(device, non_blocking=True)
            scaled = functional.to_dtype(images, torch.float32, scale=True)
            inputs = functional.normalize(
                scaled, list(normalisation.mean), list(normalisation.deviation), inplace=True
            )
            is_mixed = config.precision != "32-true"
            with torch.autocast(config.device, torch.bfloat16) if is_mixed else nullcontext():
                logits, auxiliary = split_logits(model(inputs))
                loss = nn.functional.cross_entropy(logits, labels)
                for one in auxiliary:
                    loss = loss + AUXILIARY_WEIGHT * nn.functional.cross_entropy(one, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        _wait(config)

    return run


def _wait(config: Config) -> None:
    if config.device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    torch.set_num_threads(config.threads)
    ways = {
        "plain": plain_epoch(config),
        "ours": our_epoch(config),
        "ours, sparse": our_epoch(config, sparsity=SPARSITY),
    }
    is_alone = config.device == "cpu" and config.threads == 1
    clock = time.process_time if is_alone else time.perf_counter
    seconds = seconds_in_turns(ways, rounds=config.rounds, clock=clock, and_back=True)
    speed = Ratio.with_confidence(seconds["plain"], seconds["ours"])
    sparse = Ratio.with_confidence(seconds["ours, sparse"], seconds["ours"])
    where = f"{config.threads} threads" if config.device == "cpu" else torch.cuda.get_device_name()
    table = Table("network", "plain, s a step", "our speed", "sparse / dense step")
    table.title = f"batches of {config.batch_size}, {config.precision}, {where}"
    middle = statistics.median(seconds["plain"]) / config.steps
    table.add_row(config.network, f"{middle:.4f}", _fine(speed), _fine(sparse))
    table.caption = f"medians of {config.rounds} blocks of {config.steps} steps (95 % intervals)"
    Console().print(table)
    fast = _verdict(speed.low >= LEAST_SPEED, speed.high < LEAST_SPEED)
    cheap = _verdict(sparse.high <= MOST_SPARSE, sparse.low > MOST_SPARSE)
    print(f"wanted: our speed at least {LEAST_SPEED}: {fast}; sparse / dense at most {MOST_SPARSE}: {cheap}")


def _verdict(is_met: bool, is_missed: bool) -> str:
    return (
        "met" if is_met else "missed" if is_missed else "not decided; take more --rounds, or a quiet machine"
    )


def _fine(ratio: Ratio) -> str:
    return f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


if __name__ == "__main__":
    main()
