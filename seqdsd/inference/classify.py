"""``seqdsd classify``: image files of any size and kind to classes, in the memory of one batch.

Leaves out scoring, which needs to know what is right (``seqdsd evaluate``).
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from jaxtyping import UInt8
from PIL import Image

from seqdsd.data.labelled_images import fitted_pixels
from seqdsd.images import IMAGE_SUFFIXES, ImageError, read_image, to_upright_rgb
from seqdsd.inference.files import find_files, late_progress
from seqdsd.inference.image_batches import find_in_batches, result_line
from seqdsd.inference.trained import TrainedClassifier, load_classifier
from seqdsd.printable import printable
from seqdsd.recipes.command import run_command

PROG = "seqdsd classify"
_DESCRIPTION = """Say which class images of any size and kind are of: a line each, with path, tab, class, tab, \
probability.

Examples:
  seqdsd classify runs/cifar10-resnet20 photo.jpg
  seqdsd classify runs/cifar10-resnet20 photos/ --json > classes.jsonl
"""


@dataclass(frozen=True)
class Classify:
    """What to classify, and with which weights."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a training run (its --out), or a .dsdz file of a classifier, or the name of one (seqdsd models)."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE ...")]
    """Image files, and folders of them (searched to any depth). One that cannot be read (cut short, damaged, of more
    than 100 million pixels) is named on stderr, and the others are classified."""
    phase: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the phase whose weights are used; by default the best on dev. A file has one."""
    batch_size: int = 16
    """Images at once; bounds memory."""
    device: str = "auto"
    """auto picks a GPU if there is one; or cpu, cuda, mps."""
    json: bool = False
    """Print JSON lines: image, class, and top5, the likeliest classes with their probabilities."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("images: name at least one image or folder")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


@dataclass(frozen=True)
class ClassifiedFile:
    """What an image file is taken for, or why that cannot be said."""

    path: Path
    tops: Sequence[Mapping[str, Any]] = ()
    """The likeliest classes, up to five: ``class`` and ``probability``, the likeliest first."""
    problem: str | None = None
    """Why there is no class: the image cannot be read, or the network fails on it."""


def classify_images(
    trained: TrainedClassifier,
    images: Iterable[Path | Image.Image],
    *,
    batch_size: int = 16,
    on_classified: Callable[[int], None] = lambda images: None,
) -> Iterator[ClassifiedFile]:
    """Classify images, in their order, a batch at a time; one that cannot be classified has a ``problem``.

    Args:
        trained: The classifier.
        images: Files that ``seqdsd.images`` reads, or images that are open; these have no path.
        batch_size: Images at once; bounds memory.
        on_classified: Called after each batch with the number of files in it.
    """

    def prepare(image: Path | Image.Image) -> UInt8[np.ndarray, "channels height width"]:
        opened = read_image(image) if isinstance(image, Path) else to_upright_rgb(image)
        return fitted_pixels(opened, trained.labeller.format)

    for path, found in find_in_batches(
        images,
        prepare=prepare,
        find=lambda pixels: _tops(trained, pixels),
        batch_size=batch_size,
        after_batch=on_classified,
    ):
        if isinstance(found, ImageError):
            yield ClassifiedFile(path, problem=str(found))
        else:
            yield _described(path, *found, trained)


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd classify``; exit status 1 where an image could not be classified."""

    def parse_and_run() -> None:
        asked = tyro.cli(
            Classify, prog=PROG, description=_DESCRIPTION, args=argv, config=(tyro.conf.FlagCreatePairsOff,)
        )
        files = find_files(asked.images, suffixes=IMAGE_SUFFIXES, kind="image")
        trained = load_classifier(asked.run, phase=asked.phase, device=asked.device)
        with late_progress(lambda: len(files)) as advance:
            classified = classify_images(trained, files, batch_size=asked.batch_size, on_classified=advance)
            num_bad = sum(not _report(one, as_json=asked.json) for one in classified)
        if num_bad:
            sys.exit(1)

    run_command(parse_and_run)


@torch.inference_mode()
def _tops(
    trained: TrainedClassifier, pixels: UInt8[np.ndarray, "images channels height width"]
) -> Iterator[tuple[list[float], list[int]]]:
    """Of each image the probabilities of its likeliest classes, and which they are."""
    logits, _ = trained.labeller.logits(trained.model, torch.from_numpy(pixels).to(trained.device))
    return zip(*(one.tolist() for one in trained.labeller.tops(logits)), strict=True)


def _described(
    path: Path, probabilities: list[float], tops: list[int], trained: TrainedClassifier
) -> ClassifiedFile:
    if not probabilities[0] <= 1:  # NaN
        return ClassifiedFile(
            path, problem=f"{path}: NaN or infinity from the network. Take another phase (--phase)"
        )
    return ClassifiedFile(path, trained.labeller.said(probabilities, tops))


def _report(one: ClassifiedFile, *, as_json: bool) -> bool:
    """Print a class, or on stderr why there is none; whether there is one."""
    if one.problem is not None:
        print(printable(one.problem), file=sys.stderr)
        return False
    path, best = str(one.path), one.tops[0]
    value = {"image": path, "class": best["class"], "top5": list(one.tops)}
    columns = (path, best["class"], f"{best['probability']:.4f}")
    print(result_line(columns, value, as_json=as_json), flush=True)
    return True
