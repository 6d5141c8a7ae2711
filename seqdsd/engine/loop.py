"""One epoch of training: forward, backward, clip, step. Nothing in a step waits for the device.

A step whose loss or gradient is not finite changes nothing: the optimizers take ``found_inf`` as a flag on the device.
The flags, with the losses, are read every few steps in one copy; only then is anything said or stopped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from seqdsd.engine.optimizer import OptimizerSettings
from seqdsd.engine.processes import Processes
from seqdsd.engine.task import Batch, Task
from seqdsd.fabric import Fabric, FabricModule, FabricOptimizer

log = logging.getLogger(__name__)

READ_EVERY_STEPS = 10
MAX_BAD_STEPS = 10


class TrainingDiverged(RuntimeError):
    """Too many steps in a row had no finite loss."""


@dataclass
class LossMeter:
    """Losses of an epoch so far, read from the device a few steps at a time."""

    sum: float = 0.0
    steps: int = 0
    bad_steps: int = 0
    bad_in_a_row: int = 0
    _pending: list[tuple[Tensor, tuple[str, ...]]] = field(default_factory=list)
    _last_bad: tuple[str, ...] = ()
    _unjudged: int = 0

    @property
    def mean(self) -> float:
        """Mean over the finite steps read so far; NaN before the first."""
        return self.sum / self.steps if self.steps else math.nan

    def add(self, loss: Tensor, failed: Tensor, ids: tuple[str, ...], items: Tensor | None = None) -> None:
        """Note one step.

        Args:
            loss: Of the whole batch, on the device.
            failed: Whether the step was skipped, on the device.
            ids: This process's items.
            items: How many the whole batch has, on the device, where that can be none; such a step counts for nothing.
        """
        items = torch.ones_like(loss) if items is None else items
        self._pending.append((torch.stack((loss.detach().float(), failed.float(), items.float())), ids))
        self._unjudged += 1

    def judge(self, *, at_least: int = 0) -> None:
        """Read and judge the steps, where ``at_least`` so many were added since they were judged last.

        Of several processes only the one that writes checkpoints reads between two judgements: so what was added is
        counted, not what is still to be read. All judge after the same step.

        Raises:
            TrainingDiverged: After ``MAX_BAD_STEPS`` skipped steps in a row; a resumed run has as many again.
        """
        if self._unjudged < at_least:
            return
        self._unjudged = 0
        self._read()
        if self.bad_in_a_row >= MAX_BAD_STEPS:
            self.bad_in_a_row = 0
            raise TrainingDiverged(
                f"{MAX_BAD_STEPS} steps in a row had no finite loss and were skipped (the last with "
                # Of several processes, one may have had none; and a resumed run knows them no more.
                f"{', '.join(self._last_bad) or 'no item here'}); lower the learning rate or look at these items"
            )

    def _read(self) -> None:
        """Copy what is pending to the host.

        What comes after the last step of too many bad ones counts for nothing: how much that is depends on when one
        looks, which a resumed run does at other steps.
        """
        if not self._pending:
            return
        values = torch.stack([pair for pair, _ in self._pending]).tolist()
        names = [ids for _, ids in self._pending]
        self._pending.clear()
        for (loss, failed, items), ids in zip(values, names, strict=True):
            if not items or self.bad_in_a_row >= MAX_BAD_STEPS:
                continue
            if not failed:
                self.sum, self.steps, self.bad_in_a_row = self.sum + loss, self.steps + 1, 0
                continue
            self.bad_steps, self.bad_in_a_row = self.bad_steps + 1, self.bad_in_a_row + 1
            log.warning(
                "loss or gradient is not finite (loss %s): step skipped; its items: %s", loss, ", ".join(ids)
            )
            self._last_bad = ids

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps. Never raises: a run that stops for whatever reason must be able to save."""
        self._read()
        return {name: getattr(self, name) for name in ("sum", "steps", "bad_steps", "bad_in_a_row")}


def step_seed(seed: int, epoch: int, step: int, rank: int = 0) -> int:
    """Seed of one step's randomness (dropout, masks), so that a run can go on from any step; each process's own."""
    key = (seed, epoch, step, *([rank] if rank else []))
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def train_epoch(
    fabric: Fabric,
    model: nn.Module,
    optimizer: FabricOptimizer,
    task: Task[Any],
    *,
    epoch: int,
    first: int,
    seed: int,
    settings: OptimizerSettings,
    meter: LossMeter,
    before_step: Callable[[int], None] = lambda step: None,
    after_step: Callable[[int], None],
    after_backward: Callable[[], None] = lambda: None,
) -> None:
    """Train over the batches of ``epoch`` but the ``first`` ones.

    Args:
        fabric: Device and precision.
        model: The task's model, as Fabric has wrapped it.
        optimizer: Over the model's parameters, as Fabric has wrapped it; takes ``found_inf`` (see ``optimizer.py``).
        task: Gives batches and loss: of several processes, each gives its share.
        epoch: Counted over the whole run.
        first: Batches already done.
        seed: Of the run.
        settings: How gradients are clipped.
        meter: Takes the losses.
        before_step: Called with the number of batches done; sets the learning rate.
        after_step: Called with the number of batches done, when weights and optimizer are consistent.
        after_backward: Called when the gradients are complete, before they are clipped.

    Raises:
        TrainingDiverged: See ``LossMeter.judge``.
    """
    model.train()
    processes = Processes.of(fabric)
    for done, batch in enumerate(task.batches(epoch, first=first), start=first + 1):
        # Of several processes one without items takes part: the others wait for it.
        micro_batches = [one for one in batch if len(one) > 0 or processes.count > 1]
        if micro_batches:
            _seed_dropout(step_seed(seed, epoch, done, processes.rank), fabric.device)
            before_step(done - 1)
            loss, failed, items = _train_step(
                fabric, model, optimizer, task, micro_batches, settings, processes, after_backward
            )
            meter.add(loss, failed, tuple(id_ for one in micro_batches for id_ in one.ids), items)
        after_step(done)
        meter.judge(at_least=READ_EVERY_STEPS)  # only now: what is saved if it raises agrees with the weights
    meter.judge()


def _seed_dropout(seed: int, device: torch.device) -> None:
    """Seed torch's own generators, since dropout takes no other; on the CPU that one alone.

    ``torch.manual_seed`` also notes a seed, and the whole call stack, for every kind of device that is not here: half a
    millisecond, as long as a small network's step.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _train_step(
    fabric: Fabric,
    model: nn.Module,
    optimizer: FabricOptimizer,
    task: Task[Any],
    micro_batches: Sequence[Batch],
    settings: OptimizerSettings,
    processes: Processes,
    after_backward: Callable[[], None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Make a step; the loss of the whole batch, whether the step failed, and the batch's items, all on the device."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    loss, all_items = add_gradients(fabric, model, task, micro_batches, processes)
    after_backward()
    norm = settings.clip_(fabric, model, optimizer)
    whole_loss = processes.sum_(loss) / processes.count
    failed = ~torch.isfinite(whole_loss + norm)
    # Of several processes none may have had an item that can be read.
    changes_nothing = failed | (all_items == 0)
    optimizer.optimizer.found_inf = changes_nothing.float()  # type: ignore[attr-defined]  # see optimizer.py
    optimizer.step()
    optimizer.zero_grad()
    for buffer, before in buffers:  # batch norm's running statistics would keep a NaN for ever
        torch.where(changes_nothing, before, buffer, out=buffer)
    return whole_loss, failed, all_items


def add_gradients(
    fabric: Fabric, model: nn.Module, task: Task[Any], micro_batches: Sequence[Batch], processes: Processes
) -> tuple[Tensor, Tensor]:
    """Add up the gradients of a batch, micro-batch by micro-batch.

    Returns:
        The loss here, whose mean over the processes is the batch's mean loss an item, and the items of all processes;
        both on the device.
    """
    count = sum(map(len, micro_batches))
    # Filled on the device: nothing is copied there.
    all_items = processes.sum_(torch.full((), float(count), device=fabric.device))
    wrapped, losses = cast(FabricModule, model), []
    for number, one in enumerate(micro_batches, start=1):
        goes_on = number < len(micro_batches)
        with fabric.no_backward_sync(wrapped, enabled=processes.count > 1 and goes_on):
            loss = task.loss(model, one.to(fabric.device))
            if processes.count > 1:
                # Gradients are averaged over the processes, which need not have as many items each.
                loss = loss * (len(one) * processes.count / all_items.clamp(min=1))
            elif len(micro_batches) > 1:
                loss = loss * (len(one) / count)
            fabric.backward(loss)
        losses.append(loss.detach())
    return torch.stack(losses).sum(), all_items
