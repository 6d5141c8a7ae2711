"""Captioned images and a corpus of them, and what must hold before it is trained on: see ``caption_files`` for reading.

No image is opened, and image files need not exist: features may have been computed elsewhere. ``check_images_exist`` is
for when they have not.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from seqdsd.data.speech import OnBadData
from seqdsd.text import WordVocabulary

log = logging.getLogger(__name__)

Split = Literal["train", "dev", "test"]
_NAMED = 5
_SKIP_HINT = "(or --on-bad-data skip)"


class CaptionDataError(ValueError):
    """A caption file that cannot be used; the message names the file, the image and a remedy."""


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """One image with its reference captions."""

    id: str
    """The file's name, for COCO with its folder: ``val2014/COCO_val2014_000000391895.jpg``. Unique."""
    path: str
    """Absolute; the file may be absent."""
    index: int
    """Position in the caption file, which is the row (NeuralTalk: the column) of the image in a feature file."""
    captions: tuple[tuple[str, ...], ...]
    """Words of each caption: at least one caption, at least one word in each."""
    split: Split
    source: str
    """Where it was read, such as ``dataset_flickr8k.json: image 12``: for error messages."""
    caption_numbers: tuple[int, ...] = ()
    """Position of each caption in the file's list, from 0; empty where none was left out."""

    @property
    def caption_ids(self) -> tuple[str, ...]:
        """A name for each caption: ``NAME.jpg#2``, numbered as in the file."""
        numbers = self.caption_numbers or range(len(self.captions))
        return tuple(f"{self.id}#{number}" for number in numbers)


@dataclass(frozen=True)
class CaptionCorpus:
    """What one caption file holds."""

    path: Path
    image_folder: Path
    """Absolute; it may be absent."""
    train: tuple[CaptionedImage, ...]
    """Images of the splits "train" and "restval"."""
    dev: tuple[CaptionedImage, ...]
    """Images of the split "val"."""
    test: tuple[CaptionedImage, ...]
    all_filenames: tuple[str, ...]
    """Every image's id in the order of the file, those skipped included ("" for one without a name, or of a split that
    was not read), so that row i of a feature file belongs to ``all_filenames[i]``."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """What was left out: source to message; always empty unless asked for ``on_bad_data="skip"``."""
    skipped_splits: Mapping[str, Split] = field(default_factory=dict)
    """Source to split of what was left out, where its split is a known one."""
    splits: tuple[Split, ...] = ("train", "dev", "test")
    """Those that are used; of a corpus as it was read, each has an image."""

    def split(self, name: str) -> tuple[CaptionedImage, ...]:
        """The images of ``train``, ``dev`` or ``test``."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[name]

    def skipped_of(self, split: str) -> dict[str, str]:
        """What was left out of ``train``, ``dev`` or ``test``, and what nobody can tell not to belong there."""
        return {
            source: message
            for source, message in self.skipped.items()
            if self.skipped_splits.get(source, split) == split
        }

    @property
    def images(self) -> tuple[CaptionedImage, ...]:
        """The images of all splits, in the order of the file."""
        return tuple(sorted(self.train + self.dev + self.test, key=lambda image: image.index))


def check_images_exist(corpus: CaptionCorpus, *, on_bad_data: OnBadData = "error") -> CaptionCorpus:
    """Make sure that every image is there, before features are computed from them.

    Args:
        corpus: What to check.
        on_bad_data: "error" raises, naming the first absent images and their number; "skip" leaves absent images out
            and lists them.

    Raises:
        CaptionDataError: Also with "skip" if the whole folder is absent, or a split would be left empty.
    """
    if not corpus.image_folder.is_dir():
        raise CaptionDataError(
            f"{corpus.path}: its image folder {corpus.image_folder} does not exist. Name the folder with --images, "
            "or give a feature file."
        )
    absent = [image for image in corpus.images if not os.path.isfile(image.path)]
    if not absent:
        return corpus
    if on_bad_data == "error":
        names = ", ".join(image.id for image in absent[:_NAMED]) + (", …" if len(absent) > _NAMED else "")
        raise CaptionDataError(
            f"{corpus.path}: {len(absent)} of its {len(corpus.images)} images are not in {corpus.image_folder}: "
            f"{names}. Complete the folder, or name another with --images {_SKIP_HINT}."
        )
    skipped = dict(corpus.skipped)
    skipped_splits = {**corpus.skipped_splits, **{image.source: image.split for image in absent}}
    for image in absent:
        message = f"{image.source} ({image.id!r}): the image {image.path} does not exist"
        skipped[image.source] = message
        log.warning("skipped: %s", message)
    gone = {image.index for image in absent}

    def present(images: Sequence[CaptionedImage]) -> tuple[CaptionedImage, ...]:
        return tuple(image for image in images if image.index not in gone)

    train, dev, test = present(corpus.train), present(corpus.dev), present(corpus.test)
    left = replace(corpus, train=train, dev=dev, test=test, skipped=skipped, skipped_splits=skipped_splits)
    return refuse_empty_splits(left)


def check_known_words(
    corpus: CaptionCorpus, vocabulary: WordVocabulary, *, on_bad_data: OnBadData = "error"
) -> CaptionCorpus:
    """Make sure that every training caption has a word that the vocabulary knows: nothing is learnt from the others.

    The references of dev and test stay as they are, whatever is in them.

    Args:
        corpus: What to check.
        vocabulary: Of the training captions.
        on_bad_data: "error" raises for the first such caption; "skip" leaves those captions out, and with them an
            image that has no other.

    Raises:
        CaptionDataError: Also with "skip" if no training image is left.
    """
    skipped, skipped_splits = dict(corpus.skipped), dict(corpus.skipped_splits)
    train = []
    for image in corpus.train:
        known = [any(word in vocabulary for word in caption) for caption in image.captions]
        if all(known):
            train.append(image)
            continue
        for source, error in _wordless(image, known, vocabulary):
            skip_or_raise(error, source, skipped, on_bad_data)
            skipped_splits[source] = "train"
        if any(known):
            train.append(_keep_captions(image, known))
    left = replace(corpus, train=tuple(train), skipped=skipped, skipped_splits=skipped_splits)
    return refuse_empty_splits(left)


def _wordless(
    image: CaptionedImage, known: Sequence[bool], vocabulary: WordVocabulary
) -> Iterator[tuple[str, CaptionDataError]]:
    """Say where each caption is of which no word is known, and what is wrong with it."""
    for words, id_, is_known in zip(image.captions, image.caption_ids, known, strict=True):
        if not is_known:
            source = f"{image.source} caption {id_.rpartition('#')[2]}"
            yield (
                source,
                CaptionDataError(
                    f"{source} ({image.id!r}): none of its words is among the {vocabulary.num_words} of the "
                    f"vocabulary: {shown(' '.join(words))}. Lower the vocabulary's min_count, or remove the caption"
                ),
            )


def _keep_captions(image: CaptionedImage, wanted: Sequence[bool]) -> CaptionedImage:
    """The image with some of its captions, which keep their numbers."""
    numbers = image.caption_numbers or tuple(range(len(image.captions)))
    return replace(
        image,
        captions=tuple(
            caption for caption, is_wanted in zip(image.captions, wanted, strict=True) if is_wanted
        ),
        caption_numbers=tuple(number for number, is_wanted in zip(numbers, wanted, strict=True) if is_wanted),
    )


def skip_or_raise(
    error: CaptionDataError, source: str, skipped: dict[str, str], on_bad_data: OnBadData
) -> None:
    """Note what is left out, or refuse it."""
    if on_bad_data == "error":
        raise CaptionDataError(f"{error} {_SKIP_HINT}") from None
    skipped[source] = str(error)
    log.warning("skipped: %s", error)


def refuse_empty_splits(corpus: CaptionCorpus) -> CaptionCorpus:
    """Return the corpus if every split that was read has an image."""
    for split in corpus.splits:
        if not corpus.split(split):
            name = "val" if split == "dev" else split  # as the file calls it
            first = next(iter(corpus.skipped.values()), None)
            why = f" {len(corpus.skipped)} were skipped; the first: {first}" if first else ""
            raise CaptionDataError(
                f"{corpus.path}: no image of the split '{name}'. Images are needed to train on, to choose by (val) and "
                f"to judge by (test); give each a 'split'.{why}"
            )
    return corpus


def shown(value: Any) -> str:
    """A value for a message, cut short."""
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} within others, too many levels deep"
    return text if len(text) <= 80 else text[:80] + "…"
