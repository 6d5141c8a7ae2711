"""How far the weights that a redense phase restores have come back: whether the network that it leaves is dense at all.

Measured on the pruned weights of a round alone, against what they were when its masks were chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seqdsd.sparsity.held_weights import is_sharded
from seqdsd.sparsity.masks import MaskSet
from seqdsd.sparsity.parameters import by_alias

NEARLY_SPARSE = 0.25
"""Below this share of their former mean |w|, restored weights leave a network that is nearly sparse.

Of normally distributed weights the smaller half holds 7 % of a layer's sum of squares, on which the size of its
outputs depends. At a quarter of their size, these weights hold a sixteenth of that: pruning them again would take less
than half a percent, so that what is tested is the sparse network. The limit is ours; the paper has none.
"""


@dataclass(frozen=True)
class Former:
    """The weights of one tensor that a round prunes, as they were before: ``count`` of them.

    Attributes:
        count: How many.
        sum_abs: Their |w|, added up.
        threshold: The largest |w| among them; 0 where there is none.
    """

    count: int
    sum_abs: float
    threshold: float


@dataclass(frozen=True)
class Regrowth:
    """The weights that a redense phase has restored, as they are, beside what they were before they were pruned.

    In a later round, "before" is how the round before has left them: those that had not come back then are small.

    Attributes:
        weights: How many there are, over all tensors.
        former_mean_abs: Their mean |w| before pruning.
        mean_abs: Their mean |w| now.
        above_threshold: How many are larger than the threshold of their tensor: the largest |w| that was pruned there.
    """

    weights: int
    former_mean_abs: float
    mean_abs: float
    above_threshold: int

    @property
    def share(self) -> float | None:
        """Their mean |w|, in shares of the former; None where that was 0."""
        return self.mean_abs / self.former_mean_abs if self.former_mean_abs else None

    @property
    def above_share(self) -> float:
        """The share of them that is above the old threshold: the same threshold would not prune them again."""
        return self.above_threshold / self.weights

    @property
    def is_nearly_sparse(self) -> bool:
        """Whether they have come back less far than ``NEARLY_SPARSE``."""
        return self.share is not None and self.share < NEARLY_SPARSE

    def __str__(self) -> str:
        share = "no share" if self.share is None else f"{self.share:.1%}"
        above = f"{self.above_share:.1%}"
        return f"restored weights have {share} of their former mean |w|, {above} are above the old threshold"

    def warning(self, phase_name: str) -> str:
        """What to say of the phase that has left a network which is nearly sparse."""
        return (
            f"{phase_name} was too short or too slow: this network is still nearly sparse ({self}; the limit is "
            f"{NEARLY_SPARSE:.0%}); raise that phase's learning rate, up to the sparse phase's, or its epochs"
        )


@torch.no_grad()
def former_weights(model: nn.Module, masks: MaskSet) -> dict[str, Former]:
    """What ``masks`` prune of each tensor, before it is done. Of sharded tensors every process must call this.

    Args:
        model: May be wrapped.
        masks: Of the round that begins.
    """
    parameters, found = by_alias(model), {}
    for name in masks.masks:
        pruned, mask = _pruned(parameters[name].parameter, masks, name)
        if pruned.numel():
            found[name] = Former(int(_number(~mask, "sum")), _number(pruned, "sum"), _number(pruned, "max"))
    return found


@torch.no_grad()
def measure_regrowth(model: nn.Module, masks: MaskSet, former: Mapping[str, Former]) -> Regrowth | None:
    """How far the weights that ``masks`` prune have come back; None where there are none.

    Args:
        model: May be wrapped.
        masks: Of the round.
        former: Its ``former_weights``.
    """
    parameters = by_alias(model)
    sum_abs = above = 0.0
    for name, before in former.items():
        pruned, _ = _pruned(parameters[name].parameter, masks, name)
        sum_abs += _number(pruned, "sum")
        above += _number(pruned > before.threshold, "sum")
    count = sum(one.count for one in former.values())
    if not count:
        return None
    before_all = sum(one.sum_abs for one in former.values())
    return Regrowth(count, before_all / count, sum_abs / count, int(above))


def _pruned(parameter: nn.Parameter, masks: MaskSet, name: str) -> tuple[Tensor, Tensor]:
    """|w| with 0 for all that is kept, and the mask."""
    mask = masks.masks.of(name, parameter)
    # 16-bit numbers are added up in float32.
    magnitude = parameter.detach().abs().to(torch.promote_types(parameter.dtype, torch.float32))
    return torch.where(mask, 0, magnitude), mask


def _number(tensor: Tensor, what: str) -> float | int:
    """Sum or maximum, over all processes where the tensor is sharded."""
    result = tensor.sum() if what == "sum" else tensor.max()
    return (result.full_tensor() if is_sharded(result) else result).item()
