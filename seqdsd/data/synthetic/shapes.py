"""The embedded corpus for classification: one shape a picture, ten kinds of them, drawn on the spot with no download.

For trying the whole path from pictures to an error rate, and for tests; not a substitute for photographs. Shapes are
turned, stretched, small or large, off the middle and in any colour, over a mottled ground with scraps of other colours
and noise, so that a small network makes some errors. The same `SyntheticShapes` gives the same bytes with one version
of Pillow and numpy on one platform: every picture has a generator of its own, seeded by (seed, split, index).
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageDraw

from seqdsd.data.synthetic.cache import cached_corpus
from seqdsd.data.synthetic.content import SPLITS
from seqdsd.data.synthetic.drawing import OUTLINES, Points, polar, turned
from seqdsd.data.synthetic.progress import progress_bar

GENERATOR_VERSION = 1
"""Part of the cache key: raise it with any change that changes a picture."""

IMAGE_SIZE = 32
"""Pixels on each side."""

SHAPES = {
    **{name: OUTLINES[name] for name in ("circle", "diamond", "heart", "moon", "star")},
    "triangle": polar(1.0, 3),
    "square": turned(polar(1.0, 4), math.pi / 4),
    "pentagon": polar(1.0, 5),
    "hexagon": polar(1.0, 6),
    "cross": np.array(
        [(1, 3), (1, 1), (3, 1), (3, -1), (1, -1), (1, -3)]
        + [(-1, -3), (-1, -1), (-3, -1)]
        + [(-3, 1), (-1, 1), (-1, 3)]
    )
    / 6,
}
"""Class to outline."""

_OVERSAMPLING = 3  # drawn this many times larger and averaged: smooth edges
_EXTENTS = (14.0, 25.0)  # a shape's longest side in pixels
_SCRAPS = 3
_MOTTLES = 5  # of the ground, on each side
_GROUND = (20, 120)  # each colour of the ground, of 255
_LIGHTER = (40, 130)  # a shape is lighter than the ground by so much, in each colour
_NOISE = 8.0


@dataclass(frozen=True, kw_only=True)
class SyntheticShapes:
    """What corpus to make. Equal values mean the same corpus."""

    seed: int = 0
    """Seeds everything; in [0, 2**31)."""

    train_images: int = 2000
    """Pictures for training; classes take turns."""

    dev_images: int = 500
    """Pictures that choose the best epoch."""

    test_images: int = 2000
    """Pictures that judge: of an error rate of 10 %, the standard error is 0.7 %."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"SyntheticShapes.seed must lie in [0, 2**31), got {self.seed}")
        for split in SPLITS:
            if (size := self.num_images(split)) < len(SHAPES):
                raise ValueError(
                    f"SyntheticShapes.{split}_images must be at least {len(SHAPES)}, one a class, got {size}"
                )

    def num_images(self, split: str) -> int:
        """Pictures asked for in ``train``, ``dev`` or ``test``."""
        sizes = (self.train_images, self.dev_images, self.test_images)
        return sizes[SPLITS.index(split)]


def synthetic_shapes(spec: SyntheticShapes, cache_dir: Path | None = None) -> Path:
    """Make the corpus, or find it in the cache.

    Args:
        spec: What to make.
        cache_dir: Where corpora are kept; by default `default_cache_dir`.

    Returns:
        A folder with ``train/``, ``dev/`` and ``test/``, in each a folder of PNG (32 by 32) for each shape. It appears
        complete or not at all; two processes that make it at once end with the same one.

    Raises:
        OSError: If the cache cannot be written; the message says what to do.
    """
    key = {"spec": asdict(spec), "generator": GENERATOR_VERSION, "pillow": PIL.__version__}
    return cached_corpus("synthetic-shapes", key, lambda folder: _build(spec, folder), cache_dir=cache_dir)


def _build(spec: SyntheticShapes, folder: Path) -> None:
    for split in SPLITS:
        for name in SHAPES:
            (folder / split / name).mkdir(parents=True)
    places = [(split, index) for split in SPLITS for index in range(spec.num_images(split))]
    with progress_bar("synthetic shapes", len(places)) as advance:
        for split, index in places:
            name = list(SHAPES)[index % len(SHAPES)]
            rng = np.random.default_rng([spec.seed, SPLITS.index(split), index])
            draw_shape(name, rng).save(folder / split / name / f"{index:05d}.png", compress_level=1)
            advance()


def draw_shape(name: str, rng: np.random.Generator) -> Image.Image:
    """An RGB image of ``IMAGE_SIZE`` with one shape of a class; ``rng`` decides the rest."""
    ground = rng.uniform(*_GROUND, 3)
    image = _ground(ground, rng)
    canvas = ImageDraw.Draw(image)
    for _ in range(rng.integers(_SCRAPS + 1)):
        corners = rng.uniform(0, IMAGE_SIZE, 2) + rng.uniform(-4, 4, (3, 2))
        _fill(canvas, corners, rng.uniform(0, 255, 3))
    extent = rng.uniform(*_EXTENTS)
    stretch = np.exp(rng.uniform(-0.1, 0.1)) ** np.array([1, -1])
    outline = turned(SHAPES[name] * stretch, rng.uniform(-math.pi / 5, math.pi / 5)) * extent
    room = max(0.0, (IMAGE_SIZE - extent) / 2)
    _fill(canvas, outline + IMAGE_SIZE / 2 + rng.uniform(-room, room, 2), ground + rng.uniform(*_LIGHTER, 3))
    pixels = np.asarray(image.reduce(_OVERSAMPLING)) + rng.normal(0, _NOISE, (IMAGE_SIZE, IMAGE_SIZE, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _ground(colour: Points, rng: np.random.Generator) -> Image.Image:
    mottles = np.clip(colour + rng.normal(0, 14, (_MOTTLES, _MOTTLES, 3)), 0, 255)
    coarse = Image.fromarray(mottles.astype(np.uint8))
    return coarse.resize((IMAGE_SIZE * _OVERSAMPLING,) * 2, Image.Resampling.BILINEAR)


def _fill(canvas: ImageDraw.ImageDraw, corners: Points, colour: Points) -> None:
    red, green, blue = colour.astype(int).tolist()
    canvas.polygon([tuple(point) for point in corners * _OVERSAMPLING], fill=(red, green, blue))
