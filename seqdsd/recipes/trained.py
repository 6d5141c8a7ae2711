"""A finished phase of a run, loaded for use: the network with its weights, its tokenizer and its record.

Leaves out going on with training, which is the recipe's ``--resume``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric.wrappers import _FabricModule
from torch import nn

from seqdsd.audio import LogSpectrogram
from seqdsd.config import PROVENANCE, ConfigError, read_config
from seqdsd.engine import make_fabric
from seqdsd.engine.checkpoint import CheckpointError, load_checkpoint
from seqdsd.recipes import ds1
from seqdsd.records import RunFolder, RunFolderError, slug
from seqdsd.reports import best_phase
from seqdsd.tasks import Recogniser
from seqdsd.text import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class _Recipe:
    config_class: type[Any]
    make_model: Callable[[Any, Tokenizer], nn.Module]


_RECIPES = {ds1.RECIPE: _Recipe(ds1.Config, ds1.make_model)}


@dataclass(frozen=True)
class Trained:
    """A recogniser as one phase of a run left it, on its device and in evaluation mode.

    Attributes:
        model: The network as Fabric wraps it, for the precision that it was trained in; ``.module`` is bare.
        recogniser: Features before it and decoding after it.
        config: Settings of the run, of its recipe's ``Config`` class.
        phase: The phase's line of ``phases.jsonl``.
        device: Where the model lies.
    """

    model: _FabricModule
    recogniser: Recogniser
    config: Any
    phase: Mapping[str, Any]
    device: torch.device

    @property
    def tokenizer(self) -> Tokenizer:
        """What the network spells with."""
        return self.recogniser.tokenizer


def load_trained(folder: RunFolder, *, phase: str | None = None, device: str = "auto") -> Trained:
    """Load what a phase handed on.

    Args:
        folder: Of a run with at least one finished phase; the run may still be going on.
        phase: Its name as in ``phases.jsonl``, in any case, or with hyphens (``dense-iter-1``); by default
            the best on dev.
        device: ``auto`` picks a GPU if there is one; or cpu, cuda, mps.

    Raises:
        ValueError: If the folder holds no run, the run is another recipe's or has no such phase, its weights
            are damaged, or the device is not there.
    """
    recipe = _recipe(folder)
    config = read_config(folder.config, recipe.config_class())
    record = _find_phase(folder, phase)
    tokenizer = load_tokenizer(folder.path / "tokenizer")
    model = recipe.make_model(config, tokenizer)
    _load_weights(model, folder, record["name"])
    fabric = make_fabric(device, config.precision)
    return Trained(
        model=fabric.setup_module(model).eval(),
        recogniser=Recogniser(LogSpectrogram(), tokenizer),
        config=config,
        phase=record,
        device=fabric.device,
    )


def _recipe(folder: RunFolder) -> _Recipe:
    """What the run says it was trained with."""
    try:
        values = tomllib.loads(folder.config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(
            f"{folder.path}: not a run folder (it has no config.toml); name the --out of a training run"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{folder.config}: not a readable TOML file: {error}") from error
    name = values.get(PROVENANCE, {}).get("recipe")
    if name not in _RECIPES:
        raise RunFolderError(
            f"{folder.config}: its [{PROVENANCE}] names the recipe {name!r}, not a recogniser known here "
            f"({', '.join(_RECIPES)}); take another run, or the version of seqdsd that wrote this one"
        )
    return _RECIPES[name]


def _find_phase(folder: RunFolder, name: str | None) -> Mapping[str, Any]:
    records = folder.read_phases()
    if not records:
        raise RunFolderError(f"{folder.path}: no phase is finished yet; let the run go on (--resume)")
    if name is None:
        return best_phase(records)
    for record in records:
        if slug(record["name"]) == slug(name):
            return record
    raise RunFolderError(f"{folder.path}: no finished phase is called {name!r}; there are {_names(records)}")


def _names(records: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(repr(record["name"]) for record in records)


def _load_weights(model: nn.Module, folder: RunFolder, phase_name: str) -> None:
    path = folder.weights(phase_name)
    try:
        model.load_state_dict(load_checkpoint(path).tensors)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; take another phase (--phase), of {_names(folder.read_phases())}"
        ) from error
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: the weights are not those of the network in {folder.config}: {error}"
        ) from error
