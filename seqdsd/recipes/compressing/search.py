"""Which step comes next: decided from what was asked and from the dev scores of the steps so far, by nothing else.

So a search that was interrupted comes to the same steps when it goes on. Nothing is trained or measured here but the
few trials of how many bits to begin with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal, TypeVar

from torch import nn

from seqdsd.compression.sharing import MAX_BITS
from seqdsd.kinds import Metric
from seqdsd.recipes.compressing.settings import CompressSettings
from seqdsd.sparsity import Rule
from seqdsd.sparsity.parameters import by_alias, named_parameters
from seqdsd.sparsity.sensitivity import Sensitivity, allocate
from seqdsd.sparsity.weights import CONVOLUTIONS, EMBEDDINGS, why_no_weight

DENSE = "Dense"
"""The phase of the weights that are given."""
FIRST_DENSITY, NEXT_DENSITY = 0.3, 0.65
"""Where it is not said how much to prune: what the first step keeps, and each further one of what the last has kept."""
MAX_STEPS = 10
LOST_STEPS = 2
"""Pruning ends after so many steps in a row that have lost too much: dev scores of one would be chance."""
MIN_BITS = 2
SMALL = 64
"""Weights: tensors of fewer are neither pruned nor shared, for a codebook would be half of them."""

Record = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """A phase of a compression, as it was decided; a line of ``steps.jsonl``.

    Attributes:
        kind: Of the phase.
        begin_with: The phase whose weights it begins with.
        sparsity: Of all weights that may be pruned, together; 0 where weights are shared.
        layers: Sparsity of each tensor, where they are pruned.
        bits: Of each tensor, where they are shared.
        epochs: As many are trained at most.
        learning_rate: At its beginning.
    """

    kind: Literal["sparse", "shared"]
    begin_with: str
    sparsity: float
    layers: dict[str, float]
    bits: dict[str, int]
    epochs: int
    learning_rate: float

    def __str__(self) -> str:
        how = f"at most {self.epochs} epochs at {self.learning_rate:g}, from {self.begin_with}"
        if self.kind == "sparse":
            shares = ", ".join(f"{name} {one:.1%}" for name, one in self.layers.items())
            return f"{self.sparsity:.1%} of the weights pruned ({shares}); {how}"
        bits = dict.fromkeys(self.bits.values())
        return f"weights of {' and '.join(map(str, bits))} bits; {how}"

    @property
    def rules(self) -> list[Rule]:
        """What a sparse phase prunes."""
        named = [Rule(name, one, why="found on dev, or asked for") for name, one in self.layers.items()]
        return [*named, Rule("*", 0, why="bias, norm, or too small", optional=True)]


@dataclass(frozen=True)
class Tensors:
    """A network's tensors that can be compressed, by name.

    Attributes:
        weights: How many each has.
        fixed: Sparsities that were asked for.
        fixed_bits: Bits that were.
        convolutions: Those of convolutions.
    """

    weights: Mapping[str, int]
    fixed: Mapping[str, float]
    fixed_bits: Mapping[str, int]
    convolutions: frozenset[str]

    @classmethod
    def of(cls, model: nn.Module, settings: CompressSettings) -> Tensors:
        """Weights and embedding tables; the rest (biases, norms) stays dense.

        Raises:
            ValueError: If a pattern of ``settings.layers`` or ``layer_bits`` matches nothing that can be pruned.
        """
        candidates = [one for one in named_parameters(model) if one.parameter.requires_grad]
        kept = {
            one.name: one.parameter.numel()
            for one in candidates
            if one.parameter.numel() >= SMALL
            and (not why_no_weight(one) or any(isinstance(holder, EMBEDDINGS) for holder in one.holders))
        }
        fixed = _by_name("layers", settings.layer_sparsities, kept)
        fixed_bits = _by_name("layer_bits", settings.bits_by_pattern, kept)
        by_name = by_alias(model)
        convolutions = frozenset(
            name for name in kept if any(isinstance(one, CONVOLUTIONS) for one in by_name[name].holders)
        )
        return cls(kept, fixed, fixed_bits, convolutions)

    def check(self, settings: CompressSettings) -> None:
        """See that what is asked is for something; one that has begun goes on all the same.

        Raises:
            ValueError: If a sparsity is given, and ``layers`` names every tensor; or bits, and ``layer_bits`` does.
        """
        if settings.bits and not self.open_bits:
            raise ValueError(
                f"bits: {' '.join(map(str, settings.bits))} is for tensors that layer_bits does not name, and it names "
                "all; leave one of the two out"
            )
        if settings.sparsity is not None and not self.free:
            raise ValueError(
                f"sparsity: {settings.sparsity:g} is for tensors that layers does not name, and it names all; leave "
                "one of the two out"
            )

    @property
    def free(self) -> list[str]:
        """Those whose sparsity is to be found."""
        return [name for name in self.weights if name not in self.fixed]

    def sparsity(self, layers: Mapping[str, float]) -> float:
        """Of all of them together."""
        pruned = sum(self.weights[name] * one for name, one in layers.items())
        return pruned / sum(self.weights.values())

    @property
    def open_bits(self) -> list[str]:
        """Those that have no bits of their own."""
        return [name for name in self.weights if name not in self.fixed_bits]

    def bits(self, asked: Sequence[int]) -> dict[str, int]:
        """Bits of each, of one number, or one for convolutions and one for the others; some have their own."""
        of_all = {name: asked[0] if name in self.convolutions else asked[-1] for name in self.weights}
        return {**of_all, **self.fixed_bits}


def _by_name(setting: str, of_patterns: Mapping[str, T], names: Collection[str]) -> dict[str, T]:
    """What patterns say of names; of several that match, the first decides.

    Raises:
        ValueError: If one matches none.
    """
    found: dict[str, T] = {}
    for pattern, value in of_patterns.items():
        matched = [name for name in names if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")]
        if not matched:
            raise ValueError(
                f"{setting}: {pattern!r} matches no tensor that can be pruned; there are {', '.join(names)}"
            )
        found = {**dict.fromkeys(matched, value), **found}
    return found


@dataclass(frozen=True)
class Search:
    """What is asked, of which network.

    Attributes:
        settings: With nothing left open (``CompressSettings.resolved``).
        metric: In whose points ``max_loss`` is.
        tensors: That can be compressed.
    """

    settings: CompressSettings
    metric: Metric
    tensors: Tensors

    def said(self) -> list[str]:
        """What is known of the steps before the first."""
        if self._is_searched:
            kept = [f"{FIRST_DENSITY * NEXT_DENSITY**number:.1%}" for number in range(MAX_STEPS)]
            pruning = (
                f"Pruning: while dev {self.metric.title} loses no more than {self.settings.max_loss:g}, "
            )
            pruning += f"keeping {', '.join(kept[:4])} … of the weights"
        elif self._is_pruned:
            pruning = f"Pruning: in {self.settings.steps} steps"
            free = dict.fromkeys(self.tensors.free, self.settings.sparsity or 0.0)
            together = self.tensors.sparsity({**free, **self.tensors.fixed})
            pruning += f", until {together:.1%} of the weights that may be pruned are 0"
        else:
            pruning = "Pruning: none"
        fixed = self.tensors.fixed_bits
        own = ", ".join(f"{name} {fixed[name]}" for name in self.tensors.weights if name in fixed)
        if given := self._given_bits:
            of_the_rest = f"of {' and '.join(map(str, given))} bits" if self.tensors.open_bits else ""
        else:
            of_the_rest = f"of the fewest bits with which dev {self.metric.title} loses no more"
        parts = [of_the_rest, f"bits of {own}" if own else ""]
        return [pruning, f"Shared weights: {'; '.join(filter(None, parts))}"]

    def points_lost(self, record: Record, reference: Record) -> float:
        """By how much a phase is worse on dev than the weights that were given."""
        before, after = self.metric.of(reference, "dev"), self.metric.of(record, "dev")
        assert before is not None and after is not None  # every phase has its kind's score
        return -self.metric.scale * self.metric.gain(before, after)

    def holds(self, record: Record, reference: Record) -> bool:
        """Whether a phase has lost no more than it may; rounding apart."""
        most = self.settings.max_loss
        assert most is not None
        return self.points_lost(record, reference) <= most + 1e-9

    def next_step(
        self,
        steps: Sequence[Step],
        records: Sequence[Record],
        *,
        scan: Callable[[], Sequence[Sensitivity]],
        first_bits: Callable[[str], int],
    ) -> Step | None:
        """The step after ``steps``; None where the search is at its end.

        Args:
            steps: So far.
            records: Of the phases: of the given weights, where they are measured already, and of all ``steps``.
            scan: What pruning each tensor costs, of those whose sparsity is to be found; asked when it is needed.
            first_bits: The fewest bits with which a phase's score holds untrained; asked where they are to be found.
        """
        pruned = [step for step in steps if step.kind == "sparse"]
        shared = steps[len(pruned) :]
        if not shared and (density := self._next_density(len(pruned), records)) is not None:
            return self._pruning(len(pruned), density, scan)
        begin_with = self.pruned(steps, records)
        bits = self._next_bits(shared, records, partial(first_bits, begin_with))
        return None if bits is None else self._sharing(begin_with, bits)

    def pruned(self, steps: Sequence[Step], records: Sequence[Record]) -> str:
        """The phase whose weights are shared: the sparsest that holds; where the sparsity was given, the last."""
        phases = [
            (step, record) for step, record in zip(steps, records[1:], strict=False) if step.kind == "sparse"
        ]
        if not phases or not self._is_searched:
            return str(phases[-1][1]["name"]) if phases else DENSE
        names = [record["name"] for _, record in phases if self.holds(record, records[0])]
        return names[-1] if names else DENSE

    def chosen(self, steps: Sequence[Step], records: Sequence[Record]) -> tuple[Step, Record]:
        """The phase of shared weights that is written: that of the fewest bits that holds, else the best on dev."""
        shared = [pair for pair in zip(steps, records[1:], strict=True) if pair[0].kind == "shared"]
        holding = [pair for pair in shared if self.holds(pair[1], records[0])]
        if holding:
            return min(holding, key=lambda pair: sum(pair[0].bits.values()))
        return min(shared, key=lambda pair: self.points_lost(pair[1], records[0]))

    @property
    def _given_bits(self) -> tuple[int, ...]:
        """Empty where they are to be found; where all tensors have their own, some number that none takes."""
        return self.settings.bits if self.tensors.open_bits else (MAX_BITS,)

    @property
    def _is_searched(self) -> bool:
        """Whether pruning goes on while the score holds."""
        return self.settings.sparsity is None and bool(self.tensors.free)

    @property
    def _is_pruned(self) -> bool:
        return bool(self.tensors.free) or any(self.tensors.fixed.values())

    def _next_density(self, done: int, records: Sequence[Record]) -> float | None:
        """What the next step keeps of the tensors whose sparsity is to be found; None after the last step."""
        if self._is_searched:
            lost = [not self.holds(one, records[0]) for one in records[1:]]
            if done == MAX_STEPS or sum(lost[-LOST_STEPS:]) == LOST_STEPS:
                return None
            return FIRST_DENSITY * NEXT_DENSITY**done
        if done == self.settings.steps or not self._is_pruned:
            return None
        # Each step keeps the same share of what the one before has kept.
        return (1 - (self.settings.sparsity or 0)) ** ((done + 1) / self.settings.steps)

    def _pruning(self, done: int, density: float, scan: Callable[[], Sequence[Sensitivity]]) -> Step:
        found = allocate(scan(), density) if self.tensors.free else {}
        progress = min(1.0, (done + 1) / self.settings.steps)
        fixed = {name: 1 - (1 - one) ** progress for name, one in self.tensors.fixed.items()}
        layers = {name: fixed.get(name, 1 - found.get(name, 1.0)) for name in self.tensors.weights}
        rate = self.settings.learning_rate
        assert rate is not None and self.settings.epochs is not None
        before = f"Pruned {done}" if done else DENSE
        return Step("sparse", before, self.tensors.sparsity(layers), layers, {}, self.settings.epochs, rate)

    def _next_bits(
        self, shared: Sequence[Step], records: Sequence[Record], first_bits: Callable[[], int]
    ) -> Sequence[int] | None:
        """Bits of the next phase; None where there is none to come."""
        if given := self._given_bits:
            return None if shared else given
        tried = [step.bits[self.tensors.open_bits[0]] for step in shared]
        if not tried:
            return [max(MIN_BITS, first_bits() - 1)]  # training makes good for one
        following = tried[-1] + (-1 if self.holds(records[-1], records[0]) else 1)
        is_open = MIN_BITS <= following <= MAX_BITS and following not in tried
        return [following] if is_open else None

    def _sharing(self, begin_with: str, bits: Sequence[int]) -> Step:
        rate = self.settings.shared_learning_rate
        assert rate is not None and self.settings.epochs is not None
        return Step("shared", begin_with, 0.0, {}, self.tensors.bits(bits), self.settings.epochs, rate)
