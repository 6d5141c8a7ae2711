"""ImageNet (ILSVRC 2012): 1,281,167 training photographs of 1,000 classes, by its three official archives.

The official test labels are secret, so the official validation set of 50,000, whose labels are in the development kit,
is the test set here, as in the literature; the dev set is held out of the training set. Archives are read where they
lie, and unpacked into a folder a class (about 145 GB). Classes are called by their WordNet ids (n01440764), as
torchvision's are, so that labels agree with its pretrained networks'.
"""

import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal

from image_writing import OfficialSet, Picture, write_image_folders
from scipy.io import loadmat
from writing import CorpusFolder, OutFolder, run_script

from seqdsd.data.synthetic.progress import progress_bar

OFFICIAL_IMAGES = {"train": 1_281_167, "test": 50_000}
TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
KIT = "ILSVRC2012_devkit_t12.tar.gz"
_META, _TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"


def main(corpus: CorpusFolder, out: OutFolder, *, dev_per_class: int = 20, seed: int = 0) -> None:
    """Write ImageNet as a folder of JPEG files for each class, in train/, dev/ and test/.

    Example: python data_prep/imagenet.py ~/corpora/imagenet data/imagenet

    Args:
        corpus: The folder with ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz.
        out: Folder for the images, whose files are written as they are.
        dev_per_class: How many training images of each class are held out as the dev set: 20,000 in all.
        seed: Which images those are.
    """
    for name in (TRAIN, VALIDATION, KIT):
        if not (corpus / name).is_file():
            raise ValueError(f"{corpus}: {name} is missing. Fetch it from image-net.org.")
    classes, truth = read_kit(corpus / KIT)
    write_image_folders(
        _train(corpus / TRAIN, classes),
        _validation(corpus / VALIDATION, classes, truth),
        out,
        dev_per_class=dev_per_class,
        seed=seed,
        official=OFFICIAL_IMAGES,
    )


def read_kit(path: Path) -> tuple[dict[int, str], list[int]]:
    """Read the development kit: class number to WordNet id, and the class number of each validation image.

    Raises:
        ValueError: If it is damaged, lacks one of the two, or they disagree.
    """
    found: dict[str, bytes] = {}
    with _read(path, "r:gz") as kit:
        for member in kit:
            name = "/".join(PurePosixPath(member.name).parts[-2:])
            if name in (_META, _TRUTH) and (file := kit.extractfile(member)) is not None:
                found[name] = file.read()
    for name in (_META, _TRUTH):
        if name not in found:
            raise ValueError(f"{path}: has no {name}. Is it ILSVRC 2012's development kit for tasks 1 and 2?")
    try:
        synsets = loadmat(io.BytesIO(found[_META]), squeeze_me=True)["synsets"]
        # Those with children are groups of classes, not classes.
        leaves = [row for row in synsets if int(row["num_children"]) == 0]
        classes = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
        truth = [int(line) for line in found[_TRUTH].split()]
    except Exception as error:  # damage leads scipy's reader into all kinds of them
        raise ValueError(f"{path}: {_META} or {_TRUTH} is damaged ({error}). Fetch it again.") from error
    if unknown := sorted(set(truth) - set(classes)):
        raise ValueError(
            f"{path}: {_TRUTH} has the class {unknown[0]}, which {_META} does not. Fetch it again."
        )
    return classes, truth


def _train(path: Path, classes: dict[int, str]) -> OfficialSet:
    """Read the archive of archives: ``n01440764.tar``, in which is ``n01440764_10026.JPEG``."""
    names: list[tuple[str, str]] = []
    with _read(path) as archive, progress_bar("looking through the archive", len(classes)) as advance:
        for class_name, inner in _class_archives(path, archive):
            names += [(class_name, member.name) for member in inner if member.isfile()]
            advance()
    if missing := sorted(set(classes.values()) - {class_name for class_name, _ in names}):
        shown = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        raise ValueError(f"{path}: {len(missing)} classes have no image: {shown}. Truncated? Fetch it again.")

    def pictures() -> Iterator[Picture]:
        with _read(path) as archive:
            for class_name, inner in _class_archives(path, archive):
                yield from (Picture(class_name, name, content, str(path)) for name, content in _files(inner))

    return OfficialSet([class_name for class_name, _ in names], pictures())


def _class_archives(path: Path, archive: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarFile]]:
    for member in archive:
        name = PurePosixPath(member.name)
        file = archive.extractfile(member)
        if file is None:
            continue
        if name.suffix != ".tar":
            raise ValueError(
                f"{path}: holds {member.name!r}, not an archive for each class. Is it the official one?"
            )
        with tarfile.open(fileobj=file, mode="r:") as inner:
            yield name.stem, inner


def _validation(path: Path, classes: dict[int, str], truth: list[int]) -> OfficialSet:
    """Read ``ILSVRC2012_val_00000001.JPEG`` and so on; its number is the line of the truth."""
    with _read(path) as archive:
        numbers = [_number(path, member.name) for member in archive if member.isfile()]
    if sorted(numbers) != list(range(1, len(truth) + 1)):
        raise ValueError(
            f"{path}: {len(numbers):,} images, and {len(truth):,} labels in {KIT}. Truncated? Fetch both again."
        )

    def class_of(number: int) -> str:
        return classes[truth[number - 1]]

    def pictures() -> Iterator[Picture]:
        with _read(path) as archive:
            for name, content in _files(archive):
                yield Picture(class_of(_number(path, name)), name, content, str(path))

    return OfficialSet([class_of(number) for number in numbers], pictures())


def _number(path: Path, name: str) -> int:
    digits = PurePosixPath(name).stem.rpartition("_")[2]
    if not digits.isdecimal():
        raise ValueError(f"{path}: {name!r} has no number. Is it the official archive?")
    return int(digits)


def _files(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        if (file := archive.extractfile(member)) is not None:
            yield PurePosixPath(member.name).name, file.read()


@contextmanager
def _read(path: Path, mode: Literal["r:", "r:gz"] = "r:") -> Iterator[tarfile.TarFile]:
    """An archive, whose faults are told with its name."""
    try:
        with tarfile.open(path, mode) as archive:
            yield archive
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: truncated or damaged ({error}). Fetch it again.") from error


if __name__ == "__main__":
    run_script(main)
