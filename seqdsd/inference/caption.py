"""``seqdsd caption``: image files of any size and kind to captions, in the memory of one batch.

Features are not kept: photos are captioned once, and the CNN takes less time than reading a large photo does. Leaves
out scoring, which needs references (``seqdsd evaluate``).
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from jaxtyping import UInt8
from PIL import Image

from seqdsd.decode import NonFiniteCaptions, ScoredCaption
from seqdsd.images import IMAGE_SUFFIXES, ImageError, decoded_image, read_image_bytes, to_upright_rgb
from seqdsd.inference.files import find_files, late_progress
from seqdsd.inference.image_batches import find_in_batches, result_line
from seqdsd.inference.trained import TrainedCaptioner, load_captioner, load_encoder
from seqdsd.printable import printable
from seqdsd.recipes.command import run_command
from seqdsd.vision import ENCODERS, ImageEncoder

PROG = "seqdsd caption"
_DESCRIPTION = """Caption images of any size and kind: a line each, with path, tab, caption.

Examples:
  seqdsd caption runs/flickr8k photo.jpg
  seqdsd caption runs/flickr8k photos/ --beam 20 --json > captions.jsonl
"""


@dataclass(frozen=True)
class Caption:
    """What to caption, and with which weights."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a training run (its --out), or a .dsdz file of a captioner, or the name of one (seqdsd models)."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE ...")]
    """Image files, and folders of them (searched to any depth). One that cannot be read (cut short, damaged, of more
    than 100 million pixels) is named on stderr, and the others are captioned."""
    beam: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Captions kept at each word; 1 is greedy search. By default the run's own."""
    max_words: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Longest caption; by default the run's own."""
    phase: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the phase whose weights are used; by default the best on dev. A file has one."""
    encoder: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="NAME",
            help="CNN that the images are seen through, which must be the one that made the features in training; by "
            f"default the run's. One of {', '.join(ENCODERS)}.",
        ),
    ] = None
    weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The CNN's weights, where they are not to be downloaded; by default the run's."""
    batch_size: int = 16
    """Images at once; bounds memory."""
    device: str = "auto"
    """auto picks a GPU if there is one; or cpu, cuda, mps."""
    json: bool = False
    """Print JSON lines: image, caption, and log_prob, the natural log of the caption's probability."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("images: name at least one image or folder")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


@dataclass(frozen=True)
class CaptionedFile:
    """What an image file shows, or why that cannot be said."""

    path: Path
    caption: str = ""
    log_prob: float = 0.0
    """Natural log of the model's probability of the caption."""
    problem: str | None = None
    """Why there is no caption: the image cannot be read, or the network fails on it."""


def caption_images(
    trained: TrainedCaptioner,
    encoder: ImageEncoder,
    images: Iterable[Path | Image.Image],
    *,
    batch_size: int = 16,
    on_captioned: Callable[[int], None] = lambda images: None,
) -> Iterator[CaptionedFile]:
    """Caption images, in their order, a batch at a time; one that cannot be captioned has a ``problem``.

    Args:
        trained: The captioner.
        encoder: Makes the features that it was trained on; on its device.
        images: Files that ``seqdsd.images`` reads, or images that are open; these have no path.
        batch_size: Images at once; bounds memory.
        on_captioned: Called after each batch with the number of files in it.
    """
    for path, found in find_in_batches(
        images,
        prepare=partial(_prepared, encoder),
        find=partial(_search, trained, encoder),
        batch_size=batch_size,
        after_batch=on_captioned,
    ):
        if isinstance(found, ImageError):
            yield CaptionedFile(path, problem=str(found))
        else:
            yield _described(path, found, trained)


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd caption``; exit status 1 where an image could not be captioned."""

    def parse_and_run() -> None:
        asked = tyro.cli(
            Caption, prog=PROG, description=_DESCRIPTION, args=argv, config=(tyro.conf.FlagCreatePairsOff,)
        )
        files = find_files(asked.images, suffixes=IMAGE_SUFFIXES, kind="image")
        trained = load_captioner(
            asked.run,
            phase=asked.phase,
            device=asked.device,
            beam=asked.beam,
            max_words=asked.max_words,
        )
        encoder = load_encoder(trained, asked.encoder, asked.weights)
        with late_progress(lambda: len(files)) as advance:
            captioned = caption_images(
                trained, encoder, files, batch_size=asked.batch_size, on_captioned=advance
            )
            num_bad = sum(not _report(one, as_json=asked.json) for one in captioned)
        if num_bad:
            sys.exit(1)

    run_command(parse_and_run)


def _prepared(encoder: ImageEncoder, image: Path | Image.Image) -> UInt8[np.ndarray, "3 side side"]:
    if not isinstance(image, Path):
        return encoder.prepare(to_upright_rgb(image))
    with decoded_image(read_image_bytes(image), image) as decoded:
        return encoder.prepare(decoded)


@torch.inference_mode()
def _search(
    trained: TrainedCaptioner, encoder: ImageEncoder, pixels: UInt8[np.ndarray, "images 3 side side"]
) -> list[ScoredCaption | None]:
    """Captions of images; None where the network gives NaN or infinity, which does not stop the others."""
    features = encoder(torch.from_numpy(pixels).to(trained.device))
    find = partial(trained.captioner.find, trained.model.module)  # type: ignore[arg-type]  # a NextWordModel it is
    try:
        return [*find(features)]
    except NonFiniteCaptions as error:
        finite = [row for row in range(len(features)) if row not in error.rows]
        found = dict(zip(finite, find(features[finite]), strict=True))
        return [found.get(row) for row in range(len(features))]


def _described(path: Path, found: ScoredCaption | None, trained: TrainedCaptioner) -> CaptionedFile:
    if found is None:
        return CaptionedFile(
            path,
            problem=f"{path}: NaN or infinity from the network. Take another phase (--phase), or other weights of the "
            "CNN (--weights)",
        )
    return CaptionedFile(path, trained.captioner.vocabulary.decode(found.tokens), found.log_prob)


def _report(one: CaptionedFile, *, as_json: bool) -> bool:
    """Print a caption, or on stderr why there is none; whether there is one."""
    if one.problem is not None:
        print(printable(one.problem), file=sys.stderr)
        return False
    value = {"image": str(one.path), "caption": one.caption, "log_prob": round(one.log_prob, 4)}
    print(result_line((str(one.path), one.caption), value, as_json=as_json), flush=True)
    return True
