"""What DSD adds to a training step: in a plain loop, in Hugging Face's Trainer, in Lightning's; and its masks' memory.

    python -m benchmarks.callback_cost
    python -m benchmarks.callback_cost --hidden-size 256 --rows 2048

All train the same network on the same batch by AdamW; the trainings of a pair take turns. One knows nothing of DSD,
the other is in a sparse phase, half of its weights held at 0. Only steps are counted, from the third on, by the
processor's time, which other work on the machine disturbs least.
"""

from __future__ import annotations

import ctypes
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from benchmarks.timing import Ratio
from seqdsd import DSD
from seqdsd.integrations.transformers import DSDCallback
from seqdsd.sparsity import MaskSet, Rule, Schedule, resolve

RATE, SPARSITY, LAYERS = 1e-5, 0.5, 4
RULES = (Rule("*"),)
SPARSE = Schedule(Schedule.dsd(1, 1, [SPARSITY], [RATE]).phases[1:2], from_trained=True)
"""A sparse phase alone."""
LOG_EVERY_STEPS = 50  # Lightning's default
UNCOUNTED = 2


@dataclass(frozen=True)
class Config:
    """What to time."""

    hidden_size: int = 512
    """Units of each of the four layers."""
    rows: int = 512
    """Of the batch: frames, tokens or images. The fewer, the more a mask costs beside them."""
    steps: int = 60
    """Of each training."""
    rounds: int = 5
    """Trainings of each kind, in turns."""
    mask_weights: int = 2**26
    """Of the network whose masks are weighed."""
    threads: int = 1
    """Of torch. With several, times are of all together."""


class Network(nn.Module):
    """Four square layers; its loss is all that a trainer asks for."""

    def __init__(self, units: int) -> None:
        super().__init__()
        layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(units, units), nn.ReLU())]
        self.layers = nn.Sequential(*layers)

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        """``loss``, of rows [rows, units]."""
        return {"loss": self.layers(rows).square().mean()}


@dataclass
class Clock:
    """The time of each step but the first ones."""

    seconds: list[float] = field(default_factory=list)
    _ticks: list[float] = field(default_factory=list)

    def tick(self) -> None:
        """A step is over."""
        self._ticks.append(time.process_time())

    def middle(self) -> float:
        """The median step's seconds."""
        ticks = self._ticks[UNCOUNTED - 1 :]
        return statistics.median(after - before for before, after in zip(ticks, ticks[1:], strict=False))


def train_plainly(config: Config, batch: Tensor, *, with_dsd: bool, fused: bool = True) -> float:
    """A loop of one's own; the median step's seconds."""
    model, clock = Network(config.hidden_size), Clock()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=fused)

    def walk() -> None:
        for _ in range(config.steps):
            model(batch)["loss"].backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            clock.tick()

    if with_dsd:
        with DSD(model, SPARSE, RULES).hold(optimizer):
            walk()
    else:
        walk()
    return clock.middle()


class HuggingFaceClock(TrainerCallback):
    """Ticks after every step."""

    def __init__(self) -> None:
        self.clock = Clock()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """A step, and what other callbacks do after it, which were added before."""
        self.clock.tick()


def train_by_hugging_face(config: Config, batch: Tensor, *, with_dsd: bool) -> float:
    """Its Trainer; the median step's seconds."""
    timer = HuggingFaceClock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=config.steps,
            per_device_train_batch_size=1,
            learning_rate=RATE,
            logging_steps=LOG_EVERY_STEPS,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            log_level="error",
            use_cpu=True,
            remove_unused_columns=False,
        )
        trainer = Trainer(
            Network(config.hidden_size),
            arguments,
            train_dataset=range(config.steps),
            data_collator=lambda _: {"rows": batch},
            callbacks=[*([DSDCallback(SPARSE, RULES)] if with_dsd else []), timer],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return timer.clock.middle()


def train_by_lightning(config: Config, batch: Tensor, *, with_dsd: bool) -> float:
    """Its Trainer; the median step's seconds."""
    from lightning.pytorch import Callback, LightningModule, Trainer

    lightning = import_module("seqdsd.integrations.lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # which its import sets
    clock = Clock()

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network(config.hidden_size)

        def training_step(self, _: Tensor, __: int) -> Tensor:
            return self.network(batch)["loss"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=RATE, fused=True)

    class LightningClock(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            clock.tick()

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_steps=config.steps,
            max_epochs=-1,
            accelerator="cpu",
            gradient_clip_val=1.0,
            callbacks=[*([lightning.DSDCallback(SPARSE, RULES)] if with_dsd else []), LightningClock()],
            logger=False,
            log_every_n_steps=LOG_EVERY_STEPS,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(Module(), torch.utils.data.DataLoader(torch.arange(config.steps)))  # type: ignore[arg-type]
    return clock.middle()


TRAINERS: dict[str, Callable[..., float]] = {
    "a plain loop": train_plainly,
    "the same, AdamW not fused": partial(train_plainly, fused=False),
    "Hugging Face": train_by_hugging_face,
    **({"Lightning": train_by_lightning} if find_spec("seqdsd.integrations.lightning") else {}),
}


def time_trainers(config: Config, console: Console) -> str:
    batch = torch.randn(config.rows, config.hidden_size)
    table = Table("trainer", "without, ms a step", "with DSD / without", "without / a plain loop")
    table.title = (
        f"steps of {LAYERS} layers of {config.hidden_size} units on {config.rows} rows, {config.threads} thread(s), "
        f"median of {config.rounds} (range)"
    )
    seconds: dict[str, dict[bool, list[float]]] = {name: {False: [], True: []} for name in TRAINERS}
    for number in range(1 + config.rounds):
        for name, train in TRAINERS.items():
            for with_dsd in (False, True) if number % 2 else (True, False):
                found = train(config, batch, with_dsd=with_dsd)
                if number:  # the first is a warm-up
                    seconds[name][with_dsd].append(found)
    plain, verdict = seconds["a plain loop"][False], []
    for name, own in seconds.items():
        ratio = Ratio.of(own[True], own[False])
        middle = 1000 * statistics.median(own[False])
        table.add_row(name, f"{middle:.1f}", _fine(ratio), _fine(Ratio.of(own[False], plain)))
        verdict.append(f"{ratio.median:.3f} {name}")
    console.print(table)
    return f"with DSD / without: {', '.join(verdict)}"


def weigh_masks(config: Config, console: Console) -> str:
    """Resident memory before masks are held and after some steps with them; and what they take in a file."""
    units = round((config.mask_weights / LAYERS) ** 0.5)
    model = Network(units)
    weights = LAYERS * units**2
    # Without state of its own.
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    step = partial(_step, model, optimizer, torch.randn(8, units))
    step()
    before = _resident_bytes()
    masks = MaskSet.from_magnitude(model, resolve(model, RULES, SPARSITY))
    chosen = _resident_bytes()
    with masks.attach(optimizer):
        step()
        held = _resident_bytes()
    packed = len(safetensors.torch.save(masks.state_dict()))
    table = Table("masks of", "bytes a weight chosen", "while training", "bits a weight in a file")
    table.add_row(
        f"{weights / 1e6:.1f} million weights",
        f"{(chosen - before) / weights:.2f}",
        f"{(held - before) / weights:.2f}",
        f"{8 * packed / weights:.3f}",
    )
    console.print(table)
    return f"masks: {(held - before) / weights:.2f} bytes a weight"


def _step(model: Network, optimizer: torch.optim.Optimizer, rows: Tensor) -> None:
    model(rows)["loss"].backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)  # gradients are there before and after


def _resident_bytes() -> int:
    """Without what the allocator only keeps in store."""
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def _fine(ratio: Ratio) -> str:
    return f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def main(config: Config) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(config.threads)
    warnings.filterwarnings("ignore", module="lightning|torch.utils.data")
    console = Console()
    verdict = [time_trainers(config, console)]
    if config.mask_weights:
        verdict.append(weigh_masks(config, console))
    console.print("; ".join(verdict), soft_wrap=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
