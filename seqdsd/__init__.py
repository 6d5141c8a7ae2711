"""seqdsd: Dense-Sparse-Dense training for sequence models (speech recognisers, image captioners).

The parts can be used one by one: ``seqdsd.sparsity`` (the DSD core, for any torch model), ``seqdsd.models``,
``seqdsd.decode``, ``seqdsd.metrics``. ``seqdsd.recipes`` puts them together; ``seqdsd.load`` takes what they trained
into use; ``seqdsd.DSD`` brings DSD into a training loop of your own. Nothing happens on import, which takes no time:
torch comes with what needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqdsd.inference.networks import load as load
    from seqdsd.sparsity.controller import DSD as DSD

__version__ = "0.1.0"
__all__ = ["DSD", "__version__", "load"]
_HOMES = {"DSD": "seqdsd.sparsity", "load": "seqdsd.inference.networks"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'seqdsd' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
