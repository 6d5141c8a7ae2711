"""Schedules: the sequence of dense, sparse and redense phases, and the fair comparisons without pruning.

Only what the phases are. Walking them is ``controller.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, compress
from numbers import Integral
from typing import Literal, SupportsInt, get_args

from seqdsd.sparsity.rules import Number, check_sparsity

PhaseKind = Literal["dense", "sparse", "redense", "shared"]
"""Of a phase: without masks, under them, without them again; or with weights that share few values, which are trained
(see ``seqdsd.compression.CodebookTraining``; ``DSD`` holds no weight in it)."""

DS1_LEARNING_RATES = (8e-4, 5e-4, 3e-4, 1e-4, 3e-5)
"""Table 7's ladder."""
DS1_SPARSITIES = (0.5, 0.25)
"""Table 7: 50 % in the first sparse phase, 25 % in the second."""
DS2_LEARNING_RATES = (3e-4, 3e-4, 3e-5, 3e-5, 6e-6)
"""Table 9's ladder."""
DS2_SPARSITIES = (0.5, 0.25)
"""Table 9: as in DeepSpeech 1."""
NEURALTALK_LEARNING_RATES = (1e-3, 1e-4, 1e-5)
"""Table 5's ratios from NeuralTalk's own rate; the table's own 1e-2 diverged (docs/experiments.md)."""
NEURALTALK_SPARSITIES = (0.8,)
"""Table 5."""
NEURALTALK_EPOCHS = (19, 10, 6)
"""Table 5."""
RESNET20_LEARNING_RATES = (1e-1, 1e-3, 1e-4)
"""Table 10."""
RESNET20_SPARSITIES = (0.5,)
"""Table 10."""
RESNET20_EPOCHS = (164, 45, 45)
"""Table 10."""


@dataclass(frozen=True)
class Phase:
    """One stretch of training with one mask, one optimizer and one initial learning rate."""

    name: str
    kind: PhaseKind
    epochs: int
    learning_rate: Number
    sparsity: Number = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(PhaseKind):
            raise ValueError(f"{self.name}: kind must be one of {get_args(PhaseKind)}, got {self.kind!r}")
        object.__setattr__(self, "epochs", _whole_number(f"{self.name}: epochs", self.epochs))
        if self.epochs < 0:
            raise ValueError(f"{self.name}: epochs must not be negative, got {self.epochs}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"{self.name}: learning_rate must be in (0, inf), got {self.learning_rate}")
        check_sparsity(self.sparsity)
        if (self.kind == "sparse") != (self.sparsity > 0):
            raise ValueError(f"{self.name}: a {self.kind} phase cannot have sparsity {self.sparsity}")

    @property
    def is_given(self) -> bool:
        """Whether somebody else has trained it: it has no epochs (see ``Schedule.first_given``)."""
        return not self.epochs


@dataclass(frozen=True)
class Schedule:
    """Phases in order, as they can be walked. Iterating gives them.

    Attributes:
        phases: At least one, each with a name of its own; a redense phase comes right after a sparse one.
        from_trained: The weights that it begins with are trained already, so that it may begin with a sparse phase;
            otherwise the first phase is dense.
    """

    phases: tuple[Phase, ...]
    from_trained: bool = False

    def __post_init__(self) -> None:
        if not self.phases:
            raise ValueError("a schedule needs at least one phase")
        names = [phase.name for phase in self.phases]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"each phase needs a name of its own; more than one is called {', '.join(twice)}"
            )
        first = self.phases[0]
        if first.kind == "sparse" and not self.from_trained:
            raise ValueError(
                f"{first.name}: a schedule begins with a dense phase, for untrained weights say nothing about which "
                "matter; if they are trained already, say so by from_trained=True"
            )
        for before, phase in zip((None, *self.phases), self.phases, strict=False):
            is_first_of_others = before is None and phase.kind == "dense" and len(self.phases) > 1
            if phase.is_given and not (self.from_trained and is_first_of_others):
                raise ValueError(f"{phase.name}: epochs must be at least 1, got 0")
            if phase.kind == "redense" and (before is None or before.kind != "sparse"):
                raise ValueError(
                    f"{phase.name}: a redense phase comes right after a sparse one; make it dense"
                )

    def __iter__(self) -> Iterator[Phase]:
        return iter(self.phases)

    def __len__(self) -> int:
        return len(self.phases)

    @property
    def total_epochs(self) -> int:
        """Epochs of all phases, if none ends early."""
        return sum(phase.epochs for phase in self.phases)

    @classmethod
    def dsd(
        cls,
        iters: int = 2,
        epochs: SupportsInt | Sequence[SupportsInt] = 50,
        sparsities: Sequence[Number] = DS1_SPARSITIES,
        learning_rates: Sequence[Number] = DS1_LEARNING_RATES,
    ) -> Schedule:
        """Dense Iter 0, then ``iters`` rounds of Sparse Iter i and Dense Iter i.

        Where more rounds are asked than the lists hold, each further learning rate keeps the list's last
        ratio (DS1: 3e-5 / 1e-4 = 0.3 times the one before; 0.1 where the list holds one), each further
        sparsity is half the one before, and each further phase has the last number of epochs. Longer lists
        are cut.

        Args:
            iters: Sparse + redense rounds; 0 trains the dense phase alone.
            epochs: Per phase: one number for all, or one a phase.
            sparsities: One a round, in (0, 1).
            learning_rates: One a phase, in the order of the phases.

        Raises:
            ValueError: If ``iters`` is negative, a list is empty or a value out of range; or if more learning rates
                are needed than the list holds and its last ones rise.

        Reference: Han et al. 2017 (DSD), Algorithm 1 and Table 7. The rule for further rounds is ours.
        """
        if iters < 0:
            raise ValueError(f"iters must be at least 0, got {iters}")
        each = epochs if isinstance(epochs, Sequence) else [epochs]
        epochs_list = [_whole_number("epochs", one) for one in each]
        for name, values in (
            ("epochs", epochs_list),
            ("sparsities", sparsities),
            ("learning_rates", learning_rates),
        ):
            if not values:
                raise ValueError(f"{name} must not be empty")
        num_phases = 2 * iters + 1
        ratio = _last_ratio(learning_rates)
        if ratio > 1 and len(learning_rates) < num_phases:
            raise ValueError(
                f"learning_rates rise at their end ({learning_rates[-2]} to {learning_rates[-1]}) and would go on "
                f"rising; give one for each of the {num_phases} phases"
            )
        rates = _extend(learning_rates, num_phases, ratio)
        lengths = _extend(epochs_list, num_phases, 1)
        shares = _extend(sparsities, iters, 0.5)
        phases = [Phase("Dense Iter 0", "dense", int(lengths[0]), rates[0])]
        for i in range(1, iters + 1):
            sparse, redense = 2 * i - 1, 2 * i
            phases += [
                Phase(f"Sparse Iter {i}", "sparse", int(lengths[sparse]), rates[sparse], shares[i - 1]),
                Phase(f"Dense Iter {i}", "redense", int(lengths[redense]), rates[redense]),
            ]
        return cls(tuple(phases))

    def lower_learning_rate_only(self) -> Schedule:
        """The same phases, epochs and learning rates with nothing pruned: the paper's LLR (Table 2)."""
        return Schedule(
            tuple(
                replace(phase, name=f"LLR Phase {index}", kind="dense", sparsity=0.0)
                if index or phase.kind != "dense"
                else phase
                for index, phase in enumerate(self.phases)
            ),
            self.from_trained,
        )

    def equal_epoch_baseline(self) -> Schedule:
        """As many epochs in one dense phase at the first learning rate: the paper's Baseline (Table 7).

        After a first phase that is given, at the first rate after it.
        """
        given = self.phases[:1] if self.phases[0].is_given else ()
        rate = self.phases[len(given)].learning_rate
        phase = Phase("Baseline", "dense", self.total_epochs, rate)
        return Schedule((*given, phase), self.from_trained)

    def first_given(self) -> Schedule:
        """The same where somebody else has trained the first, dense phase: it has no epochs, and the others all theirs.

        It keeps its place, so that the others keep their names and learning rates. Your own loop needs no such phase:
        ``Schedule(schedule.phases[1:], from_trained=True)``.

        Raises:
            ValueError: If no phase follows it.
        """
        first, *others = self.phases
        if not others:
            raise ValueError(f"{first.name} is given, and no phase follows it: there is nothing to train")
        return Schedule((replace(first, epochs=0), *others), from_trained=True)

    @classmethod
    def compression(
        cls, sparsities: Sequence[Number], epochs: Sequence[SupportsInt], learning_rates: Sequence[Number]
    ) -> Schedule:
        """What Deep Compression does to a trained network: it is pruned in steps, then its weights are shared.

        Dense, which is given; a sparse phase, Pruned 1, Pruned 2 …, for each sparsity above 0, without a redense one;
        and a phase of shared weights, Shared 1, Shared 2 …, for each 0.

        Args:
            sparsities: One a phase after the first, at least one.
            epochs: One a phase; the first is not used.
            learning_rates: One a phase; the first is not used.

        Reference: Han et al. 2016 (Deep Compression), figure 1, as known from memory.
        """
        names = {True: "Pruned", False: "Shared"}
        phases = [Phase("Dense", "dense", 0, learning_rates[0])]
        for index, sparsity in enumerate(sparsities):
            number = sum((one > 0) == (sparsity > 0) for one in sparsities[: index + 1])
            phases.append(
                Phase(
                    f"{names[sparsity > 0]} {number}",
                    "sparse" if sparsity > 0 else "shared",
                    _whole_number("epochs", epochs[index + 1]),
                    learning_rates[index + 1],
                    sparsity,
                )
            )
        return cls(tuple(phases), from_trained=True)

    def phase_at(self, epoch: Number, *, of: Number | None = None) -> Phase:
        """The phase of a moment of the training, if no phase ends early.

        Args:
            epoch: Counted from 0 over the whole schedule; may lie within an epoch, as 2.5 does.
            of: How much the whole training is, where it is not counted in epochs: its number of steps,
                ``phase_at(step, of=max_steps)``, or 1 for fractions, ``phase_at(0.4, of=1)``. Whole numbers are exact.

        Raises:
            ValueError: If the schedule has no such moment.
        """
        whole = self.total_epochs if of is None else of
        if not 0 <= epoch < whole:
            raise ValueError(f"{'epoch' if of is None else 'moment'} must be in [0, {whole}), got {epoch}")
        ends = accumulate(phase.epochs for phase in self.phases)
        # The last phase whatever a product of fractions is rounded to.
        within = (epoch * self.total_epochs < end * whole for end in ends)
        return next(compress(self.phases, within), self.phases[-1])

    def starts(self, *, of: int) -> tuple[int, ...]:
        """The step that each phase begins with, of ``of`` in the whole training: where ``phase_at`` changes.

        Raises:
            ValueError: If there are too few steps for each phase to have one.
        """
        if self.phases[0].is_given:
            raise ValueError(
                f"{self.phases[0].name} has no step; leave it out: Schedule(phases[1:], from_trained=True)"
            )
        before = accumulate((phase.epochs for phase in self.phases[:-1]), initial=0)
        starts = tuple(-(-epochs * of // self.total_epochs) for epochs in before)
        if len({*starts, of}) <= len(self):
            raise ValueError(
                f"{of} steps are too few for the {len(self)} phases of {self.total_epochs} epochs"
            )
        return starts


def _whole_number(name: str, value: SupportsInt) -> int:
    if not isinstance(value, Integral):  # numpy's are
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    return int(value)


def _extend(values: Sequence[Number], length: int, ratio: Number) -> list[Number]:
    extended = list(values[:length])
    while len(extended) < length:
        extended.append(extended[-1] * ratio)
    return extended


def _last_ratio(values: Sequence[Number]) -> float:
    if len(values) < 2 or not values[-2] > 0:  # a rate of 0 is refused by its phase
        return 0.1  # section 2: "1/10 the original learning rate"
    return values[-1] / values[-2]
