"""Lightning Fabric, which the whole package imports from here: devices, precision, many processes.

Fabric learns which torchmetrics there is by importing it, and with it torchvision and transformers where they are
installed: seconds at the start of every command, for a class that is not used here. So it is told the version alone.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from types import ModuleType


@contextmanager
def known_by_version(package: str) -> Iterator[None]:
    """Within, importing a package that is installed, and not imported yet, gives its ``__version__`` and no more."""
    stand_in = None if package in sys.modules else _stand_in(package)
    if stand_in is None:
        yield
        return
    sys.modules[package] = stand_in
    try:
        yield
    finally:
        sys.modules.pop(package, None)


def _stand_in(package: str) -> ModuleType | None:
    """None of a package that is not installed as others are."""
    spec = find_spec(package)
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
    stand_in = ModuleType(package)
    stand_in.__spec__ = spec  # for who asks whether it is there
    stand_in.__version__ = version  # type: ignore[attr-defined]
    return stand_in


with known_by_version("torchmetrics"):
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy
    from lightning_fabric.wrappers import _FabricModule as FabricModule
    from lightning_fabric.wrappers import _FabricOptimizer as FabricOptimizer

__all__ = ["DDPStrategy", "Fabric", "FabricModule", "FabricOptimizer"]
