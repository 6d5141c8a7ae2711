"""MNIST: 70,000 handwritten digits, 28 x 28, grey (LeCun et al. 1998), by its four IDX files, packed or not.

The official test set stays whole; MNIST has no dev set, so training digits are held out for it.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
from image_writing import OfficialSet, Picture, png, write_image_folders
from writing import CorpusFolder, OutFolder, run_script

from seqdsd.data.unpacking import read_unpacked

OFFICIAL_DIGITS = {"train": 60_000, "test": 10_000}
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_FOLDERS = ("", "raw", "MNIST/raw")  # the latter two as torchvision lays them out
_SIDE = 28


def main(
    corpus: CorpusFolder,
    out: OutFolder,
    *,
    dev_per_class: int = 500,
    train_per_class: int | None = None,
    seed: int = 0,
) -> None:
    """Write MNIST as a folder of PNG files for each digit, in train/, dev/ and test/.

    Example: python data_prep/mnist.py ~/corpora/mnist data/mnist

    Args:
        corpus: The folder with train-images-idx3-ubyte.gz and the three others, or their unpacked files.
        out: Folder for the images.
        dev_per_class: How many training digits of each kind are held out as the dev set: 5,000 of 60,000 in all.
        train_per_class: How many of the others of each kind to train on; by default all.
        seed: Which digits those are.
    """
    sets = {split: _digits(corpus, split) for split in _FILES}
    write_image_folders(
        sets["train"],
        sets["test"],
        out,
        dev_per_class=dev_per_class,
        train_per_class=train_per_class,
        seed=seed,
        official=OFFICIAL_DIGITS,
    )


def _digits(corpus: Path, split: str) -> OfficialSet:
    images, labels = read_digits(corpus, split)
    classes = [str(label) for label in labels.tolist()]
    return OfficialSet(
        classes,
        (
            Picture(class_name, f"{index:05d}.png", png(image), _FILES[split][0])
            for index, (image, class_name) in enumerate(zip(images, classes, strict=True))
        ),
    )


def read_digits(corpus: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read images, uint8 [digits, 28, 28], and labels, uint8 [digits], of ``train`` or ``test``.

    Raises:
        ValueError: If a file is missing, damaged, truncated or not what its name says, or the two disagree.
    """
    image_path, label_path = (_find(corpus, name) for name in _FILES[split])
    images, labels = read_idx(image_path, num_dimensions=3), read_idx(label_path, num_dimensions=1)
    if images.shape[1:] != (_SIDE, _SIDE):
        raise ValueError(
            f"{image_path}: images of {images.shape[1]} x {images.shape[2]}, MNIST has {_SIDE} x {_SIDE}."
        )
    if len(images) != len(labels):
        raise ValueError(
            f"{label_path}: {len(labels)} labels for the {len(images)} images of {image_path.name}. Fetch both again."
        )
    if labels.max(initial=0) > 9:
        raise ValueError(f"{label_path}: the label {labels.max()} is not a digit. Fetch it again.")
    return images, labels


def read_idx(path: Path, *, num_dimensions: int) -> np.ndarray:
    """Read an IDX file of bytes, ``.gz`` or not.

    Raises:
        ValueError: If it cannot be read, is not such a file, or has more or fewer bytes than its header states.
    """
    content = _unpacked(path)
    header_bytes = 4 + 4 * num_dimensions
    expected = bytes([0, 0, 8, num_dimensions])  # two zeros, "unsigned bytes", dimensions
    if content[:4] != expected or len(content) < header_bytes:
        raise ValueError(
            f"{path}: not an IDX file of bytes in {num_dimensions} dimensions (it begins with {content[:4].hex(' ')}, "
            f"not {expected.hex(' ')}). Is it MNIST's? Fetch it again."
        )
    shape = np.frombuffer(content, ">i4", num_dimensions, offset=4).tolist()
    num_bytes = len(content) - header_bytes
    if min(shape) < 0 or num_bytes != np.prod(shape, dtype=object):
        raise ValueError(
            f"{path}: {num_bytes} bytes after its header, which states {' x '.join(map(str, shape))}: truncated? "
            "Fetch it again."
        )
    return np.frombuffer(content, np.uint8, offset=header_bytes).reshape(shape)


def _unpacked(path: Path) -> bytes:
    try:
        return read_unpacked(path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: truncated or damaged ({error}). Fetch it again.") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error


def _find(corpus: Path, name: str) -> Path:
    """The file, packed or not, in one of the usual folders; some copies have a dot for the second hyphen."""
    names = (name, name.replace("-idx", ".idx"))
    candidates = [
        corpus / folder / f"{one}{end}" for folder in _FOLDERS for one in names for end in (".gz", "")
    ]
    for path in candidates:
        if path.is_file():
            return path
    raise ValueError(
        f"{corpus}: neither {name}.gz nor {name} is there. Name the folder with MNIST's four files."
    )


if __name__ == "__main__":
    run_script(main)
