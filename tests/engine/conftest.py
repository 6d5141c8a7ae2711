"""A task in miniature for the engine's tests: the sum of six numbers, through batch norm and dropout."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from seqdsd.engine import DSDTraining, Evaluation, NesterovSettings, TrainSettings
from seqdsd.fabric import Fabric
from seqdsd.records import RunFolder
from seqdsd.sparsity import Rule, Schedule

sys.path.insert(0, str(Path(__file__).parent))  # for two_processes.py

BATCHES = 3


@dataclass(frozen=True)
class NumberBatch:
    ids: tuple[str, ...]
    numbers: torch.Tensor

    def to(self, device):
        return replace(self, numbers=self.numbers.to(device))

    def __len__(self):
        return len(self.ids)


class SumTask:
    """Scripted where a test needs it: dev scores, what happens at a step, what happens in an evaluation."""

    test_splits = ("test",)
    parts = 1
    num_batches = BATCHES
    fingerprint = "numbers"

    def __init__(self, scores: list[float] | None = None) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.Sequential(
                nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1)
            )
        self.skipped: dict[str, str] = {}
        self.steps: list[tuple[int, int]] = []
        self.at_step: Callable[[int, int, NumberBatch], None] = lambda epoch, index, batch: None
        self.at_evaluation: Callable[[str], None] = lambda split: None
        self._scores = scores
        self._score_of: dict[bytes, float] = {}

    def batches(self, epoch, *, first):
        for index in range(first, self.num_batches):
            numbers = torch.randn(8, 6, generator=torch.Generator().manual_seed(100 * epoch + index))
            batch = NumberBatch(tuple(f"item-{epoch}-{index}-{i}" for i in range(8)), numbers)
            self.steps.append((epoch, index))
            self.at_step(epoch, index, batch)
            size = 8 // self.parts
            yield [
                NumberBatch(batch.ids[start : start + size], batch.numbers[start : start + size])
                for start in range(0, 8, size)
            ]

    def largest_batch(self):
        return [NumberBatch(("largest",) * 8, torch.ones(8, 6))]

    def loss(self, model, batch):
        return nn.functional.mse_loss(model(batch.numbers).squeeze(1), batch.numbers.sum(1))

    @torch.inference_mode()
    def evaluate(self, model, split, device):
        self.at_evaluation(split)
        model.eval()
        numbers = torch.randn(32, 6, generator=torch.Generator().manual_seed(7))
        loss = float(nn.functional.mse_loss(model(numbers).squeeze(1), numbers.sum(1)))
        score = loss if self._scores is None else self._scripted(numbers, model)
        rows = [{"id": "a", "ref": "1", "hyp": f"{loss:.3f}"}]
        return Evaluation(loss, score, f"score {score:.3f}", {"error": score}, rows)

    def _scripted(self, numbers, model):
        """The script's next score for weights not seen before; the same again for the same weights."""
        key = model(numbers).numpy().tobytes()
        if key not in self._score_of:
            self._score_of[key] = float(self._scores[len(self._score_of)])
        return self._score_of[key]


@pytest.fixture
def make_task() -> type[SumTask]:
    return SumTask


@pytest.fixture
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a run, or go on with one: ``start(task, "name")`` returns the phase records."""
    monkeypatch.setattr(os, "fsync", lambda file: None)  # hundreds of checkpoints; no power fails here

    def run(
        task,
        name="run",
        *,
        schedule=None,
        rules=None,
        optimizer=None,
        start_from=None,
        noted=None,
        share=None,
        make_fresh=None,
        **settings,
    ):
        settings.setdefault("checkpoint_minutes", 60.0)
        training = DSDTraining(
            task,
            schedule or Schedule.dsd(1, 2, (0.5,), (0.05, 0.02, 0.01)),
            rules or [Rule("*")],
            settings=TrainSettings(optimizer or NesterovSettings(momentum=0.9), seed=5, **settings),
            folder=RunFolder(tmp_path / name),
            fabric=Fabric(accelerator="cpu", devices=1),
            console=Console(quiet=True),
            start_from=RunFolder(tmp_path / start_from) if start_from else None,
            noted=noted,
            share=share,
            make_fresh=make_fresh,
        )
        return training.run()

    return run


@pytest.fixture(autouse=True)
def _all_log_levels(caplog):
    caplog.set_level(logging.INFO, logger="seqdsd")
