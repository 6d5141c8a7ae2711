"""Trains a task of numbers, alone or as one of several processes; called from ``test_processes.py``.

Each process leaves its weights, its masks and the losses that it has seen. Batches cannot be shared evenly, and one
item is computed by both.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from seqdsd.engine import DSDTraining, Evaluation, NesterovSettings, Processes, TrainSettings, make_fabric
from seqdsd.records import RunFolder
from seqdsd.sparsity import MaskSet, Rule, Schedule

BATCHES = (7, 1, 7, 4)


class Numbers:
    """A batch."""

    def __init__(self, ids, numbers):
        self.ids, self.numbers = ids, numbers

    def to(self, device):
        return Numbers(self.ids, self.numbers.to(device))

    def __len__(self):
        return len(self.ids)


class Network(nn.Module):
    """Sees each number as a frame of its own, so that an item alone can be normalised."""

    def __init__(self, norm):
        super().__init__()
        self.frames = nn.Sequential(nn.Linear(1, 16), norm, nn.Tanh())
        self.output = nn.Linear(6 * 16, 1)

    def forward(self, numbers):
        frames = self.frames(numbers.reshape(-1, 1))
        return self.output(frames.reshape(len(numbers), -1))


class SumTask:
    """The sum of six numbers, through a norm over all processes' items."""

    test_splits = ("test",)
    fingerprint = "numbers"
    num_batches = len(BATCHES)

    def __init__(self, processes, accumulate, norm):
        torch.manual_seed(0)
        self.model = Network(norm)
        self.skipped = {}
        self.processes = processes
        self.accumulate = accumulate

    def batches(self, epoch, *, first):
        for index in range(first, len(BATCHES)):
            generator = torch.Generator().manual_seed(100 * epoch + index)
            numbers = torch.randn(BATCHES[index], 6, generator=generator)
            parts = self.processes.micro_batches(list(range(BATCHES[index])), self.accumulate)
            yield [Numbers(tuple(f"{epoch}-{index}-{i}" for i in own), numbers[own]) for own in parts]

    def largest_batch(self):
        return next(self.batches(0, first=0))

    def loss(self, model, batch):
        return nn.functional.mse_loss(model(batch.numbers).squeeze(1), batch.numbers.sum(1))

    @torch.inference_mode()
    def evaluate(self, model, split, device):
        model.eval()
        numbers = torch.randn(9, 6, generator=torch.Generator().manual_seed(7))
        own = self.processes.every_nth(list(range(9)))
        errors = [float((model(numbers[i : i + 1]).squeeze() - numbers[i].sum()) ** 2) for i in own]
        found = dict(self.processes.gather(list(zip(own, errors, strict=True))))
        loss = sum(found.values()) / len(found)
        rows = [{"id": str(i), "ref": "1", "hyp": f"{found[i]:.3f}"} for i in sorted(found)]
        return Evaluation(loss, loss, f"loss {loss:.3f}", {"error": loss}, rows)


def train(out: Path, accumulate: int, make_norm: Callable[[], nn.Module]) -> None:
    """With batches in so many parts, and this norm."""
    fabric = make_fabric("cpu", "32-true")
    processes = Processes.of(fabric)
    masks = []
    choose = MaskSet.from_magnitude
    MaskSet.from_magnitude = lambda *args: masks.append(choose(*args)) or masks[-1]
    task = SumTask(processes, accumulate, make_norm())
    training = DSDTraining(
        task,
        Schedule.dsd(1, 3, (0.5,), (5e-3, 2e-3, 1e-3)),
        [Rule("*")],
        settings=TrainSettings(NesterovSettings(momentum=0.9, clip_norm=1.0), seed=5),
        folder=RunFolder(out / "run"),
        fabric=fabric,
        console=Console(quiet=True),
    )
    records = training.run()
    left = {"weights": task.model.state_dict(), "masks": masks[0].masks, "records": records}
    torch.save(left, out / f"rank-{processes.rank}.pt")
