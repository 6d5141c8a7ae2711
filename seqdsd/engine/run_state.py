"""Where a run stands: what its checkpoints hold, and how a run goes on from one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypedDict

import msgspec
import torch
from torch import Tensor, nn

from seqdsd.engine.checkpoint import Checkpoint, optimizer_tensors
from seqdsd.engine.loop import LossMeter
from seqdsd.engine.task import Evaluation
from seqdsd.records import check_phases, json_values
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


class _Meter(TypedDict):
    sum: float
    steps: int
    bad_steps: int
    bad_in_a_row: int


class _Saved(msgspec.Struct):
    """The state of a run's checkpoint; what a phase hands on is saved with another."""

    phases: list[dict[str, Any]]
    records: list[dict[str, Any]]
    now: PhaseProgress
    meter: _Meter
    fingerprint: str
    skipped: dict[str, str]
    weight_rows: list[dict[str, Any]] = []
    settings: dict[str, Any] = {}


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
        settings: Mapping[str, Any],
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
            "settings": dict(settings),
        }
        return Checkpoint(tensors, state)

    @classmethod
    def restored(
        cls,
        checkpoint: Checkpoint,
        model: nn.Module,
        schedule: Schedule,
        device: torch.device,
        *,
        settings: Mapping[str, Any],
    ) -> RunState:
        """Give ``model`` the checkpoint's weights, and return the rest of it but the optimizer.

        Raises:
            ValueError: If the checkpoint is not a run's, or belongs to another schedule, network or settings than
                these.
        """
        saved = read_saved(checkpoint)
        if changed := [
            f"{name}: {value!r} -> {settings[name]!r}"
            for name, value in saved.settings.items()
            if name in settings and settings[name] != value
        ]:
            raise ValueError(f"trained with other settings ({'; '.join(changed)}); take another --out")
        if saved.phases != [asdict(phase) for phase in schedule]:
            raise ValueError("belongs to another schedule; take another --out")
        check_phases("records", json_values(saved.records), planned=len(schedule))
        try:
            model.load_state_dict(checkpoint.under("model"))
        except RuntimeError as error:
            raise ValueError(f"another network's: {error}") from error
        best, masks = checkpoint.under("best"), checkpoint.under("mask")
        _check_fits(model, best, checkpoint.under("optimizer"), is_begun=saved.now.best_epoch >= 0)
        return cls(
            records=saved.records,
            now=saved.now,
            meter=LossMeter(**saved.meter),
            best={name: tensor.to(device) for name, tensor in best.items()},
            masks=MaskSet.from_state_dict(model, masks) if masks else None,
            weight_rows=saved.weight_rows,
            skipped=saved.skipped,
        )


def read_saved(checkpoint: Checkpoint) -> _Saved:
    """What a run's checkpoint says of the run.

    Raises:
        ValueError: If it is no run's checkpoint.
    """
    try:
        saved = msgspec.convert(checkpoint.state, _Saved)
    except msgspec.ValidationError as error:
        raise ValueError(f"not a checkpoint that a run can go on from ({error})") from error
    now = saved.now
    curves = (now.train_loss, now.dev_loss, now.dev_score)
    if not -1 <= now.best_epoch < now.epoch + (not now.epoch) or any(len(one) != now.epoch for one in curves):
        raise ValueError("not a checkpoint that a run can go on from (its epochs do not agree)")
    return saved


def _check_fits(
    model: nn.Module, best: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], *, is_begun: bool
) -> None:
    """See that the best weights and the optimizer's state are this model's.

    Raises:
        ValueError: Naming the first tensor that is not.
    """
    own = model.state_dict()
    if is_begun and best.keys() != own.keys():
        odd = sorted(best.keys() ^ own.keys())[0]
        raise ValueError(f"another network's: of the best weights, {odd!r} is missing or unknown")
    for name, tensor in best.items():
        if tensor.shape != own[name].shape:
            raise ValueError(f"another network's: the best {name!r} has the shape {tuple(tensor.shape)}")
    shapes = [parameter.shape for parameter in model.parameters()]
    indices = {str(index) for index in range(len(shapes))}
    left: dict[str, list[torch.Size]] = {}
    for name, tensor in optimizer.items():  # its groups may order the parameters in another way
        index, _, key = name.partition("/")
        if index not in indices:
            raise ValueError(f"another network's: the optimizer's {name!r} is of no parameter")
        if not tensor.dim():
            continue
        if tensor.shape not in left.setdefault(key, [*shapes]):
            raise ValueError(f"another network's: the optimizer's {name!r} fits no parameter")
        left[key].remove(tensor.shape)
