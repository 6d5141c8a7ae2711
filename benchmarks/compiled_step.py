"""A training step with ``torch.compile`` against the same step without it, on utterances of mixed lengths.

    OMP_NUM_THREADS=1 python -m benchmarks.compiled_step

Shapes are declared dynamic, as no two batches have the same. Where a network does not run compiled the error is shown.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.ds2_training import Batch, Precision, make_batches, make_training
from benchmarks.timing import Ratio, seconds_in_turns
from seqdsd.models import DeepSpeech1, DeepSpeech2


@dataclass(frozen=True)
class Settings:
    """What is timed."""

    hidden_size: int = 320
    """Units."""
    precision: Precision = "bf16"
    """Of the arithmetic."""
    batches: int = 4
    """Of 15 s, in as many shapes."""
    rounds: int = 3
    """Timings of each way, in turns."""
    device: str = "cpu"
    """cpu, or cuda (which nobody has tried yet)."""


def networks(hidden_size: int) -> dict[str, Callable[[], nn.Module]]:
    """By name, fresh."""
    return {
        "DeepSpeech 1": lambda: DeepSpeech1(hidden_size=hidden_size, batch_norm=True, dropout=0.1),
        "DeepSpeech 2": lambda: DeepSpeech2(hidden_size=hidden_size, num_recurrent_layers=3, dropout=0.1),
    }


class Compiled(nn.Module):
    """A network whose forward pass is compiled; its parameters are the network's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._forward = torch.compile(network, dynamic=True)

    def forward(self, *inputs: Any) -> Any:
        """As the network's."""
        return self._forward(*inputs)


def time_one(make: Callable[[], nn.Module], batches: list[Batch], settings: Settings) -> tuple[str, ...]:
    """Seconds of both ways and their ratio, or the error."""
    ways = {
        name: make_training(model, batches, settings.precision, settings.device)
        for name, model in (("plain", make()), ("compiled", Compiled(make())))
    }
    try:
        seconds = seconds_in_turns(ways, rounds=settings.rounds)
    except Exception as error:  # whatever the compiler and its output raise
        return "", "", f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
    medians = [f"{statistics.median(values):.2f}" for values in seconds.values()]
    return *medians, str(Ratio.of(seconds["compiled"], seconds["plain"]))


def main(settings: Settings) -> None:
    """Print a row a network."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    batches = make_batches(15.0, settings.batches)
    table = Table("network", "plain, s", "compiled, s", "compiled / plain")
    for name, make in networks(settings.hidden_size).items():
        table.add_row(name, *time_one(make, batches, settings))
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
