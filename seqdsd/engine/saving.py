"""When a run is saved, and how it goes on: from its last checkpoint, or from the phases of another run."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from seqdsd.engine.checkpoint import Checkpoint, load_checkpoint, load_latest, save_latest
from seqdsd.engine.run_state import RunState, read_saved
from seqdsd.engine.takeover import take_over
from seqdsd.engine.task import Task
from seqdsd.records import RunFolder
from seqdsd.sparsity import DSD, RestoredStart, Schedule

log = logging.getLogger(__name__)


@dataclass
class RunSaver:
    """Writes a run's checkpoints and takes them up.

    Attributes:
        folder: Of the run.
        task: What is trained.
        dsd: All phases, and where it stands among them.
        noted: What the training depends on: a checkpoint carries it, and is refused where it is another.
        every_minutes: A checkpoint is due after this time.
        writes: Whether this process writes, as one of several does.
    """

    folder: RunFolder
    task: Task[Any]
    dsd: DSD
    noted: Mapping[str, Any]
    every_minutes: float | int
    writes: bool
    _saved_at: float = field(default_factory=time.monotonic)

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is older than it may be."""
        return time.monotonic() - self._saved_at >= 60 * self.every_minutes

    def save(
        self, state: RunState, optimizer: torch.optim.Optimizer | None, *, shared: Mapping[str, Tensor] = {}
    ) -> None:
        """Write a checkpoint; ``optimizer`` is None between two phases, ``shared`` is of codebooks in training."""
        self._saved_at = time.monotonic()
        if not self.writes:
            return
        checkpoint = state.checkpoint(
            self.dsd,
            optimizer=optimizer,
            fingerprint=self.task.fingerprint,
            skipped=self.task.skipped,
            settings=self.noted,
            shared=shared,
        )
        save_latest(self.folder.checkpoints, checkpoint)

    def restored(self, device: torch.device) -> tuple[RunState, Checkpoint] | None:
        """Where the run stands by its last usable checkpoint, whose weights the model has then; None without one.

        Raises:
            CheckpointError: If there are checkpoints and none can be used.
        """
        states = []

        def accept(checkpoint: Checkpoint) -> None:
            states.append(RunState.restored(checkpoint, self.dsd, device, settings=self.noted))

        checkpoint = load_latest(self.folder.checkpoints, accept)
        return None if checkpoint is None else (states[-1], checkpoint)

    def say_where(self, state: RunState, checkpoint: Checkpoint) -> None:
        """Say where a run goes on, and that its data have changed, if so."""
        if checkpoint.state["fingerprint"] != self.task.fingerprint:
            log.warning(
                "the training data has changed since %s was begun: the run goes on, but differs from one unbroken run",
                self.folder.path,
            )
        if len(state.records) == len(self.dsd.schedule):
            log.info("the %d phases planned so far are trained already", len(state.records))
            return
        log.info(
            "resuming in phase %d of %d, epoch %d, after %d steps",
            len(state.records) + 1,
            len(self.dsd.schedule),
            state.now.epoch + 1,
            state.now.step,
        )

    def taken_over(self, parent: RunFolder, *, restored_start: RestoredStart = "zero") -> RunState:
        """Begin with the leading phases of another run (see ``take_over``), and save."""
        state = take_over(
            parent,
            self.folder,
            dsd=self.dsd,
            fingerprint=self.task.fingerprint,
            copies_files=self.writes,
            restored_start=restored_start,
        )
        self.save(state, optimizer=None)
        names = ", ".join(record["name"] for record in state.records)
        log.info("taken over from %s: %s", parent.path, names)
        return state


def phases_begun(folder: RunFolder) -> int:
    """How many phases the schedule has that the run in a folder walks, by its last usable checkpoint; 0 without one.

    Raises:
        CheckpointError: If there are checkpoints and none can be used.
    """
    latest = load_latest(folder.checkpoints, read_saved)
    return 0 if latest is None else len(latest.state["phases"])


def add_phases(folder: RunFolder, schedule: Schedule, *, begin_with: str) -> None:
    """Let a run that has walked its schedule go on with a longer one, from the weights of any of its phases.

    Args:
        folder: Of the run.
        schedule: The one that it has walked, and further phases.
        begin_with: The phase whose weights the first of these begins with.

    Raises:
        ValueError: If the run has not walked its schedule to the end, or that is another one.
        CheckpointError: If the run's files are damaged.
    """
    latest = load_latest(folder.checkpoints, read_saved)
    phases = [asdict(phase) for phase in schedule]
    done = [] if latest is None else latest.state["phases"]
    if latest is None or phases[: len(done)] != done or len(latest.state["records"]) < len(done):
        raise ValueError(f"{folder.path}: the run has not walked {len(done)} of these phases to their end")
    weights = load_checkpoint(folder.weights(begin_with)).tensors
    tensors = {f"model/{name}": tensor for name, tensor in weights.items()}
    save_latest(folder.checkpoints, Checkpoint(tensors, {**latest.state, "phases": phases}))
