"""Trained networks for use from Python: ``load`` gives one, of whatever kind; ``USES`` says what each kind can do.

The commands run the same code. Leaves out going on with training, which is the recipe's ``--resume``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torchaudio.functional import resample

from seqdsd.audio.features import SAMPLE_RATE_HZ
from seqdsd.inference import evaluate_captions, evaluate_classes, evaluate_speech
from seqdsd.inference.caption import caption_images
from seqdsd.inference.classify import ClassifiedFile, classify_images
from seqdsd.inference.graphs import Graph, captioner_graphs, classifier_graphs, recogniser_graphs
from seqdsd.inference.scoring import Scores, Scoring
from seqdsd.inference.trained import (
    TrainedCaptioner,
    TrainedClassifier,
    TrainedRecogniser,
    find_saved,
    load_captioner,
    load_classifier,
    load_encoder,
    load_recogniser,
)
from seqdsd.inference.transcribe import Transcript, transcribe
from seqdsd.kinds import CAPTIONS, CLASSIFICATION, KIND_OF_RECIPE, SPEECH
from seqdsd.tasks import DecodingSettings
from seqdsd.vision import ImageEncoder

__all__ = ["CaptionNetwork", "ClassNetwork", "Network", "SpeechNetwork", "load"]

Recording = str | Path | np.ndarray | Tensor
"""An audio file, or samples [samples]: floats, full scale at 1."""
Recordings = Recording | Iterable[Recording]
Picture = str | Path | Image.Image | np.ndarray
"""An image file, an image of Pillow's, or pixels [height, width, 3] of uint8."""
Pictures = Picture | Iterable[Picture]


class Network:
    """A trained network, loaded for use: on its device, in evaluation mode. ``load`` makes one.

    A recogniser can ``transcribe``, a captioner ``caption``, a classifier ``classify``; each says what the others are
    for.
    """

    def __init__(self, trained: TrainedRecogniser | TrainedCaptioner | TrainedClassifier) -> None:
        self._trained = trained

    def __repr__(self) -> str:
        """What was loaded from where."""
        return f"<{self.phase['name']} of {self.folder}, {type(self.model).__name__} on {self.device}>"

    @property
    def folder(self) -> Path:
        """Where it was loaded from: the run's folder, or the file."""
        return self._trained.saved.path

    @property
    def model(self) -> nn.Module:
        """The bare network."""
        return self._trained.model.module

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._trained.device

    @property
    def phase(self) -> Mapping[str, Any]:
        """The phase's line of ``phases.jsonl``, or what a file has of it: its name, its scores, how it was trained."""
        return self._trained.phase

    def evaluate(self, data: str | Path | None = None, *, split: str = "test", **options: Any) -> Scores:
        """Score it as ``seqdsd evaluate`` does; ``.metrics[split]`` of what comes back holds the numbers.

        Args:
            data: Manifests, a caption file or a folder of images; by default the data that the run was trained on. A
                file does not know where they are.
            split: Which part of it.
            **options: What else ``seqdsd evaluate RUN --help`` lists, with underscores: ``on_bad_data="skip"``.

        Raises:
            ValueError: For data that cannot be used, or an option that belongs to ``load``.
        """
        scoring = USES[self._kind].scoring
        asked = scoring.asked_class(
            run=self.folder, data=None if data is None else Path(data), split=split, **options
        )
        if misplaced := [name for name in options if name in scoring.asked_class(run=self.folder).search]:
            raise ValueError(f"{', '.join(misplaced)}: give it to load(), which makes the search")
        return scoring.score(self._trained, asked, Console(quiet=True))

    def transcribe(self, recordings: Recordings, **options: Any) -> list[str]:
        """See ``SpeechNetwork``.

        Raises:
            TypeError: If it is no recogniser.
        """
        raise self._other_kind()

    def caption(self, images: Pictures, *, batch_size: int = 16) -> list[str]:
        """See ``CaptionNetwork``.

        Raises:
            TypeError: If it is no captioner.
        """
        raise self._other_kind()

    def classify(self, images: Pictures, *, batch_size: int = 16) -> list[str]:
        """See ``ClassNetwork``.

        Raises:
            TypeError: If it is no image classifier.
        """
        raise self._other_kind()

    def _other_kind(self) -> TypeError:
        return TypeError(f"{self.folder}: it is {KIND_OF_RECIPE[self._recipe].description}")

    @property
    def _recipe(self) -> str:
        return self._trained.saved.recipe()

    @property
    def _kind(self) -> str:
        return KIND_OF_RECIPE[self._recipe].name


class SpeechNetwork(Network):
    """A recogniser.

    Example:
        recogniser = seqdsd.load("runs/an4-ds1")
        [text] = recogniser.transcribe("recording.flac")
    """

    _trained: TrainedRecogniser

    @classmethod
    def load(cls, where: Path, *, phase: str | None, device: str, **decoding: Any) -> SpeechNetwork:
        """See ``load``."""
        settings = DecodingSettings(**decoding)
        return cls(load_recogniser(where, phase=phase, device=device, decoding=settings))

    def transcribe(self, recordings: Recordings, **options: Any) -> list[str]:
        """The text of each recording, of any length; of one recording, a list of one text.

        Args:
            recordings: Files that libsndfile or ffmpeg reads, or arrays of samples.
            **options: See ``transcripts``.

        Raises:
            ValueError: If one cannot be read (``transcripts`` goes on with the others), or samples are not finite.
            TypeError: If samples are no floats.
        """
        texts = []
        for transcript in self.transcripts(recordings, **options):
            if transcript.problem is not None:
                raise ValueError(transcript.problem)
            texts.append(transcript.text)
        return texts

    def transcripts(
        self,
        recordings: Recordings,
        *,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        with_words: bool = False,
        max_piece_seconds: float = 20.0,
        max_batch_seconds: float = 120.0,
    ) -> Iterator[Transcript]:
        """What was said when, a recording after the other; one that cannot be read has a ``problem``.

        Args:
            recordings: See ``transcribe``.
            sample_rate_hz: Of samples; a file says its own.
            with_words: Whether segments say when each word was said.
            max_piece_seconds: Longer recordings are cut, at a quiet place in the last quarter of this time.
            max_batch_seconds: Pieces of a batch times the longest one's duration; bounds memory.
        """
        return transcribe(
            self._trained,
            (
                Path(one) if isinstance(one, str | Path) else _samples(one, sample_rate_hz)
                for one in _several(recordings, str | Path | np.ndarray | Tensor)
            ),
            max_piece_seconds=max_piece_seconds,
            max_batch_seconds=max_batch_seconds,
            with_words=with_words,
        )


class CaptionNetwork(Network):
    """A captioner, with the frozen CNN that it sees through.

    Example:
        captioner = seqdsd.load("runs/flickr8k-neuraltalk", beam=5)
        [caption] = captioner.caption("photo.jpg")
    """

    _trained: TrainedCaptioner

    @classmethod
    def load(cls, where: Path, *, phase: str | None, device: str, **search: Any) -> CaptionNetwork:
        """See ``load``."""
        return cls(load_captioner(where, phase=phase, device=device, **search))

    @cached_property
    def encoder(self) -> ImageEncoder:
        """The frozen CNN, made when it is first needed."""
        return load_encoder(self._trained)

    def caption(self, images: Pictures, *, batch_size: int = 16) -> list[str]:
        """A caption of each image; of one image, a list of one caption.

        Args:
            images: Files, images of Pillow's, or arrays of pixels.
            batch_size: Images at once; bounds memory.

        Raises:
            ValueError: If one cannot be read or captioned.
        """
        captions = []
        for found in caption_images(self._trained, self.encoder, _opened(images), batch_size=batch_size):
            if found.problem is not None:
                raise ValueError(found.problem)
            captions.append(found.caption)
        return captions


class ClassNetwork(Network):
    """An image classifier.

    Example:
        classifier = seqdsd.load("runs/cifar10-resnet20")
        [name] = classifier.classify("photo.jpg")
    """

    _trained: TrainedClassifier

    @classmethod
    def load(cls, where: Path, *, phase: str | None, device: str) -> ClassNetwork:
        """See ``load``."""
        return cls(load_classifier(where, phase=phase, device=device))

    def classify(self, images: Pictures, *, batch_size: int = 16) -> list[str]:
        """The class of each image; of one image, a list of one class.

        Args:
            images: Files, images of Pillow's, or arrays of pixels.
            batch_size: Images at once; bounds memory.

        Raises:
            ValueError: If one cannot be read or classified.
        """
        names = []
        for found in self.classified(images, batch_size=batch_size):
            if found.problem is not None:
                raise ValueError(found.problem)
            names.append(found.tops[0]["class"])
        return names

    def classified(self, images: Pictures, *, batch_size: int = 16) -> Iterator[ClassifiedFile]:
        """The likeliest classes of each image with their probabilities; one that cannot be read has a ``problem``."""
        return classify_images(self._trained, _opened(images), batch_size=batch_size)


@dataclass(frozen=True)
class Use:
    """What can be done with trained networks of a kind.

    Attributes:
        load: Makes what the commands work with, of a run's folder or a file, a phase, a device and the kind's search.
        network: For Python.
        scoring: What ``seqdsd evaluate`` asks and finds.
        graphs: What ``seqdsd export`` writes, by the end of the files' names, and what who runs them must know.
    """

    load: Callable[..., Any]
    network: type[SpeechNetwork] | type[CaptionNetwork] | type[ClassNetwork]
    scoring: Scoring
    graphs: Callable[[Any], tuple[dict[str, Graph], dict[str, Any]]]


USES = {
    SPEECH.name: Use(load_recogniser, SpeechNetwork, evaluate_speech.SCORING, recogniser_graphs),
    CAPTIONS.name: Use(load_captioner, CaptionNetwork, evaluate_captions.SCORING, captioner_graphs),
    CLASSIFICATION.name: Use(load_classifier, ClassNetwork, evaluate_classes.SCORING, classifier_graphs),
}
"""By the name of the kind."""


def use_of(where: Path) -> Use:
    """What can be done with the network of a run's folder or a file.

    Raises:
        ValueError: If there is neither, or its recipe is not known here.
    """
    return USES[KIND_OF_RECIPE[find_saved(where).recipe()].name]


def load(run: str | Path, *, phase: str | None = None, device: str = "auto", **search: Any) -> Network:
    """Load a trained network for use: ``seqdsd.load("runs/an4-ds1").transcribe("recording.flac")``.

    Args:
        run: Folder of a run with at least one finished phase, a .dsdz file, or the name of a network that comes with
            the package (``seqdsd models`` lists them): ``seqdsd.load("mnist-lenet300")``.
        phase: Its name (``"Dense Iter 1"``); by default the best on dev. A file has one.
        device: ``auto`` picks a GPU if there is one; or cpu, cuda, mps.
        **search: How outputs become text. A recogniser's: ``beam``, ``lm`` (a path), ``lm_weight``, ``word_bonus``,
            ``hot_words`` … (see ``seqdsd.tasks.DecodingSettings``); a captioner's: ``beam``, ``max_words``; a
            classifier has none.

    Raises:
        ValueError: If there is neither a run nor a file, it has no such phase, is damaged, or the device is not there.
        TypeError: For a search that the kind does not have.
    """
    return use_of(Path(run)).network.load(Path(run), phase=phase, device=device, **search)


def _several(given: Any, single: Any) -> Iterable[Any]:
    return [given] if isinstance(given, single) else given


def _opened(images: Pictures) -> Iterator[Path | Image.Image]:
    for one in _several(images, str | Path | Image.Image | np.ndarray):
        yield (
            Path(one)
            if isinstance(one, str)
            else Image.fromarray(one)
            if isinstance(one, np.ndarray)
            else one
        )


def _samples(given: np.ndarray | Tensor, sample_rate_hz: int) -> Float[Tensor, "samples"]:
    samples = torch.as_tensor(given)
    if not samples.is_floating_point():
        raise TypeError(
            f"samples must be floats, full scale at 1, got {samples.dtype}; divide 16-bit ones by 32768"
        )
    if samples.ndim != 1 or not samples.isfinite().all():
        raise ValueError(
            f"samples must be finite and [samples], got {tuple(samples.shape)}; average the channels"
        )
    return resample(samples.float().cpu(), sample_rate_hz, SAMPLE_RATE_HZ)
