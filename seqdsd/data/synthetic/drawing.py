"""Drawing a scene: filled outlines, a little off their places, before a light wall and a darker floor.

Wall and floor are there so that a network that averages over the picture can still tell up from down.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from seqdsd.data.synthetic.content import COUNTS, Figure, Scene

IMAGE_SIZE = 224
"""Pixels on each side."""

PAINT = {
    "red": (235, 20, 20),
    "green": (60, 190, 60),
    "blue": (20, 40, 200),
    "yellow": (255, 230, 0),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
}
GROUND = {"grey": (150, 150, 150), "beige": (190, 170, 140)}

_CENTRES: dict[str, list[tuple[int, int]]] = {
    "top": [(112, 57)],
    "middle": [(112, 112)],
    "bottom": [(112, 167)],
    "above": [(112, 57), (112, 167)],
    "beside": [(57, 112), (167, 112)],
    "two": [(58, 112), (166, 112)],
    "three": [(112, 58), (58, 166), (166, 166)],
    "four": [(58, 58), (166, 58), (58, 166), (166, 166)],
}
_EXTENTS = {"large": 92, "small": 54}  # a figure's longest side in pixels
_EXTENTS_OF_MANY = {"large": 74, "small": 44}

_MOST_SHIFT = 5  # pixels
_MOST_TILT = math.radians(12)
_MOST_STRETCH = 0.06
_OVERSAMPLING = 2  # drawn this many times larger and averaged: smooth edges
_MOTTLES = 28  # of the ground, on each side

Points = NDArray[np.float64]


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """An RGB image of ``IMAGE_SIZE``; ``rng`` decides what captions do not tell, so that no two are equal."""
    image = _ground(scene.background, rng)
    canvas = ImageDraw.Draw(image)
    for figure, extent, centre in _placed(scene, rng):
        outline = _jittered(OUTLINES[figure.shape], rng) * extent + centre
        canvas.polygon([tuple(point) for point in outline * _OVERSAMPLING], fill=_mixed(figure.colour, rng))
    return image.reduce(_OVERSAMPLING)


def _placed(scene: Scene, rng: np.random.Generator) -> list[tuple[Figure, int, Points]]:
    """Each thing to draw, with its extent and its centre in pixels."""
    arrangement = scene.combination.arrangement
    extents = _EXTENTS_OF_MANY if arrangement in COUNTS else _EXTENTS
    things = [
        (figure, extents[size]) for figure, size in zip(scene.combination.figures, scene.sizes, strict=True)
    ]
    if arrangement in COUNTS:
        things *= len(_CENTRES[arrangement])
    if arrangement == "beside" and rng.random() < 0.5:
        things.reverse()
    return [
        (figure, extent, centre + rng.uniform(-_MOST_SHIFT, _MOST_SHIFT, 2))
        for (figure, extent), centre in zip(things, _CENTRES[arrangement], strict=True)
    ]


def _jittered(outline: Points, rng: np.random.Generator) -> Points:
    stretch = 1 + rng.uniform(-_MOST_STRETCH, _MOST_STRETCH, 2)
    return turned(outline * stretch, rng.uniform(-_MOST_TILT, _MOST_TILT))


def _mixed(colour: str, rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = np.clip(np.array(PAINT[colour]) + rng.integers(-12, 13, 3), 0, 255).tolist()
    return red, green, blue


def _ground(background: str, rng: np.random.Generator) -> Image.Image:
    """A wall down to about half the height, then a floor of the same hue; softly mottled."""
    rows = np.arange(_MOTTLES)[:, None, None]
    light = np.where(rows < _MOTTLES // 2 + rng.integers(-1, 2), 1.2, 0.8)
    shade = (
        np.array(GROUND[background]) * light + rng.uniform(-8, 8) + rng.normal(0, 3, (_MOTTLES, _MOTTLES, 1))
    )
    coarse = Image.fromarray(np.clip(shade, 0, 255).astype(np.uint8))
    return coarse.resize((IMAGE_SIZE * _OVERSAMPLING,) * 2, Image.Resampling.BILINEAR)


# Outlines: x to the right and y down.


def turned(outline: Points, angle: float) -> Points:
    """Turn around 0, by radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return outline @ np.array([[cos, sin], [-sin, cos]])


def _unit(x: Points, y: Points) -> Points:
    """Centred on 0, with a longest side of 1: what is drawn stays clear of its neighbours and of the edges."""
    outline = np.stack([x, y], axis=1)
    low, high = outline.min(axis=0), outline.max(axis=0)
    return (outline - (low + high) / 2) / (high - low).max()


def polar(radius: Points | float, corners: int) -> Points:
    """Corners at equal angles, clockwise from the top."""
    angle = 2 * np.pi * np.arange(corners) / corners
    return _unit(radius * np.sin(angle), -radius * np.cos(angle))


def _heart() -> Points:
    angle = 2 * np.pi * np.arange(96) / 96
    y = -13 * np.cos(angle) + 5 * np.cos(2 * angle) + 2 * np.cos(3 * angle) + np.cos(4 * angle)
    return _unit(16 * np.sin(angle) ** 3, y)


def _moon() -> Points:
    """A crescent open to the right: a circle's arc, and back along a smaller circle's."""
    tip, inner_radius = 2.2, 0.85  # the outer circle has radius 1; its arc ends `tip` radians from its middle
    outer = np.linspace(-tip, tip, 48)
    inner_tip = math.asin(math.sin(tip) / inner_radius)
    inner = np.linspace(inner_tip, -inner_tip, 48)
    inner_centre = -math.cos(tip) + inner_radius * math.cos(inner_tip)
    x = np.concatenate([-np.cos(outer), inner_centre - inner_radius * np.cos(inner)])
    return _unit(x, np.concatenate([np.sin(outer), inner_radius * np.sin(inner)]))


OUTLINES = {
    "circle": polar(1.0, 96),
    "star": polar(np.where(np.arange(10) % 2, 0.42, 1.0), 10),
    "heart": _heart(),
    "moon": _moon(),
    "diamond": polar(np.array([1.25, 0.85, 1.25, 0.85]), 4),
}
