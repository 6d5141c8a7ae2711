"""DSD in Lightning's Trainer: LeNet-300-100 on MNIST.

    pip install 'seqdsd[lightning]' scikit-learn
    python examples/lightning_mnist.py --data FOLDER

FOLDER holds MNIST's own four files (``train-images-idx3-ubyte.gz`` and so on); without --data it trains on the 1,797
digits (8 x 8 pixels) that come with scikit-learn. About a minute on two cores, some seconds on the small digits. It
trains twice from the same weights: by DSD, and by its control, the same epochs and learning rates with nothing pruned.
Only the difference between the two is pruning's.
"""

import argparse
import gzip
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

from seqdsd.integrations.lightning import DSDCallback
from seqdsd.sparsity import VISION_RULES, Schedule

BATCH_SIZE = 64
SCHEDULE = Schedule.dsd(iters=1, epochs=(6, 3, 3), sparsities=[0.5], learning_rates=[0.1, 0.05, 0.01])


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes in MNIST's format: two zeros, the type, the number of dimensions, their sizes, the data."""
    content = gzip.decompress(path.read_bytes())
    sizes = np.frombuffer(content, ">i4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(sizes)


def load(folder: Path | None) -> dict[str, TensorDataset]:
    """Images [items, pixels] and labels [items] to train on, to choose by and to test on."""
    if folder is None:
        digits = load_digits()
        images, labels, sizes = digits.data / 16, digits.target, [1000, 297, 500]
    else:
        parts = [(read_idx(folder / f"{name}-images-idx3-ubyte.gz"), name) for name in ("train", "t10k")]
        images = np.concatenate([part.reshape(len(part), -1) for part, _ in parts]) / 255
        labels = np.concatenate([read_idx(folder / f"{name}-labels-idx1-ubyte.gz") for _, name in parts])
        train, test = (len(part) for part, _ in parts)
        sizes = [train - train // 12, train // 12, test]
    tensors = torch.from_numpy(images).float(), torch.from_numpy(labels).long()
    splits = zip(*(tensor.split(sizes) for tensor in tensors), strict=True)
    return dict(zip(("train", "dev", "test"), (TensorDataset(*split) for split in splits), strict=True))


def loader(data: TensorDataset, *, shuffle: bool = False) -> DataLoader:
    """Whole batches are taken out of the tensors at once."""
    order = RandomSampler(data) if shuffle else SequentialSampler(data)
    return DataLoader(data, batch_size=None, sampler=BatchSampler(order, BATCH_SIZE, drop_last=False))


class LeNet(pl.LightningModule):
    """Three fully connected layers."""

    def __init__(self, num_pixels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(num_pixels, 300), nn.ReLU()),
            *(nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)),
        )

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Mean loss."""
        images, labels = batch
        return nn.functional.cross_entropy(self.layers(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Share of the digits that are taken for another."""
        images, labels = batch
        wrong = (self.layers(images).argmax(1) != labels).float().mean()
        self.log("error", wrong, batch_size=len(labels), sync_dist=True)

    test_step = validation_step

    def configure_optimizers(self):
        """A cosine over a phase: asked for in each, the Trainer is as long as the phase."""
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-4)
        steps = self.trainer.estimated_stepping_batches
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return [optimizer], [{"scheduler": cosine, "interval": "step"}]


class Tell(pl.Callback):
    """Prints a line an epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What stands in the Trainer's metrics."""
        told = {name: float(value) for name, value in trainer.callback_metrics.items()}
        print(
            f"epoch {trainer.current_epoch + 1}: {told['error']:.2%} of dev wrong, "
            f"{told['dsd/zeros']:.1%} of the weights that DSD prunes are 0",
            flush=True,
        )


def train(schedule: Schedule, data: dict[str, TensorDataset], seed: int) -> float:
    """Walk the phases; the test error at their end."""
    pl.seed_everything(seed, verbose=False)
    dsd = DSDCallback(schedule, VISION_RULES, monitor="error")
    trainer = pl.Trainer(
        max_epochs=schedule.total_epochs,
        callbacks=[dsd, Tell()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        accelerator="cpu",
        devices=1,
    )
    module = LeNet(data["train"].tensors[0].shape[1])
    trainer.fit(module, loader(data["train"], shuffle=True), loader(data["dev"]))
    [scores] = trainer.test(module, loader(data["test"]), verbose=False)
    return scores["error"]


def main() -> None:
    """Train by DSD and by its control, and print both errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = load(arguments.data)
    errors = {}
    for name, schedule in {"DSD": SCHEDULE, "control": SCHEDULE.lower_learning_rate_only()}.items():
        print(name)
        errors[name] = train(schedule, data, arguments.seed)
    for name, share in errors.items():
        print(f"{name}: {share:.2%} of {len(data['test']):,} test digits wrong")
    print("One seed says nothing about which of the two is better: try more (--seed).")


if __name__ == "__main__":
    main()
