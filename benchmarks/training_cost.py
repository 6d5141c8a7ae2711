"""What training DeepSpeech 2 through all five phases costs: an arithmetic, from two numbers that can be measured.

    python -m benchmarks.training_cost                               # the assumptions below
    python -m benchmarks.training_cost --teraflops 50 --launch-microseconds 5 --price 2

Nothing is trained. A step's time is that of its multiplications at the speed that a GPU is assumed to reach, of the
kernels that a recurrence starts one after the other, and of the sum of gradients over the GPUs. Left out: evaluation,
reading, the other layers' kernels, batch norm's messages between GPUs. ``benchmarks.ds2_training`` measures
audio seconds a second; put in here, they take the place of the first two: ``--audio-seconds-per-second 900``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import tyro
from rich.console import Console
from rich.table import Table

from seqdsd.audio.features import LINEAR_BINS
from seqdsd.models import DeepSpeech2

CORPORA = {"WSJ": 81.0, "LibriSpeech": 960.0, "DeepSpeech 2's": 2100.0}
"""Hours of training speech; the last is DSD's English corpus (Han et al. 2017, section 4.6)."""
FRAMES_PER_SECOND = 50.0
"""Of the recurrent layers: features come every 10 ms, and the first convolution takes every other one."""
KERNELS_PER_FRAME = 4
"""Of a recurrent layer, both directions in one: a product and a clamp forward, and the same backward."""


@dataclass(frozen=True)
class Settings:
    """What is assumed of the machine and of the run."""

    teraflops: float = 30.0
    """That one GPU reaches in these layers, not its peak (an A100 has 312 in bfloat16)."""
    launch_microseconds: float = 8.0
    """From one kernel of the recurrence to the next."""
    batch_seconds: float = 480.0
    """Audio of a batch on one GPU."""
    utterance_seconds: float = 15.0
    """Of the longest utterance in a batch."""
    gigabytes_per_second: float = 25.0
    """At which GPUs add up their gradients: 25 is a network of 200 Gbit/s; within a machine it is more."""
    gpus: tuple[int, ...] = (1, 8, 16)
    """How many train together."""
    epochs: int = 100
    """Of all five phases (Table 9: 20 each)."""
    price: float = 2.5
    """Of a GPU for an hour, in whatever currency."""
    audio_seconds_per_second: float | None = None
    """Measured on one GPU, in place of teraflops and launch_microseconds."""


def multiplications_per_second(model: DeepSpeech2) -> float:
    """Of one second of audio, forward; every weight of a layer over frames is used once a frame."""
    convolutions = [layer.conv for layer in (model.conv1, model.conv2)]
    bins = [model.conv1.out_bins, model.conv2.out_bins]
    per_frame = sum(conv.weight.numel() * count for conv, count in zip(convolutions, bins, strict=True))
    layers = [model.recurrent, model.fc, model.output]
    per_frame += sum(weight.numel() for layer in layers for weight in layer.parameters() if weight.ndim > 1)
    return FRAMES_PER_SECOND * per_frame


@dataclass(frozen=True)
class Step:
    """Seconds that a batch takes, by what takes them."""

    computing: float
    starting_kernels: float
    adding_gradients: float

    @property
    def seconds(self) -> float:
        """Of all of it, one after the other."""
        return self.computing + self.starting_kernels + self.adding_gradients


def step(model: DeepSpeech2, settings: Settings, gpus: int) -> Step:
    """Of a batch of ``batch_seconds`` on each of the GPUs."""
    num_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    adding = 2 * (gpus - 1) / gpus * num_bytes / (1e9 * settings.gigabytes_per_second)
    if settings.audio_seconds_per_second is not None:
        return Step(settings.batch_seconds / settings.audio_seconds_per_second, 0.0, adding)
    # Forward, and twice as much backward; a multiplication with its addition is two operations.
    operations = 3 * 2 * multiplications_per_second(model) * settings.batch_seconds
    frames = FRAMES_PER_SECOND * settings.utterance_seconds
    kernels = len(model.recurrent) * frames * KERNELS_PER_FRAME
    return Step(
        operations / (1e12 * settings.teraflops), 1e-6 * settings.launch_microseconds * kernels, adding
    )


def cost_table(model: DeepSpeech2, settings: Settings) -> Table:
    """Hours and money by corpus and number of GPUs."""
    table = Table("corpus", "hours", title=f"{settings.epochs} epochs, calculated, not measured")
    for count in settings.gpus:
        table.add_column(f"{count} GPUs" if count > 1 else "1 GPU", justify="right")
    for name, hours in CORPORA.items():
        cells = []
        for count in settings.gpus:
            steps = hours * 3600 * settings.epochs / (settings.batch_seconds * count)
            taken = steps * step(model, settings, count).seconds / 3600
            cells.append(f"{taken:,.1f} h, {taken * count * settings.price:,.0f}")
        table.add_row(name, f"{hours:,.0f}", *cells)
    return table


def main(settings: Settings) -> None:
    """Print a step's parts and the table."""
    console = Console()
    with torch.device("meta"):
        model = DeepSpeech2(num_bins=LINEAR_BINS)
    giga = multiplications_per_second(model) / 1e9
    console.print(f"{giga:.2f} G multiplications a second of audio, forward", highlight=False)
    for count in settings.gpus:
        one = step(model, settings, count)
        console.print(
            f"GPUs: {count}; a step {one.seconds:.2f} s (computing {one.computing:.2f}, starting kernels "
            f"{one.starting_kernels:.2f}, adding gradients {one.adding_gradients:.2f}), "
            f"{count * settings.batch_seconds / one.seconds:,.0f} s of audio a second",
            highlight=False,
        )
    console.print(cost_table(model, settings))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
