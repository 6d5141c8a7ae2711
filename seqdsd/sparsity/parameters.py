"""A model's parameters under their bare names: wrappers seen through, tied weights once, with all their names.

``model.named_parameters()`` is not enough to find a parameter by name: ``torch.compile``, DDP, ``AveragedModel``,
Lightning Fabric and activation checkpointing put a prefix before the names, at the top or within, and of tied
weights it gives the first name only. What to do with a parameter is ``rules.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

# By name, because their libraries may be missing or slow to import; a subclass counts as its base.
WRAPPERS = {
    "lightning.fabric.wrappers._FabricModule": "_forward_module",
    "lightning_fabric.wrappers._FabricModule": "_forward_module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.ActivationWrapper": "_checkpoint_wrapped_module",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
}
"""Modules that hold a model and change nothing but its names: class, and the attribute that is the model."""

OPAQUE = {
    "deepspeed.runtime.engine.DeepSpeedEngine": "it trains flat copies of the weights",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "it flattens the weights; "
    "use torch.distributed.fsdp.fully_shard",
    "torch.jit._script.ScriptModule": "it hides the types of its layers; hand over the model it was made from",
}
"""Modules behind which weights cannot be told or held: class, why, and the remedy if there is one."""

WRAPPED_NAME = re.compile(r"module|_\w*mod(ule)?")
"""What other wrappers call their model, as ``_orig_mod``; that networks have a ``_model`` or ``_net`` is common."""


@dataclass(frozen=True, eq=False)
class NamedParameter:
    """One parameter and every place in the model that holds it.

    Attributes:
        aliases: Its bare names in the model's order: one, or several where weights are tied.
        parameter: The parameter itself, the object that an optimizer holds.
        holders: The module that holds it under each alias; of a parametrized tensor
            (``torch.nn.utils.parametrize``) the layer, not the ``.parametrizations`` in between.
    """

    aliases: tuple[str, ...]
    parameter: nn.Parameter
    holders: tuple[nn.Module, ...]

    @property
    def name(self) -> str:
        """The first alias: what plans and masks go by."""
        return self.aliases[0]


def named_parameters(model: nn.Module) -> list[NamedParameter]:
    """The distinct parameters of ``model``, which may be wrapped, in the model's order.

    Raises:
        ValueError: If the model, or a module within, cannot be seen through (``bare``).
    """
    places: dict[int, list[tuple[str, nn.Parameter, nn.Module]]] = {}
    for place in _places(bare(model)):
        places.setdefault(id(place[1]), []).append(place)
    return [
        NamedParameter(
            aliases=tuple(name for name, _, _ in same),
            parameter=same[0][1],
            holders=tuple(holder for _, _, holder in same),
        )
        for same in places.values()
    ]


def by_alias(model: nn.Module) -> dict[str, NamedParameter]:
    """The parameters of ``model``, which may be wrapped, under each of their names.

    Raises:
        ValueError: See ``named_parameters``.
    """
    return {alias: one for one in named_parameters(model) for alias in one.aliases}


def bare(model: nn.Module) -> nn.Module:
    """The model within known wrappers, however many; a bare model is returned as it is.

    Raises:
        ValueError: If it is, or looks like, a wrapper that cannot be seen through.
    """
    module = _seen_through(model)
    holding = [name for name, child in module.named_children() if next(child.parameters(), None) is not None]
    if len(holding) == 1 and not module._parameters and WRAPPED_NAME.fullmatch(holding[0]):
        raise ValueError(
            f"{type(module).__name__} looks like a wrapper: all parameters are within its `.{holding[0]}`; "
            f"hand over that model, so that names are its own"
        )
    return module


def _places(
    module: nn.Module, prefix: str = "", layer: nn.Module | None = None
) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """Every name of every parameter, depth first as torch does, with its holder; ``layer`` is what parametrizes."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield prefix + name, parameter, layer or module
    for name, child in module._modules.items():
        if child is not None:
            parametrizes = name == "parametrizations" and is_parametrized(module)
            yield from _places(
                _seen_through(child), f"{prefix}{name}.", layer or (module if parametrizes else None)
            )


def _seen_through(module: nn.Module) -> nn.Module:
    """The module within known wrappers."""
    while True:
        classes = [f"{base.__module__}.{base.__qualname__}" for base in type(module).__mro__]
        for name in classes:
            if name in OPAQUE:
                raise ValueError(f"masks cannot be held through {type(module).__name__}: {OPAQUE[name]}")
        attribute = next((WRAPPERS[name] for name in classes if name in WRAPPERS), None)
        if attribute is None:
            return module
        module = getattr(module, attribute)
