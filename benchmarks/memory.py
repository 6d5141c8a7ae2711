"""What less memory costs: the largest batch of a recogniser's recipe, with and without what saves memory.

    python -m benchmarks.memory --config recipes/an4/ds2.toml --data data/an4

Each way computes the gradients of the recipe's largest batch in a process of its own, a few times; the peak is that of
the whole process, less what it has before the first batch.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from seqdsd.config import read_config
from seqdsd.engine import make_fabric
from seqdsd.engine.memory import peak_bytes, try_largest_batch
from seqdsd.recipes import ds2

WAYS: Mapping[str, Mapping[str, Any]] = {
    "as the recipe has it": {},
    "layers recomputed": {"recompute": True},
    "in 2 parts": {"accumulate": 2},
    "in 4 parts": {"accumulate": 4},
    "in 4 parts, layers recomputed": {"accumulate": 4, "recompute": True},
    "in single precision": {"precision": "32-true"},
}


@dataclass(frozen=True)
class Settings:
    """What is computed."""

    config: Path = Path("recipes/an4/ds2.toml")
    """Settings of DeepSpeech 2."""
    data: Path = Path("data/an4")
    """Folder of a corpus."""
    batch_seconds: float = 60.0
    """Of the largest batch."""
    hidden_size: int = 320
    """Units of every recurrent layer."""
    layers: int = 3
    """Recurrent layers."""
    rounds: int = 5
    """Timings of each way, after one that is not counted."""


@dataclass(frozen=True)
class Cost:
    """Of one way."""

    peak_bytes: int
    seconds: float


def measure(settings: Settings, way: Mapping[str, Any]) -> Cost:
    """Compute the largest batch a few times; in a process that has done nothing else."""
    config = read_config(settings.config, ds2.Config())
    network = replace(
        config.network, num_recurrent_layers=settings.layers, recompute_layers=way.get("recompute", False)
    )
    config = replace(
        config,
        data=settings.data,
        hidden_size=settings.hidden_size,
        network=network,
        batches=replace(config.batches, max_batch_seconds=settings.batch_seconds, num_workers=0),
        accumulate=way.get("accumulate", 1),
        precision=way.get("precision", config.precision),
    )
    torch.set_num_threads(1)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = make_fabric("cpu", config.precision)
    task = ds2.make_task(config)
    model = fabric.setup_module(task.model)
    importlib.import_module("torch._dynamo")  # recomputed layers import it: a fixed cost of the process
    before = _peak_bytes()
    seconds = []
    for _ in range(1 + settings.rounds):
        started = time.perf_counter()
        try_largest_batch(fabric, model, task)
        seconds.append(time.perf_counter() - started)
    return Cost(_peak_bytes() - before, statistics.median(seconds[1:]))


def _peak_bytes() -> int:
    return peak_bytes(torch.device("cpu")) or 0


def main(settings: Settings) -> None:
    """Print peak and time of each way, and their ratio to the first."""
    table = Table(
        "largest batch", title=f"{settings.layers} x {settings.hidden_size}, {settings.batch_seconds:g} s"
    )
    for column in ("memory", "ratio", "seconds", "ratio"):
        table.add_column(column, justify="right")
    costs: dict[str, Cost] = {}
    for name, way in WAYS.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # so that no way sees another's peak
            costs[name] = pool.apply(measure, (settings, way))
        cost, first = costs[name], next(iter(costs.values()))
        table.add_row(
            name,
            f"{cost.peak_bytes / 1e9:.2f} GB",
            f"{cost.peak_bytes / first.peak_bytes:.2f}",
            f"{cost.seconds:.2f}",
            f"{cost.seconds / first.seconds:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
