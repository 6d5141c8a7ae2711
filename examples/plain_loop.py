"""DSD in a loop of one's own: a small CNN on the 1,797 real digits (8 x 8 pixels) that come with scikit-learn.

    pip install seqdsd scikit-learn
    python examples/plain_loop.py

No download; some seconds on one core. It trains twice from the same weights: by DSD, and by its control, the same
epochs and learning rates with nothing pruned. Only the difference between the two is pruning's.
"""

import argparse
import copy

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from seqdsd import DSD
from seqdsd.sparsity import VISION_RULES, Schedule

BATCH_SIZE = 32
SCHEDULE = Schedule.dsd(iters=1, epochs=(12, 6, 6), sparsities=[0.5], learning_rates=[0.05, 0.02, 0.005])


def load() -> dict[str, tuple[Tensor, Tensor]]:
    """Images [digits, 1, 8, 8] and labels [digits] to train on, to choose by and to test on."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(digits.target).long()
    sizes = [1000, 297, 500]
    return dict(
        zip(("train", "dev", "test"), zip(images.split(sizes), labels.split(sizes), strict=True), strict=True)
    )


def network() -> nn.Module:
    """Two convolutions and two fully connected layers."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def train_one_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> None:
    """A pass over the digits in a random order."""
    model.train()
    for batch in torch.randperm(len(labels)).split(BATCH_SIZE):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()


@torch.no_grad()
def error(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the digits that are taken for another."""
    model.eval()
    return float((model(images).argmax(1) != labels).float().mean())


def train(dsd: DSD, data: dict[str, tuple[Tensor, Tensor]]) -> float:
    """Walk the phases; the test error at their end."""
    model = dsd.model
    for phase in dsd.phases():
        optimizer = torch.optim.SGD(
            model.parameters(), lr=phase.learning_rate, momentum=0.9, weight_decay=1e-4
        )
        with dsd.hold(optimizer):
            for _ in phase.remaining_epochs:
                train_one_epoch(model, optimizer, *data["train"])
                dsd.epoch_done(score=error(model, *data["dev"]))
        zeros = sum(int((weight == 0).sum()) for weight in model.parameters())
        print(
            f"{phase.name}: {error(model, *data['dev']):.1%} of dev wrong, {zeros:,} weights are 0",
            flush=True,
        )
    return error(model, *data["test"])


def main() -> None:
    """Train by DSD and by its control, and print both errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.manual_seed(seed)
    data, model = load(), network()
    dsd = DSD(model, SCHEDULE, VISION_RULES, best="lowest")
    control = dsd.control(copy.deepcopy(model))
    print(dsd.summary())
    errors = {}
    for name, one in {"DSD": dsd, "control": control}.items():
        torch.manual_seed(seed)  # the same order of the digits
        errors[name] = train(one, data)
    for name, share in errors.items():
        print(f"{name}: {share:.1%} of 500 test digits wrong")
    print("One seed says nothing about which of the two is better: try more (--seed).")


if __name__ == "__main__":
    main()
