"""Walk a schedule: dense, sparse and redense phases, each on the best weights of the one before; resumable.

What a phase does to the weights is ``seqdsd.sparsity``'s; one epoch is ``loop.py``. Several processes are left out.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricOptimizer
from rich.console import Console
from torch import Tensor

from seqdsd.engine.checkpoint import (
    Checkpoint,
    load_latest,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
    save_latest,
)
from seqdsd.engine.interrupt import StopRequested, stop_on_signals
from seqdsd.engine.loop import LossMeter, TrainingDiverged, train_epoch
from seqdsd.engine.optimizer import NesterovSettings, OptimizerSettings
from seqdsd.engine.progress import RunDisplay, TensorBoardLog
from seqdsd.engine.task import Evaluation, Task
from seqdsd.records import RunFolder, write_json_lines
from seqdsd.sparsity import MaskSet, Phase, Rule, Schedule, measured_sparsity, resolve

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainSettings:
    """How every phase is trained."""

    optimizer: OptimizerSettings = field(default_factory=NesterovSettings)
    patience: int = 10
    """A phase ends early after this many epochs without a better dev score; 0 never ends it early."""
    checkpoint_minutes: float = 5.0
    """A checkpoint is written at least this often while training steps are made, and at every phase's end."""
    seed: int = 0
    """Decides the order of the data and all randomness."""

    def __post_init__(self) -> None:
        if self.patience < 0:
            raise ValueError(f"patience must not be negative, got {self.patience}")
        if self.checkpoint_minutes < 0:
            raise ValueError(f"checkpoint_minutes must not be negative, got {self.checkpoint_minutes}")


@dataclass
class PhaseProgress:
    """Where the current phase stands; all of it is kept in checkpoints."""

    epoch: int = 0
    step: int = 0
    train_loss: list[float] = field(default_factory=list)
    dev_loss: list[float] = field(default_factory=list)
    dev_score: list[float] = field(default_factory=list)
    best_epoch: int = -1
    bad_steps: int = 0
    seconds: float = 0.0

    def is_over(self, phase: Phase, patience: int) -> bool:
        """Whether the phase has had its epochs, or has not become better for ``patience`` of them."""
        stale = self.epoch - 1 - self.best_epoch
        return self.epoch >= phase.epochs or (patience > 0 and self.best_epoch >= 0 and stale >= patience)

    def note_epoch(self, train_loss: float, dev: Evaluation) -> bool:
        """Add an epoch; True where it is the best so far (by dev score, then dev loss)."""
        best = (math.inf, math.inf)
        if self.best_epoch >= 0:
            best = (self.dev_score[self.best_epoch], self.dev_loss[self.best_epoch])
        if math.isnan(best[1]):  # compares as neither better nor worse
            best = (best[0], math.inf)
        self.train_loss.append(train_loss)
        self.dev_loss.append(dev.loss)
        self.dev_score.append(dev.score)
        is_best = self.best_epoch < 0 or (dev.score, dev.loss) < best
        if is_best:
            self.best_epoch = self.epoch
        self.epoch, self.step = self.epoch + 1, 0
        return is_best


class DSDTraining:
    """One run over a schedule, from its start or from where its folder's last checkpoint stands."""

    def __init__(
        self,
        task: Task[Any],
        schedule: Schedule,
        rules: Sequence[Rule],
        *,
        settings: TrainSettings,
        folder: RunFolder,
        fabric: Fabric,
        console: Console | None = None,
    ) -> None:
        """Resolve every phase's plan, so that a rule that fits nothing is refused before training.

        Raises:
            ValueError: See ``seqdsd.sparsity.resolve``.
        """
        self._task = task
        self._phases = schedule.phases
        self._plans = {
            phase: resolve(task.model, rules, phase.sparsity) for phase in schedule if phase.sparsity
        }
        self._settings = settings
        self._folder = folder
        self._fabric = fabric
        self._console = console or Console()
        self._model = fabric.setup_module(task.model)
        self._records: list[dict[str, Any]] = []
        self._now = PhaseProgress()
        self._meter = LossMeter()
        self._best: dict[str, Tensor] = {}
        self._masks: MaskSet | None = None
        self._optimizer: _FabricOptimizer
        self._skipped: dict[str, str] = {}  # of the processes before this one
        self._dev_headline = ""
        self._saved_at = time.monotonic()
        self._counted_until: float | None = None  # training time up to here is in self._now.seconds

    def run(self) -> list[dict[str, Any]]:
        """Train the phases that are not yet done; returns all phase records.

        Raises:
            StopRequested: After Ctrl-C or SIGTERM; a checkpoint is written.
            TrainingDiverged: After too many steps without a finite loss; a checkpoint is written.
            ValueError: From the data (a checkpoint is written), or a checkpoint that does not fit.
        """
        restored = load_latest(self._folder.checkpoints)
        if restored is not None:
            self._restore(restored)
            self._write_records()
        if len(self._records) == len(self._phases):
            return self._records
        self._tensorboard = TensorBoardLog(self._folder.tensorboard, first_epoch=self._epochs_done)
        with (
            closing(self._tensorboard),
            stop_on_signals() as self._wish,
            self._open_display() as self._display,
        ):
            for phase in self._phases[len(self._records) :]:
                self._run_phase(phase, restored)
                restored = None
        return self._records

    def _run_phase(self, phase: Phase, restored: Checkpoint | None) -> None:
        self._start_phase(phase, restored)
        handle = self._masks.attach(self._optimizer.optimizer) if self._masks else None
        try:
            while not self._now.is_over(phase, self._settings.patience):
                self._run_epoch(phase)
            evaluations = self._evaluate_best()
        except (StopRequested, TrainingDiverged, ValueError):
            self._save()  # raised between two steps: weights and position agree
            raise
        finally:
            if handle:
                handle.remove()
        self._finish_phase(phase, evaluations)

    def _start_phase(self, phase: Phase, restored: Checkpoint | None) -> None:
        optimizer = self._settings.optimizer.make(self._task.model.parameters(), phase.learning_rate)
        self._optimizer = cast(_FabricOptimizer, self._fabric.setup_optimizers(optimizer))
        is_under_way = restored is not None and bool(restored.under("optimizer"))
        if restored is not None and is_under_way:
            restore_optimizer(optimizer, restored.under("optimizer"))
        self._masks = None
        if phase.kind != "sparse":
            return
        if restored is not None and is_under_way:
            self._masks = MaskSet.from_state_dict(self._task.model, restored.under("mask"))
        else:
            self._masks = MaskSet.from_magnitude(self._task.model, self._plans[phase])

    def _run_epoch(self, phase: Phase) -> None:
        started = time.monotonic()
        learning_rate = phase.learning_rate / self._settings.optimizer.anneal**self._now.epoch
        for group in self._optimizer.optimizer.param_groups:
            group["lr"] = learning_rate
        self._counted_until = started
        train_epoch(
            self._fabric,
            self._model,
            self._optimizer,
            self._task,
            epoch=self._epochs_done,
            first=self._now.step,
            seed=self._settings.seed,
            settings=self._settings.optimizer,
            meter=self._meter,
            after_step=lambda step: self._after_step(phase, step),
        )
        self._count_seconds()
        self._counted_until = None
        if not self._meter.steps and not self._meter.bad_steps:
            raise ValueError("not one training item can be read; the warnings above say why")
        dev = self._task.evaluate(self._model, "dev", self._fabric.device)
        self._tensorboard.epoch(
            self._epochs_done, train_loss=self._meter.mean, learning_rate=learning_rate, dev=dev
        )
        train_loss, self._now.bad_steps = self._meter.mean, self._now.bad_steps + self._meter.bad_steps
        self._meter = LossMeter(bad_in_a_row=self._meter.bad_in_a_row)
        if self._now.note_epoch(train_loss, dev):
            self._best = _copied(self._task.model.state_dict())
        self._dev_headline = dev.headline
        seconds = time.monotonic() - started
        self._display.say(
            f"{phase.name:<13} epoch {self._now.epoch:>2}/{phase.epochs}  loss {train_loss:7.2f}"
            f"  dev loss {dev.loss:7.2f}  {dev.headline}  {seconds:.0f} s"
        )
        self._say_notes(dev)

    def _after_step(self, phase: Phase, step: int) -> None:
        self._now.step = step
        self._display.step(
            self._steps_done + step,
            phase=phase.name,
            epoch=f"{self._now.epoch + 1}/{phase.epochs}",
            loss=self._meter.mean,
            dev=self._dev_headline,
        )
        if self._wish.requested:
            raise StopRequested(
                f"stopped on request, all is saved; go on with --resume --config {self._folder.config}"
            )
        if time.monotonic() - self._saved_at >= 60 * self._settings.checkpoint_minutes:
            self._save()

    def _evaluate_best(self) -> dict[str, Evaluation]:
        """Take the phase's best weights and judge them on every split."""
        self._task.model.load_state_dict(self._best)
        splits = ["dev", *self._task.test_splits]
        return {split: self._task.evaluate(self._model, split, self._fabric.device) for split in splits}

    def _finish_phase(self, phase: Phase, evaluations: dict[str, Evaluation]) -> None:
        """Hand on the best weights: record them, and forget all else of the phase."""
        record = self._record(phase, evaluations)
        for split, evaluation in evaluations.items():
            write_json_lines(self._folder.hypotheses(phase.name, split), evaluation.hypotheses)
        save_checkpoint(
            self._folder.weights(phase.name),
            Checkpoint(dict(self._task.model.state_dict()), {"phase": phase.name}),
        )
        self._tensorboard.phase(self._epochs_done - 1, phase.name, self._task.model, evaluations)
        scores = "  ".join(f"{split} {evaluation.headline}" for split, evaluation in evaluations.items())
        self._display.say(f"[bold]{phase.name} ends:[/bold] best epoch {self._now.best_epoch + 1}, {scores}")
        self._records.append(record)
        self._now, self._meter, self._best, self._masks = PhaseProgress(), LossMeter(), {}, None
        self._save(is_under_way=False)
        self._write_records()

    def _record(self, phase: Phase, evaluations: dict[str, Evaluation]) -> dict[str, Any]:
        plan = self._plans.get(phase)
        names = plan.sparsities if plan else self._prunable_names
        return {
            "index": len(self._records),
            "name": phase.name,
            "kind": phase.kind,
            "epochs": self._now.epoch,
            "epochs_planned": phase.epochs,
            "best_epoch": self._now.best_epoch + 1,
            "learning_rate": phase.learning_rate,
            "sparsity": phase.sparsity,
            "measured_sparsity": measured_sparsity(self._task.model, names),
            "train_loss": self._now.train_loss,
            "dev_loss": self._now.dev_loss,
            "dev_score": self._now.dev_score,
            **{split: dict(evaluation.metrics) for split, evaluation in evaluations.items()},
            "train_seconds": round(self._now.seconds, 2),
            "skipped": len(self._all_skipped),
            "nonfinite_steps": self._now.bad_steps,
        }

    @property
    def _prunable_names(self) -> list[str]:
        """What the run prunes in its sparse phases; a run without any has no prunable weights."""
        return list(next(iter(self._plans.values())).sparsities) if self._plans else []

    @property
    def _all_skipped(self) -> dict[str, str]:
        return {**self._skipped, **self._task.skipped}

    @property
    def _epochs_done(self) -> int:
        return sum(record["epochs"] for record in self._records) + self._now.epoch

    @property
    def _steps_done(self) -> int:
        """Steps before the current epoch, as if no phase ended early."""
        finished = sum(phase.epochs for phase in self._phases[: len(self._records)])
        return (finished + self._now.epoch) * self._task.num_batches

    def _open_display(self) -> Any:
        total = sum(phase.epochs for phase in self._phases) * self._task.num_batches
        return RunDisplay.open(self._console, total_steps=total, done_steps=self._steps_done + self._now.step)

    def _count_seconds(self) -> None:
        if self._counted_until is not None:
            now = time.monotonic()
            self._now.seconds, self._counted_until = self._now.seconds + now - self._counted_until, now

    def _save(self, *, is_under_way: bool = True) -> None:
        self._count_seconds()
        self._saved_at = time.monotonic()
        tensors = {f"model/{name}": tensor for name, tensor in self._task.model.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self._best.items()}
        if is_under_way:
            own = optimizer_tensors(self._optimizer.optimizer)
            tensors |= {f"optimizer/{name}": tensor for name, tensor in own.items()}
        if self._masks is not None:
            tensors |= {f"mask/{name}": tensor for name, tensor in self._masks.state_dict().items()}
        state = {
            "phases": [asdict(phase) for phase in self._phases],
            "records": self._records,
            "now": asdict(self._now),
            "meter": self._meter.state(),
            "skipped": self._all_skipped,
            "fingerprint": self._task.fingerprint,
        }
        save_latest(self._folder.checkpoints, Checkpoint(tensors, state))

    def _restore(self, checkpoint: Checkpoint) -> None:
        if checkpoint.state["phases"] != [asdict(phase) for phase in self._phases]:
            raise ValueError(
                f"{self._folder.path}: its checkpoint belongs to another schedule; take another --out"
            )
        try:
            self._task.model.load_state_dict(checkpoint.under("model"))
        except RuntimeError as error:
            raise ValueError(f"{self._folder.path}: its checkpoint is another network's: {error}") from error
        if checkpoint.state["fingerprint"] != self._task.fingerprint:
            log.warning(
                "the training data has changed since %s was begun: the run goes on, but differs from one unbroken run",
                self._folder.path,
            )
        self._records = checkpoint.state["records"]
        self._now = PhaseProgress(**checkpoint.state["now"])
        self._meter = LossMeter(**checkpoint.state["meter"])
        self._skipped = checkpoint.state["skipped"]
        self._best = {
            name: tensor.to(self._fabric.device) for name, tensor in checkpoint.under("best").items()
        }
        log.info(
            "resuming in phase %d of %d, epoch %d, after %d steps",
            len(self._records) + 1,
            len(self._phases),
            self._now.epoch + 1,
            self._now.step,
        )

    def _write_records(self) -> None:
        self._folder.write_phases(self._records)
        if self._all_skipped:
            rows = [{"source": name, "message": message} for name, message in self._all_skipped.items()]
            write_json_lines(self._folder.path / "skipped.jsonl", rows)

    def _say_notes(self, evaluation: Evaluation) -> None:
        for note in evaluation.notes:
            self._display.say(f"[yellow]{note}[/yellow]")


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
