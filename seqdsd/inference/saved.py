"""Where a trained network lies, a run's folder or a file of its own, and what can be read there.

The file is ``model_files.py``'s; a network for use is made of either by ``trained.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from seqdsd.config import PROVENANCE, read_config
from seqdsd.engine.checkpoint import CheckpointError, load_checkpoint
from seqdsd.kinds import KIND_OF_RECIPE, Kind
from seqdsd.recipes.speech import read_tokenizer
from seqdsd.recipes.training import RunConfig, read_run_provenance
from seqdsd.records import RunFolder, RunFolderError
from seqdsd.reports import best_phase, phase_called
from seqdsd.tasks.classification import Labeller
from seqdsd.text import Tokenizer, WordVocabulary

ConfigT = TypeVar("ConfigT", bound=RunConfig)


@dataclass(frozen=True)
class Weights:
    """A network's weights where they lie, before memory is taken for a network.

    Attributes:
        path: Of their file.
        described_by: What says which network they are of, for messages.
        remedy: Where they cannot be used.
        like: Their shapes and types by name, as tensors without storage.
        read: Gives each with its name, one after the other.
    """

    path: Path
    described_by: str
    remedy: str
    like: Mapping[str, Tensor]
    read: Callable[[], Iterator[tuple[str, Tensor]]]

    def network(self, make: Callable[[], nn.Module]) -> nn.Module:
        """The network with these weights; ``make`` gives it with others.

        Raises:
            CheckpointError: If they are not that network's, or one is NaN or infinite.
        """
        try:
            with torch.device("meta"):  # without storage, as settings may ask for more than there is
                make().load_state_dict(self.like, assign=True)
        except (RuntimeError, TypeError) as error:  # TypeError: a size beyond torch's whole numbers
            raise CheckpointError(
                f"{self.path}: the weights are not those of the network that {self.described_by} describe: {error}"
            ) from error
        model = make()
        own = model.state_dict()
        for name, tensor in self.read():
            if not tensor.isfinite().all():
                raise CheckpointError(
                    f"{self.path}: {name!r} holds NaN or infinity, and the network would say nothing; {self.remedy}"
                )
            own[name].copy_(tensor)
        return model


@runtime_checkable
class Saved(Protocol):
    """A trained network where it lies."""

    @property
    def path(self) -> Path:
        """The run's folder, or the file."""

    def recipe(self) -> str:
        """Name of the recipe that trained it, one that is known here.

        Raises:
            ValueError: If there is no network, or its recipe is not known.
        """

    @property
    def decoding(self) -> Path:
        """Where it is kept how to weigh a language model beside it."""

    def config(self, base: ConfigT) -> ConfigT:
        """``base`` with the settings of the network and its use.

        Raises:
            ValueError: If they cannot be read.
        """

    def data(self, config: RunConfig) -> Path | None:
        """The data that it was trained on; None stands for the embedded corpus.

        Raises:
            ValueError: If it is not known here where they are.
        """

    def phase(self, name: str | None) -> Mapping[str, Any]:
        """The record of a phase, by its name or its file's; by default of the best on dev, of shared weights if any.

        Raises:
            ValueError: If there is no such phase.
        """

    def tokenizer(self) -> Tokenizer:
        """What a recogniser spells with.

        Raises:
            ValueError: If it is damaged.
        """

    def vocabulary(self) -> WordVocabulary:
        """What a captioner speaks with.

        Raises:
            ValueError: If it is damaged.
        """

    def labeller(self) -> Labeller:
        """What comes before and after a classifier.

        Raises:
            ValueError: If it is damaged.
        """

    def weights(self, phase: Mapping[str, Any]) -> Weights:
        """Those that a phase handed on.

        Raises:
            ValueError: If they are damaged.
        """


@dataclass(frozen=True)
class SavedRun:
    """The networks of a run, one a phase; see ``Saved``."""

    folder: RunFolder

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    def recipe(self) -> str:
        """See ``Saved``."""
        if not self.folder.config.is_file():
            raise RunFolderError(
                f"{self.path}: not a run folder (it has no config.toml); name the --out of a training run, or a .dsdz "
                "file"
            )
        name = read_run_provenance(self.folder).get("recipe")
        return known_recipe(name, f"{self.folder.config}: its [{PROVENANCE}]")

    @property
    def decoding(self) -> Path:
        """See ``Saved``."""
        return self.folder.decoding

    def config(self, base: ConfigT) -> ConfigT:
        """See ``Saved``."""
        return read_config(self.folder.config, base)

    def data(self, config: RunConfig) -> Path | None:
        """See ``Saved``."""
        return config.data

    def phase(self, name: str | None) -> Mapping[str, Any]:
        """See ``Saved``."""
        records = self.folder.read_phases()
        if not records:
            raise RunFolderError(f"{self.path}: no phase is finished yet; let the run go on (--resume)")
        if name is None:
            # A compression's first phases are better, as they are not yet compressed.
            return best_phase([one for one in records if one["kind"] == "shared"] or records)
        return phase_called(name, records, self.path)

    def tokenizer(self) -> Tokenizer:
        """See ``Saved``."""
        return read_tokenizer(self.folder)

    def vocabulary(self) -> WordVocabulary:
        """See ``Saved``."""
        return WordVocabulary.load(self.path)

    def labeller(self) -> Labeller:
        """See ``Saved``."""
        return Labeller.load(self.path)

    def weights(self, phase: Mapping[str, Any]) -> Weights:
        """See ``Saved``."""
        path = self.folder.weights(phase["name"])
        remedy = f"take another phase (--phase), of {_names(self.folder.read_phases())}"
        try:
            tensors = load_checkpoint(path).tensors
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {remedy}") from error
        return Weights(
            path=path,
            described_by=f"{self.folder.config} and the files beside it",
            remedy=remedy,
            like={name: one.to("meta") for name, one in tensors.items()},
            read=lambda: iter(tensors.items()),
        )


def known_recipe(name: Any, where: str) -> str:
    """The recipe's name, if it is one that is known here.

    Args:
        name: As it was read.
        where: What names it, for the message.

    Raises:
        RunFolderError: If it is none.
    """
    if name not in KIND_OF_RECIPE:
        raise RunFolderError(
            f"{where} names the recipe {name!r}, not one known here ({', '.join(KIND_OF_RECIPE)}); take another "
            "network, or the version of seqdsd that wrote this one"
        )
    return str(name)


def require_kind(saved: Saved, kind: Kind) -> str:
    """The recipe that trained a network, which is of this kind.

    Raises:
        ValueError: If it is of another; the message says what it is for.
    """
    found = saved.recipe()
    if found not in kind.networks:
        raise RunFolderError(
            f"{saved.path} was trained by {found}: it is {KIND_OF_RECIPE[found].description}"
        )
    return found


def _names(records: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(repr(record["name"]) for record in records)
