"""CIFAR-10: 60,000 photographs of 32 x 32 in ten classes (Krizhevsky 2009).

Two forms are understood: the official binary release (packed or unpacked), and two zips of JPEG files, train.zip and
test.zip, with a folder a class. JPEG loses some of what networks see: compare scores of one form only. The test
set stays whole; CIFAR-10 has no dev set, so training images are held out for it: 45,000 and 5,000.
"""

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np
from image_writing import OfficialSet, Picture, png, write_image_folders
from writing import CorpusFolder, OutFolder, run_script

from seqdsd.images import IMAGE_SUFFIXES

OFFICIAL_IMAGES = {"train": 50_000, "test": 10_000}
ARCHIVE = "cifar-10-binary.tar.gz"
_FOLDER = "cifar-10-batches-bin"
_NAMES = "batches.meta.txt"
_BATCHES = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
_ZIPS = {"train": "train.zip", "test": "test.zip"}
_SIDE = 32
_RECORD_BYTES = 1 + 3 * _SIDE * _SIDE  # a label, then the red, green and blue plane


def main(corpus: CorpusFolder, out: OutFolder, *, dev_per_class: int = 500, seed: int = 0) -> None:
    """Write CIFAR-10 as a folder of images for each class, in train/, dev/ and test/.

    Example: python data_prep/cifar10.py ~/corpora/cifar10 data/cifar10

    Args:
        corpus: The folder with cifar-10-binary.tar.gz, with the .bin files that were in it, or with train.zip and
            test.zip.
        out: Folder for the images: PNG of the binary release; JPEG files of zips as they are.
        dev_per_class: How many training images of each class are held out as the dev set: 5,000 of 50,000 in all.
        seed: Which images those are.
    """
    read = _read_zip if (corpus / _ZIPS["train"]).is_file() else _read_binary
    train, test = read(corpus, "train"), read(corpus, "test")
    if unknown := set(test.classes) ^ set(train.classes):
        raise ValueError(f"{corpus}: only train or only test has the classes {', '.join(sorted(unknown))}.")
    write_image_folders(train, test, out, dev_per_class=dev_per_class, seed=seed, official=OFFICIAL_IMAGES)


def _read_zip(corpus: Path, split: str) -> OfficialSet:
    """Read ``CLASS/NAME.jpg`` of a zip; the files' bytes stay as they are."""
    path = corpus / _ZIPS[split]
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path}: missing, truncated or not a zip ({error}). Fetch it again.") from error
    for name in names:
        if name.count("/") != 1 or not name.lower().endswith(IMAGE_SUFFIXES):
            raise ValueError(
                f"{path}: {name!r} is not 'CLASS/NAME.jpg'. Is this CIFAR-10 as a folder a class?"
            )

    def pictures() -> Iterator[Picture]:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                try:
                    content = archive.read(name)
                except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                    raise ValueError(f"{path}: {name} is damaged ({error}). Fetch it again.") from error
                class_name, _, file_name = name.partition("/")
                yield Picture(class_name, file_name, content, str(path))

    return OfficialSet([name.partition("/")[0] for name in names], pictures())


def _read_binary(corpus: Path, split: str) -> OfficialSet:
    """Read the official batches: records of a label and three planes of 1,024 bytes."""
    files = _binary_files(corpus)
    class_names = files[_NAMES].decode("ascii", errors="replace").split()
    records = [_records(corpus, name, files[name], len(class_names)) for name in _BATCHES[split]]
    all_records = np.concatenate(records)
    classes = [class_names[label] for label in all_records[:, 0].tolist()]

    def pictures() -> Iterator[Picture]:
        for index, (record, class_name) in enumerate(zip(all_records, classes, strict=True)):
            pixels = record[1:].reshape(3, _SIDE, _SIDE).transpose(1, 2, 0)
            yield Picture(
                class_name, f"{index:05d}.png", png(np.ascontiguousarray(pixels)), _BATCHES[split][0]
            )

    return OfficialSet(classes, pictures())


def _records(corpus: Path, name: str, content: bytes, num_classes: int) -> np.ndarray:
    """The records of one file, uint8 [images, 3073]."""
    if not content or len(content) % _RECORD_BYTES:
        raise ValueError(
            f"{corpus}: {name} has {len(content):,} bytes, not whole records of {_RECORD_BYTES:,}: truncated? Fetch it "
            "again."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD_BYTES)
    if (largest := records[:, 0].max()) >= num_classes:
        raise ValueError(
            f"{corpus}: {name} has the label {largest}, and {_NAMES} names {num_classes} classes. Is it CIFAR-10's "
            "binary version?"
        )
    return records


@cache
def _binary_files(corpus: Path) -> dict[str, bytes]:
    """The contents of the official files, packed or not."""
    wanted = [_NAMES, *_BATCHES["train"], *_BATCHES["test"]]
    archive = corpus / ARCHIVE
    if archive.is_file():
        found, where = _unpacked(archive), archive
    else:
        where = corpus / _FOLDER if (corpus / _FOLDER).is_dir() else corpus
        found = {name: (where / name).read_bytes() for name in wanted if (where / name).is_file()}
    if not found:
        raise ValueError(
            f"{corpus}: neither {ARCHIVE}, nor {_BATCHES['train'][0]} and the others that are in it, nor train.zip and "
            "test.zip. Name the folder that they are in."
        )
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(f"{where}: {', '.join(missing)} is missing. Fetch the release again.")
    return found


def _unpacked(archive: Path) -> dict[str, bytes]:
    found = {}
    try:
        with tarfile.open(archive, "r:gz") as files:
            for member in files:
                if (file := files.extractfile(member)) is not None:
                    found[PurePosixPath(member.name).name] = file.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{archive}: truncated or damaged ({error}). Fetch it again.") from error
    return found


if __name__ == "__main__":
    run_script(main)
