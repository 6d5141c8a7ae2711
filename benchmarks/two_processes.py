"""The same run by two processes of one thread and by one process of two threads, on the CPU.

    python -m benchmarks.two_processes --data data/an4

Each run is the recipe's own command, started by ``torchrun``: the same batches, shared or not, by the engine. Timed are
its sparse and its redense epoch, without evaluation, as its record has them; the dense one before warms up.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.timing import Ratio
from seqdsd.data import read_manifest, write_manifest
from seqdsd.data.synthetic import SyntheticSpeech, synthetic_speech
from seqdsd.records import RunFolder


@dataclass(frozen=True)
class Config:
    """What is timed."""

    data: Path | None = None
    """Folder of a corpus; by default the embedded one."""
    recipes: tuple[Literal["ds1", "ds2"], ...] = ("ds1", "ds2")
    """Which networks."""
    hidden_size: int = 320
    """Units; DeepSpeech 2 has three recurrent layers."""
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    """Of the networks' arithmetic."""
    max_batch_seconds: float = 30.0
    """Of the batch of all processes together."""
    minutes: float = 5.0
    """Of the corpus, from its beginning; 0 takes all of it."""
    rounds: int = 3
    """Runs of each way, in turns."""


WAYS = {"1 process, 2 threads": (1, 2), "2 processes, 1 thread": (2, 1)}


def part_of(data: Path, minutes: float, folder: Path) -> float:
    """Write manifests of the corpus' beginning, and of one utterance to evaluate; returns seconds to train on."""
    train = read_manifest(data / "train.jsonl").utterances
    ends = np.cumsum([one.duration_seconds for one in train])
    count = 1 + int(np.searchsorted(ends, 60 * minutes)) if minutes else len(train)
    write_manifest(folder / "train.jsonl", train[:count])
    for split in ("dev", "test"):
        write_manifest(folder / f"{split}.jsonl", train[:1])
    return float(ends[min(count, len(ends)) - 1])


def train_seconds(
    config: Config, recipe: str, data: Path, out: Path, *, processes: int, threads: int
) -> float:
    """Run it; seconds of training an epoch, the first left out.

    Raises:
        RuntimeError: If it fails; with its output.
    """
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
    ]
    command += ["-m", f"seqdsd.recipes.{recipe}", "--data", str(data), "--out", str(out), "--device", "cpu"]
    command += ["--iters", "1", "--epochs", "1", "1", "1", "--hidden-size", str(config.hidden_size)]
    command += [
        "--precision",
        config.precision,
        "--no-score-test",
        "--learning-rates",
        "1e-5",
        "1e-5",
        "1e-5",
    ]
    command += ["--preset", "paper", "--batches.max-batch-seconds", str(config.max_batch_seconds)]
    command += ["--network.num-recurrent-layers", "3"] if recipe == "ds2" else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return statistics.mean(record["train_seconds"] for record in RunFolder(out).read_phases()[1:])


def main(config: Config) -> None:
    console = Console()
    data = config.data or synthetic_speech(SyntheticSpeech())
    table = Table("recipe", *(f"{way}: audio s / s" for way in WAYS), "2 processes / 1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        audio = part_of(data, config.minutes, folder)
        sizes = f"{audio:.0f} s of audio an epoch, {config.hidden_size} units, {config.precision}"
        table.title = f"{sizes}, median of {config.rounds} (range)"
        for recipe in config.recipes:
            seconds: dict[str, list[float]] = {way: [] for way in WAYS}
            for number in range(config.rounds):
                for way, (processes, threads) in WAYS.items():
                    out = folder / f"{recipe}-{number}-{processes}"
                    seconds[way].append(
                        train_seconds(config, recipe, folder, out, processes=processes, threads=threads)
                    )
            speeds = [f"{audio / statistics.median(values):.1f}" for values in seconds.values()]
            table.add_row(recipe, *speeds, str(Ratio.of(*seconds.values())))
    console.print(table)


if __name__ == "__main__":
    main(tyro.cli(Config))
