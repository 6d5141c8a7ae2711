"""A finished phase of a run, loaded for use: the network with its weights, what goes with it, and its record.

Leaves out going on with training, which is the recipe's ``--resume``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn

from seqdsd.audio.features import HOP_SAMPLES, SAMPLE_RATE_HZ
from seqdsd.config import PROVENANCE, read_config
from seqdsd.engine import Processes, make_fabric
from seqdsd.engine.checkpoint import CheckpointError, load_checkpoint
from seqdsd.inference.tuned_decoding import with_tuned_weights
from seqdsd.kinds import CAPTIONS, CLASSIFICATION, KIND_OF_RECIPE, SPEECH, Kind
from seqdsd.recipes import neuraltalk, vision
from seqdsd.recipes.catalog import RECOGNISERS
from seqdsd.recipes.speech import SpeechConfig, read_tokenizer
from seqdsd.recipes.training import read_run_provenance
from seqdsd.records import RunFolder, RunFolderError, slug
from seqdsd.reports import best_phase
from seqdsd.tasks import Captioner, DecodingSettings, Recogniser
from seqdsd.tasks.classification import Labeller
from seqdsd.text import Tokenizer, WordVocabulary
from seqdsd.vision import ENCODERS, ImageEncoder, make_encoder

log = logging.getLogger(__name__)

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True)
class TrainedRecogniser:
    """A recogniser as one phase of a run left it, on its device and in evaluation mode.

    Attributes:
        folder: Of the run.
        model: The network as Fabric wraps it, for the precision that it was trained in; ``.module`` is bare.
        recogniser: Features before it and decoding after it.
        config: Settings of the run.
        phase: The phase's line of ``phases.jsonl``.
        device: Where the model lies.
        processes: That share the work, where torchrun has started several.
    """

    folder: RunFolder
    model: _FabricModule
    recogniser: Recogniser
    config: SpeechConfig
    phase: Mapping[str, Any]
    device: torch.device
    processes: Processes

    @property
    def tokenizer(self) -> Tokenizer:
        """What the network spells with."""
        return self.recogniser.tokenizer

    @property
    def frame_seconds(self) -> float:
        """From one output frame to the next."""
        stride: int = self.model.module.time_stride  # type: ignore[assignment]  # an ``AcousticModel``
        return stride * HOP_SAMPLES / SAMPLE_RATE_HZ


@runtime_checkable
class Transcriber(Protocol):
    """What transcribing needs of a recogniser, trained here or exported."""

    @property
    def model(self) -> Any:
        """Features and their numbers of frames to log-probabilities and theirs."""

    @property
    def recogniser(self) -> Recogniser:
        """Features before it and decoding after it."""

    @property
    def device(self) -> torch.device:
        """Where the model computes."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What the network spells with."""

    @property
    def frame_seconds(self) -> float:
        """From one output frame to the next."""


@dataclass(frozen=True)
class TrainedCaptioner:
    """A caption generator as one phase of a run left it, on its device and in evaluation mode.

    Attributes:
        folder: Of the run.
        model: The network as Fabric wraps it; ``.module`` is bare, which is what captions are searched with.
        captioner: Search and words after it.
        config: Settings of the run.
        phase: The phase's line of ``phases.jsonl``.
        device: Where the model lies.
        feature_size: Of the image features that it takes.
        processes: As of a recogniser.
    """

    folder: RunFolder
    model: _FabricModule
    captioner: Captioner
    config: neuraltalk.Config
    phase: Mapping[str, Any]
    device: torch.device
    feature_size: int
    processes: Processes


@dataclass(frozen=True)
class TrainedClassifier:
    """An image classifier as one phase of a run left it, on its device and in evaluation mode.

    Attributes:
        folder: Of the run.
        model: The network as Fabric wraps it; ``.module`` is bare.
        labeller: Pixels before it and names of classes after it.
        config: Settings of the run.
        phase: The phase's line of ``phases.jsonl``.
        device: Where the model lies.
        processes: As of a recogniser.
    """

    folder: RunFolder
    model: _FabricModule
    labeller: Labeller
    config: vision.Config
    phase: Mapping[str, Any]
    device: torch.device
    processes: Processes


def load_recogniser(
    folder: RunFolder,
    *,
    phase: str | None = None,
    device: str = "auto",
    decoding: DecodingSettings | None = None,
) -> TrainedRecogniser:
    """Load what a phase of a speech recognition run handed on.

    Args:
        folder: Of a run with at least one finished phase; the run may still be going on.
        phase: Its name as in ``phases.jsonl``, in any case, or with hyphens (``dense-iter-1``); by default
            the best on dev.
        device: ``auto`` picks a GPU if there is one; or cpu, cuda, mps.
        decoding: How text is found; by default max decoding. Weights of a language model that are not given are those
            found on dev.

    Raises:
        ValueError: If the folder holds no run, the run is another recipe's or has no such phase, its weights
            are damaged, the device is not there, or a language model cannot be used.
    """
    recipe = RECOGNISERS[_require(folder, SPEECH)]
    config = read_config(folder.config, recipe.config_class())
    record = _find_phase(folder, phase)
    decoding = with_tuned_weights(decoding or DecodingSettings(), folder, phase=record["name"])
    tokenizer = read_tokenizer(folder)
    model = _load_weights(
        partial(recipe.make_model, config, tokenizer), _read_weights(folder, record), folder, record
    )
    fabric = make_fabric(device, config.precision)
    return TrainedRecogniser(
        folder=folder,
        model=fabric.setup_module(model).eval(),
        recogniser=Recogniser(config.features.make(), tokenizer, decoding),
        config=config,
        phase=record,
        device=fabric.device,
        processes=Processes.of(fabric),
    )


def load_captioner(
    folder: RunFolder,
    *,
    phase: str | None = None,
    device: str = "auto",
    beam: int | None = None,
    max_words: int | None = None,
) -> TrainedCaptioner:
    """Load what a phase of a captioning run handed on.

    Args:
        folder: As for ``load_recogniser``, like the two that follow.
        phase: See there.
        device: See there.
        beam: Captions kept at each word; by default the run's own.
        max_words: Longest caption; by default the run's own.

    Raises:
        ValueError: As ``load_recogniser``, or for a search that cannot be.
    """
    _require(folder, CAPTIONS)
    config = read_config(folder.config, neuraltalk.Config())
    search = replace(
        config.search,
        beam=config.beam if beam is None else beam,
        max_words=config.max_words if max_words is None else max_words,
    )
    record = _find_phase(folder, phase)
    vocabulary = WordVocabulary.load(folder.path)
    weights = _read_weights(folder, record)
    # The settings do not say it. Where the tensor is missing any size will do: loading says what is missing.
    image = weights.get("image.weight", torch.empty(0))
    feature_size = image.shape[-1] if image.dim() == 2 else 1
    make = partial(neuraltalk.make_model, config, vocabulary, feature_size=feature_size)
    model = _load_weights(make, weights, folder, record)
    fabric = make_fabric(device, config.precision)
    return TrainedCaptioner(
        folder=folder,
        model=fabric.setup_module(model).eval(),
        captioner=Captioner(vocabulary, search),
        config=config,
        phase=record,
        device=fabric.device,
        feature_size=feature_size,
        processes=Processes.of(fabric),
    )


def load_classifier(
    folder: RunFolder, *, phase: str | None = None, device: str = "auto"
) -> TrainedClassifier:
    """Load what a phase of an image classifier's run handed on.

    Args:
        folder: As for ``load_recogniser``, like the two that follow.
        phase: See there.
        device: See there.

    Raises:
        ValueError: As ``load_recogniser``.
    """
    _require(folder, CLASSIFICATION)
    config = read_config(folder.config, vision.Config())
    record = _find_phase(folder, phase)
    labeller = Labeller.load(folder.path)
    make = partial(vision.make_model, config, num_classes=len(labeller.classes), image_format=labeller.format)
    model = _load_weights(make, _read_weights(folder, record), folder, record)
    fabric = make_fabric(device, config.precision)
    return TrainedClassifier(
        folder=folder,
        model=fabric.setup_module(model).eval(),
        labeller=labeller,
        config=config,
        phase=record,
        device=fabric.device,
        processes=Processes.of(fabric),
    )


def load_encoder(
    trained: TrainedCaptioner, name: str | None = None, weights: Path | None = None
) -> ImageEncoder:
    """Make the CNN that a captioner sees images through, on the captioner's device.

    Args:
        trained: The captioner.
        name: Of the CNN; by default the one in the run's settings.
        weights: File with its weights; by default the run's own, where the CNN is the run's.

    Raises:
        ValueError: If its features do not fit the captioner, or its weights cannot be used.
    """
    own, name_is_given = trained.config.encoder, name is not None
    name = name or own.name
    if name in ENCODERS and ENCODERS[name].feature_size != trained.feature_size:
        raise RunFolderError(_wrong_encoder(trained, name))
    encoder = make_encoder(name, own.weights if weights is None and name == own.name else weights)
    if trained.config.features is not None and not name_is_given:
        log.warning(
            "the run was trained on the features in %s; those that %s makes of images may differ from them, if only "
            "by its preprocessing. Name the CNN that made that file by --encoder, which silences this",
            trained.config.features,
            name,
        )
    return encoder.to(trained.device)


def recipe_of(folder: RunFolder) -> str:
    """Say which recipe trained a run.

    Raises:
        ValueError: If the folder holds no run, or its recipe is not known here.
    """
    if not folder.config.is_file():
        raise RunFolderError(
            f"{folder.path}: not a run folder (it has no config.toml); name the --out of a training run"
        )
    name = read_run_provenance(folder).get("recipe")
    if name not in KIND_OF_RECIPE:
        raise RunFolderError(
            f"{folder.config}: its [{PROVENANCE}] names the recipe {name!r}, not one known here "
            f"({', '.join(KIND_OF_RECIPE)}); take another run, or the version of seqdsd that wrote this one"
        )
    return name


def _require(folder: RunFolder, kind: Kind) -> str:
    """The recipe that trained the run, which is of this kind."""
    found = recipe_of(folder)
    if found not in kind.networks:
        raise RunFolderError(
            f"{folder.path} was trained by {found}: it is {KIND_OF_RECIPE[found].description}"
        )
    return found


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


def _read_weights(folder: RunFolder, phase: Mapping[str, Any]) -> dict[str, Tensor]:
    try:
        return load_checkpoint(folder.weights(phase["name"])).tensors
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; take another phase (--phase), of {_names(folder.read_phases())}"
        ) from error


def _load_weights(
    make: Callable[[], nn.Module],
    weights: Mapping[str, Tensor],
    folder: RunFolder,
    phase: Mapping[str, Any],
) -> nn.Module:
    """The network with these weights."""
    path = folder.weights(phase["name"])
    if bad := next((name for name, one in weights.items() if not one.isfinite().all()), None):
        raise CheckpointError(
            f"{path}: {bad!r} holds NaN or infinity, and the network would say nothing; take another phase (--phase), "
            f"of {_names(folder.read_phases())}"
        )
    try:
        with torch.device("meta"):  # without storage, as settings may ask for more than there is
            make().load_state_dict(weights, assign=True)
        model = make()
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: the weights are not those of the network that {folder.config} and the files beside it "
            f"describe: {error}"
        ) from error
    return model


def _wrong_encoder(trained: TrainedCaptioner, name: str) -> str:
    needed = trained.feature_size
    fitting = ", ".join(other for other, kind in ENCODERS.items() if kind.feature_size == needed)
    given = f"{name} gives image features of size {ENCODERS[name].feature_size}"
    if trained.config.features is None:
        remedy = f"{trained.config.encoder.name}; leave out --encoder"
    elif fitting:
        remedy = (
            f"{trained.config.features}; name the CNN that made them by --encoder (of that size: {fitting})"
        )
    else:
        remedy = (
            f"{trained.config.features}, and no CNN known here gives that size; only feature files can be used "
            "with this run (seqdsd evaluate RUN --features FILE)"
        )
    return f"{trained.folder.path}: {given}; the run was trained on features of size {needed}, from {remedy}"
