"""DeepSpeech 2's training against other toolkits' CTC networks of as many parameters; and how it grows.

    python -m benchmarks.ds2_training             # pip install --no-deps speechbrain hyperpyyaml ruamel.yaml pyyaml
    python -m benchmarks.ds2_training --scaling

A step is forward, CTC loss, backward, clipping and the engine's Nesterov SGD, from features [batch, frames, 161] that
are made up, and the same for all. Utterances are as long as AN4's and go together as in training: the batches of one
budget, planned by our sampler, of which some from short to long are taken. What a rival is made of is said in
``ctc_rivals.py``; it is left out if its package is not installed.
"""

import math
import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.ctc_rivals import NUM_BINS, RIVALS, VOCAB_SIZE, is_installed, parameters_of, rival_of_size
from benchmarks.timing import Ratio, seconds_in_turns
from seqdsd.data import BucketBatchSampler
from seqdsd.engine import NesterovSettings
from seqdsd.models import DeepSpeech2

Size = Literal["small", "large"]
Precision = Literal["fp32", "bf16"]
SETTINGS = NesterovSettings()
FRAMES_A_SECOND = 100
FRAMES_A_CHARACTER = 8
"""Of speech; AN4 is spelt and read at about this pace."""


@dataclass(frozen=True)
class Config:
    """What is timed."""

    sizes: tuple[Size, ...] = ("small", "large")
    """small: 3 recurrent layers of 320 units, 1.6 million parameters; large: Table 8's 7 of 1760, 68 million."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    """Of the networks' arithmetic; bf16 is autocast, as --precision bf16-mixed."""
    batch_seconds: float = 15.0
    """Audio in a batch, padding included; recipes/an4 has 15."""
    batches: int = 3
    """In a timing, from short utterances to long ones; of the large size the middle one alone is taken."""
    rivals: tuple[str, ...] = tuple(RIVALS)
    """Which, by the beginning of their names."""
    jit: bool = True
    """Compile SpeechBrain's LiGRU, as its README advises; at the large size 16 GB are not enough for that."""
    rounds: int = 5
    """Timings of each way, in turns."""
    threads: int = 1
    """Of torch."""
    device: str = "cpu"
    """cpu, or cuda (which nobody has tried yet)."""
    scaling: bool = False
    """Instead: our speed by hidden size, layers and batch, and an epoch's plan by hours of speech."""
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 1760)
    """Of --scaling; with 3 layers and batches of 30 s."""
    layers: tuple[int, ...] = (3, 5, 7)
    """Of --scaling; of 512 units, with batches of 30 s."""
    budgets: tuple[float, ...] = (15.0, 30.0, 60.0, 120.0)
    """Of --scaling: seconds of audio in a batch; 3 layers of 512 units."""
    hours: tuple[float, ...] = (1.0, 100.0, 1000.0, 10000.0)
    """Of --scaling: made-up corpora."""


@dataclass(frozen=True)
class Batch:
    """Features of utterances side by side, and what was said in them."""

    features: Tensor
    num_frames: Tensor
    tokens: Tensor
    num_tokens: Tensor

    @property
    def seconds(self) -> float:
        """Audio, without padding."""
        return float(self.num_frames.sum()) / FRAMES_A_SECOND


def an4_durations(count: int) -> list[float]:
    """Seconds of utterances spread as AN4's: from 0.7 to 6.4, half of them below 2.5."""
    normal = np.random.default_rng(0).normal(math.log(2.5), 0.52, count)
    return np.exp(normal).clip(0.7, 6.4).tolist()


def make_batches(budget: float, count: int) -> list[Batch]:
    """``count`` batches from short to long, at even distances, of an epoch of ten minutes or more."""
    durations = an4_durations(max(250, round(8 * count * budget)))
    plan = list(BucketBatchSampler(durations, max_batch_seconds=budget, by_length=True))
    chosen = [plan[(2 * i + 1) * len(plan) // (2 * count)] for i in range(count)]
    return [_make_batch([durations[one] for one in batch]) for batch in chosen]


def _make_batch(durations: list[float]) -> Batch:
    num_frames = torch.tensor([round(FRAMES_A_SECOND * one) for one in durations])
    num_tokens = num_frames // FRAMES_A_CHARACTER
    return Batch(
        features=torch.randn(len(durations), int(num_frames.max()), NUM_BINS),
        num_frames=num_frames,
        tokens=torch.randint(1, VOCAB_SIZE, (len(durations), int(num_tokens.max()))),
        num_tokens=num_tokens,
    )


def make_training(
    model: nn.Module, batches: list[Batch], precision: Precision, device: str
) -> Callable[[], None]:
    """A step on each batch; returns when the device has made it."""
    model.to(device)
    batches = [
        replace(one, features=one.features.to(device), tokens=one.tokens.to(device)) for one in batches
    ]
    optimizer = SETTINGS.make(model.parameters(), 1e-5)
    model.train()

    def train() -> None:
        for batch in batches:
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                log_probs, num_frames = model(batch.features, batch.num_frames)
            loss = F.ctc_loss(
                log_probs.transpose(0, 1),
                batch.tokens,
                num_frames,
                batch.num_tokens,
                reduction="sum",
                zero_infinity=True,  # a rival's few frames may be too few for the longest transcripts
            )
            (loss / len(batch.num_frames)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), SETTINGS.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return train


def our_model(size: Size) -> DeepSpeech2:
    if size == "small":
        return DeepSpeech2(hidden_size=320, num_recurrent_layers=3)
    return large_model(1760, 7)


def large_model(units: int, layers: int) -> DeepSpeech2:
    """Its recurrent weights are drawn here: the orthogonal start of such matrices takes longer than the timings."""
    with torch.device("meta"):
        model = DeepSpeech2(hidden_size=units, num_recurrent_layers=layers)
    model.to_empty(device="cpu")
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
    for name, parameter in model.named_parameters():
        if "weight_recurrent" in name:
            nn.init.normal_(parameter, std=units**-0.5)
    return model


def asked_rivals(config: Config, console: Console) -> list[str]:
    """Those that are installed; says which are not."""
    asked = [name for name in RIVALS if name.startswith(config.rivals)]
    for name in asked:
        if not is_installed(name):
            console.print(f"left out: {name}, {RIVALS[name][0]} is not installed")
    return [name for name in asked if is_installed(name)]


def compare(config: Config, console: Console) -> None:
    """A table for each size; ours in turns with each rival, one after the other, so that two are in memory at most."""
    rivals = asked_rivals(config, console)
    for size in config.sizes:
        ours = our_model(size)
        batches = make_batches(config.batch_seconds, config.batches if size == "small" else 1)
        audio = sum(batch.seconds for batch in batches)
        table = Table("rival", "parameters", "precision", "its audio s / s", "ours", "ours / it")
        table.title = f"{size}: {audio:.0f} s of audio in {len(batches)} step(s), {_how(config)}"
        table.add_row("(ours)", f"{parameters_of(ours):,}", "", "", "", "")
        for name in rivals:
            rival = rival_of_size(name, parameters_of(ours), jit=config.jit)
            for precision in config.precisions:
                ways = {
                    key: make_training(one, batches, precision, config.device)
                    for key, one in (("", rival), ("ours", ours))
                }
                seconds = seconds_in_turns(ways, rounds=config.rounds)
                speeds = [f"{audio / statistics.median(values):.1f}" for values in seconds.values()]
                ratio = str(Ratio.of(seconds[""], seconds["ours"]))
                table.add_row(name, f"{parameters_of(rival):,}", precision, *speeds, ratio)
        console.print(table)


def scaling(config: Config, console: Console) -> None:
    """Our speed by hidden size, layers and batch; then the plan of an epoch by hours of speech."""
    table = Table(
        "units", "layers", "batch", "parameters", *(f"{one}, audio s / s" for one in config.precisions)
    )
    table.title = f"training DeepSpeech 2, {_how(config)}"
    shapes = [
        *((units, 3, 30.0) for units in config.hidden_sizes),
        *((512, layers, 30.0) for layers in config.layers),
        *((512, 3, budget) for budget in config.budgets),
    ]
    for units, layers, budget in dict.fromkeys(shapes):
        model, batches = large_model(units, layers), make_batches(budget, 1)
        ways = {str(one): make_training(model, batches, one, config.device) for one in config.precisions}
        seconds = seconds_in_turns(ways, rounds=config.rounds)
        speeds = [f"{batches[0].seconds / statistics.median(values):.1f}" for values in seconds.values()]
        row = (f"{units}", f"{layers}", f"{budget:g} s", f"{parameters_of(model) / 1e6:.1f} M")
        table.add_row(*row, *speeds)
    console.print(table)
    console.print(plan_table(config))


def plan_table(config: Config) -> Table:
    """What it takes to plan an epoch from the utterances' durations."""
    columns = ("hours", "utterances", "batches", "seconds to plan", "memory at most")
    table = Table(*columns, title="plan of an epoch, 120 s a batch")
    for hours in config.hours:
        durations = np.random.default_rng(0).uniform(2, 22, round(hours * 300)).tolist()

        def plan(durations: list[float] = durations) -> int:
            return len(BucketBatchSampler(durations, max_batch_seconds=120.0, epoch=1))

        start = time.perf_counter()
        batches = plan()
        seconds = time.perf_counter() - start
        tracemalloc.start()
        plan()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        cells = (f"{len(durations):,}", f"{batches:,}", f"{seconds:.3f}", f"{peak / 1e6:,.1f} MB")
        table.add_row(f"{hours:,g}", *cells)
    return table


def _how(config: Config) -> str:
    return f"{config.device}, {torch.get_num_threads()} thread(s), median of {config.rounds} (range)"


def main(config: Config) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(config.threads)
    console = Console()
    (scaling if config.scaling else compare)(config, console)


if __name__ == "__main__":
    main(tyro.cli(Config))
