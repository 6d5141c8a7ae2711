"""DSD in a loop with Accelerate: a small network on the 1,797 real digits (8 x 8 pixels) that come with scikit-learn.

    pip install 'seqdsd[transformers]' scikit-learn
    accelerate launch --cpu --num_processes 2 examples/accelerate_loop.py

Or ``python examples/accelerate_loop.py`` for one process. No download; some seconds. It trains twice from the same
weights: by DSD, and by its control, the same epochs and learning rates with nothing pruned. Only the difference between
the two is pruning's.
"""

import argparse
import copy

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from seqdsd import DSD
from seqdsd.sparsity import VISION_RULES, Schedule

BATCH_SIZE = 32  # of all processes together
SCHEDULE = Schedule.dsd(iters=1, epochs=(12, 6, 6), sparsities=[0.5], learning_rates=[0.05, 0.02, 0.005])


def load(accelerator: Accelerator) -> dict[str, DataLoader]:
    """Images [items, 64] and labels [items] to train on, to choose by and to test on; each process has its share."""
    digits = load_digits()
    images, labels = torch.from_numpy(digits.data).float() / 16, torch.from_numpy(digits.target).long()
    sizes = [1000, 297, 500]
    splits = dict(
        zip(("train", "dev", "test"), zip(images.split(sizes), labels.split(sizes), strict=True), strict=True)
    )
    size = BATCH_SIZE // accelerator.num_processes
    loaders = [DataLoader(TensorDataset(*split), size, name == "train") for name, split in splits.items()]
    return dict(zip(splits, accelerator.prepare(*loaders), strict=True))


def train_one_epoch(
    accelerator: Accelerator, dsd: DSD, model: nn.Module, optimizer: torch.optim.Optimizer, data: DataLoader
) -> None:
    """A pass over the digits."""
    model.train()
    for images, labels in data:
        optimizer.zero_grad()
        accelerator.backward(nn.functional.cross_entropy(model(images), labels))
        dsd.mask_gradients_()  # what is pruned must not steer the rest by the norm that is clipped
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


@torch.no_grad()
def error(accelerator: Accelerator, model: nn.Module, data: DataLoader) -> float:
    """Share of the digits that are taken for another: the same in all processes, as ``epoch_done`` wants it."""
    model.eval()
    wrong = [accelerator.gather_for_metrics(model(images).argmax(1) != labels) for images, labels in data]
    return float(torch.cat(wrong).float().mean())


def train(accelerator: Accelerator, dsd: DSD, data: dict[str, DataLoader]) -> float:
    """Walk the phases; the test error at their end."""
    model = accelerator.prepare(dsd.model)  # a DSD is made of the bare model, before
    for phase in dsd.phases():
        optimizer = torch.optim.SGD(
            dsd.model.parameters(), lr=phase.learning_rate, momentum=0.9, weight_decay=1e-4
        )
        optimizer = accelerator.prepare(optimizer)
        with dsd.hold(optimizer):  # Accelerate's wrapper is seen through
            for _ in phase.remaining_epochs:
                train_one_epoch(accelerator, dsd, model, optimizer, data["train"])
                dsd.epoch_done(score=error(accelerator, model, data["dev"]))
        score = error(accelerator, model, data["dev"])
        zeros = sum(int((weight == 0).sum()) for weight in dsd.model.parameters())
        accelerator.print(f"{phase.name}: {score:.1%} of dev wrong, {zeros:,} weights are 0", flush=True)
    return error(accelerator, model, data["test"])


def main() -> None:
    """Train by DSD and by its control, and print both errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    accelerator = Accelerator(cpu=True)
    set_seed(seed)
    data = load(accelerator)
    model = nn.Sequential(
        *(nn.Linear(64, 128), nn.ReLU()), *(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    )
    dsd = DSD(model, SCHEDULE, VISION_RULES, best="lowest")
    control = dsd.control(copy.deepcopy(model))
    accelerator.print(dsd.summary())
    for name, one in {"DSD": dsd, "control": control}.items():
        set_seed(seed)
        share = train(accelerator, one, data)
        accelerator.print(f"{name}: {share:.1%} of 500 test digits wrong")
    accelerator.print("One seed says nothing about which of the two is better: try more (--seed).")
    accelerator.end_training()


if __name__ == "__main__":
    main()
