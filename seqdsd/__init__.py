"""seqdsd: Dense-Sparse-Dense training for sequence models (speech recognisers, image captioners).

The parts can be used one by one: ``seqdsd.sparsity`` (the DSD core, for any torch model), ``seqdsd.models``,
``seqdsd.decode``, ``seqdsd.metrics``. ``seqdsd.recipes`` puts them together; ``seqdsd.load`` takes what they trained
into use. Nothing happens on import, which takes no time: torch comes with what needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqdsd.inference.networks import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    if name != "load":
        raise AttributeError(f"module 'seqdsd' has no attribute {name!r}")
    return import_module("seqdsd.inference.networks").load
