"""Magnitude masks: choosing the weights to prune and holding them at zero while an optimizer trains the rest.

Masks live outside the model, keyed by its bare parameter names; parameters are never re-parametrised, so
``deepcopy``, ``state_dict`` and cuDNN's flat LSTM weights go on working. Deliberately left out: schedules
(``schedule.py``), which parameters are concerned (``rules.py``), and structured or gradual pruning.
"""

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqdsd.sparsity.rules import Number, Plan, check_sparsity

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def magnitude_mask(weight: Float[Tensor, "*shape"], sparsity: Number) -> Bool[Tensor, "*shape"]:
    """Mark the largest weights by absolute value: True = kept.

    Exactly ``N - round(N * sparsity)`` of the N weights are kept, also where many are equal: among equal
    magnitudes the ones with the lower flat index stay. A larger sparsity keeps a subset of what a smaller one
    keeps.

    Of a ``DTensor`` the mask is the same, sharded as the weight is; every process must ask for it.

    Raises:
        ValueError: If ``sparsity`` is outside [0, 1) or a weight is NaN or infinite.

    Reference: Han et al. 2017 (DSD), Algorithm 1. Departure: the paper's ``|W| > lambda`` prunes one weight
    too many and all that tie with it; here the count is exact.
    """
    check_sparsity(sparsity)
    if _is_sharded(weight):
        from seqdsd.sparsity.sharded import sharded_magnitude_mask

        return sharded_magnitude_mask(weight, round(weight.numel() * sparsity))
    magnitude = weight.detach().abs().flatten()
    if magnitude.numel() > 0 and not bool(magnitude.max().isfinite()):  # max hands on NaN
        bad = int((~torch.isfinite(magnitude)).sum())
        raise ValueError(f"cannot rank weights: {bad} of {weight.numel()} are NaN or infinite")
    num_pruned = round(weight.numel() * sparsity)
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


class MaskHandle:
    """Undoes ``MaskSet.attach``: ``remove()`` is the redense step, and pruned weights train again from 0."""

    def __init__(self, removers: list[Callable[[], None]]) -> None:
        self._removers = removers

    def remove(self) -> None:
        """Take all hooks away. A second call does nothing."""
        while self._removers:
            self._removers.pop()()


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
        >>> handle = masks.attach(sparse_optimizer)
        >>> train(sparse_optimizer, steps=20)  # sparse: half the weights stay at 0
        >>> print(f"{masks.sparsity():.2f}")
        0.50
        >>> handle.remove()
        >>> train(torch.optim.Adam(model.parameters(), lr=1e-4), steps=20)  # redense, from 0
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Bool[Tensor, "..."]]) -> None:
        """Bind ``masks`` (parameter name to mask, True = kept) to ``model``.

        Raises:
            ValueError: If there is no mask, or a name or a shape is not the model's.
        """
        if not masks:
            raise ValueError("no masks: nothing would be pruned")
        parameters = dict(model.named_parameters())
        for name, mask in masks.items():
            if name not in parameters:
                raise ValueError(f"mask for {name!r}, which the model does not have")
            if mask.shape != parameters[name].shape:
                shape = tuple(parameters[name].shape)
                raise ValueError(f"mask for {name!r} has shape {tuple(mask.shape)}, the weight {shape}")
        self.masks = {name: mask.to(parameters[name].device) for name, mask in masks.items()}
        self._parameters = {name: parameters[name] for name in masks}
        # Factors of the weights' own type: a bool mask would be converted again at every step.
        self._factors = {
            name: mask.to(parameter.dtype)
            for (name, mask), parameter in zip(self.masks.items(), self._parameters.values(), strict=True)
        }

    @classmethod
    def from_magnitude(cls, model: nn.Module, plan: Plan) -> "MaskSet":
        """Choose the masks of a plan from the weights as they stand; these are not yet changed.

        Raises:
            ValueError: If the plan is another model's, or a weight is NaN or infinite (the message names it).
        """
        parameters = dict(model.named_parameters())
        masks = {}
        for name, sparsity in plan.sparsities.items():
            if name not in parameters:
                raise ValueError(f"the plan prunes {name!r}, which the model does not have")
            try:
                masks[name] = magnitude_mask(parameters[name], sparsity)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return cls(model, masks)

    @torch.no_grad()
    def apply_(self) -> None:
        """Set the pruned weights to 0."""
        torch._foreach_mul_(list(self._parameters.values()), list(self._factors.values()))

    @torch.no_grad()
    def mask_gradients_(self) -> None:
        """Zero the gradients of pruned weights, so that they do not enter a norm that is clipped."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                parameter.grad.mul_(self._factors[name])

    def attach(self, optimizer: torch.optim.Optimizer) -> MaskHandle:
        """Prune now, and hold the pruned weights at exactly 0 until the handle is removed.

        Gradients of pruned weights are zeroed as soon as they are accumulated, so before any clipping; the
        mask is applied again after every ``optimizer.step()``, so that momentum, Adam's moments and weight
        decay cannot revive a weight. Biases and all else outside the plan are untouched. Start a fresh
        optimizer for each phase: one from before holds momentum of pruned weights.

        Raises:
            ValueError: If the optimizer does not hold every masked parameter.
        """
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        missing = [name for name, parameter in self._parameters.items() if id(parameter) not in held]
        if missing:
            raise ValueError(f"the optimizer does not hold these masked parameters: {', '.join(missing)}")
        self.apply_()
        handles = [optimizer.register_step_post_hook(lambda *_: self.apply_())]
        for name, parameter in self._parameters.items():
            handles.append(parameter.register_post_accumulate_grad_hook(_gradient_mask(self._factors[name])))
        return MaskHandle([handle.remove for handle in handles])

    def sparsity(self) -> float:
        """Share of pruned weights among those that the masks cover."""
        total = sum(mask.numel() for mask in self.masks.values())
        return 1 - sum(int(_whole(mask.sum())) for mask in self.masks.values()) / max(1, total)

    def state_dict(self) -> dict[str, Tensor]:
        """The masks at one bit a weight, on the CPU: uint8 [ceil(N / 8)], first weight in the highest bit.

        Sharded masks are gathered one after the other, for which every process must call this.
        """
        bits = {name: _whole(mask).flatten().cpu().numpy() for name, mask in self.masks.items()}
        return {name: torch.from_numpy(np.packbits(one)) for name, one in bits.items()}

    @classmethod
    def from_state_dict(cls, model: nn.Module, state: Mapping[str, Tensor]) -> "MaskSet":
        """Restore the masks of ``state_dict`` for a model of the same shapes.

        Raises:
            ValueError: If a name is not the model's or a size does not fit.
        """
        parameters = dict(model.named_parameters())
        for name in state:
            if name not in parameters:
                raise ValueError(f"mask for {name!r}, which the model does not have")
        # In the model's order, as from_magnitude's: a file sorts the names, and statistics of before and after are
        # matched by place.
        masks = {
            name: _as_sharded(_unpack(name, state[name], parameter.shape), parameter)
            for name, parameter in parameters.items()
            if name in state
        }
        return cls(model, masks)


def _gradient_mask(factor: Tensor) -> Callable[[Tensor], None]:
    def zero_pruned(parameter: Tensor) -> None:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)

    return zero_pruned


def _is_sharded(tensor: Tensor) -> TypeGuard["DTensor"]:
    """Whether a tensor is split over processes. Its type takes half a second to import; where nobody has, none is."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def _whole(tensor: Tensor) -> Tensor:
    """A sharded tensor, gathered; another as it is."""
    return tensor.full_tensor() if _is_sharded(tensor) else tensor


def _as_sharded(mask: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of a mask that every process has, if the parameter is sharded."""
    if not _is_sharded(parameter):
        return mask
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(
        mask.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )


def _unpack(name: str, packed: Tensor, shape: torch.Size) -> Tensor:
    if packed.numel() != -(-shape.numel() // 8):
        raise ValueError(f"packed mask for {name!r}: {packed.numel()} bytes for {shape.numel()} weights")
    bits = np.unpackbits(packed.cpu().numpy(), count=shape.numel())
    return torch.from_numpy(bits).bool().view(shape)
