"""Fabric is imported without the libraries that it does not need, and knows them all the same."""

import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec

import pytest

from seqdsd.fabric import known_by_version

CODE = """
import sys
import seqdsd.recipes.ds1
others = {"torchmetrics", "torchvision", "transformers"} & set(sys.modules)
assert not others, others
from lightning_fabric.utilities import imports
assert imports._TORCHMETRICS_GREATER_EQUAL_1_0_0
import torchmetrics
assert torchmetrics.MeanMetric
"""


def test_a_recipe_imports_no_torchmetrics_and_whoever_needs_it_has_it_whole():
    for package in ("torchmetrics", "torchvision", "transformers"):
        metadata.version(package)  # else they could not be imported
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_within_it_can_be_asked_for(monkeypatch):
    monkeypatch.delitem(sys.modules, "jiwer", raising=False)
    with known_by_version("jiwer"):
        assert find_spec("jiwer") is not None and sys.modules["jiwer"].__version__ == metadata.version(
            "jiwer"
        )
    assert "jiwer" not in sys.modules


def test_what_is_imported_or_not_installed_is_as_it_is():
    with known_by_version("pytest"), known_by_version("no-such-package"):
        assert sys.modules["pytest"] is pytest and "no-such-package" not in sys.modules
        with pytest.raises(ImportError):
            __import__("no-such-package")
