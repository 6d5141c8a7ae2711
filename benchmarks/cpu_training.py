"""What training takes on this processor, in single precision and in bfloat16, and what its products alone would take.

    python -m benchmarks.cpu_training
    python -m benchmarks.cpu_training --threads 2
    python -m benchmarks.cpu_training --epochs     # whole epochs of the main job, and evaluations of its dev set

A step is forward, loss, backward, clipping and the optimizer's, from features that are made up. ``of its products`` is
the time that the step's matrix products would take at the speed that large ones reach here in single precision (the
faster of MKL and oneDNN), over the time that the step takes. Rivals are in ``ds2_training``, GPUs in ``gpu_check``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import cast

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks import vision_training
from benchmarks.ds2_training import NUM_BINS, make_batches
from benchmarks.gpu_check_parts import Contest, make_step, step_flops
from benchmarks.timing import Ratio, seconds_in_turns
from seqdsd.engine.device import make_fabric
from seqdsd.engine.loop import LossMeter, train_epoch
from seqdsd.engine.precision import Precision, measure_precision
from seqdsd.fabric import FabricOptimizer
from seqdsd.models import DeepSpeech1, DeepSpeech2, NeuralTalk
from seqdsd.recipes import ds1

CPU = torch.device("cpu")
DTYPES: dict[Precision, torch.dtype] = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}
SIZE = 1024
"""Of the large products."""
LIMIT_SHARE, DEV_SHARE = 0.6, 0.2
"""Wanted: a step's products at least so much of it; an evaluation of the dev set at most so much of an epoch."""


@dataclass(frozen=True)
class Config:
    """How it is timed."""

    threads: int = 1
    """Of torch."""
    rounds: int = 15
    """Steps of each kind, in turns; or three times as many as epochs of each kind."""
    epochs: bool = False
    """Time epochs of `python -m seqdsd.recipes.ds1` on the embedded corpus, and of evaluation, instead."""


def speech(name: str, build: Callable[[], nn.Module], batch_seconds: float) -> Contest:
    """A recogniser on a batch of utterances as long as AN4's."""
    (batch,) = make_batches(batch_seconds, 1)
    rows = int(((batch.num_frames + 1) // 2).sum())
    return Contest(name, build, {}, (batch.features, batch.num_frames), batch.num_frames, rows)


def contests() -> list[Contest]:
    """The networks of the recipes' own runs."""
    torch.manual_seed(0)
    vocab_size, features = 2538, 1280
    words = (torch.randn(100, features), torch.randint(1, vocab_size, (100, 12)))

    def deepspeech1(units: int) -> nn.Module:
        return DeepSpeech1(num_bins=NUM_BINS, hidden_size=units, batch_norm=True)

    return [
        speech("DeepSpeech 1, 256 units, 161 bins, 8 s", lambda: deepspeech1(256), 8.0),
        speech("DeepSpeech 1, 320 units, 15 s (AN4)", lambda: deepspeech1(320), 15.0),
        speech(
            "DeepSpeech 2, 3 x 320 units, 15 s (AN4)",
            lambda: DeepSpeech2(num_bins=NUM_BINS, hidden_size=320, num_recurrent_layers=3),
            15.0,
        ),
        Contest(
            "NeuralTalk, 256 units, 100 captions",
            lambda: NeuralTalk(vocab_size=vocab_size, feature_size=features, hidden_size=256),
            {},
            words,
            None,
            words[1].numel(),
        ),
    ]


def products_per_second(rounds: int) -> dict[str, float]:
    """Floating-point operations a second of large products, by whose they are."""
    one, other = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    half, other_half = one.bfloat16(), other.bfloat16()
    ways = {
        "MKL": lambda: one @ other,
        "oneDNN": lambda: torch.ops.mkldnn._linear_pointwise(one, other, None, "none", [], ""),
        "bfloat16": lambda: half @ other_half,
    }
    with torch.inference_mode():
        seconds = seconds_in_turns(ways, rounds=rounds)
    return {name: 2.0 * SIZE**3 / min(values) for name, values in seconds.items()}


def steps_of(contest: Contest) -> dict[str, Callable[[], None]]:
    """A recogniser's or captioner's step by precision."""
    return {precision: make_step(contest.ours(), contest, CPU, dtype) for precision, dtype in DTYPES.items()}


def classifier_steps(network: str) -> dict[str, Callable[[], None]]:
    """An image classifier's, as the engine takes it; a block of twenty."""
    settings = vision_training.Config(network=network, steps=20)
    return {name: vision_training.our_epoch(replace(settings, precision=name)) for name in DTYPES}


def row(
    name: str, steps: dict[str, Callable[[], None]], config: Config, products_seconds: float | None = None
) -> tuple[str, ...]:
    """Milliseconds by precision, how many times as fast bfloat16 is, and the products' share in single precision."""
    seconds = seconds_in_turns(steps, rounds=config.rounds, and_back=True)
    faster = Ratio.with_confidence(seconds["32-true"], seconds["bf16-mixed"])
    single, half = (min(seconds[precision]) for precision in DTYPES)
    share = f"{products_seconds / single:.0%}" if products_seconds else ""
    return name, f"{1e3 * single:.1f}", f"{1e3 * half:.1f}", str(faster), share


def step_table(config: Config) -> Table:
    """All of them."""
    speeds = products_per_second(config.rounds)
    table = Table(
        "network", "fp32, ms", "bf16, ms", "fp32 / bf16", "of its products", title="a training step"
    )
    for contest in contests():
        products = step_flops(contest.ours(), contest) / max(speeds["MKL"], speeds["oneDNN"])
        # A convolution over bins reads much padding, which costs nothing: its share would be too large.
        has_share = not contest.name.startswith("DeepSpeech 2")
        table.add_row(*row(contest.name, steps_of(contest), config, products if has_share else None))
    for network in ("lenet300", "lenet5", "resnet8"):
        table.add_row(*row(f"{network}, 20 steps of 128", classifier_steps(network), config))
    ours = ", ".join(f"{name} {speed / 1e9:.0f}" for name, speed in speeds.items())
    table.caption = (
        f"{config.threads} threads; the fastest of {config.rounds}; medians of ratios (95 %); Gflop/s: {ours}"
    )
    return table


def epochs_of(precision: Precision) -> dict[str, Callable[[], object]]:
    """An epoch of the main job's training, and an evaluation of its dev set."""
    settings = replace(ds1.RECIPE.embedded_settings(), precision=precision, device="cpu")
    fabric, task, numbers = make_fabric("cpu", settings.precision), ds1.make_task(settings), count()
    model = fabric.setup_module(task.model)
    own = settings.optimizer.make(task.model.parameters(), 1e-4)
    optimizer = cast(FabricOptimizer, fabric.setup_optimizers(own))

    def train() -> None:
        train_epoch(
            *(fabric, model, optimizer, task),
            epoch=next(numbers),
            first=0,
            seed=0,
            settings=settings.optimizer,
            meter=LossMeter(),
            after_step=lambda step: None,
        )

    return {"train": train, "dev": lambda: task.evaluate(model, "dev", CPU)}


def epoch_table(config: Config) -> Table:
    """Of both precisions, in turns."""
    ways = {(precision, name): way for precision in DTYPES for name, way in epochs_of(precision).items()}
    named = {f"{precision} {name}": way for (precision, name), way in ways.items()}
    seconds = seconds_in_turns(named, rounds=max(1, config.rounds // 3), and_back=True)
    table = Table(
        "precision", "epoch, s", "dev set, s", "dev / epoch", title="the embedded corpus, DeepSpeech 1"
    )
    for precision in DTYPES:
        train, dev = (seconds[f"{precision} {name}"] for name in ("train", "dev"))
        table.add_row(precision, f"{min(train):.2f}", f"{min(dev):.2f}", str(Ratio.of(dev, train)))
    faster = Ratio.of(seconds["32-true train"], seconds["bf16-mixed train"])
    table.caption = (
        f"{config.threads} threads; the fastest of each; bfloat16's epoch is {faster} times as fast"
    )
    return table


def main() -> None:
    config = tyro.cli(Config, description=__doc__)
    torch.set_num_threads(config.threads)
    console = Console(width=120)
    console.print(epoch_table(config) if config.epochs else step_table(config))
    console.print(str(measure_precision(CPU)), style="bold")
    console.print(
        f"wanted: {LIMIT_SHARE:.0%} of its products for DeepSpeech 1 of 320 units; dev / epoch at most {DEV_SHARE}"
    )


if __name__ == "__main__":
    main()
