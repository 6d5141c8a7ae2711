"""A folder of images for classification: ``FOLDER/{train,dev,test}/CLASS/IMAGE``, listed and checked; none is opened.

ImageNet's ``val`` is taken as dev. A class is a folder; the training set's folders, sorted by name as torchvision's
``ImageFolder`` sorts them, are the labels of all three sets. Names are composed (Unicode's NFC): an "é" that one system
writes as one character and another as two is the same.
"""

from __future__ import annotations

import hashlib
import logging
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from seqdsd.data.speech import BadDataError, OnBadData
from seqdsd.images import IMAGE_SUFFIXES
from seqdsd.printable import printable

log = logging.getLogger(__name__)

_FOLDERS = {"train": ("train",), "dev": ("dev", "val"), "test": ("test",)}
_NAMED = 5
_LAYOUT = (
    "--data takes a folder with train/, dev/ and test/, and in each of them a folder of images for each class"
)


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image file and what it shows."""

    id: str
    """``CLASS/NAME.png``, unique in its set: its path below the set's folder, the class spelt as classes are."""
    path: Path
    label: int
    """Position of its class in ``ImageSet.classes``."""


@dataclass(frozen=True)
class ImageSet:
    """The images of one split, sorted by class and then by name."""

    classes: tuple[str, ...]
    images: tuple[LabelledImage, ...]

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of classes and ids: changes when images come, go or change their class."""
        digest = hashlib.blake2b(repr(self.classes).encode(), digest_size=16)
        for image in self.images:
            digest.update(f"{image.id}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()


@dataclass(frozen=True)
class ImageCorpus:
    """What is trained on, what chooses, what judges."""

    folder: Path
    classes: tuple[str, ...]
    train: ImageSet
    dev: ImageSet
    test: ImageSet | None
    """None where the test set was not to be read."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """What was left out: its path below ``folder`` to the reason; empty unless asked for ``on_bad_data="skip"``."""

    def split(self, name: str) -> ImageSet:
        """The images of ``train``, ``dev`` or ``test``."""
        found = {"train": self.train, "dev": self.dev, "test": self.test}[name]
        if found is None:
            raise KeyError(name)
        return found

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of those that were read."""
        return ("train", "dev") if self.test is None else ("train", "dev", "test")


def read_image_corpus(
    folder: Path, *, on_bad_data: OnBadData = "error", with_test: bool = True
) -> ImageCorpus:
    """List the images of a folder with train, dev (or val) and test, a folder a class in each.

    Files that do not end like an image, and hidden ones, are not used, which the log says. A class folder may hold
    folders, whose images are its own.

    Args:
        folder: Of the three.
        on_bad_data: "error" raises for a class that is empty, unknown to training, or absent from dev or test; "skip"
            leaves it out, and says so.
        with_test: Without it the test set need not be there.

    Raises:
        BadDataError: Naming the folder and a remedy; also with "skip" if a set has no image.
    """
    listing = _Listing(folder, on_bad_data)
    found = {split: listing.split(split) for split in _FOLDERS if with_test or split != "test"}
    classes = tuple(sorted(found["train"]))
    for split, of_class in found.items():
        listing.compare_classes(split, of_class, classes)
    sets = {split: _image_set(classes, of_class) for split, of_class in found.items()}
    for split, images in sets.items():
        if not images.images:
            raise BadDataError(f"{listing.folder_of(split)}: no image is left. {_first(listing.skipped)}")
    return ImageCorpus(folder, classes, sets["train"], sets["dev"], sets.get("test"), listing.skipped)


def read_image_set(
    folder: Path, split: str, *, classes: Sequence[str], on_bad_data: OnBadData = "error"
) -> tuple[ImageSet, Mapping[str, str]]:
    """List one set alone, to be judged by a network that knows these classes; not all of them need be there.

    Args:
        folder: As for ``read_image_corpus``; the other sets need not be there.
        split: ``dev`` or ``test``.
        classes: Of the network, in the order of its outputs.
        on_bad_data: As there.

    Returns:
        The set, and what was left out, as ``ImageCorpus`` has it.

    Raises:
        BadDataError: As there; classes that are unknown to the network are refused.
    """
    listing = _Listing(folder, on_bad_data)
    found = listing.split(split)
    listing.compare_classes(split, {**dict.fromkeys(classes, ()), **found}, classes)
    images = _image_set(tuple(classes), found)
    if not images.images:
        raise BadDataError(f"{listing.folder_of(split)}: no image is left. {_first(listing.skipped)}")
    return images, listing.skipped


class _Listing:
    """Lists the sets of a corpus and keeps what was left out."""

    def __init__(self, folder: Path, on_bad_data: OnBadData) -> None:
        self.skipped: dict[str, str] = {}
        self._folder = folder
        self._on_bad_data = on_bad_data

    def folder_of(self, split: str) -> Path:
        """Where the images of ``train``, ``dev`` or ``test`` are."""
        present = [self._folder / name for name in _FOLDERS[split] if (self._folder / name).is_dir()]
        if not present:
            names = " nor ".join(f"{name}/" for name in _FOLDERS[split])
            none = "no" if len(_FOLDERS[split]) == 1 else "neither"
            raise BadDataError(
                f"{self._folder}: {none} {names} is there. {_LAYOUT} (scripts under data_prep/ write them)"
            )
        if len(present) > 1:
            raise BadDataError(
                f"{present[0]} and {present[1]} are both there, and either would be dev. Rename one of them"
            )
        return present[0]

    def split(self, split: str) -> dict[str, list[LabelledImage]]:
        """Class to its images, whose labels are still to be given; a class without images is absent."""
        folder = self.folder_of(split)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        class_folders = [one for one in entries if one.is_dir() and not one.name.startswith(".")]
        if not class_folders:
            loose = next((one.name for one in entries if _is_image(one.name)), None)
            what = "no class folder is there" + (f", but images such as {printable(loose)}" if loose else "")
            raise BadDataError(f"{folder}: {what}. {_LAYOUT}")
        found: dict[str, list[LabelledImage]] = {}
        for one in class_folders:
            name = unicodedata.normalize("NFC", one.name)
            if name in found:
                self._refuse(
                    Path(one.path), "another folder's name looks the same", "Put their images into one"
                )
            elif images := self._nameable(_images_below(Path(one.path), name)):
                found[name] = images
            else:
                self._refuse(Path(one.path), "holds no image", "Put its images there, or remove the folder")
        return found

    def _nameable(self, images: Sequence[LabelledImage]) -> list[LabelledImage]:
        """Those whose names can be written down, in records and pages."""
        good = [image for image in images if _is_unicode(image.id)]
        if len(good) < len(images):
            bad = next(image for image in images if not _is_unicode(image.id))
            count = len(images) - len(good)
            self._refuse(bad.path, f"a name that is not UTF-8, one of {count} in its class", "Rename them")
        return good

    def compare_classes(
        self, split: str, of_class: Mapping[str, Sequence[LabelledImage]], classes: Sequence[str]
    ) -> None:
        """Refuse classes that only one of training and another set has."""
        folder = self.folder_of(split)
        if unknown := sorted(set(of_class) - set(classes)):
            self._refuse(
                folder,
                f"{_counted(unknown)} that the training set lacks",
                "Correct the names, add training images or remove the folders",
                key="classes that train lacks",
            )
        if missing := sorted(set(classes) - set(of_class)):
            self._refuse(
                folder,
                f"lacks {_counted(missing)} of the training set",
                f"Add images of them to {split}, or remove them from train",
                key="classes that it lacks",
            )

    def _refuse(self, path: Path, what: str, remedy: str, *, key: str = "") -> None:
        message = f"{printable(str(path))}: {what}. {remedy}"
        if self._on_bad_data == "error":
            raise BadDataError(f"{message} (or --on-bad-data skip)")
        log.warning("skipped: %s", message)
        self.skipped[" ".join([printable(str(path.relative_to(self._folder))), key]).strip()] = message


def _images_below(folder: Path, class_name: str) -> list[LabelledImage]:
    """The images of a class, sorted by name."""
    images: list[LabelledImage] = []
    others: list[str] = []
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(parent, folder)
        linked = (
            name for name in folders if os.path.islink(os.path.join(parent, name))
        )  # may lead in circles
        others += [f"{name}/" if below == "." else f"{below}/{name}/" for name in linked]
        for name in sorted(name for name in names if not name.startswith(".")):
            inner = name if below == "." else f"{below}/{name}"
            if _is_image(name):
                images.append(LabelledImage(f"{class_name}/{inner}", folder / inner, label=-1))
            else:
                others.append(inner)
    if others:
        log.warning(
            "%s: %d files or links to folders are not used: %s", folder, len(others), _counted(others)
        )
    return images


def _raise(error: OSError) -> None:
    """A folder that cannot be listed is not an empty one."""
    raise error


def _image_set(classes: tuple[str, ...], of_class: Mapping[str, Sequence[LabelledImage]]) -> ImageSet:
    return ImageSet(
        classes,
        tuple(
            LabelledImage(image.id, image.path, label)
            for label, name in enumerate(classes)
            for image in of_class.get(name, ())
        ),
    )


def _is_unicode(name: str) -> bool:
    return not any("\ud800" <= one <= "\udfff" for one in name)


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _counted(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:_NAMED])
    return shown + (f" … ({len(names)} in all)" if len(names) > _NAMED else "")


def _first(skipped: Mapping[str, str]) -> str:
    return f"The first was skipped because {next(iter(skipped.values()))}" if skipped else ""
