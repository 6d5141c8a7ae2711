"""A trained network as one .dsdz file: all that using it takes, and how it came about, in the file's header.

``write_model`` makes the file of a run, ``SavedFile`` reads it. The container is ``seqdsd.compression``'s;
docs/format.md says what stands in ``about``. Nothing in a file is run or unpickled, and what it says of sizes is held
against the weights in it before memory is taken.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from msgspec import Meta, Struct
from torch import Tensor

from seqdsd.compression import (
    CompressedFile,
    CompressedFileError,
    SharedTensor,
    read_compressed,
    write_compressed,
)
from seqdsd.compression.header import AGAIN, DTYPES
from seqdsd.config import to_values, with_values
from seqdsd.inference.saved import Saved, SavedRun, Weights, known_recipe
from seqdsd.kinds import CAPTIONS, CLASSIFICATION, KIND_OF_RECIPE, SPEECH
from seqdsd.recipes.catalog import RECIPES
from seqdsd.recipes.training import RunConfig, read_run_provenance
from seqdsd.records import RunFolder, RunFolderError, checked, is_test_split, json_values, shapes, slug
from seqdsd.tasks.classification import Labeller
from seqdsd.text import Tokenizer, WordVocabulary, tokenizer_from_json

SUFFIX = ".dsdz"
READY = Path(__file__).parents[1] / "networks"
"""Files that come with the package; nothing is written there."""
FORMAT = 1
"""Of ``about``."""
ZSTD_PRUNED = "zstd_pruned_bytes"
"""Member of ``about``: what zstd makes of the pruned weights, before they share values, as float32."""
_OF_PHASE = ("name", "kind", "epochs", "learning_rate", "sparsity", "measured_sparsity")
_OF_PROVENANCE = ("command", "seed", "started", "python", "git_commit", "versions", "device_used", "threads")

ConfigT = TypeVar("ConfigT", bound=RunConfig)
PartT = TypeVar("PartT")


class _Phase(Struct):
    """The phase whose weights they are, or that they come from."""

    name: shapes.Name
    kind: shapes.Name
    epochs: shapes.Count
    learning_rate: shapes.Positive
    sparsity: shapes.Share
    measured_sparsity: shapes.Share


class _About(Struct):
    """The header's ``about``, as far as loading needs it."""

    seqdsd: Annotated[int, Meta(ge=1, le=2**31)]
    recipe: shapes.Name
    settings: dict[str, Any]
    phase: _Phase
    data: shapes.Line | None
    provenance: dict[str, Any]
    scores: dict[str, dict[str, Any]] = {}
    tokenizer: dict[str, str] = {}
    vocabulary: dict[str, Any] = {}
    classes: dict[str, Any] = {}


_PARTS: dict[str, tuple[str, Callable[[Saved], Mapping[str, Any]]]] = {
    SPEECH.name: ("tokenizer", lambda saved: saved.tokenizer().to_json()),
    CAPTIONS.name: ("vocabulary", lambda saved: saved.vocabulary().to_json()),
    CLASSIFICATION.name: ("classes", lambda saved: saved.labeller().to_json()),
}
"""By the kind's name: what a network's outputs mean, and by which member of ``about`` it goes."""


def write_model(
    path: Path,
    folder: RunFolder,
    phase: str | None,
    shared: Mapping[str, SharedTensor | Tensor],
    *,
    about: Mapping[str, Any] | None = None,
) -> CompressedFile:
    """Write the network of a run as one file, whole or not at all.

    The file has the bits of what is given. So 16 bits for biases and norms are decided before, and before scores are
    measured: ``half_where_safe`` rounds a tensor where no number moves by more than float16's own precision, none
    becomes 0 or infinite, and ``write_compressed`` sees that two bytes hold it.

    Args:
        path: Of the file; by custom it ends in ``.dsdz``.
        folder: Of the run.
        phase: Its name; None takes the best on dev.
        shared: Compressed weights by name, and dense tensors that training has changed since; what is not among them is
            the phase's own, as it is.
        about: What else is to be said, such as ``corpus``, ``terms``, ``licence``, ``command`` (texts), and ``scores``:
            of the weights that are written, by split (``dev``, ``test`` …) as in ``phases.jsonl``. Without it they are
            the phase's, where the weights are; else there are none.

    Raises:
        ValueError: If the run cannot be used, has no weights of such a name and shape, or ``about`` has a member that
            is not the caller's to give.
        OSError: If the file cannot be written.
    """
    saved = SavedRun(folder)
    recipe, record = saved.recipe(), saved.phase(phase)
    config = saved.config(RECIPES[recipe].config_class())
    weights = dict(saved.weights(record).read())
    state = {**weights, **_checked_names(shared, weights, path)}
    said = {**_about(saved, recipe, config, record), **_said_by_caller(about or {})}
    if "scores" not in said:
        said["scores"] = _scores(record) if _are_the_phases(state, weights) else {}
    _checked(said, path)
    return write_compressed(path, state, json_values(said))


def _about(saved: SavedRun, recipe: str, config: RunConfig, record: Mapping[str, Any]) -> dict[str, Any]:
    part, read = _PARTS[KIND_OF_RECIPE[recipe].name]
    names = (*config.NETWORK_SETTINGS, *config.SETTINGS_OF_USE)
    values = to_values(config, said=lambda path: path.name)  # folders are the maker's own affair
    noted = read_run_provenance(saved.folder)
    return {
        "seqdsd": FORMAT,
        "recipe": recipe,
        "network": KIND_OF_RECIPE[recipe].network_name(recipe, values),
        "settings": {name: values[name] for name in names if name in values},
        part: read(saved),
        "phase": {name: record[name] for name in _OF_PHASE},
        "data": None if config.data is None else config.data.name,
        "provenance": _without_folders({name: noted[name] for name in _OF_PROVENANCE if name in noted}),
    }


_GIVEN = {"seqdsd", "recipe", "network", "settings", "phase", "data", "provenance"} | {
    part for part, _ in _PARTS.values()
}


def _said_by_caller(about: Mapping[str, Any]) -> dict[str, Any]:
    if taken := sorted(_GIVEN & about.keys()):
        raise ValueError(f"about: {', '.join(taken)} is said of the run itself; leave it out")
    return _without_folders(about)


def _without_folders(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with commands in which paths from the root have lost their folders: these are the maker's affair."""
    changed = dict(values)
    if isinstance(command := values.get("command"), str):
        changed["command"] = _without_roots(command)
    if isinstance(commands := values.get("commands"), list):
        changed["commands"] = [_without_roots(one) if isinstance(one, str) else one for one in commands]
    return changed


_FROM_ROOT = re.compile(r"(^|[\s=,;'\"(\[]|:(?!//[^/]))~?/(?:[^'\"\n,;]*/)?")
"""Where a path from the root begins, up to its last part; an address (``https://…``) is none."""


def _without_roots(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError:  # no command line at all
        return _FROM_ROOT.sub(r"\1", command)
    shortened = [_FROM_ROOT.sub(r"\1", word) for word in words]
    return (
        command if shortened == words else shlex.join(shortened)
    )  # with the maker's own quotes, if they can stay


def _checked_names(
    shared: Mapping[str, SharedTensor | Tensor], weights: Mapping[str, Tensor], path: Path
) -> Mapping[str, SharedTensor | Tensor]:
    for name, one in shared.items():
        if name not in weights or weights[name].shape != one.shape:
            own = f"its {name!r} is {tuple(weights[name].shape)}" if name in weights else "it has none"
            raise ValueError(
                f"{path}: not written: {name!r} {tuple(one.shape)} is not of the run's network ({own})"
            )
    return shared


def _scores(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in record.items() if name == "dev" or is_test_split(name)}


def _are_the_phases(state: Mapping[str, SharedTensor | Tensor], weights: Mapping[str, Tensor]) -> bool:
    return all(
        torch.equal(one.dense() if isinstance(one, SharedTensor) else one, weights[name])
        for name, one in state.items()
    )


def _checked(about: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """What a header says of itself, if it is what loading needs.

    Raises:
        RunFolderError: Naming what is missing or of another shape.
    """
    remedy = AGAIN.removeprefix("; ")
    checked(about, _About, f"{path}: its header", remedy=remedy)
    kind = KIND_OF_RECIPE[known_recipe(about["recipe"], f"{path}: its header")]
    for split, scores in about.get("scores", {}).items():
        if split != "dev" and not is_test_split(split):
            raise RunFolderError(f"{path}: its header: scores of {split!r}, which is no set; {remedy}")
        checked(scores, shapes.SCORES[kind.primary.key], f"{path}: its header: scores.{split}", remedy=remedy)
    return about


@dataclass(frozen=True)
class SavedFile:
    """The network in a file; see ``Saved``."""

    file: CompressedFile

    @classmethod
    def read(cls, path: Path) -> SavedFile:
        """Read and check a file's header.

        Raises:
            ValueError: If there is no such file, or it cannot be used; the message says why, and what to do.
        """
        file = read_compressed(path)
        if "recipe" not in file.header:
            raise CompressedFileError(
                f"{path}: holds a network that no recipe here has trained (its header names none); seqdsd inspect "
                "shows what is in it, and seqdsd.compression.read_compressed reads it"
            )
        written = file.header.get("seqdsd")
        if type(written) is int and written > FORMAT:
            raise CompressedFileError(
                f"{path}: from a newer seqdsd (its header has format {written}, this one reads {FORMAT}); install that"
            )
        _checked(file.header, path)
        return cls(file)

    @property
    def about(self) -> Mapping[str, Any]:
        """What the file says of itself; texts are the writer's: show them through ``printable``."""
        return self.file.header

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path

    def recipe(self) -> str:
        """See ``Saved``."""
        return str(self.about["recipe"])

    @property
    def decoding(self) -> Path:
        """A file beside this one; of a network that comes with the package, in the current folder."""
        folder = Path() if self.path.parent == READY else self.path.parent
        return folder / f"{self.path.name}.decoding.toml"

    def config(self, base: ConfigT) -> ConfigT:
        """See ``Saved``."""
        names = {*base.NETWORK_SETTINGS, *base.SETTINGS_OF_USE}
        if others := sorted(self.about["settings"].keys() - names):
            raise CompressedFileError(f"{self.path}: its header has other settings ({', '.join(others)})")
        return with_values(base, self.about["settings"], f"{self.path}: its header: settings.")

    def data(self, config: RunConfig) -> Path | None:
        """See ``Saved``."""
        if (name := self.about["data"]) is not None:
            raise CompressedFileError(
                f"{self.path}: it was trained on {name!r}, and where you have these data, a file cannot know; name "
                "them by --data"
            )
        return None

    def phase(self, name: str | None) -> Mapping[str, Any]:
        """See ``Saved``."""
        own = self.about["phase"]
        if name is not None and slug(name) != slug(own["name"]):
            raise CompressedFileError(
                f"{self.path}: a file holds the weights of one phase, here {own['name']!r}, not {name!r}; leave out "
                "--phase"
            )
        return {**own, **self.about.get("scores", {})}

    def tokenizer(self) -> Tokenizer:
        """See ``Saved``."""
        return self._part("tokenizer", tokenizer_from_json)

    def vocabulary(self) -> WordVocabulary:
        """See ``Saved``."""
        return self._part("vocabulary", WordVocabulary.from_json)

    def labeller(self) -> Labeller:
        """See ``Saved``."""
        return self._part("classes", Labeller.from_json)

    def weights(self, phase: Mapping[str, Any]) -> Weights:
        """See ``Saved``."""
        return Weights(
            path=self.path,
            described_by="the settings in its header",
            remedy=AGAIN.removeprefix("; "),
            like=self._like,
            read=self._tensors,
        )

    @cached_property
    def _like(self) -> Mapping[str, Tensor]:
        return {
            name: torch.empty(entry.shape, dtype=DTYPES[entry.dtype].torch, device="meta")
            for entry in self.file.entries
            for name in entry.names
        }

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for entry in self.file.entries:
            tensor = self.file.tensor(entry.names[0])
            yield from ((name, tensor) for name in entry.names)

    def _part(self, name: str, read: Callable[[Any], PartT]) -> PartT:
        try:
            return read(self.about.get(name))
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise CompressedFileError(
                f"{self.path}: its header: {name}: cannot be used ({error}){AGAIN}"
            ) from error
