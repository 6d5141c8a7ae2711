"""Captions from phase to phase in TensorBoard: a few images, each beside what every phase said of it."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from seqdsd.reports.captions.changes import CaptionRun, ImageCaptions, both_ends
from seqdsd.vision import ImageError, read_image

LONGEST_SIDE = 320
"""Of the images shown, in pixels."""


def log_captions(captions: CaptionRun, folder: Path, *, count: int = 8) -> None:
    """Write the images with the largest gains and losses into a TensorBoard folder; one that is gone has text only.

    The folder appears complete or not at all, so that whoever is killed here can begin again.
    """
    unfinished = folder.with_name(f".{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    with closing(SummaryWriter(str(unfinished))) as writer:
        for image in both_ends(captions.images, count):
            tag = f"captions/{image.id}"
            writer.add_text(tag, _as_markdown(image))
            pixels = _pixels(image.image)
            if pixels is not None:
                writer.add_image(tag, pixels, dataformats="HWC")
    unfinished.rename(folder)


def _pixels(path: Path | None) -> np.ndarray | None:
    if path is None:
        return None
    try:
        image = read_image(path)
    except ImageError:  # it was readable when its features were computed, or they came from a file
        return None
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return np.asarray(image)


def _as_markdown(image: ImageCaptions) -> str:
    captions = [f"| {one.phase} | {one.bleu:.1f} | {one.text} |" for one in image.captions]
    references = [f"- {reference}" for reference in image.refs]
    return "\n".join(
        ["| phase | BLEU | caption |", "|---|--:|---|", *captions, "", "References:", "", *references]
    )
