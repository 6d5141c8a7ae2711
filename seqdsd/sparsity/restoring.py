"""What weights that a sparse phase has pruned begin their redense phase with: 0, their old values, or fresh draws."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from seqdsd.sparsity.held_weights import is_sharded
from seqdsd.sparsity.masks import MaskSet
from seqdsd.sparsity.parameters import by_alias, named_parameters

RestoredStart = Literal["zero", "former", "fresh"]
"""What restored weights begin with.

- ``zero``: exactly 0, as in the paper's experiments.
- ``former``: the values that they had when they were pruned.
- ``fresh``: draws of the network's initialisation.

Reference: Han et al. 2017 (DSD): zero in section 2, "Final Dense Training"; "Other initialization methods are also
worth trying" in section 5, "Robust re-initialization". The other two are ours.
"""


def pruned_values(weights: Mapping[str, Tensor], masks: MaskSet) -> dict[str, Tensor]:
    """Of each masked tensor the weights that are pruned, flat, in their order, as copies on the CPU.

    Args:
        weights: Whole tensors by the masks' names; further ones are not looked at.
        masks: Which are pruned.

    Raises:
        ValueError: If a tensor is missing, sharded, or has another shape.
    """
    found = {}
    for name, mask in masks.masks.items():
        weight = weights.get(name)
        if weight is None or weight.shape != mask.shape:
            got = "there is none" if weight is None else f"it has shape {tuple(weight.shape)}"
            raise ValueError(
                f"a start for the weights of {name!r}, {tuple(mask.shape)}, is asked for, but {got}"
            )
        refuse_sharded(name, weight)
        found[name] = weight.detach().cpu()[~mask.cpu()].clone()
    return found


@torch.no_grad()
def restore_(model: nn.Module, masks: MaskSet, values: Mapping[str, Tensor]) -> None:
    """Give the pruned weights of ``model``, which may be wrapped, the values of ``pruned_values``; kept ones stay."""
    parameters = by_alias(model)
    for name, mask in masks.masks.items():
        parameter = parameters[name].parameter
        parameter.masked_scatter_(~mask.to(parameter.device), values[name].to(parameter))


def fresh_weights(make: Callable[[], nn.Module], *, seed: int, place: int) -> dict[str, Tensor]:
    """All parameters of a network that is made anew, by each of their names; the same for the same seed and place.

    Args:
        make: Builds the network as it was built at first, drawing from torch's generator of the CPU, whose state is put
            back after it.
        seed: Of the training.
        place: Of the phase that begins with them: each has draws of its own.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(random.Random(f"restored {seed} {place}").getrandbits(63))
        made = make()
    return {name: one.parameter.detach() for name, one in by_alias(made).items()}


def current_weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters of a model, which may be wrapped, by their bare names."""
    return {one.name: one.parameter.detach() for one in named_parameters(model)}


def refuse_sharded(name: str, weight: Tensor) -> None:
    """Raise ValueError where a process holds a part of the weight alone."""
    if is_sharded(weight):
        raise ValueError(
            f"{name!r} is split over processes (FSDP), of which restored_start='former' and 'fresh' know nothing; "
            "take restored_start='zero'"
        )
