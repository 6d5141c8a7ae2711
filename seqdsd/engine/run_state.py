"""Where a run stands: what its checkpoints hold, and how a run goes on from one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from seqdsd.engine.checkpoint import Checkpoint, optimizer_tensors
from seqdsd.engine.loop import LossMeter
from seqdsd.engine.task import Evaluation
from seqdsd.sparsity import MaskSet, Phase, Schedule


@dataclass
class PhaseProgress:
    """Where the current phase stands."""

    epoch: int = 0
    step: int = 0
    train_loss: list[float] = field(default_factory=list)
    dev_loss: list[float] = field(default_factory=list)
    dev_score: list[float] = field(default_factory=list)
    best_epoch: int = -1
    bad_steps: int = 0
    seconds: float = 0.0
    evaluate_seconds: float = 0.0

    def is_over(self, phase: Phase, patience: int) -> bool:
        """Whether the phase has had its epochs, or has not become better for ``patience`` of them."""
        stale = self.epoch - 1 - self.best_epoch
        return self.epoch >= phase.epochs or (patience > 0 and self.best_epoch >= 0 and stale >= patience)

    def note_epoch(self, train_loss: float, dev: Evaluation) -> bool:
        """Add an epoch; True where it is the best so far (by dev score, then dev loss)."""
        self.train_loss.append(train_loss)
        self.dev_loss.append(dev.loss)
        self.dev_score.append(dev.score)
        is_best = self.best_epoch < 0 or self._rank(self.epoch) < self._rank(self.best_epoch)
        if is_best:
            self.best_epoch = self.epoch
        self.epoch, self.step = self.epoch + 1, 0
        return is_best

    def _rank(self, epoch: int) -> list[tuple[bool, float]]:
        """Smaller is better; NaN, which compares as neither, comes last."""
        return [
            (math.isnan(value), 0.0 if math.isnan(value) else value)
            for value in (self.dev_score[epoch], self.dev_loss[epoch])
        ]


def is_within_round(phase: Phase | None) -> bool:
    """Whether a phase goes on with the masks of the one before: a sparse phase chooses its own."""
    return phase is not None and phase.kind == "redense"


@dataclass
class RunState:
    """All that a run has come to besides the model's and the optimizer's tensors.

    Attributes:
        records: Of the finished phases.
        now: Where the current phase stands.
        meter: Losses of the current epoch so far.
        best: Weights of the current phase's best epoch so far.
        masks: Of the current round, from its sparse phase's start to its redense phase's end.
        weight_rows: Weights at the moments so far (see ``weight_log``).
        skipped: Bad data that processes before this one have left out.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    now: PhaseProgress = field(default_factory=PhaseProgress)
    meter: LossMeter = field(default_factory=LossMeter)
    best: dict[str, Tensor] = field(default_factory=dict)
    masks: MaskSet | None = None
    weight_rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def epochs_done(self) -> int:
        """Counted over the whole run."""
        return sum(record["epochs"] for record in self.records) + self.now.epoch

    def finish_epoch(self, dev: Evaluation) -> bool:
        """Note an epoch's end; True where its weights are the phase's best so far."""
        self.now.bad_steps += self.meter.bad_steps
        mean, self.meter = self.meter.mean, LossMeter(bad_in_a_row=self.meter.bad_in_a_row)
        return self.now.note_epoch(mean, dev)

    def finish_phase(self, record: dict[str, Any], following: Phase | None) -> None:
        """Keep a phase's record and forget all else of it but the masks of a round that goes on."""
        self.records.append(record)
        self.now, self.meter, self.best = PhaseProgress(), LossMeter(), {}
        if not is_within_round(following):
            self.masks = None

    def begin_epoch_again(self) -> None:
        """Forget the steps of the current epoch, none of which has changed anything, but for their count."""
        self.now.bad_steps += self.meter.bad_steps
        self.now.step, self.meter = 0, LossMeter()

    def checkpoint(
        self,
        model: nn.Module,
        schedule: Schedule,
        *,
        optimizer: torch.optim.Optimizer | None,
        fingerprint: str,
        skipped: Mapping[str, str],
    ) -> Checkpoint:
        """What going on from here needs; ``optimizer`` is None between two phases."""
        parts = {
            "model": model.state_dict(),
            "best": self.best,
            "optimizer": optimizer_tensors(optimizer) if optimizer else {},
            "mask": self.masks.state_dict() if self.masks else {},
        }
        tensors = {f"{part}/{name}": one for part, named in parts.items() for name, one in named.items()}
        state = {
            "phases": [asdict(phase) for phase in schedule],
            "records": self.records,
            "now": asdict(self.now),
            "meter": self.meter.state(),
            "weight_rows": self.weight_rows,
            "skipped": {**self.skipped, **skipped},
            "fingerprint": fingerprint,
        }
        return Checkpoint(tensors, state)

    @classmethod
    def restored(
        cls, checkpoint: Checkpoint, model: nn.Module, schedule: Schedule, device: torch.device
    ) -> RunState:
        """Give ``model`` the checkpoint's weights, and return the rest of it but the optimizer.

        Raises:
            ValueError: If the checkpoint belongs to another schedule or another network.
        """
        state = checkpoint.state
        if state["phases"] != [asdict(phase) for phase in schedule]:
            raise ValueError("its checkpoint belongs to another schedule; take another --out")
        try:
            model.load_state_dict(checkpoint.under("model"))
        except RuntimeError as error:
            raise ValueError(f"its checkpoint is another network's: {error}") from error
        masks = checkpoint.under("mask")
        return cls(
            records=state["records"],
            now=PhaseProgress(**state["now"]),
            meter=LossMeter(**state["meter"]),
            best={name: tensor.to(device) for name, tensor in checkpoint.under("best").items()},
            masks=MaskSet.from_state_dict(model, masks) if masks else None,
            weight_rows=state.get("weight_rows", []),
            skipped=state["skipped"],
        )
