"""Walk a schedule: dense, sparse, redense and shared phases, each on the best weights of the one before; resumable.

The walk, and what a phase does to the weights, is ``seqdsd.sparsity.DSD``'s; which weights are the best and when a
phase is over is told here. One epoch is ``loop.py``; where the run stands is ``run_state.py``, which ``saving.py``
keeps; what it tells of itself is ``run_records.py``'s and ``progress.py``'s.
Of several processes all walk in step, and the first writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from rich.console import Console
from torch import nn

from seqdsd.compression import CodebookTraining, SharedTensor, half_where_safe
from seqdsd.engine.checkpoint import Checkpoint, load_checkpoint, restore_optimizer
from seqdsd.engine.given_weights import GivenWeights
from seqdsd.engine.interrupt import StopRequested, stop_on_signals
from seqdsd.engine.loop import READ_EVERY_STEPS, TrainingDiverged, train_epoch
from seqdsd.engine.memory import try_largest_batch
from seqdsd.engine.optimizer import NesterovSettings, OptimizerSettings
from seqdsd.engine.processes import Processes
from seqdsd.engine.progress import RunDisplay, TensorBoardLog
from seqdsd.engine.run_records import RunRecords
from seqdsd.engine.run_state import MAX_RESTARTS, RunState
from seqdsd.engine.saving import RunSaver
from seqdsd.engine.task import Evaluation, Task
from seqdsd.engine.weight_log import regrowth_in, weight_row
from seqdsd.fabric import Fabric, FabricOptimizer
from seqdsd.records import RunFolder
from seqdsd.sparsity import DSD, Moment, Phase, RestoredStart, Rule, Schedule
from seqdsd.sparsity.controller import copied_weights
from seqdsd.sparsity.restoring import fresh_weights, pruned_values, restore_

_STOPPING = "\nstopping after this step, or this evaluation, and saving; once more stops at once, unsaved\n"


@dataclass(frozen=True)
class TrainSettings:
    """How every phase is trained."""

    optimizer: OptimizerSettings = field(default_factory=NesterovSettings)
    patience: int = 10
    """A phase ends early after this many epochs without a better dev score, counted anew where one was undone; 0 never
    ends it early. One whose learning rate has a cosine for its curve then ends before the rate has fallen."""
    checkpoint_minutes: float = 5.0
    """A checkpoint is written at least this often while training steps are made, and at every phase's end."""
    seed: int = 0
    """Decides the order of the data and all randomness."""
    score_test: bool = True
    """Score the test sets at each phase's end; without it the run never looks at them."""
    restored_start: RestoredStart = "zero"
    """What the weights that a redense phase restores begin with (see ``DSD``)."""

    def __post_init__(self) -> None:
        if self.patience < 0:
            raise ValueError(f"patience must not be negative, got {self.patience}")
        if self.checkpoint_minutes < 0:
            raise ValueError(f"checkpoint_minutes must not be negative, got {self.checkpoint_minutes}")


class DSDTraining:
    """One run over a schedule, from its start or from where its folder's last checkpoint stands."""

    def __init__(
        self,
        task: Task[Any],
        schedule: Schedule,
        rules: Sequence[Rule] | Mapping[str, Sequence[Rule]],
        *,
        settings: TrainSettings,
        folder: RunFolder,
        fabric: Fabric,
        console: Console | None = None,
        start_from: RunFolder | None = None,
        noted: Mapping[str, Any] | None = None,
        given: GivenWeights | None = None,
        share: Callable[[Phase], Mapping[str, SharedTensor]] | None = None,
        make_fresh: Callable[[], nn.Module] | None = None,
        says_where: bool = True,
    ) -> None:
        """Resolve every phase's plan, so that a rule that fits nothing is refused before training.

        ``start_from`` is a run whose leading phases are taken over where this one has not begun (see ``take_over``).
        ``noted`` are the values that the training depends on, as JSON can hold them: a checkpoint carries them, and
        is refused where they are others. ``given`` are the weights that the task's model has where its first phase is
        somebody else's (``Phase.is_given``); not needed to go on. ``share`` gives, at the start of a phase of shared
        weights, these by name, made of those that the model then has. ``make_fresh`` builds the network as it was built
        at first, for restored weights that begin with fresh draws. ``says_where`` is whether a run that goes on says
        from where.

        Raises:
            ValueError: See ``seqdsd.sparsity.DSD``; or if a phase is of shared weights and there is no ``share``, or
                restored weights are to begin fresh and there is no ``make_fresh``.
        """
        if settings.restored_start == "fresh" and make_fresh is None:
            raise ValueError(
                "restored_start 'fresh': it is not said how the network is made anew (make_fresh)"
            )
        if share is None and (odd := next((one for one in schedule if one.kind == "shared"), None)):
            raise ValueError(f"{odd.name}: it is not said which weights share which values (share)")
        self._task = task
        self._schedule = schedule
        self._dsd = DSD(task.model, schedule, rules)
        self._settings = settings
        self._folder = folder
        self._fabric = fabric
        self._processes = Processes.of(fabric)
        self._console = (console or Console()) if self._processes.is_first else Console(quiet=True)
        self._start_from = start_from
        self._given = given
        self._share = share
        self._make_fresh = make_fresh
        self._says_where = says_where
        self._codebooks: CodebookTraining | None = None
        self._model = fabric.setup_module(task.model)
        self._state = RunState()
        writes = self._processes.is_first
        self._records = RunRecords(folder, task, self._dsd, writes, settings.restored_start)
        self._saver = RunSaver(folder, task, self._dsd, noted or {}, settings.checkpoint_minutes, writes)
        self._optimizer: FabricOptimizer
        self._tensorboard: TensorBoardLog | None = None
        self._dev_headline = ""
        self._steps_unasked = 0
        self._counted_until: float | None = None  # training time up to here is in the state's seconds

    def run(self) -> list[dict[str, Any]]:
        """Train the phases that are not yet done; returns all phase records.

        Raises:
            StopRequested: After Ctrl-C or SIGTERM; a checkpoint is written.
            TrainingDiverged: After too many steps without a finite loss, or too many epochs that had to be undone; a
                checkpoint is written.
            ValueError: From the data (a checkpoint is written), or a checkpoint that does not fit.
        """
        restored = self._begin()
        self._records.write_plan()
        if self._dsd.phase is None:
            return self._state.records
        with (
            self._open_tensorboard() as self._tensorboard,
            stop_on_signals(_STOPPING if self._processes.is_first else "") as self._wish,
            self._open_display() as self._display,
        ):
            if not self._state.records and self._schedule.phases[0].is_given:
                self._measure_given(self._schedule.phases[0])
            for number, current in enumerate(self._dsd.phases()):
                self._run_phase(current.phase, restored, is_first=number == 0)
                restored = None
        return self._state.records

    def _begin(self) -> Checkpoint | None:
        """Go on from the last checkpoint, which is returned, or from the phases of another run, or from the start."""
        found = self._saver.restored(self._fabric.device)
        self._processes.wait()  # all have read what the first goes on to write
        if found is not None:
            self._state, checkpoint = found
            if self._says_where:
                self._saver.say_where(self._state, checkpoint)
            self._records.write_all(self._state)
            return checkpoint
        if self._start_from is not None:
            self._state = self._saver.taken_over(
                self._start_from, restored_start=self._settings.restored_start
            )
            self._records.write_all(self._state)
            # The first copies the phases' files, of which a redense phase may read the weights before pruning.
            self._processes.wait()
        return None

    def _measure_given(self, phase: Phase) -> None:
        """Judge the weights that somebody else has trained, and hand them on: what the first phase comes to."""
        assert self._given is not None
        evaluations = self._evaluate_all()
        dev = evaluations["dev"]
        for note in dev.notes:
            self._display.warn(f"the given weights: {note}")
        self._dsd.stand_at(1)
        self._hand_on(phase, evaluations, given=self._given.noted(dev))

    def _run_phase(self, phase: Phase, restored: Checkpoint | None, *, is_first: bool) -> None:
        """Train a phase and write it down; ``is_first`` of those that this process trains."""
        optimizer = self._start_phase(phase, restored)
        with self._dsd.hold(optimizer), self._holding_codebooks(phase, restored, optimizer):
            begins = not self._state.now.epoch and not self._state.now.step
            if begins and phase.kind == "redense":
                self._restore_weights()
            if begins:
                # To go back to; in a sparse phase it is pruned by now.
                self._state.best = copied_weights(self._task.model)
            self._observe_weights("after pruning" if phase.kind == "sparse" else "after restoring", phase)
            if is_first:
                peak = try_largest_batch(self._fabric, self._model, self._task)
                self._display.say(f"[dim]{peak}[/dim]")
            evaluations = self._train_and_evaluate(phase)
        self._finish_phase(phase, evaluations)

    @contextmanager
    def _holding_codebooks(
        self, phase: Phase, restored: Checkpoint | None, optimizer: torch.optim.Optimizer
    ) -> Iterator[None]:
        """In a phase of shared weights, keep those of one code equal inside the ``with`` block."""
        if phase.kind != "shared":
            yield
            return
        assert self._share is not None  # or the phase was refused
        if restored is not None and (state := restored.under("shared")):
            self._codebooks = CodebookTraining.from_state_dict(self._task.model, state)
        else:
            self._codebooks = CodebookTraining(self._task.model, self._share(phase))
        try:
            # Summed ones would need a learning rate for each codebook, which depends on how many weights share a value.
            with self._codebooks.attach(optimizer, average=True):
                yield
        finally:
            self._codebooks = None

    def _train_and_evaluate(self, phase: Phase) -> dict[str, Evaluation]:
        try:
            while not self._state.now.is_over(phase, self._settings.patience):
                self._run_epoch(phase)
            if self._state.now.best_epoch < 0:
                raise TrainingDiverged(
                    f"all of {phase.name}'s {phase.epochs} epochs have diverged, at half the learning rate each; take "
                    "a lower one (--learning-rates) and another --out"
                )
            return self._evaluate_best()
        except (StopRequested, TrainingDiverged):  # of all processes at once
            self._save()  # raised between two steps: weights and position agree
            self._processes.wait()  # none may end, and have torchrun end the first, while that saves
            raise
        except ValueError:
            self._save()
            raise

    def _start_phase(self, phase: Phase, restored: Checkpoint | None) -> torch.optim.Optimizer:
        """Make a fresh optimizer, or restore a checkpoint's; look at the weights before they are pruned."""
        optimizer = self._settings.optimizer.make(self._task.model.parameters(), phase.learning_rate)
        self._optimizer = cast(FabricOptimizer, self._fabric.setup_optimizers(optimizer))
        if restored is not None and (tensors := restored.under("optimizer")):
            restore_optimizer(optimizer, tensors)
        if phase.kind == "sparse" and self._dsd.masks is None:
            self._dsd.choose_masks()
            self._observe_weights("before pruning", phase)
        return optimizer

    def _restore_weights(self) -> None:
        """Give the pruned weights what the redense phase begins with; once more, where nothing was trained since."""
        masks, start, done = self._dsd.masks, self._settings.restored_start, len(self._state.records)
        if start == "zero" or masks is None:
            return
        if start == "former":  # those of the phase before the sparse one, which were pruned
            source = load_checkpoint(self._folder.weights(self._state.records[-2]["name"])).tensors
        else:
            assert self._make_fresh is not None  # or it was refused
            source = fresh_weights(self._make_fresh, seed=self._settings.seed, place=done)
        restore_(self._task.model, masks, pruned_values(source, masks))

    def _run_epoch(self, phase: Phase) -> None:
        """Train an epoch and judge it; one that has diverged is undone.

        Raises:
            TrainingDiverged: Where undoing it would not help, or has not helped several times.
        """
        started = time.monotonic()
        try:
            self._train_epoch(phase)
            self._check_steps(phase)
        except TrainingDiverged as diverged:
            if not self._state.can_go_back:
                raise
            self._display.warn(str(diverged))
            self._go_back(phase, None, why="no finite loss in too many steps")
            return
        train_loss, dev = self._state.meter.mean, self._evaluate("dev")
        begins_worse = phase.kind == "redense" and self._settings.restored_start != "zero"
        has_diverged = self._state.has_diverged(phase, dev, begins_worse=begins_worse)
        if has_diverged and not self._state.can_go_back:
            raise TrainingDiverged(
                f"{phase.name} has lost what it had learned once more, in epoch {self._state.now.epoch + 1} (training "
                f"loss {train_loss:.4g}, dev loss {dev.loss:.4g}), at 1/{2**MAX_RESTARTS} of its learning rate; take a "
                "lower one (--learning-rates) and another --out"
            )
        self._show_epoch(phase, train_loss, dev, seconds=time.monotonic() - started)
        if has_diverged:
            self._go_back(phase, dev, why=f"training loss {train_loss:.4g}, dev loss {dev.loss:.4g}")
            return
        is_best = self._state.finish_epoch(dev)
        if is_best:
            self._state.best = copied_weights(self._task.model)
        for remark in self._state.remark(phase, dev, is_best=is_best):
            self._display.warn(remark.text)
        self._records.write_progress(phase, self._state, dev=dev.headline)

    def _check_steps(self, phase: Phase) -> None:
        """See that the epoch has had a step that changed something.

        Raises:
            ValueError: If nothing could be read.
            TrainingDiverged: If no step had a finite loss.
        """
        meter = self._state.meter
        if not meter.steps and not meter.bad_steps:
            raise ValueError("not one training item can be read; the warnings above say why")
        if not meter.steps:
            bad_steps = meter.bad_steps
            self._state.begin_epoch_again()  # when resumed
            raise TrainingDiverged(
                f"not one of the {bad_steps} steps of {phase.name}'s epoch {self._state.now.epoch + 1} had a finite "
                "loss, and all were skipped; lower the learning rate or look at the items named above"
            )

    def _show_epoch(self, phase: Phase, train_loss: float, dev: Evaluation, *, seconds: float) -> None:
        self._dev_headline = dev.headline
        if self._tensorboard:
            self._tensorboard.epoch(
                self._state.epochs_done,
                train_loss=train_loss,
                learning_rate=self._learning_rate(phase, self._task.num_batches - 1),
                dev=dev,
            )
        self._display.epoch_ended(
            phase, self._state.now.epoch + 1, train_loss=train_loss, dev=dev, seconds=seconds
        )

    def _go_back(self, phase: Phase, dev: Evaluation | None, *, why: str) -> None:
        """Undo the epoch: on with the best weights, a fresh optimizer and half the learning rate."""
        restart = self._state.undo_epoch(phase, dev, why=why)
        self._task.model.load_state_dict(self._state.best)
        # In its place, so that it goes on holding the masks.
        fresh = self._settings.optimizer.make(self._task.model.parameters(), restart.learning_rate)
        self._optimizer.optimizer.load_state_dict(fresh.state_dict())
        self._records.write_progress(phase, self._state, dev=self._dev_headline)
        self._display.warn(str(restart))

    def _train_epoch(self, phase: Phase) -> None:
        self._counted_until = time.monotonic()
        try:
            train_epoch(
                self._fabric,
                self._model,
                self._optimizer,
                self._task,
                epoch=self._state.epochs_done,
                first=self._state.now.step,
                seed=self._settings.seed,
                settings=self._settings.optimizer,
                meter=self._state.meter,
                before_step=lambda step: self._set_learning_rate(phase, step),
                after_step=lambda step: self._after_step(phase, step),
                after_backward=self._mask_summed_gradients,
            )
        finally:
            self._count_seconds()
            self._counted_until = None

    def _learning_rate(self, phase: Phase, step: int) -> float:
        """Of a step of the current epoch, from 0."""
        return self._settings.optimizer.rate(
            phase.learning_rate * self._state.now.rate_factor,
            epochs=phase.epochs,
            epoch=self._state.now.epoch,
            step=step,
            num_batches=self._task.num_batches,
        )

    def _set_learning_rate(self, phase: Phase, step: int) -> None:
        for group in self._optimizer.optimizer.param_groups:
            group["lr"] = self._learning_rate(phase, step)

    def _after_step(self, phase: Phase, step: int) -> None:
        self._state.now.step = step
        self._display.step(
            self._steps_done + step,
            phase=phase.name,
            epoch=f"{self._state.now.epoch + 1}/{phase.epochs}",
            loss=self._state.meter.mean,
            dev=self._dev_headline,
        )
        if self._is_stop_wished():
            raise StopRequested(
                f"stopped on request, all is saved; go on with --resume --config {self._folder.config}"
            )
        if self._saver.is_due:
            self._save()

    def _mask_summed_gradients(self) -> None:
        """Of several processes: their gradients may have been added up before each of them was masked."""
        if self._processes.count > 1:
            self._dsd.mask_gradients_()

    def _is_stop_wished(self) -> bool:
        """Whether to stop after this step; all processes say the same, and ask each other every few steps only."""
        self._steps_unasked += 1
        if self._processes.count > 1 and self._steps_unasked < READ_EVERY_STEPS:
            return False
        self._steps_unasked = 0
        return self._processes.any(self._wish.requested, self._fabric.device)

    def _evaluate_best(self) -> dict[str, Evaluation]:
        """Take the phase's best weights and judge them on every split; shared ones as a file has them."""
        self._task.model.load_state_dict(self._state.best)
        if self._codebooks is not None:
            self._codebooks.finish_()
            _round_(self._task.model)
        return self._evaluate_all()

    def _evaluate_all(self) -> dict[str, Evaluation]:
        splits = ["dev", *(self._task.test_splits if self._settings.score_test else ())]
        return {split: self._evaluate(split) for split in splits}

    def _evaluate(self, split: str) -> Evaluation:
        started = time.monotonic()
        evaluation = self._task.evaluate(self._model, split, self._fabric.device)
        self._state.now.evaluate_seconds += time.monotonic() - started
        return evaluation

    def _observe_weights(self, moment: Moment, phase: Phase) -> None:
        """Take the statistics of a moment, once: a resumed run may come to it again."""
        masks, rows = self._dsd.masks, self._state.weight_rows
        if masks is None or any((row["phase"], row["moment"]) == (phase.name, moment) for row in rows):
            return
        begun = self._schedule.phases[: len(self._state.records) + 1]
        round_number = sum(one.kind == "sparse" for one in begun)  # each of them begins a round
        row = weight_row(
            self._task.model,
            masks,
            moment=moment,
            phase_name=phase.name,
            round_number=round_number,
            earlier=rows,
        )
        if row is not None:
            rows.append(row)

    def _finish_phase(self, phase: Phase, evaluations: dict[str, Evaluation]) -> None:
        is_sparse = phase.kind == "sparse"
        self._observe_weights("after sparse retraining" if is_sparse else "after redense retraining", phase)
        regrowth = regrowth_in(self._state.weight_rows, phase.name)
        if regrowth is not None and regrowth.is_nearly_sparse:
            self._display.warn(regrowth.warning(phase.name))
        self._hand_on(phase, evaluations)

    def _hand_on(
        self, phase: Phase, evaluations: dict[str, Evaluation], *, given: Mapping[str, Any] | None = None
    ) -> None:
        """Record the best weights, which the model has, and forget all else of the phase."""
        record = self._records.phase_record(phase, self._state, evaluations)
        if given is not None:
            record["given"] = given
        self._records.write_phase(phase, evaluations)
        if self._tensorboard:
            last_epoch = max(0, self._state.epochs_done - 1)
            self._tensorboard.phase(last_epoch, phase.name, self._task.model, evaluations)
        self._display.phase_ended(phase, best_epoch=record["best_epoch"], evaluations=evaluations)
        self._state.finish_phase(record)
        if given is None:
            self._dsd.leave()
        self._saver.save(self._state, optimizer=None)
        self._records.write_all(self._state)

    @property
    def _steps_done(self) -> int:
        """Steps before the current epoch, as if no phase ended early."""
        return self._records.epochs_planned_so_far(self._state) * self._task.num_batches

    def _open_tensorboard(self) -> Any:
        if not self._processes.is_first:
            return nullcontext()
        return closing(TensorBoardLog(self._folder.tensorboard, first_epoch=self._state.epochs_done))

    def _open_display(self) -> Any:
        total = self._schedule.total_epochs * self._task.num_batches
        return RunDisplay.open(
            self._console, total_steps=total, done_steps=self._steps_done + self._state.now.step
        )

    def _count_seconds(self) -> None:
        if self._counted_until is not None:
            now = time.monotonic()
            self._state.now.seconds += now - self._counted_until
            self._counted_until = now

    def _save(self) -> None:
        """Write a checkpoint within a phase."""
        self._count_seconds()
        shared = self._codebooks.state_dict() if self._codebooks else {}
        self._saver.save(self._state, self._optimizer.optimizer, shared=shared)


@torch.no_grad()
def _round_(model: nn.Module) -> None:
    """Round to 16 bits what may be; codebooks are rounded already."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.copy_(half_where_safe(tensor))
