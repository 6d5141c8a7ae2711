"""A trained network, loaded for use from a run or a file: with its weights, what goes with it, and its phase's record.

Leaves out going on with training, which is the recipe's ``--resume``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from seqdsd.audio.features import HOP_SAMPLES, SAMPLE_RATE_HZ
from seqdsd.compression.header import MAGIC
from seqdsd.engine import Processes, make_fabric
from seqdsd.fabric import FabricModule
from seqdsd.inference.model_files import SUFFIX, SavedFile
from seqdsd.inference.ready import located, ready_files
from seqdsd.inference.saved import Saved, SavedRun, require_kind
from seqdsd.inference.tuned_decoding import with_tuned_weights
from seqdsd.kinds import CAPTIONS, CLASSIFICATION, SPEECH
from seqdsd.recipes import neuraltalk, vision
from seqdsd.recipes.catalog import RECOGNISERS
from seqdsd.recipes.speech import SpeechConfig
from seqdsd.records import RunFolder, RunFolderError
from seqdsd.tasks import Captioner, DecodingSettings, Recogniser
from seqdsd.tasks.classification import Labeller
from seqdsd.text import Tokenizer
from seqdsd.vision import ENCODERS, ImageEncoder, make_encoder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedRecogniser:
    """A recogniser as one phase of a run left it, on its device and in evaluation mode.

    Attributes:
        saved: Where it lies.
        model: The network as Fabric wraps it, for the precision that it was trained in; ``.module`` is bare.
        recogniser: Features before it and decoding after it.
        config: Settings of the run; of a file those of the network and its use.
        phase: The phase's line of ``phases.jsonl``; of a file what it has of it.
        device: Where the model lies.
        processes: That share the work, where torchrun has started several.
    """

    saved: Saved
    model: FabricModule
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
        saved: Where it lies.
        model: The network as Fabric wraps it; ``.module`` is bare, which is what captions are searched with.
        captioner: Search and words after it.
        config: Settings of the run; of a file those of the network and its use.
        phase: The phase's line of ``phases.jsonl``; of a file what it has of it.
        device: Where the model lies.
        feature_size: Of the image features that it takes.
        processes: As of a recogniser.
    """

    saved: Saved
    model: FabricModule
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
        saved: Where it lies.
        model: The network as Fabric wraps it; ``.module`` is bare.
        labeller: Pixels before it and names of classes after it.
        config: Settings of the run; of a file those of the network and its use.
        phase: The phase's line of ``phases.jsonl``; of a file what it has of it.
        device: Where the model lies.
        processes: As of a recogniser.
    """

    saved: Saved
    model: FabricModule
    labeller: Labeller
    config: vision.Config
    phase: Mapping[str, Any]
    device: torch.device
    processes: Processes


def find_saved(where: RunFolder | Path) -> Saved:
    """What lies at a path, a run's folder or a .dsdz file, to be loaded; or a network of the package by its name.

    Raises:
        ValueError: If a file is none, or cannot be used, or a name is nobody's.
    """
    path = located(where.path if isinstance(where, RunFolder) else where)
    if path.is_file() or (path.suffix == SUFFIX and not path.is_dir()):
        return SavedFile.read(path)
    return SavedRun(RunFolder(path))


def is_saved(path: Path) -> bool:
    """Whether a run's folder or a .dsdz file is there; whether it can be used is another question."""
    if str(path) in ready_files():
        return True
    try:
        if path.is_file():
            with path.open("rb") as file:
                return file.read(len(MAGIC)) == MAGIC
        return RunFolder(path).config.is_file()
    except OSError:
        return False


def load_recogniser(
    where: RunFolder | Path,
    *,
    phase: str | None = None,
    device: str = "auto",
    decoding: DecodingSettings | None = None,
) -> TrainedRecogniser:
    """Load a speech recogniser that was trained here: of a run what a phase handed on, or a file's.

    Args:
        where: Folder of a run with at least one finished phase, which may still be going on; or a .dsdz file.
        phase: Its name as in ``phases.jsonl``, in any case, or with hyphens (``dense-iter-1``); by default
            the best on dev. A file has one.
        device: ``auto`` picks a GPU if there is one; or cpu, cuda, mps.
        decoding: How text is found; by default max decoding. Weights of a language model that are not given are those
            found on dev.

    Raises:
        ValueError: If there is neither a run nor a file, it is another recipe's or has no such phase, its weights
            are damaged, the device is not there, or a language model cannot be used.
    """
    saved = find_saved(where)
    recipe = RECOGNISERS[require_kind(saved, SPEECH)]
    config = saved.config(recipe.config_class())
    record = saved.phase(phase)
    decoding = with_tuned_weights(decoding or DecodingSettings(), saved.decoding, phase=record["name"])
    tokenizer = saved.tokenizer()
    model = saved.weights(record).network(partial(recipe.make_model, config, tokenizer))
    fabric = make_fabric(device, config.precision, is_trained=True)
    return TrainedRecogniser(
        saved=saved,
        model=fabric.setup_module(model).eval(),
        recogniser=Recogniser(config.features.make(), tokenizer, decoding),
        config=config,
        phase=record,
        device=fabric.device,
        processes=Processes.of(fabric),
    )


def load_captioner(
    where: RunFolder | Path,
    *,
    phase: str | None = None,
    device: str = "auto",
    beam: int | None = None,
    max_words: int | None = None,
) -> TrainedCaptioner:
    """Load a captioner that was trained here.

    Args:
        where: As for ``load_recogniser``, like the two that follow.
        phase: See there.
        device: See there.
        beam: Captions kept at each word; by default the run's own.
        max_words: Longest caption; by default the run's own.

    Raises:
        ValueError: As ``load_recogniser``, or for a search that cannot be.
    """
    saved = find_saved(where)
    require_kind(saved, CAPTIONS)
    config = saved.config(neuraltalk.Config())
    search = replace(
        config.search,
        beam=config.beam if beam is None else beam,
        max_words=config.max_words if max_words is None else max_words,
    )
    record = saved.phase(phase)
    vocabulary = saved.vocabulary()
    weights = saved.weights(record)
    # The settings do not say it. Where the tensor is missing any size will do: loading says what is missing.
    image = weights.like.get("image.weight", torch.empty(0))
    feature_size = image.shape[-1] if image.dim() == 2 else 1
    model = weights.network(partial(neuraltalk.make_model, config, vocabulary, feature_size=feature_size))
    fabric = make_fabric(device, config.precision, is_trained=True)
    return TrainedCaptioner(
        saved=saved,
        model=fabric.setup_module(model).eval(),
        captioner=Captioner(vocabulary, search),
        config=config,
        phase=record,
        device=fabric.device,
        feature_size=feature_size,
        processes=Processes.of(fabric),
    )


def load_classifier(
    where: RunFolder | Path, *, phase: str | None = None, device: str = "auto"
) -> TrainedClassifier:
    """Load an image classifier that was trained here.

    Args:
        where: As for ``load_recogniser``, like the two that follow.
        phase: See there.
        device: See there.

    Raises:
        ValueError: As ``load_recogniser``.
    """
    saved = find_saved(where)
    require_kind(saved, CLASSIFICATION)
    config = saved.config(vision.Config())
    record = saved.phase(phase)
    labeller = saved.labeller()
    make = partial(vision.make_model, config, num_classes=len(labeller.classes), image_format=labeller.format)
    model = saved.weights(record).network(make)
    fabric = make_fabric(device, config.precision, is_trained=True)
    return TrainedClassifier(
        saved=saved,
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
    if weights is None and name == own.name and own.weights is not None:
        weights = own.weights
        if not weights.is_file():
            raise RunFolderError(
                f"{trained.saved.path}: its CNN had the weights in {weights}, which is not there; name the file by "
                "--weights"
            )
    encoder = make_encoder(name, weights)
    features = trained.config.features
    # efficientnet_lite0_feats.npy says itself which CNN made it.
    if features is not None and not name_is_given and name not in features.name:
        log.warning(
            "the run was trained on the features in %s; those that %s makes of images may differ from them, if only "
            "by its preprocessing. Name the CNN that made that file by --encoder, which silences this",
            features,
            name,
        )
    return encoder.to(trained.device)


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
    return f"{trained.saved.path}: {given}; the run was trained on features of size {needed}, from {remedy}"
