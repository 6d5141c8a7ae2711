"""Lightning Fabric, which the whole package imports from here: devices, precision, many processes.

Fabric learns which torchmetrics there is by importing it, and with it torchvision and transformers where they are
installed: seconds at the start of every command, for a class that is not used here. So it is told the version alone.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from types import ModuleType


@contextmanager
def known_by_version(package: str) -> Iterator[None]:
    """Within, importing a package that is installed, and not imported yet, gives its ``__version__`` and no more."""
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        version = None
    if version is None or package in sys.modules:
        yield
        return
    stand_in = ModuleType(package)
    stand_in.__version__ = version  # type: ignore[attr-defined]
    sys.modules[package] = stand_in
    try:
        yield
    finally:
        del sys.modules[package]


with known_by_version("torchmetrics"):
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy
    from lightning_fabric.wrappers import _FabricModule as FabricModule
    from lightning_fabric.wrappers import _FabricOptimizer as FabricOptimizer

__all__ = ["DDPStrategy", "Fabric", "FabricModule", "FabricOptimizer"]
