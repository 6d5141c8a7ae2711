"""What may be asked of a compression, and what stands for what is not asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from seqdsd.compression.sharing import MAX_BITS
from seqdsd.config import flat_values
from seqdsd.kinds import CAPTIONS, CLASSIFICATION, SPEECH, Kind
from seqdsd.recipes.training import MAX_EPOCHS, MAX_LEARNING_RATE, RunConfig
from seqdsd.sparsity.sensitivity import MOST

MAX_LOSS = {SPEECH.name: 0.3, CAPTIONS.name: 0.3, CLASSIFICATION.name: 0.1}
"""Points of the kind's score that are given up for size, where it is not said how many."""
_MAX_STEPS = 100
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CompressSettings:
    """How a trained network is compressed."""

    phase: str | None = None
    """The run's phase to begin with, such as 'Dense Iter 1'; by default its best on dev."""
    max_loss: float | None = None
    """Points of dev score (WER, BLEU-4, top-1 error) that the smaller network may be worse: 0 for none. It decides
    where pruning ends, and the bits, where these are not given. By default 0.3 of WER and BLEU-4, 0.1 of top-1
    error."""
    sparsity: float | None = None
    """Share of the weights to prune, in (0, 0.995], of the tensors that layers does not name (those that it names may
    lose more). By default pruning goes on, step by step, while the score holds."""
    layers: tuple[str, ...] = ()
    """Tensors' own sparsities, by their names, patterns of these, or their modules: fc1=0.92 'conv*=0.5' output=0 (0:
    nothing of it is pruned). Of several patterns that fit, the first decides. The others' are found on dev."""
    bits: tuple[int, ...] = ()
    """Bits of a weight, 1 to 8, before coding: one number, or one for convolutions and one for all other layers. By
    default the fewest with which the score holds."""
    layer_bits: tuple[str, ...] = ()
    """Tensors' own bits, named as in layers: conv1=8 'fc*=4'. The others' are those of bits, or found on dev."""
    steps: int = 3
    """Steps in which pruning comes to a sparsity that is given."""
    epochs: int | None = None
    """Epochs of each step; by default those of the run's second phase, or of its only one."""
    learning_rate: float | None = None
    """Of pruning's steps; by default the run's first, from which pruned networks recover best."""
    shared_learning_rate: float | None = None
    """Of the steps in which the shared weights are trained; by default the run's second, or a tenth of its only one."""

    def __post_init__(self) -> None:
        if self.max_loss is not None and not 0 <= self.max_loss <= 100:
            raise ValueError(f"max_loss must be in [0, 100] points, got {self.max_loss}")
        if self.sparsity is not None and not 0 < self.sparsity <= MOST:
            raise ValueError(
                f"sparsity is the share of pruned weights and must be in (0, {MOST}], got {self.sparsity}; name the "
                "tensors that are to lose more (--layers)"
            )
        if len(self.bits) > 2:
            raise ValueError(
                f"bits: one number, or one for convolutions and one for the others, got {self.bits}"
            )
        if any(not 1 <= one <= MAX_BITS for one in self.bits):
            raise ValueError(f"bits must be in [1, {MAX_BITS}], got {' '.join(map(str, self.bits))}")
        for name, most in (("steps", _MAX_STEPS), ("epochs", MAX_EPOCHS)):
            if (value := getattr(self, name)) is not None and not 1 <= value <= most:
                raise ValueError(f"{name} must be in [1, {most}], got {value}")
        for name in ("learning_rate", "shared_learning_rate"):
            if (rate := getattr(self, name)) is not None and not 0 < rate <= MAX_LEARNING_RATE:
                raise ValueError(f"{name} must be in (0, {MAX_LEARNING_RATE:g}], got {rate}")
        _ = self.layer_sparsities, self.bits_by_pattern

    @property
    def layer_sparsities(self) -> dict[str, float]:
        """Sparsities by pattern."""
        return _by_pattern(map(_layer, self.layers))

    @property
    def bits_by_pattern(self) -> dict[str, int]:
        """Bits by pattern."""
        return _by_pattern(map(_layer_bits, self.layer_bits))

    def resolved(self, run: RunConfig, kind: Kind) -> CompressSettings:
        """The same with what stands for what is not asked, as the network of ``run`` needs it."""
        epochs, rates = run.epochs, run.learning_rates
        lower = rates[1] if len(rates) > 1 else rates[0] / 10
        return replace(
            self,
            max_loss=MAX_LOSS[kind.name] if self.max_loss is None else self.max_loss,
            epochs=self.epochs or epochs[min(1, len(epochs) - 1)],
            learning_rate=self.learning_rate or rates[0],
            shared_learning_rate=self.shared_learning_rate or lower,
        )

    def other_than(self, noted: Mapping[str, Any]) -> list[str]:
        """What is asked otherwise than a run has noted that was begun; what is not asked differs in nothing."""
        own, plain = flat_values(self), flat_values(CompressSettings())
        asked = {name: value for name, value in own.items() if plain.get(name) != value}
        return [
            f"{name}: {noted.get(name)} -> {value}"
            for name, value in asked.items()
            if noted.get(name) != value
        ]


def _by_pattern(said: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Of a pattern that stands twice, as of several that match, the first decides."""
    found: dict[str, T] = {}
    for pattern, value in said:
        found.setdefault(pattern, value)
    return found


def _layer_bits(said: str) -> tuple[str, int]:
    pattern, equals, number = said.rpartition("=")
    if not equals or not pattern or number not in map(str, range(1, MAX_BITS + 1)):
        raise ValueError(f"layer_bits: PATTERN=BITS, with 1 to {MAX_BITS} bits, got {said!r}")
    return pattern, int(number)


def _layer(said: str) -> tuple[str, float]:
    pattern, equals, number = said.rpartition("=")
    try:
        sparsity = float(number)
    except ValueError:
        sparsity = -1.0
    if not equals or not pattern or not 0 <= sparsity < 1:
        raise ValueError(f"layers: PATTERN=SPARSITY, with a sparsity in [0, 1), got {said!r}")
    return pattern, sparsity
