"""Where a run stands: what its checkpoints hold, and how a run goes on from one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypedDict

import msgspec
import torch
from torch import Tensor, nn

from seqdsd.engine.checkpoint import Checkpoint, optimizer_tensors
from seqdsd.engine.loop import LossMeter
from seqdsd.engine.task import Evaluation, Note
from seqdsd.engine.watch import Losses, has_diverged, remarks
from seqdsd.records import check_phases, json_values
from seqdsd.sparsity import DSD, MaskSet, Phase

MAX_RESTARTS = 3
"""In a phase; each halves the learning rate."""


@dataclass(frozen=True)
class Restart:
    """An epoch that had diverged and was undone.

    Attributes:
        epoch: It, from 1.
        back_to: The epoch whose weights were taken up again; 0 for those that the phase began with.
        learning_rate: The phase's from then on.
        why: In words.
    """

    epoch: int
    back_to: int
    learning_rate: float
    why: str

    def __str__(self) -> str:
        where = (
            f"the weights of epoch {self.back_to}"
            if self.back_to
            else "the weights that the phase began with"
        )
        return (
            f"epoch {self.epoch} has diverged ({self.why}) and is undone: on with {where} at half the learning rate "
            f"({self.learning_rate:g})"
        )


@dataclass(frozen=True)
class Remark:
    """What was said of the training after an epoch, from 1 (see ``Note``)."""

    epoch: int
    kind: str
    text: str


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
    restarts: list[Restart] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    noted_in_a_row: dict[str, int] = field(default_factory=dict)
    """By the kind of a note: the epochs, up to the last one, that have had it."""

    @property
    def rate_factor(self) -> float:
        """What the phase's learning rate is multiplied by."""
        return 0.5 ** len(self.restarts)

    @property
    def is_at_best(self) -> bool:
        """Whether the current epoch began with the best weights."""
        return self.epoch == self.best_epoch + 1 or any(one.epoch == self.epoch for one in self.restarts)

    def is_over(self, phase: Phase, patience: int) -> bool:
        """Whether the phase has had its epochs, or has not become better for ``patience`` of them.

        Where an epoch was undone it is counted from there: at half the learning rate there are as many again.
        """
        stale = self.epoch - max([self.best_epoch + 1, *(one.epoch for one in self.restarts)])
        return self.epoch >= phase.epochs or (patience > 0 and self.best_epoch >= 0 and stale >= patience)

    def note_epoch(self, train_loss: float, dev: Evaluation) -> bool:
        """Add an epoch; True where it is the best so far (by dev score, then dev loss)."""
        self._add(train_loss, dev.loss, dev.score)
        last = self.epoch - 1
        is_best = self.best_epoch < 0 or self._rank(last) < self._rank(self.best_epoch)
        if is_best:
            self.best_epoch = last
        return is_best

    def note_restart(self, phase: Phase, *, train_loss: float, dev: Evaluation | None, why: str) -> Restart:
        """Add an epoch that is undone; ``dev`` is None where it was not finished. It is never the best."""
        self._add(train_loss, *((dev.loss, dev.score) if dev else (math.nan, math.nan)))
        rate = phase.learning_rate * self.rate_factor / 2
        self.restarts.append(Restart(self.epoch, self.best_epoch + 1, rate, why))
        self.noted_in_a_row = {}
        return self.restarts[-1]

    def note_remarks(self, notes: Sequence[Note], phase: Phase) -> list[Remark]:
        """Count the notes of the epoch that was added last; those that are to be said now, once each."""
        self.noted_in_a_row = {note.kind: self.noted_in_a_row.get(note.kind, 0) + 1 for note in notes}
        said = {remark.kind for remark in self.remarks}
        due = [
            Remark(self.epoch, note.kind, note.text)
            for note in notes
            if note.kind not in said and self.noted_in_a_row[note.kind] >= note.epochs_of(phase.epochs)
        ]
        self.remarks += due
        return due

    def losses(self) -> list[Losses]:
        """Of the epochs that were not undone."""
        undone = {one.epoch for one in self.restarts}
        pairs = zip(self.train_loss, self.dev_loss, strict=True)
        return [Losses(*pair) for epoch, pair in enumerate(pairs, start=1) if epoch not in undone]

    def _add(self, train_loss: float, dev_loss: float, dev_score: float) -> None:
        self.train_loss.append(train_loss)
        self.dev_loss.append(dev_loss)
        self.dev_score.append(dev_score)
        self.epoch, self.step = self.epoch + 1, 0

    def _rank(self, epoch: int) -> list[tuple[bool, float]]:
        """Smaller is better; NaN, which compares as neither, comes last."""
        return [
            (math.isnan(value), 0.0 if math.isnan(value) else value)
            for value in (self.dev_score[epoch], self.dev_loss[epoch])
        ]


def _recorded_losses(record: Mapping[str, Any]) -> list[Losses]:
    """By epoch, NaN where null stands for it; none where an earlier version has not written them."""
    pairs = zip(record["train_loss"], record.get("dev_loss", []), strict=False)
    return [Losses(*(math.nan if value is None else value for value in pair)) for pair in pairs]


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
    """All that a run has come to besides the model's and the optimizer's tensors and the masks.

    Attributes:
        records: Of the finished phases.
        now: Where the current phase stands.
        meter: Losses of the current epoch so far.
        best: Weights of the current phase's best epoch so far; before its first one is over, what it began with.
        weight_rows: Weights at the moments so far (see ``weight_log``).
        skipped: Bad data that processes before this one have left out.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    now: PhaseProgress = field(default_factory=PhaseProgress)
    meter: LossMeter = field(default_factory=LossMeter)
    best: dict[str, Tensor] = field(default_factory=dict)
    weight_rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def epochs_done(self) -> int:
        """Counted over the whole run."""
        return sum(record["epochs"] for record in self.records) + self.now.epoch

    @property
    def can_go_back(self) -> bool:
        """Whether going back to the best weights may help: they were changed since, and it was not done too often."""
        is_changed = self.meter.steps > 0 or not self.now.is_at_best
        return bool(self.best) and is_changed and len(self.now.restarts) < MAX_RESTARTS

    def has_diverged(self, phase: Phase, dev: Evaluation, *, begins_worse: bool = False) -> bool:
        """Whether the epoch that ends has: by the phase's best one, or at its start by what it began with.

        ``begins_worse`` is whether the phase begins with other weights than those that the one before has handed on.
        """
        good = self._good_losses(phase, begins_worse=begins_worse)
        now = Losses(self.meter.mean, dev.loss)
        if good is None or not self.best:  # of a checkpoint from before there were weights to go back to
            return False
        return has_diverged(now, good=good, first=self._first_losses(phase))

    def _good_losses(self, phase: Phase, *, begins_worse: bool) -> Losses | None:
        now = self.now
        if now.best_epoch >= 0:
            return Losses(now.train_loss[now.best_epoch], now.dev_loss[now.best_epoch])
        if phase.kind in ("sparse", "shared") or begins_worse or not self.records:
            return None  # it takes away some of what the phase before had learned
        before = self.records[-1]
        return next(iter(_recorded_losses(before)[before["best_epoch"] - 1 :]), None)

    def _first_losses(self, phase: Phase) -> Losses | None:
        """Of the run's first epoch that has some; None where the run began with weights that were trained."""
        kind = self.records[0]["kind"] if self.records else phase.kind
        epochs = _recorded_losses(self.records[0]) if self.records else self.now.losses()
        finite = (one for one in epochs if all(map(math.isfinite, one)))
        return None if kind == "sparse" else next(finite, None)

    def remark(self, phase: Phase, dev: Evaluation, *, is_best: bool) -> list[Remark]:
        """What is to be said of the epoch that was finished last."""
        *before, now = self.now.losses()
        notes = list(dev.notes)
        if before:
            lowest = Losses(
                *(min(filter(math.isfinite, curve), default=math.inf) for curve in zip(*before, strict=True))
            )
            notes += remarks(now, lowest=lowest, first=self._first_losses(phase), is_best=is_best)
        return self.now.note_remarks(notes, phase)

    def undo_epoch(self, phase: Phase, dev: Evaluation | None, *, why: str) -> Restart:
        """Count the current epoch, which is undone: the weights are to be ``best`` again."""
        self.now.bad_steps += self.meter.bad_steps
        mean, self.meter = self.meter.mean, LossMeter()
        return self.now.note_restart(phase, train_loss=mean, dev=dev, why=why)

    def finish_epoch(self, dev: Evaluation) -> bool:
        """Note an epoch's end; True where its weights are the phase's best so far."""
        self.now.bad_steps += self.meter.bad_steps
        mean, self.meter = self.meter.mean, LossMeter(bad_in_a_row=self.meter.bad_in_a_row)
        return self.now.note_epoch(mean, dev)

    def finish_phase(self, record: dict[str, Any]) -> None:
        """Keep a phase's record and forget all else of it."""
        self.records.append(record)
        self.now, self.meter, self.best = PhaseProgress(), LossMeter(), {}

    def begin_epoch_again(self) -> None:
        """Forget the steps of the current epoch, none of which has changed anything, but for their count."""
        self.now.bad_steps += self.meter.bad_steps
        self.now.step, self.meter = 0, LossMeter()

    def checkpoint(
        self,
        dsd: DSD,
        *,
        optimizer: torch.optim.Optimizer | None,
        fingerprint: str,
        skipped: Mapping[str, str],
        settings: Mapping[str, Any],
        shared: Mapping[str, Tensor],
    ) -> Checkpoint:
        """What going on from here needs; ``optimizer`` is None between two phases, ``shared`` empty but in some."""
        parts = {
            "model": dsd.model.state_dict(),
            "best": self.best,
            "optimizer": optimizer_tensors(optimizer) if optimizer else {},
            "mask": dsd.masks.state_dict() if dsd.masks else {},
            "shared": shared,
        }
        tensors = {f"{part}/{name}": one for part, named in parts.items() for name, one in named.items()}
        state = {
            "phases": [asdict(phase) for phase in dsd.schedule],
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
        dsd: DSD,
        device: torch.device,
        *,
        settings: Mapping[str, Any],
    ) -> RunState:
        """Make ``dsd`` and its model stand where the checkpoint does, and return the rest of it but the optimizer.

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
        model, schedule = dsd.model, dsd.schedule
        if saved.phases != [asdict(phase) for phase in schedule]:
            raise ValueError("belongs to another schedule; take another --out")
        check_phases("records", json_values(saved.records), planned=len(schedule))
        try:
            model.load_state_dict(checkpoint.under("model"))
        except RuntimeError as error:
            raise ValueError(f"another network's: {error}") from error
        best, masks = checkpoint.under("best"), checkpoint.under("mask")
        _check_fits(model, best, checkpoint.under("optimizer"), is_begun=saved.now.best_epoch >= 0)
        dsd.stand_at(len(saved.records), masks=MaskSet.from_state_dict(model, masks) if masks else None)
        return cls(
            records=saved.records,
            now=saved.now,
            meter=LossMeter(**saved.meter),
            best={name: tensor.to(device) for name, tensor in best.items()},
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
