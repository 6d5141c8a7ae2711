"""seqdsd: Dense-Sparse-Dense training for sequence models (speech recognisers, image captioners).

The parts can be used one by one: ``seqdsd.sparsity`` (the DSD core, for any torch model), ``seqdsd.models``,
``seqdsd.decode``, ``seqdsd.metrics``. ``seqdsd.recipes`` puts them together. Nothing happens on import.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
