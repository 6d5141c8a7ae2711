"""What the input side of training costs: computing features, padding, and the memory of a large manifest.

    python benchmarks/features_and_padding.py                   # the embedded corpus, no download
    python -m benchmarks.features_and_padding --data data/an4   # any folder of manifests

Three tables: the share of a training step that goes into log spectrograms, with the settings of
``recipes/an4/ds1.toml``; the share of an epoch's frames that is padding, by batch budget; and the memory of a
manifest of 1,000 hours, whose audio would be 230 GB if it were held. Accuracy is left out.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import tyro
from rich.console import Console
from rich.table import Table

from seqdsd.audio import LogSpectrogram
from seqdsd.audio.features import SAMPLE_RATE_HZ
from seqdsd.config import read_config
from seqdsd.data import (
    BucketBatchSampler,
    SpeechBatch,
    SpeechDataset,
    Utterance,
    load_batches,
    padding_share,
    read_corpus,
    read_manifest,
    write_manifest,
)
from seqdsd.data.synthetic import SyntheticSpeech, synthetic_speech
from seqdsd.engine.loop import LossMeter, train_epoch
from seqdsd.fabric import Fabric
from seqdsd.recipes import ds1
from seqdsd.tasks import SpeechTask
from seqdsd.text import CharacterTokenizer

SETTINGS = Path(__file__).parents[1] / "recipes" / "an4" / "ds1.toml"
BYTES_PER_SAMPLE = 4


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    data: Path | None = None
    """Folder with train.jsonl, dev.jsonl and test.jsonl; by default the embedded corpus."""
    steps: int = 10
    """Training steps that are timed, after as many to warm up."""
    budgets: tuple[float, ...] = (15.0, 30.0, 60.0, 120.0, 240.0)
    """Batch budgets in seconds of audio, for the padding."""
    hours: float = 1000.0
    """Size of the made-up manifest."""
    batches: int = 20
    """Batches of 120 s read from it."""
    device: str = "auto"
    """auto picks a GPU if there is one; or cpu, cuda."""


class PreloadedTask(SpeechTask):
    """Batches from memory, so that a step's time is the network's and the features' alone."""

    def preload(self, count: int) -> None:
        """Keep the first ``count`` batches of an epoch in random order."""
        every = super().batches(1, first=0)
        self.kept = [batch for batch, _ in zip(every, range(count), strict=False)]

    def batches(self, epoch: int, *, first: int) -> Iterator[list[SpeechBatch]]:
        """The batches kept."""
        return iter(self.kept[first:])


class Stopwatch:
    """Sums the time that a module's forward takes, waiting for the device around it."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.seconds = 0.0
        module.register_forward_pre_hook(lambda *_: self._start())
        module.register_forward_hook(lambda *_: self._stop())

    def _start(self) -> None:
        self._started = now()

    def _stop(self) -> None:
        self.seconds += now() - self._started


def now() -> float:
    """Seconds, once the device has done all it was asked to."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def feature_table(settings: Settings, folder: Path) -> Table:
    """Time the same training steps as a whole and their features alone."""
    config = read_config(SETTINGS, ds1.Config())
    tokenizer = CharacterTokenizer()
    task = PreloadedTask(
        model=ds1.make_model(config, tokenizer),
        tokenizer=tokenizer,
        corpus=read_corpus(folder),
        batches_settings=replace(config.batches, num_workers=0),
        augment=config.augment,
    )
    task.preload(settings.steps)
    fabric = Fabric(accelerator=settings.device, devices=1)
    model = fabric.setup_module(task.model)
    own = config.optimizer.make(model.parameters(), config.learning_rates[0])
    optimizer: Any = fabric.setup_optimizers(own)

    def train() -> None:
        train_epoch(
            fabric,
            model,
            optimizer,
            task,
            epoch=1,
            first=0,
            seed=0,
            settings=config.optimizer,
            meter=LossMeter(),
            after_step=lambda step: None,
        )

    train()  # warms up
    stopwatch, started = Stopwatch(task.recogniser.features), now()
    train()
    seconds, steps = now() - started, len(task.kept)
    audio = sum(int(part.num_samples.sum()) for batch in task.kept for part in batch) / SAMPLE_RATE_HZ
    table = Table("per training step", "", title=f"Features ({fabric.device}, {config.hidden_size} units)")
    table.add_row("audio", f"{audio / steps:.1f} s")
    table.add_row("whole step", f"{1000 * seconds / steps:.1f} ms")
    table.add_row("features", f"{1000 * stopwatch.seconds / steps:.1f} ms")
    table.add_row("share of features", f"{stopwatch.seconds / seconds:.1%}")
    return table


def padding_table(settings: Settings, folder: Path) -> Table:
    """Padding of one epoch, by length as in training and, for comparison, in random order.

    Budgets below the longest utterance are left out.
    """
    seconds = [one.duration_seconds for one in read_manifest(folder / "train.jsonl").utterances]
    order = np.random.default_rng(0).permutation(len(seconds)).tolist()
    table = Table("max_batch_seconds", "batches", "padding", "in random order", title="Padding of an epoch")
    for budget in settings.budgets:
        if budget < max(seconds):
            continue
        batches = list(BucketBatchSampler(seconds, max_batch_seconds=budget, epoch=1))
        ends = np.cumsum([len(batch) for batch in batches])
        at_random = [order[end - len(batch) : end] for batch, end in zip(batches, ends, strict=True)]
        shares = (padding_share(seconds, batches), padding_share(seconds, at_random))
        table.add_row(f"{budget:g}", str(len(batches)), *(f"{share:.1%}" for share in shares))
    return table


def memory_table(settings: Settings) -> Table:
    """Peak memory at each stage of using a large manifest, each measured in one fresh process."""
    with tempfile.TemporaryDirectory() as name, get_context("spawn").Pool(1) as pool:
        path = Path(name) / "train.jsonl"
        num_lines = write_large_manifest(path, settings.hours)
        peaks = pool.apply(peaks_of_reading, (path, settings.batches))
    audio = settings.hours * 3600 * SAMPLE_RATE_HZ * BYTES_PER_SAMPLE
    title = f"Memory of a manifest of {settings.hours:g} h ({num_lines:,} lines)"
    table = Table("after", "peak", "growth", "share of the audio", title=title)
    before = peaks["imports"]
    for stage, peak in peaks.items():
        growth = peak - before
        table.add_row(stage, f"{peak / 1e6:,.0f} MB", f"{growth / 1e6:,.0f} MB", f"{growth / audio:.3%}")
    table.add_row("(audio held as float32)", f"{audio / 1e6:,.0f} MB", "", "100%")
    return table


def write_large_manifest(path: Path, hours: float) -> int:
    """A manifest whose lines all point at a few recordings of 2 to 22 s; returns the number of lines."""
    durations = np.arange(2.0, 23.0, 2.0)
    noise = np.random.default_rng(0).normal(0, 0.1, int(durations[-1] * SAMPLE_RATE_HZ))
    for seconds in durations:
        soundfile.write(
            path.with_name(f"{seconds:g}.flac"), noise[: int(seconds * SAMPLE_RATE_HZ)], SAMPLE_RATE_HZ
        )
    num_lines = round(hours * 3600 / durations.mean())
    chosen = np.random.default_rng(0).choice(durations, num_lines).tolist()
    write_manifest(
        path,
        (
            Utterance(
                id=f"utterance-{index:07d}",
                audio_path=str(path.with_name(f"{seconds:g}.flac")),
                duration_seconds=seconds,
                text="a sentence of about the length that people read out in twelve seconds",
                speaker=None,
                source="",
            )
            for index, seconds in enumerate(chosen)
        ),
    )
    return num_lines


def peaks_of_reading(path: Path, num_batches: int) -> dict[str, float]:
    """Peak resident memory of this process in bytes after each stage."""
    peaks = {"imports": peak_bytes()}
    utterances = read_manifest(path).utterances
    peaks["manifest"] = peak_bytes()
    sampler = BucketBatchSampler(
        [one.duration_seconds for one in utterances], max_batch_seconds=120.0, epoch=1
    )
    peaks["sampler"] = peak_bytes()
    dataset, features = SpeechDataset(utterances, CharacterTokenizer()), LogSpectrogram()
    batches = load_batches(dataset, sampler, num_workers=0)
    for batch, _ in zip(batches, range(num_batches), strict=False):
        features(batch.waveforms, batch.num_samples)
    peaks[f"{num_batches} batches and their features"] = peak_bytes()
    return peaks


def peak_bytes() -> float:
    """Highest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    console = Console()
    folder = settings.data or synthetic_speech(SyntheticSpeech())
    console.print(memory_table(settings))
    console.print(padding_table(settings, folder))
    console.print(feature_table(settings, folder))


if __name__ == "__main__":
    main()
