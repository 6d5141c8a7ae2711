"""What a model's weights look like: shares of exact zeros, and how the weights are distributed over a DSD round.

All is measured on the weights and not on the masks, which only say which weights are meant. When it is measured
and where it is written is the engine's; drawing it is ``seqdsd.reports``'.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from seqdsd.sparsity.masks import MaskSet
from seqdsd.sparsity.parameters import by_alias

Moment = Literal[
    "before pruning",
    "after pruning",
    "after sparse retraining",
    "after restoring",
    "after redense retraining",
]
"""When in a DSD round the weights are looked at, in order: Figure 2 (a) to (e) of Han et al. 2017.

- ``before pruning``: as the dense phase, or the round before, left them. Masks are chosen here.
- ``after pruning``: the pruned weights are 0, the rest untouched; the centre of the distribution is cut out.
- ``after sparse retraining``: the pruned weights are still 0, the rest have adjusted; the cut's edges become soft.
- ``after restoring``: the masks are dropped and the pruned weights free again, restarting at 0. No weight has
  changed; where the sparse phase handed on earlier weights than its last, these are meant.
- ``after redense retraining``: all have trained; the once pruned ones have spread around 0.
"""

NUM_BINS = 101  # odd, so that one bin is centred on 0


@dataclass(frozen=True)
class LayerStatistics:
    """The weights of one pruned tensor at one moment. Plain numbers: ``dataclasses.asdict`` gives its JSON.

    Attributes:
        name: The bare parameter name.
        shape: The parameter's shape.
        weights: How many weights it has, N.
        low: Where the histogram begins, ``-high``.
        high: Where it ends: the largest |w| at the round's first moment; 1 where all weights were 0.
        histogram: Counts of 101 equally wide bins, together N. A bin holds its lower edge and not its upper;
            the first and the last also hold what lies outside.
        threshold: The largest |w| among the pruned weights at the round's first moment; None if none is pruned.
        zeros: Weights that are exactly 0.
        mean: Of all weights; None if there are none. So for the next two.
        sd: Standard deviation of all weights (divided by N); weights all below 1e-19 are too small for it.
        mean_abs: Mean |w| of all weights.
        pruned: Weights that the round's mask prunes.
        pruned_mean_abs: Mean |w| of these, as they now are; None if none is pruned.
        kept_mean_abs: Mean |w| of the others; None if there are none.
        pruned_near_zero: Pruned weights with |w| at most ``threshold``: pruned again at the same threshold.

    Reference: Han et al. 2017 (DSD), Figure 2 and section 2 on it ("the pruned weights became distributed further
    around zero. The overall mean absolute value … is much smaller"), which these numbers check.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    low: float
    high: float
    histogram: tuple[int, ...]
    threshold: float | None
    zeros: int
    mean: float | None
    sd: float | None
    mean_abs: float | None
    pruned: int
    pruned_mean_abs: float | None
    kept_mean_abs: float | None
    pruned_near_zero: int

    @property
    def near_zero_share(self) -> float | None:
        """Share of the pruned weights that are within the threshold; None if none is pruned."""
        return self.pruned_near_zero / self.pruned if self.pruned else None

    @property
    def edges(self) -> tuple[float, ...]:
        """The edges of the histogram's bins, one more than bins."""
        return tuple(_edges(self.high).tolist())

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any]) -> LayerStatistics:
        """What ``dataclasses.asdict`` gave, also after a way through JSON, which has no tuples.

        Raises:
            ValueError: If a field is missing or unknown.
        """
        if differing := {one.name for one in fields(cls)} ^ set(mapping):
            raise ValueError(
                f"layer statistics whose fields differ from this version's in: {', '.join(sorted(differing))}"
            )
        tuples = {name: tuple(mapping[name]) for name in ("shape", "histogram")}
        return cls(**{**mapping, **tuples})


@torch.no_grad()
def measured_sparsity(model: nn.Module, names: Iterable[str]) -> float:
    """Share of weights that are exactly 0 among the named parameters; 0.0 where none is named.

    ``model`` may be wrapped; names are those of the bare model.

    Raises:
        ValueError: If the model has no parameter of a name.
    """
    chosen = _parameters(model, names).values()
    zeros = sum(int((parameter == 0).sum()) for parameter in chosen)
    return zeros / max(1, sum(parameter.numel() for parameter in chosen))


@torch.no_grad()
def weight_statistics(
    model: nn.Module, masks: MaskSet, *, earlier: Sequence[LayerStatistics] = ()
) -> list[LayerStatistics]:
    """Describe each masked tensor of ``model`` as it now is, in the masks' order; nothing is changed.

    Takes about a tenth of a second for eight million weights on one CPU core. On a GPU, all numbers come over in two
    copies, and one more at the first moment.

    Args:
        model: Of any floating type, and may be wrapped; 16-bit weights are added up in float32.
        masks: The round's masks, also before they are applied and after they are dropped.
        earlier: The statistics of the round's first moment, whose ranges and thresholds are taken over, so that
            the histograms of a round share their bins. Empty: this is the first moment.

    Raises:
        ValueError: If a weight is NaN or infinite (the message names the tensor), the model lacks a masked
            parameter, or ``earlier`` is not of these masks.
    """
    parameters = _parameters(model, masks.masks)
    if earlier:
        _check_same_layers(earlier, parameters)
        frames = [_Frame(one.high, one.threshold or 0.0) for one in earlier]
    else:
        frames = _measure_frames(parameters, masks)
    counts, sums = [], []
    for (name, parameter), frame in zip(parameters.items(), frames, strict=True):
        layer = _Layer.of(parameter, masks.masks.of(name, parameter))
        counts.append(layer.counts(frame))
        sums.append(layer.sums())
    # To the host once for all layers: each copy waits for the device.
    numbers = zip(torch.stack(counts).tolist(), torch.stack(sums).tolist(), strict=True)
    described = [
        _describe(name, tuple(parameter.shape), frame, *of_layer)
        for (name, parameter), frame, of_layer in zip(parameters.items(), frames, numbers, strict=True)
    ]
    _check_same_masks(earlier, described)
    return described


def _parameters(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    parameters, names = by_alias(model), list(names)
    if unknown := [name for name in names if name not in parameters]:
        raise ValueError(f"the model has no parameters {', '.join(map(repr, unknown))}")
    return {name: parameters[name].parameter for name in names}


@dataclass(frozen=True)
class _Frame:
    """What a round's moments are measured against: the histogram's range and the threshold, 0 for none."""

    high: float
    threshold: float


@dataclass(frozen=True)
class _Layer:
    """One tensor's weights and the mask of its pruned ones (the mask's opposite), flat, on their device."""

    weights: Float[Tensor, "weights"]
    magnitude: Float[Tensor, "weights"]
    pruned: Bool[Tensor, "weights"]

    @classmethod
    def of(cls, parameter: Tensor, mask: Tensor) -> _Layer:
        # A sum of 16-bit numbers stalls after some hundreds, and NumPy does not know bfloat16.
        weights = parameter.detach().flatten().to(torch.promote_types(parameter.dtype, torch.float32))
        return cls(weights, weights.abs(), ~mask.flatten())

    def extremes(self) -> Float[Tensor, "2"]:
        """The largest |w| of all, and of the pruned weights; 0 for none."""
        if self.weights.numel() == 0:
            return self.weights.new_zeros(2)
        return torch.stack([self.magnitude.max(), (self.magnitude * self.pruned).max()])

    def counts(self, frame: _Frame) -> Int[Tensor, "numbers"]:
        """Below each inner edge of the histogram, then: not zero, pruned, pruned and near zero."""
        near_zero = self.pruned & (self.magnitude <= frame.threshold)
        others = [torch.count_nonzero(one) for one in (self.weights, self.pruned, near_zero)]
        return torch.cat([_count_below(self.weights, _edges(frame.high)[1:-1]), torch.stack(others)])

    def sums(self) -> Float[Tensor, "5"]:
        """Mean and standard deviation; the sums of |w| of all, the pruned and the kept weights."""
        mean = self.weights.mean()
        sd = (self.weights - mean).square_().mean().sqrt()  # torch.std takes ten times as long
        pruned, kept = self.magnitude * self.pruned, self.magnitude * ~self.pruned
        return torch.stack([mean, sd, self.magnitude.sum(), pruned.sum(), kept.sum()])


def _measure_frames(parameters: Mapping[str, nn.Parameter], masks: MaskSet) -> list[_Frame]:
    layers = (_Layer.of(parameter, masks.masks.of(name, parameter)) for name, parameter in parameters.items())
    extremes = torch.stack([layer.extremes() for layer in layers]).tolist()
    for name, (high, _) in zip(parameters, extremes, strict=True):
        _check_finite(name, high)
    return [_Frame(high or 1.0, threshold) for high, threshold in extremes]


def _edges(high: float) -> np.ndarray:
    return np.linspace(-high, high, NUM_BINS + 1)


def _count_below(weights: Float[Tensor, "weights"], edges: np.ndarray) -> Int[Tensor, "edges"]:
    """How many weights are smaller than each of the ascending edges; exact, and the same on every device.

    By sorting: ``torch.histc`` rounds at the edges, and on CUDA counts in floats, which stop at 2^24, and in no
    fixed order; ``torch.bincount`` waits for the device.
    """
    edges = _round_up(edges, np.float64 if weights.dtype == torch.float64 else np.float32)
    if weights.device.type == "cpu":  # NumPy sorts many times faster there
        return torch.from_numpy(np.searchsorted(np.sort(weights.numpy()), edges))
    return torch.searchsorted(weights.sort().values, torch.from_numpy(edges).to(weights.device))


def _round_up(values: np.ndarray, dtype: type[np.floating]) -> np.ndarray:
    """The smallest numbers of ``dtype`` that are not below ``values``: what is smaller than one is than the other."""
    rounded = values.astype(dtype)
    return np.where(rounded < values, np.nextafter(rounded, dtype(np.inf)), rounded)


def _describe(
    name: str, shape: tuple[int, ...], frame: _Frame, counts: list[int], sums: list[float]
) -> LayerStatistics:
    *below, nonzero, pruned, near_zero = counts
    mean, sd, sum_abs, pruned_sum, kept_sum = sums
    _check_finite(name, sum_abs)
    total = math.prod(shape)
    return LayerStatistics(
        name=name,
        shape=shape,
        weights=total,
        low=-frame.high,
        high=frame.high,
        histogram=tuple(np.diff(below, prepend=0, append=total).tolist()),
        threshold=frame.threshold if pruned else None,
        zeros=total - nonzero,
        mean=mean if total else None,
        sd=sd if total else None,
        mean_abs=_ratio(sum_abs, total),
        pruned=pruned,
        pruned_mean_abs=_ratio(pruned_sum, pruned),
        kept_mean_abs=_ratio(kept_sum, total - pruned),
        pruned_near_zero=near_zero,
    )


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None


def _check_finite(name: str, largest: float) -> None:
    if not math.isfinite(largest):  # a maximum and a sum hand on NaN
        raise ValueError(f"{name}: cannot describe weights of which some are NaN or infinite")


def _check_same_layers(earlier: Sequence[LayerStatistics], parameters: Mapping[str, nn.Parameter]) -> None:
    expected = [(name, tuple(parameter.shape)) for name, parameter in parameters.items()]
    if (got := [(one.name, one.shape) for one in earlier]) != expected:
        raise ValueError(f"the earlier statistics are of {got}, the masks of {expected}")


def _check_same_masks(earlier: Sequence[LayerStatistics], described: Sequence[LayerStatistics]) -> None:
    for before, now in zip(earlier, described, strict=False):
        if before.pruned != now.pruned:
            raise ValueError(
                f"{now.name}: the masks prune {now.pruned} weights, in the earlier statistics {before.pruned}; "
                "give those of the same round's first moment"
            )
