"""Holding pruned weights at exactly 0: the arithmetic on their bits, and the hooks that apply it while training.

Which weights are pruned is ``masks.py``. Nothing here waits for a GPU.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from seqdsd.sparsity.parameters import NamedParameter, named_parameters

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SMALL = 2**16
"""Weights; so few need no memory from the system."""
_PART_BYTES = 2**20
"""Of weights that are zeroed at once on a CPU: as many of their mask, widened, stay in its cache."""
SEEN_THROUGH = {"accelerate", "lightning", "lightning_fabric", "pytorch_lightning"}
"""Packages whose wrapped optimizers move the weights by the optimizer within, and by nothing else."""


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is split over processes. Its type takes half a second to import; where nobody has, none is."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def zero_pruned_(tensor: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> None:
    """Set what ``mask`` does not keep to exactly +0.0, whatever stood there, NaN and infinity included.

    The numbers' bits, taken as integers, are multiplied by 0 or 1. A product of the numbers themselves would keep NaN
    and leave -0.0; ``masked_fill_`` takes ten times as long on a CPU. ``mask`` is quickest as ``laid_as`` gives it.
    """
    if (
        tensor.layout is torch.sparse_coo
    ):  # the gradient of a sparse embedding; a row may be there more than once
        zero_pruned_(tensor._values(), mask[tuple(tensor._indices())])
        return
    # Integers of no graph: this needs no ``no_grad``, which is dear beside a small tensor.
    here, kept = tensor.detach(), mask
    if is_sharded(here):
        here, kept = here.to_local(), _own_part(mask)
    bits = here.view(_BITS[here.element_size()])
    if (
        bits.numel() <= _SMALL
        or bits.device.type != "cpu"
        or type(bits) is not Tensor  # a pretended one
        or torch.compiler.is_compiling()
        or not (bits.stride() == kept.stride() or _layout(bits) == _layout(kept))
    ):
        bits.mul_(kept)
    elif bits.nbytes <= _PART_BYTES:
        bits.mul_(_widened(kept, bits.dtype))
    else:
        part = _PART_BYTES // bits.element_size()
        for some, of_mask in zip(_in_memory_order(bits, part), _in_memory_order(kept, part), strict=True):
            some.mul_(_widened(of_mask, bits.dtype))


class _Memory(threading.local):
    """What a thread widens masks in. Left to torch, it is new each time, and the system hands it out page by page."""

    def __init__(self) -> None:
        with torch.inference_mode(False):  # or it could not be written to outside of it
            room = torch.empty(_PART_BYTES, dtype=torch.uint8, device="cpu")
            self.of_type = {dtype: room.view(dtype) for dtype in _BITS.values()}


_memory = _Memory()


def _widened(mask: Bool[Tensor, "*shape"], dtype: torch.dtype) -> Int[Tensor, "*shape"]:
    """A mask without gaps, as integers as wide as the weights' bits, until the next call."""
    return _memory.of_type[dtype].as_strided(mask.shape, mask.stride()).copy_(mask)


def laid_as(mask: Bool[Tensor, "*shape"], weight: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """A copy of the mask without gaps, on the weight's device, that lies in memory as the weight does."""
    return torch.empty_like(weight.detach(), dtype=torch.bool).copy_(mask)


class Masks(dict[str, Tensor]):
    """Masks by parameter name, which follow their parameters to another device or memory format."""

    def of(self, name: str, parameter: Tensor) -> Bool[Tensor, "..."]:
        """The mask of a parameter, where and as this now lies."""
        mask = self[name]
        # Asked twice a step: what is nearly always so is told first.
        if mask.stride() == parameter.stride() and mask.device == parameter.device:
            return mask
        if (mask.device, _layout(_own_part(mask))) != (parameter.device, _layout(_own_part(parameter))):
            mask = self[name] = laid_as(mask, parameter)
        return mask


class MaskHandle:
    """What ``MaskSet.attach`` gives: a context manager, after which pruned weights train again, from 0."""

    def __init__(self, hooks: ExitStack) -> None:
        self._hooks = hooks
        self.is_attached = True

    def remove(self) -> None:
        """Take all hooks away: the redense step. A second call does nothing."""
        self.is_attached = False
        self._hooks.close()

    def __enter__(self) -> MaskHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def handles_on(parameter: nn.Parameter) -> list[MaskHandle]:
    """The handles that now hold a parameter, also those that nobody else knows of any more."""
    # Kept by the hooks themselves: torch swaps no tensors (``.to`` of sharded ones) that somebody else watches.
    hooks = (parameter._post_accumulate_grad_hooks or {}).values()
    return [hook.handle for hook in hooks if isinstance(hook, _AfterBackward)]


def hold(held: Mapping[str, NamedParameter], masks: Masks, optimizers: Sequence[Any]) -> MaskHandle:
    """Register all hooks, then prune; neither where something is refused. See ``MaskSet.attach``.

    Args:
        held: The masked parameters, by the names of ``masks``.
        masks: Their masks.
        optimizers: As the user has them, in a wrapper or not.

    Raises:
        TypeError: If one of ``optimizers`` is none.
        ValueError: If a parameter is frozen, or in none of the optimizers.
    """
    optimizers = [_unwrapped(optimizer) for optimizer in optimizers]
    names_of = [_names_in(optimizer, held) for optimizer in optimizers]
    _check(held, names={name for names in names_of for name in names})
    hooks = ExitStack()
    handle = MaskHandle(hooks)
    with ExitStack() as undo:
        undo.callback(handle.remove)
        for optimizer, names in zip(optimizers, names_of, strict=True):
            of_optimizer = {name: held[name].parameter for name in names}
            hook = optimizer.register_step_post_hook(_AfterStep(of_optimizer, masks))
            hooks.callback(hook.remove)
            # Before what was there already: an average of the weights must not see those that the step revived.
            optimizer._optimizer_step_post_hooks.move_to_end(hook.id, last=False)
        for name, one in held.items():
            after_backward = _AfterBackward(name, masks, handle)
            hooks.callback(one.parameter.register_post_accumulate_grad_hook(after_backward).remove)
            for holder in one.holders:
                loaded = _AfterLoading({name: one.parameter}, masks)
                hooks.callback(holder.register_load_state_dict_post_hook(loaded).remove)
        for name, one in held.items():
            zero_pruned_(one.parameter, masks.of(name, one.parameter))
            _AfterBackward(name, masks, handle)(one.parameter)
        undo.pop_all()
    return handle


def release(model: nn.Module) -> None:
    """Remove every handle that holds a parameter of ``model``."""
    for one in named_parameters(model):
        for handle in handles_on(one.parameter):
            handle.remove()


class _AfterStep:
    """Zeroes the pruned weights that an optimizer has just moved."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], masks: Masks) -> None:
        self._parameters, self._masks = parameters, masks

    def __call__(self, *_: object) -> None:
        for name, parameter in self._parameters.items():
            zero_pruned_(parameter, self._masks.of(name, parameter))


class _AfterLoading(_AfterStep):
    """Zeroes the pruned weights that ``load_state_dict`` has just filled."""

    def __reduce__(self) -> tuple[Any, ...]:
        # A module's copies and pickles take its hooks along: there, one that does nothing, for their weights are free.
        return _AfterLoading, ({}, Masks())


class _AfterBackward:
    """Zeroes the gradients of pruned weights.

    It must not hold the parameter: Python's garbage collection does not see through such a hook.
    """

    def __init__(self, name: str, masks: Masks, handle: MaskHandle) -> None:
        self._name, self._masks, self.handle = name, masks, handle

    def __call__(self, parameter: Tensor) -> None:
        if (gradient := parameter.grad) is not None:
            zero_pruned_(gradient, self._masks.of(self._name, parameter))


def _names_in(optimizer: Optimizer, held: Mapping[str, NamedParameter]) -> list[str]:
    inside = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return [name for name, one in held.items() if id(one.parameter) in inside]


def _check(held: Mapping[str, NamedParameter], *, names: set[str]) -> None:
    if missing := [name for name in held if name not in names]:
        raise ValueError(
            f"the optimizer does not hold these masked parameters: {', '.join(missing)}; hand over all optimizers that "
            "train them, or keep these dense by a rule of sparsity 0"
        )
    if frozen := [name for name, one in held.items() if not one.parameter.requires_grad]:
        raise ValueError(
            f"frozen parameters cannot be retrained: {', '.join(frozen)}; set their requires_grad, or choose the masks "
            "again, which leaves them out"
        )
    if twice := [name for name, one in held.items() if handles_on(one.parameter)]:
        warnings.warn(
            f"masks are attached already to {', '.join(twice)}, and go on holding them beside the new ones; leave "
            "their `with` block first, or call MaskSet.detach(model) where their handle is lost",
            stacklevel=4,
        )


def _unwrapped(optimizer: Any) -> Optimizer:
    """The optimizer within those of Accelerate, Fabric and Lightning, which have no hooks of their own."""
    while "_optimizer_step_post_hooks" not in getattr(optimizer, "__dict__", {}):
        inner = getattr(optimizer, "optimizer", None) or getattr(optimizer, "_optimizer", None)
        packages = {base.__module__.partition(".")[0] for base in type(optimizer).__mro__}
        if inner is None or not packages & SEEN_THROUGH:
            raise TypeError(
                f"masks are attached to a torch.optim.Optimizer, got {type(optimizer).__name__}; of a wrapper hand "
                "over the optimizer within, and call apply_ after each step if the wrapper itself moves weights"
            )
        optimizer = inner
    return optimizer


def _own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def _layout(tensor: Tensor) -> list[tuple[int, int]]:
    """Size and stride of each dimension; a dimension of one element has none that matters."""
    return [pair for pair in zip(tensor.shape, tensor.stride(), strict=True) if pair[0] != 1]


def _in_memory_order(tensor: Tensor, part: int) -> tuple[Tensor, ...]:
    """A tensor without gaps, in flat parts of so many elements."""
    return tensor.permute(sorted(range(tensor.dim()), key=tensor.stride, reverse=True)).view(-1).split(part)
