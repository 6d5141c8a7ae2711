"""What a user sees while a run goes on: a bar with the time left, a line an epoch, and TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from seqdsd.engine.task import Evaluation
from seqdsd.sparsity import Phase
from seqdsd.sparsity.parameters import named_parameters

HYPOTHESES_SHOWN = 5


class RunDisplay:
    """A progress bar over all steps of a run; below it, where there is no terminal, lines alone."""

    def __init__(self, progress: Progress, bar: TaskID) -> None:
        self._progress = progress
        self._bar = bar

    @classmethod
    @contextmanager
    def open(cls, console: Console, *, total_steps: int, done_steps: int) -> Iterator[RunDisplay]:
        """Show the bar while the block runs."""
        progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        with progress:
            yield cls(progress, progress.add_task("", total=total_steps, completed=done_steps, status=""))

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._progress.console.print(text, highlight=False)

    def step(self, done_steps: int, *, phase: str, epoch: str, loss: float, dev: str) -> None:
        """Move the bar; ``dev`` is the last epoch's dev score in words."""
        status = (
            f"epoch {epoch}"
            + ("" if math.isnan(loss) else f"  loss {loss:.2f}")
            + (f"  dev {dev}" if dev else "")
        )
        self._progress.update(self._bar, completed=done_steps, description=phase, status=status)

    def epoch_ended(
        self, phase: Phase, epochs_done: int, *, train_loss: float, dev: Evaluation, seconds: float
    ) -> None:
        """A line of an epoch."""
        self.say(
            f"{phase.name:<13} epoch {epochs_done:>2}/{phase.epochs}  loss {train_loss:7.2f}"
            f"  dev loss {dev.loss:7.2f}  {dev.headline}  {seconds:.0f} s"
        )

    def warn(self, text: str) -> None:
        """Print a line that stays and calls for attention; brackets in it are no markup."""
        self.say(f"[yellow]{escape(text)}[/yellow]")

    def phase_ended(self, phase: Phase, *, best_epoch: int, evaluations: Mapping[str, Evaluation]) -> None:
        """A line of a phase: its scores."""
        scores = "  ".join(f"{split} {evaluation.headline}" for split, evaluation in evaluations.items())
        what = "is given:[/bold]" if phase.is_given else f"ends:[/bold] best epoch {best_epoch},"
        self.say(f"[bold]{phase.name} {what} {scores}")


class TensorBoardLog:
    """The scalars, histograms and hypotheses of a run."""

    def __init__(self, folder: Path, *, first_epoch: int) -> None:
        """Open; entries from ``first_epoch`` on that a killed run has left are purged."""
        self._writer = SummaryWriter(str(folder), purge_step=first_epoch or None)

    def epoch(self, epoch: int, *, train_loss: float, learning_rate: float, dev: Evaluation) -> None:
        """Scalars of one epoch, which counts over the whole run; the rate is that of its last step."""
        scalars = {"train/loss": train_loss, "train/learning_rate": learning_rate, "dev/loss": dev.loss}
        for name, value in {**scalars, **_numbers("dev", dev.metrics)}.items():
            self._writer.add_scalar(name, value, epoch)

    def phase(self, epoch: int, name: str, model: nn.Module, evaluations: Mapping[str, Evaluation]) -> None:
        """Weight histograms, test scalars and a few hypotheses at a phase's end."""
        for one in named_parameters(model):
            self._writer.add_histogram(f"weights/{one.name}", one.parameter.detach().float(), epoch)
        for split, evaluation in evaluations.items():
            for metric, value in _numbers(split, evaluation.metrics).items():
                self._writer.add_scalar(f"phase_end/{metric}", value, epoch)
            shown = evaluation.hypotheses[:HYPOTHESES_SHOWN]
            self._writer.add_text(f"{split}/{name}", _as_markdown(shown), epoch)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def _numbers(split: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    return {f"{split}/{name}": value for name, value in metrics.items() if isinstance(value, float)}


def _as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The texts; other columns, as what a classifier thinks of more classes, are left out."""
    columns = [name for name, value in rows[0].items() if _is_text(value)] if rows else []
    lines = [f"| {' | '.join(_cell(row[name]) for name in columns)} |" for row in rows]
    return "\n".join([f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *lines])


def _is_text(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(one, str) for one in value)


def _cell(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else "<br>".join(value)
