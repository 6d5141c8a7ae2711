"""Magnitude masks: choosing the weights to prune, and keeping, saving and attaching what was chosen.

Masks live outside the model, keyed by its bare parameter names; parameters are never re-parametrised, so
``deepcopy``, ``state_dict`` and cuDNN's flat LSTM weights go on working. Deliberately left out: schedules
(``schedule.py``), which parameters are concerned (``rules.py``), how weights are held at 0
(``held_weights.py``), and structured or gradual pruning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, distributed, nn

from seqdsd.sparsity.held_weights import (
    MaskHandle,
    Masks,
    hold,
    is_sharded,
    laid_as,
    release,
    zero_pruned_,
)
from seqdsd.sparsity.parameters import NamedParameter, by_alias, named_parameters
from seqdsd.sparsity.rules import Number, Plan, check_sparsity


def magnitude_mask(weight: Float[Tensor, "*shape"], sparsity: Number) -> Bool[Tensor, "*shape"]:
    """Mark the largest weights by absolute value: True = kept.

    Exactly ``N - round(N * sparsity)`` of the N weights are kept, also where many are equal: among equal
    magnitudes the ones with the lower flat index stay. A larger sparsity keeps a subset of what a smaller one
    keeps.

    Of a ``DTensor`` the mask is the same, sharded as the weight is; every process must ask for it.

    Raises:
        ValueError: If ``sparsity`` is outside [0, 1), no weight would be left, or one is NaN or infinite.

    Reference: Han et al. 2017 (DSD), Algorithm 1. Departure: the paper's ``|W| > lambda`` prunes one weight
    too many and all that tie with it; here the count is exact.
    """
    check_sparsity(sparsity)
    num_pruned = round(weight.numel() * sparsity)
    if num_pruned and num_pruned == weight.numel():
        raise ValueError(
            f"sparsity {sparsity} would prune all {num_pruned} weights; lower it, or keep the tensor dense by a rule"
        )
    if is_sharded(weight):
        from seqdsd.sparsity.sharded import sharded_magnitude_mask

        return sharded_magnitude_mask(weight, num_pruned)
    magnitude = weight.detach().abs().flatten()
    if magnitude.numel() > 0 and not bool(magnitude.max().isfinite()):  # max hands on NaN
        bad = int((~torch.isfinite(magnitude)).sum())
        raise ValueError(f"cannot rank weights: {bad} of {weight.numel()} are NaN or infinite")
    if num_pruned == 0:
        return torch.ones_like(weight, dtype=torch.bool)
    threshold = _kth_smallest(magnitude, num_pruned)
    mask = magnitude > threshold
    ties = (magnitude == threshold).nonzero().flatten()
    num_tied_kept = weight.numel() - num_pruned - int(mask.sum())
    mask[ties[:num_tied_kept]] = True
    return mask.view(weight.shape)


def _kth_smallest(values: Tensor, k: int) -> Tensor:
    """The ``k``-th smallest value, counted from 1; by numpy on the CPU, several times faster there."""
    if values.device.type != "cpu":
        return torch.kthvalue(values, k).values
    ranked = values.float().numpy() if values.dtype in (torch.bfloat16, torch.float16) else values.numpy()
    return torch.tensor(np.partition(ranked, k - 1)[k - 1], dtype=values.dtype)


class MaskSet:
    """The masks of one sparse phase, bound to the parameters of one model.

    Example, a user's own loop with any ``nn.Module`` and any ``torch.optim`` optimizer:

        >>> import torch
        >>> from torch import nn
        >>> from seqdsd.sparsity import MaskSet, Rule, resolve
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
        >>> inputs, targets = torch.randn(64, 8), torch.randn(64, 1)
        >>> def train(optimizer, steps):
        ...     for _ in range(steps):
        ...         optimizer.zero_grad()
        ...         nn.functional.mse_loss(model(inputs), targets).backward()
        ...         optimizer.step()
        >>> train(torch.optim.Adam(model.parameters(), lr=1e-2), steps=20)  # dense
        >>> masks = MaskSet.from_magnitude(model, resolve(model, [Rule("*")], sparsity=0.5))
        >>> sparse_optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        >>> with masks.attach(sparse_optimizer):
        ...     train(sparse_optimizer, steps=20)  # sparse: half the weights stay at 0
        >>> print(f"{masks.sparsity():.2f}")
        0.50
        >>> train(torch.optim.Adam(model.parameters(), lr=1e-4), steps=20)  # redense, from 0
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Bind ``masks`` (parameter name to bool mask, True = kept), of which it takes copies, to ``model``.

        Args:
            model: May be wrapped (``torch.compile``, DDP, Fabric …); names are those of the bare model.
            masks: By any name of their parameter, where weights are tied; kept by the first.

        Raises:
            TypeError: If a mask is not bool.
            ValueError: If there is no mask, a name or a shape is not the model's, or a parameter has two masks.
        """
        if not masks:
            raise ValueError("no masks: nothing would be pruned")
        parameters = by_alias(model)
        self.masks = Masks()
        self._held: dict[str, NamedParameter] = {}
        for alias, mask in masks.items():
            one = _checked(parameters, alias, mask)
            if one.name in self.masks:
                raise ValueError(f"two masks for one parameter: {' = '.join(one.aliases)}")
            self.masks[one.name] = laid_as(_as_sharded(mask, one.parameter), one.parameter)
            self._held[one.name] = one

    @classmethod
    def from_magnitude(cls, model: nn.Module, plan: Plan) -> MaskSet:
        """Choose the masks of a plan from the weights as they stand; these are not yet changed.

        Raises:
            ValueError: If the plan is another model's, a weight is NaN or infinite, or a tensor would have no weight
                left (the message names it).
        """
        parameters, masks = by_alias(model), {}
        for name, sparsity in plan.sparsities.items():
            if name not in parameters:
                raise ValueError(f"the plan prunes {name!r}, which the model does not have")
            try:
                masks[name] = magnitude_mask(parameters[name].parameter, sparsity)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return cls(model, masks)

    def apply_(self) -> None:
        """Set the pruned weights to +0.0, whatever stood there."""
        for name, one in self._held.items():
            zero_pruned_(one.parameter, self.masks.of(name, one.parameter))

    def mask_gradients_(self) -> None:
        """Zero the gradients of pruned weights, so that they do not enter a norm that is clipped."""
        for name, one in self._held.items():
            if one.parameter.grad is not None:
                zero_pruned_(one.parameter.grad, self.masks.of(name, one.parameter))

    def attach(self, *optimizers: Any, compare_processes: bool = True) -> MaskHandle:
        """Prune now, and hold the pruned weights at exactly 0 until the ``with`` block of the handle ends.

        Gradients of pruned weights are zeroed, those that are there and others as soon as they are accumulated, so
        before any clipping; the mask is applied again after every ``optimizer.step()``, so that momentum, Adam's
        moments and weight decay cannot revive a weight, and after ``load_state_dict``. Biases and all else outside the
        plan are untouched. Start a fresh optimizer for each phase: one from before holds momentum of pruned weights.

        Weights changed in any other way (``copy_``, averages of weights that are put back) are as they are until the
        next step; ``apply_`` prunes them. ``load_state_dict(assign=True)`` makes other parameters, which nothing holds.
        Convert a sharded model (``.to``, ``.bfloat16``) before: torch swaps its tensors, and their gradients are then
        masked no more.

        Args:
            optimizers: One, or several that share the parameters; Accelerate's, Fabric's or Lightning's wrapper of it
                does too.
            compare_processes: Of several processes (``torch.distributed``), make sure that all have the same masks,
                for which each must call this. False where each trains another part of the network (pipelines).

        Raises:
            TypeError: If something else than an optimizer is given.
            ValueError: If a masked parameter is in none of the optimizers or frozen, or the processes' masks differ.
                Nothing is then pruned or attached.

        Warns:
            UserWarning: If other masks are attached already.
        """
        if compare_processes:
            self._compare_processes()
        return hold(self._held, self.masks, optimizers)

    @staticmethod
    def detach(model: nn.Module) -> None:
        """Free all weights of a model that masks still hold, also where their handles are lost."""
        release(model)

    def sparsity(self) -> float:
        """Share of pruned weights among those that the masks cover."""
        total = sum(mask.numel() for mask in self.masks.values())
        return 1 - sum(int(_whole(mask.sum())) for mask in self.masks.values()) / max(1, total)

    def state_dict(self) -> dict[str, Tensor]:
        """The masks at one bit a weight, on the CPU, and their shapes.

        Sharded masks are gathered one after the other, for which every process must call this.

        Returns:
            By name, uint8 [ceil(N / 8)], first weight in the highest bit; by ``NAME/shape``, int64 [dimensions].
        """
        state = {}
        for name, mask in self.masks.items():
            state[name] = _packed(mask)
            state[name + _SHAPE] = torch.tensor(mask.shape, dtype=torch.int64)
        return state

    @classmethod
    def from_state_dict(cls, model: nn.Module, state: Mapping[str, Tensor]) -> MaskSet:
        """Restore the masks of ``state_dict`` for a model of the same shapes.

        Of a state without shapes, as written by earlier versions, only the sizes are checked.

        Raises:
            ValueError: If a name is not the model's, or a shape or size does not fit.
        """
        parameters, masks = by_alias(model), {}
        for alias, packed in state.items():
            if alias.endswith(_SHAPE):
                continue
            one = _known(parameters, alias)
            masks[one.name] = _unpacked(alias, packed, state.get(alias + _SHAPE), one.parameter.shape)
        # In the model's order, as from_magnitude's: a file sorts the names, and statistics of before and after are
        # matched by place.
        return cls(model, {one.name: masks[one.name] for one in named_parameters(model) if one.name in masks})

    def _compare_processes(self) -> None:
        """Raise, in all processes, unless their masks are the same; those of sharded tensors are by their making."""
        if (
            not (distributed.is_available() and distributed.is_initialized())
            or distributed.get_world_size() < 2
        ):
            return
        own = {
            name: hashlib.blake2b(_packed(mask).numpy().tobytes()).hexdigest()
            for name, mask in self.masks.items()
            if not is_sharded(mask)
        }
        everyones: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(everyones, own)
        names = dict.fromkeys(name for one in everyones for name in one)
        if differing := [name for name in names if len({one.get(name) for one in everyones}) > 1]:
            raise ValueError(
                f"the processes have different masks for {', '.join(differing)}, and would train different networks; "
                "choose the masks after DDP (or Fabric, Accelerate) has made the weights equal, or broadcast the "
                "weights before"
            )


_SHAPE = "/shape"


def _known(parameters: Mapping[str, NamedParameter], name: str) -> NamedParameter:
    if name not in parameters:
        raise ValueError(f"mask for {name!r}, which the model does not have")
    return parameters[name]


def _checked(parameters: Mapping[str, NamedParameter], name: str, mask: Tensor) -> NamedParameter:
    """The parameter of a mask that fits it."""
    one = _known(parameters, name)
    if mask.dtype != torch.bool:
        raise TypeError(f"mask for {name!r} must be bool (True = kept), got {mask.dtype}")
    if mask.shape != one.parameter.shape:
        shape = tuple(one.parameter.shape)
        raise ValueError(f"mask for {name!r} has shape {tuple(mask.shape)}, the weight {shape}")
    return one


def _whole(tensor: Tensor) -> Tensor:
    """A sharded tensor, gathered; another as it is."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def _as_sharded(mask: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of a mask that every process has, if the parameter is sharded."""
    if not is_sharded(parameter) or is_sharded(mask):
        return mask
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(
        mask.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )


def _packed(mask: Tensor) -> UInt8[Tensor, "bytes"]:
    return torch.from_numpy(np.packbits(_whole(mask).flatten().cpu().numpy()))


def _unpacked(
    name: str, packed: Tensor, written_shape: Tensor | None, shape: torch.Size
) -> Bool[Tensor, "..."]:
    if written_shape is not None and tuple(written_shape.tolist()) != tuple(shape):
        raise ValueError(
            f"packed mask for {name!r} has shape {tuple(written_shape.tolist())}, the weight {tuple(shape)}"
        )
    if packed.numel() != -(-shape.numel() // 8):
        raise ValueError(f"packed mask for {name!r}: {packed.numel()} bytes for {shape.numel()} weights")
    bits = np.unpackbits(packed.cpu().numpy(), count=shape.numel())
    return torch.from_numpy(bits).bool().view(shape)
