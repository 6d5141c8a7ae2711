"""DSD in anybody's training: one object that knows the phases, chooses and holds the masks, and hands weights on.

It knows no trainer. A loop of one's own walks it by ``phases`` and ``hold``; what drives a training from outside (an
adapter to another trainer, the engine) by ``enter`` and ``leave``, on which these are built. Data, losses, optimizers
and learning-rate curves are the loop's.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from itertools import zip_longest
from typing import Any, Literal, SupportsFloat, get_args

import torch
from torch import Tensor, nn

from seqdsd.sparsity.held_weights import MaskHandle
from seqdsd.sparsity.masks import MaskSet
from seqdsd.sparsity.parameters import bare, by_alias, named_parameters
from seqdsd.sparsity.regrowth import Former, Regrowth, former_weights, measure_regrowth
from seqdsd.sparsity.restoring import (
    RestoredStart,
    current_weights,
    fresh_weights,
    pruned_values,
    refuse_sharded,
    restore_,
)
from seqdsd.sparsity.rules import Plan, Rule, resolve
from seqdsd.sparsity.schedule import Number, Phase, PhaseKind, Schedule
from seqdsd.sparsity.stats import measured_sparsity

Best = Literal["lowest", "highest"]
"""Which of two scores is the better one."""

_ADDED_SINCE = {"former", "former_weights", "is_restored", "regrown", "restored_start"}
"""What states of earlier versions lack: there, restored weights began at 0, and were not measured."""

_logger = logging.getLogger(__name__)


class DSD:
    """Dense-Sparse-Dense training of the model and the loop that one has.

    Example; ``train_one_epoch`` and ``evaluate`` are yours:

        >>> import torch
        >>> from torch import Tensor, nn
        >>> from seqdsd.sparsity import DSD, Rule, Schedule
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
        >>> inputs, targets = torch.randn(64, 8), torch.randn(64, 1)
        >>> def evaluate(model):
        ...     return nn.functional.mse_loss(model(inputs), targets)
        >>> def train_one_epoch(model, optimizer):
        ...     optimizer.zero_grad()
        ...     evaluate(model).backward()
        ...     optimizer.step()
        >>> schedule = Schedule.dsd(iters=1, epochs=(4, 2, 2), sparsities=[0.5], learning_rates=[1e-2, 1e-3, 1e-4])
        >>> dsd = DSD(model, schedule, rules=[Rule("*")], best="lowest")
        >>> for phase in dsd.phases():
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=phase.learning_rate, momentum=0.9)
        ...     with dsd.hold(optimizer):  # in the sparse phase, half the weights stay at 0 inside
        ...         for epoch in phase.remaining_epochs:
        ...             train_one_epoch(model, optimizer)
        ...             is_best = dsd.epoch_done(score=evaluate(model))
        >>> print(dsd)
        DSD(Sequential: Dense Iter 0, Sparse Iter 1, Dense Iter 1; all phases are done)

    To go on after a break, save ``model.state_dict()``, ``optimizer.state_dict()`` and ``dsd.state_dict()`` after
    ``epoch_done``; load the first and the last before ``phases``, which begins where they stand, and the second into
    the first phase's optimizer.

    Of several processes each has its own, and all call the same methods with the same scores.

    Attributes:
        model: The bare model.
        schedule: All phases.
        plans: What each sparse phase prunes, by which rule.
        masks: The round's masks: from the start of its sparse phase to the end of its redense phase; otherwise None.
        regrown: How far restored weights had come back at the end of each redense phase so far, by its name.
    """

    # Where it stands; set by ``stand_at``.
    masks: MaskSet | None
    _best_score: float | None
    _best_weights: dict[str, Any]
    _former: dict[str, Former]  # of the round
    _former_weights: dict[str, Tensor]  # until they are restored, if they are to be
    _is_restored: bool  # whether restored weights have had their start in this phase

    def __init__(
        self,
        model: nn.Module,
        schedule: Schedule,
        rules: Iterable[Rule] | Mapping[str, Iterable[Rule]],
        *,
        best: Best | None = None,
        patience: int = 0,
        restored_start: RestoredStart = "zero",
        make_fresh: Callable[[], nn.Module] | None = None,
        seed: int = 0,
    ) -> None:
        """Resolve every phase's plan, so that a rule that fits nothing is refused before any training.

        Args:
            model: The bare model, whose wrapper (DDP, ``torch.compile`` …) may be what is trained.
            schedule: The phases; each begins where the one before has ended.
            rules: What is pruned (``SPEECH_RULES``, ``CAPTION_RULES``, ``VISION_RULES``, or your own); by the names of
                the sparse phases, where each has its own.
            best: Hand on the weights of each phase's best epoch, by the lowest or highest score; None hands on those
                of its last.
            patience: A phase ends early after this many epochs without a better score; 0 never ends it early.
            restored_start: What pruned weights begin the redense phase with: ``zero``, as in the paper; ``former``,
                their values before they were pruned, which are kept until then on the CPU and in ``state_dict`` (as
                many bytes as the pruned weights take in the model); ``fresh``, draws of the initialisation.
            make_fresh: For ``fresh``: builds the network as it was built at first, on the CPU.
            seed: Decides the draws of ``fresh``, with the phase's place: a training that goes on has the same.

        Raises:
            ValueError: If the model is wrapped, or a rule matches nothing (see ``resolve``); if patience is negative,
                or there is patience but no ``best``; if there is no such start, or ``fresh`` has no ``make_fresh``.
        """
        if bare(model) is not model:
            raise ValueError(
                f"DSD takes the bare model, got it in {type(model).__name__}; hand over the model that was wrapped, so "
                "that saved weights have its own names, and train the wrapper as before"
            )
        if best not in (None, *get_args(Best)):
            raise ValueError(f"best must be one of {get_args(Best)} or None, got {best!r}")
        if patience < 0 or (patience and best is None):
            raise ValueError(
                f"patience must not be negative, and needs best='lowest' or 'highest' to tell which epoch is better; "
                f"got patience={patience}, best={best!r}"
            )
        if restored_start not in get_args(RestoredStart):
            raise ValueError(
                f"restored_start must be one of {get_args(RestoredStart)}, got {restored_start!r}"
            )
        if restored_start == "fresh" and make_fresh is None:
            raise ValueError(
                "restored_start='fresh' draws from the network's initialisation, of which its weights say nothing: "
                f"give make_fresh, a function that builds the {type(model).__name__} as it was built at first"
            )
        self.model = model
        self.schedule = schedule
        self._rules = rules if isinstance(rules, Mapping) else tuple(rules)
        self.plans: Mapping[Phase, Plan] = {
            phase: resolve(model, self._rules_of(phase), phase.sparsity)
            for phase in schedule
            if phase.sparsity
        }
        self._best, self._patience = best, patience
        self._restored_start, self._make_fresh, self._seed = restored_start, make_fresh, seed
        self.regrown: dict[str, Regrowth] = {}
        self._handle: MaskHandle | None = None
        self._is_held = False
        self._offered: int | None = None  # the phase that ``phases`` has given out
        self.stand_at(0)

    @property
    def phase(self) -> Phase | None:
        """The phase in which the training stands; None when all are done."""
        return self.schedule.phases[self._index] if self._index < len(self.schedule) else None

    @property
    def is_held(self) -> bool:
        """Whether the phase is held: between ``enter`` and ``leave`` or ``release``."""
        return self._is_held

    @property
    def is_phase_over(self) -> bool:
        """Whether the phase has had its epochs, or has not become better for ``patience`` of them."""
        stale = self._epoch - self._best_epoch - 1
        is_out_of_patience = bool(self._patience) and self._best_epoch >= 0 and stale >= self._patience
        return self._epoch >= self._now.epochs or is_out_of_patience

    def phases(self) -> Iterator[CurrentPhase]:
        """The phases from where the training stands: each to be trained within ``hold``, to its end.

        Raises:
            RuntimeError: If a phase was not trained to its end before the next is asked for.
        """
        try:
            while self.phase is not None:
                self._offered = self._index
                yield CurrentPhase(self.phase, self)
                if self._index == self._offered:
                    raise RuntimeError(
                        f"{self._where()} is not over: train it within `with dsd.hold(optimizer):` and call "
                        "dsd.epoch_done() after each epoch; dsd.leave() ends it early"
                    )
        finally:
            self._offered = None

    @contextmanager
    def hold(self, optimizer: Any, *others: Any) -> Iterator[None]:
        """Be in the phase: in a sparse one, pruned weights are held at exactly 0 inside the ``with`` block.

        After the block nothing holds them, whatever happens. If the phase is over, its best weights are loaded, if
        these were asked for, and the training stands at the next phase; if not (an exception, a ``return``) it stands
        where it stood, and a later ``hold`` goes on with the same masks.

        Args:
            optimizer: A fresh one for each phase, with the phase's learning rate.
            others: Of several optimizers that share the model, the rest.

        Raises:
            RuntimeError: If a phase is held already or all are done.
            TypeError, ValueError: See ``MaskSet.attach``.
        """
        if self._offered not in (None, self._index):
            raise RuntimeError(
                f"{self.schedule.phases[self._offered or 0].name} is over: hold each phase of dsd.phases() once"
            )
        self.enter(optimizer, *others)
        try:
            yield
            if self._is_held and self.is_phase_over:
                name = self._now.name
                self.leave()
                self.warn_if_nearly_sparse(name)
        finally:
            self.release()

    def epoch_done(self, score: SupportsFloat | None = None) -> bool:
        """Count an epoch of the phase; True where its weights are the phase's best so far.

        Args:
            score: Of the weights as they are; NaN is never the best. Without ``best`` nothing is done with it.

        Raises:
            RuntimeError: If no phase is held, or it has had all its epochs.
            ValueError: If ``best`` was asked for and there is no score.
        """
        self._require_held("count an epoch")
        if self._epoch >= self._now.epochs:
            raise RuntimeError(
                f"{self._where()} has had all its epochs; loop over phase.remaining_epochs, which ends in time"
            )
        if self._best is not None and score is None:
            raise ValueError(
                f"best={self._best!r} is told by scores: give one, dsd.epoch_done(score=…), after every epoch"
            )
        is_best = score is not None and self.note_score(score)
        self._epoch += 1
        return is_best

    def note_score(self, score: SupportsFloat) -> bool:
        """Keep the weights as they are if they are the phase's best so far; True if so.

        ``epoch_done`` does it; this is for whoever judges within an epoch.
        """
        new = float(score.detach() if isinstance(score, Tensor) else score)
        old = self._best_score
        if self._best is None or math.isnan(new):
            return False
        if old is not None and not (new < old if self._best == "lowest" else new > old):
            return False
        self._best_score, self._best_epoch = new, self._epoch
        self._best_weights = copied_weights(self.model)
        return True

    def enter(self, optimizer: Any, *others: Any) -> Phase:
        """Begin the phase, or go on with it: choose a sparse phase's masks if it has none yet, and hold them.

        For adapters to other trainers, which have no ``with`` block: ``leave`` ends the phase, and ``release`` what
        holds the masks. See ``hold``.
        """
        if self._is_held:
            raise RuntimeError(
                f"{self._now.name} is held already; leave its `with dsd.hold(…)` block, or call dsd.leave(), before "
                "the next begins"
            )
        phase = self._now
        if phase.kind == "sparse":
            self._handle = self.choose_masks().attach(optimizer, *others)
        elif phase.kind == "redense" and not self._is_restored:
            self._restore()
        self._is_held = self._was_held = True
        return phase

    def leave(self) -> None:
        """End the phase, over or not: load its best weights, if asked for, free all weights, and stand at the next.

        Raises:
            RuntimeError: If the phase was never held.
        """
        if not self._was_held:
            raise RuntimeError(
                f"{self._where()} was not begun: dsd.enter(optimizer) or dsd.hold(optimizer) first"
            )
        if self._best_weights:
            self.model.load_state_dict(self._best_weights)
        self.release()
        if (regrowth := self.regrowth()) is not None:
            self.regrown[self._now.name] = regrowth
        following = self._index + 1
        goes_on = following < len(self.schedule) and self.schedule.phases[following].kind == "redense"
        former = (self._former, self._former_weights)
        self.stand_at(following, masks=self.masks if goes_on else None)
        if goes_on:
            self._former, self._former_weights = former

    def release(self) -> None:
        """Free all weights and stay in the phase, as ``hold`` does after an exception; ``enter`` goes on with it."""
        if self._handle is not None:
            self._handle.remove()
        self._handle, self._is_held = None, False

    def choose_masks(self) -> MaskSet:
        """Choose a sparse phase's masks from the weights as they stand, if it has none yet; nothing is pruned so far.

        ``enter`` does it; this is for whoever looks at the weights before.

        Raises:
            ValueError: See ``MaskSet.from_magnitude``.
        """
        if self.masks is None:
            self._refuse_sharded(self.plans[self._now].sparsities)
            masks = MaskSet.from_magnitude(self.model, self.plans[self._now])
            if self._restored_start == "former":
                self._former_weights = pruned_values(current_weights(self.model), masks)
            self._former = former_weights(self.model, masks)
            self.masks = masks
        return self.masks

    def regrowth(self) -> Regrowth | None:
        """In a redense phase, how far the restored weights have come back by now; otherwise None.

        None, too, where the round's masks came from a state of before this was measured, or by ``stand_at``.
        """
        if self.phase is None or self.phase.kind != "redense" or self.masks is None:
            return None
        return measure_regrowth(self.model, self.masks, self._former)

    def warn_if_nearly_sparse(self, phase_name: str) -> None:
        """Say so in the log where a redense phase that is over has hardly brought weights back.

        ``hold`` does it; this is for whoever ends phases by ``leave``.
        """
        regrowth = self.regrown.get(phase_name)
        if regrowth is not None and regrowth.is_nearly_sparse:
            _logger.warning("%s", regrowth.warning(phase_name))

    def check(self, optimizer: Any, *others: Any) -> None:
        """Raise now what ``enter`` would raise in the first sparse phase, perhaps days later; nothing changes.

        Raises:
            TypeError, ValueError: See ``MaskSet.attach``; or if weights that are to begin anew in another way than at 0
                are sharded.
        """
        if names := self._pruned_names:
            parameters = by_alias(self.model)
            self._refuse_sharded(names)
            masks = {name: torch.ones_like(parameters[name].parameter, dtype=torch.bool) for name in names}
            MaskSet(self.model, masks).attach(optimizer, *others).remove()

    def zeros(self) -> float:
        """Share of exact zeros among all weights that some phase prunes."""
        return measured_sparsity(self.model, self._pruned_names)

    def mask_gradients_(self) -> None:
        """Zero the gradients of the weights that are held at 0, if any: with several processes, before clipping.

        DDP may add up the gradients before each process has masked its own.
        """
        if self._handle is not None and self.masks is not None:
            self.masks.mask_gradients_()

    def stand_at(self, index: int, *, epoch: int = 0, masks: MaskSet | None = None) -> None:
        """Take up a position whose weights the model has: ``load_state_dict`` does it, and what saves in its own way.

        Args:
            index: Of the phase, from 0; the number of phases where all are done.
            epoch: How many of its epochs are done; after one, restored weights have had their start.
            masks: Of the round, if the phase is within one. They say nothing of former values: a redense phase that is
                to begin with these needs ``load_state_dict``.

        Raises:
            RuntimeError: If a phase is held.
        """
        if self._is_held:
            raise RuntimeError(f"{self._now.name} is held; load a state before dsd.phases() or dsd.enter()")
        self._index, self._epoch, self.masks = index, epoch, masks
        self._was_held = False
        self._best_score = None
        self._best_epoch = -1
        self._best_weights = {}
        self._former, self._former_weights = {}, {}
        self._is_restored = epoch > 0  # weights that have trained since are not restored once more

    def control(self, model: nn.Module | None = None) -> DSD:
        """The same phases, epochs and learning rates with nothing pruned (LLR): what DSD is to be compared with.

        Args:
            model: Trained in place of this one's: a copy from before. None: the same, to which its first weights are
                given back before.
        """
        return DSD(
            model or self.model,
            self.schedule.lower_learning_rate_only(),
            self._rules,
            best=self._best,
            patience=self._patience,
        )

    def state_dict(self) -> dict[str, Any]:
        """Where the training stands: for ``torch.save`` and ``torch.load(weights_only=True)``.

        Masks take one bit a weight; the phase's best weights are as ``model.state_dict()`` has them; values to which
        pruned weights are to be restored are flat. The model's own weights and the optimizer's state are not in it.
        """
        return {
            "parameters": {one.name: list(one.parameter.shape) for one in named_parameters(self.model)},
            "schedule": _plain(self.schedule),
            "plans": {phase.name: plan.sparsities for phase, plan in self.plans.items()},
            "phase": self._index,
            "epoch": self._epoch,
            "masks": self.masks.state_dict() if self.masks else {},
            "best": self._best,
            "best_score": self._best_score,
            "best_epoch": self._best_epoch,
            "best_weights": self._best_weights,
            "restored_start": self._restored_start,
            "is_restored": self._is_restored,
            "former": {name: list(astuple(one)) for name, one in self._former.items()},
            "former_weights": self._former_weights,
            "regrown": {name: asdict(one) for name, one in self.regrown.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand where ``state_dict`` stood. The model's own weights are loaded apart, before or after.

        Raises:
            RuntimeError: If a phase is held.
            ValueError: If it is no such state, or one of another model, schedule, plan or ``best``; it stands then
                where it stood.
        """
        if missing := self.state_dict().keys() - state.keys() - _ADDED_SINCE:
            raise ValueError(
                f"not what dsd.state_dict() gave: it lacks {', '.join(sorted(missing))}; load that part"
            )
        self._check_same(state)
        masks = MaskSet.from_state_dict(self.model, state["masks"]) if state["masks"] else None
        self.stand_at(state["phase"], epoch=state["epoch"], masks=masks)
        self._best_score, self._best_epoch = state["best_score"], state["best_epoch"]
        self._best_weights = state["best_weights"]
        self._former = {name: Former(*one) for name, one in state.get("former", {}).items()}
        self._former_weights = state.get("former_weights", {})
        self._is_restored = state.get("is_restored", False)
        self.regrown = {name: Regrowth(**one) for name, one in state.get("regrown", {}).items()}

    def summary(self) -> str:
        """The phases, where the training stands among them, and what the sparse phases prune by which rule."""
        lines = [repr(self)]
        for index, phase in enumerate(self.schedule):
            pruned = f", {phase.sparsity:.1%} pruned" if phase.sparsity else ""
            grown = f"; {self.regrown[phase.name]}" if phase.name in self.regrown else ""
            lines.append(
                f"  {self._mark(index)} {phase.name}: {phase.epochs} epochs at {phase.learning_rate:g}{pruned}{grown}"
            )
        if not self.plans:
            return "\n".join([*lines, "Nothing is pruned."])
        if self.masks is not None:
            zeros = measured_sparsity(self.model, self.masks.masks)
            lines.append(f"Of the weights that this round prunes from, {zeros:.1%} are exactly 0 now.")
        for phase, plan in self.plans.items():
            lines += [f"{phase.name} prunes:", str(plan)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        names = ", ".join(phase.name for phase in self.schedule)
        held = (
            f", {self.masks.sparsity():.1%} of the masked weights held at 0"
            if self._handle and self.masks
            else ""
        )
        return f"DSD({type(self.model).__name__}: {names}; {self._where()}{held})"

    @property
    def _now(self) -> Phase:
        if self.phase is None:
            raise RuntimeError("all phases are done; make another DSD to train on")
        return self.phase

    @property
    def _pruned_names(self) -> list[str]:
        """Of the parameters that some phase prunes."""
        return sorted({name for plan in self.plans.values() for name in plan.sparsities})

    def _refuse_sharded(self, names: Iterable[str]) -> None:
        """Raise ValueError where weights that are to begin in another way than at 0 are split over processes."""
        if self._restored_start != "zero":
            parameters = by_alias(self.model)
            for name in names:
                refuse_sharded(name, parameters[name].parameter)

    def _restore(self) -> None:
        """Give the pruned weights what they begin the redense phase with."""
        if self._restored_start != "zero":
            if self.masks is None:
                raise RuntimeError(
                    f"{self._now.name}: which weights were pruned is not known; load a whole state"
                )
            values = self._former_weights
            if self._restored_start == "former" and values.keys() != self.masks.masks.keys():
                raise RuntimeError(
                    f"{self._now.name}: the former values of the pruned weights are not known, only their masks; "
                    "load what dsd.state_dict() gave, or take restored_start='zero' or 'fresh'"
                )
            if self._restored_start == "fresh":
                assert self._make_fresh is not None  # or it was refused
                made = fresh_weights(self._make_fresh, seed=self._seed, place=self._index)
                values = pruned_values(made, self.masks)
            restore_(self.model, self.masks, values)
        self._former_weights, self._is_restored = {}, True

    def _rules_of(self, phase: Phase) -> Iterable[Rule]:
        return self._rules[phase.name] if isinstance(self._rules, Mapping) else self._rules

    @property
    def _epochs_before(self) -> int:
        """Of the phases before this one, as if none had ended early."""
        return sum(phase.epochs for phase in self.schedule.phases[: self._index])

    def _where(self) -> str:
        if self.phase is None:
            return "all phases are done"
        # Who counts steps counts no epochs.
        counted = f" ({self._epoch} of {self.phase.epochs} epochs done)" if self._epoch else ""
        return f"{self.phase.name}{counted}"

    def _mark(self, index: int) -> str:
        return "done" if index < self._index else "now " if index == self._index else "next"

    def _remaining_epochs(self, index: int) -> Iterator[int]:
        while self._index == index and not self.is_phase_over:
            self._require_held("train")
            epoch = self._epoch
            yield self._epochs_before + epoch
            if (self._index, self._epoch) == (index, epoch):
                raise RuntimeError("call dsd.epoch_done() at the end of each epoch of phase.remaining_epochs")

    def _require_held(self, what: str) -> None:
        if not self._is_held:
            raise RuntimeError(
                f"cannot {what} outside of a phase, where nothing is held at 0: do so within "
                "`with dsd.hold(optimizer):`"
            )

    def _check_same(self, state: Mapping[str, Any]) -> None:
        """See that a state is of this model, schedule, rules and ``best``."""
        own, remedy = self.state_dict(), "make the DSD as it was then, or train from the start"
        if state["best"] != own["best"]:
            raise ValueError(
                f"saved with best={state['best']!r}, this DSD has best={own['best']!r}; {remedy}"
            )
        if (start := state.get("restored_start", "zero")) != own["restored_start"]:
            raise ValueError(
                f"saved with restored_start={start!r}, this DSD has {own['restored_start']!r}; {remedy}"
            )
        for number, (then, here) in enumerate(zip_longest(state["schedule"], own["schedule"]), start=1):
            if then != here:
                raise ValueError(
                    f"saved with another schedule: phase {number} was {_said(then)}, is here {_said(here)}; {remedy}"
                )
        if odd := _first_difference(state["parameters"], own["parameters"]):
            raise ValueError(
                f"saved with another model: the shape of {odd[0]!r} was {odd[1]}, is here {odd[2]}; {remedy}"
            )
        for name, plan in own["plans"].items():
            if odd := _first_difference(state["plans"].get(name, {}), plan):
                raise ValueError(
                    f"saved with other rules: the sparsity of {odd[0]!r} in {name} was {odd[1]}, is here {odd[2]}; "
                    f"{remedy}"
                )
        if best := state["best_weights"]:
            if unknown := sorted(best.keys() ^ self.model.state_dict().keys()):
                raise ValueError(
                    f"saved with another model: of its best weights {unknown[0]!r} is missing or unknown; {remedy}"
                )


@dataclass(frozen=True)
class CurrentPhase:
    """A phase that is to be trained now.

    Attributes:
        phase: It, as the schedule has it.
        dsd: What it is a phase of.
    """

    phase: Phase
    dsd: DSD

    @property
    def name(self) -> str:
        """The paper's: Dense Iter 0, Sparse Iter 1 and so on."""
        return self.phase.name

    @property
    def kind(self) -> PhaseKind:
        """Without masks, under them, or without them again."""
        return self.phase.kind

    @property
    def learning_rate(self) -> Number:
        """What the phase's fresh optimizer begins with."""
        return self.phase.learning_rate

    @property
    def sparsity(self) -> Number:
        """Share of weights that is pruned; 0 but in a sparse phase."""
        return self.phase.sparsity

    @property
    def remaining_epochs(self) -> Iterator[int]:
        """The epochs that are left until the phase is over, to be gone through within ``hold``.

        Each is counted from 0 over the whole schedule, as ``Schedule.phase_at`` counts.

        Raises:
            RuntimeError: If an epoch is not ended by ``DSD.epoch_done``, or the phase is not held.
        """
        index = self.dsd.schedule.phases.index(self.phase)
        return self.dsd._remaining_epochs(index)


def copied_weights(model: nn.Module) -> dict[str, Any]:
    """A copy of ``model.state_dict()`` in which tied tensors are still one."""
    return copy.deepcopy(model.state_dict())


def _plain(schedule: Schedule) -> list[dict[str, Any]]:
    """What any file can hold of a schedule."""
    return [
        {
            "name": phase.name,
            "kind": phase.kind,
            "epochs": phase.epochs,
            "learning_rate": float(phase.learning_rate),
            "sparsity": float(phase.sparsity),
        }
        for phase in schedule
    ]


def _said(phase: Mapping[str, Any] | None) -> str:
    if phase is None:
        return "missing"
    return (
        f"{phase['name']} ({phase['kind']}, {phase['epochs']} epochs at {phase['learning_rate']:g}, sparsity "
        f"{phase['sparsity']:g})"
    )


def _first_difference(saved: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """A key, and what each has for it: None where it has none."""
    for name in [*here, *saved]:
        if saved.get(name) != here.get(name):
            return name, saved.get(name), here.get(name)
    return None
