"""What a drawn scene can hold, and which combinations are kept out of training.

Chosen by what the pooled features of a frozen ImageNet network (EfficientNet-Lite0) still tell, measured with linear
probes on unseen pictures. Left out because they could not be read: left against right (such networks are trained on
mirrored pictures too), and the colours of squares, triangles and plus signs that share a picture with another figure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, permutations, product

import numpy as np

COLOURS = ("red", "green", "blue", "yellow", "black", "white")
SHAPES = ("circle", "star", "heart", "moon", "diamond")
SIZES = ("large", "small")
BACKGROUNDS = ("grey", "beige")

PLACES = ("top", "middle", "bottom")
RELATIONS = ("above", "beside")
COUNTS = ("two", "three", "four")

SPLITS = ("train", "dev", "test")
HELD_OUT_SHARE = 0.15
"""Share of each arrangement's combinations that only dev shows, and as many again that only test shows."""


@dataclass(frozen=True, order=True)
class Figure:
    """One kind of thing to draw."""

    colour: str
    shape: str


@dataclass(frozen=True)
class Combination:
    """What no two splits share: which figures, and how they are arranged."""

    arrangement: str
    """One of ``PLACES`` (one figure), ``RELATIONS`` (two, unlike in colour and shape) or ``COUNTS`` (one, repeated)."""

    figures: tuple[Figure, ...]
    """Of two, the upper one first; side by side they have no order and are sorted."""


@dataclass(frozen=True)
class Scene:
    """All that captions may tell."""

    combination: Combination
    sizes: tuple[str, ...]
    """Of each figure, one of ``SIZES``."""
    background: str
    """One of ``BACKGROUNDS``."""


def combinations_of(arrangement: str) -> list[Combination]:
    """Every combination of one arrangement, always in the same order."""
    figures = [Figure(colour, shape) for colour, shape in product(COLOURS, SHAPES)]
    if arrangement not in RELATIONS:
        return [Combination(arrangement, (figure,)) for figure in figures]
    pairs = permutations(figures, 2) if arrangement == "above" else combinations(sorted(figures), 2)
    return [
        Combination(arrangement, (one, other))
        for one, other in pairs
        if one.colour != other.colour and one.shape != other.shape
    ]


def share_out(seed: int) -> dict[str, dict[str, list[Combination]]]:
    """Share all combinations out: split -> arrangement -> its combinations, none of them in two splits."""
    shares: dict[str, dict[str, list[Combination]]] = {split: {} for split in SPLITS}
    for number, arrangement in enumerate((*PLACES, *RELATIONS, *COUNTS)):
        every = combinations_of(arrangement)
        # len(SPLITS) keeps these generators apart from the images', which have their split's number there.
        order = np.random.default_rng([seed, len(SPLITS), number]).permutation(len(every))
        held_out = round(HELD_OUT_SHARE * len(every))
        bounds = {"dev": (0, held_out), "test": (held_out, 2 * held_out), "train": (2 * held_out, None)}
        for split, (first, last) in bounds.items():
            shares[split][arrangement] = [every[index] for index in order[first:last]]
    return shares


def draw_scene(rng: np.random.Generator, share: Mapping[str, list[Combination]]) -> Scene:
    """One of a split's combinations, in any size, on any background.

    Two fifths show one figure, two fifths two figures (there is most to learn), one fifth several alike.
    """
    kinds = (PLACES, PLACES, RELATIONS, RELATIONS, COUNTS)
    kind = kinds[rng.integers(len(kinds))]
    candidates = share[kind[rng.integers(len(kind))]]
    combination = candidates[rng.integers(len(candidates))]
    sizes = tuple(SIZES[rng.integers(len(SIZES))] for _ in combination.figures)
    return Scene(combination, sizes, BACKGROUNDS[rng.integers(len(BACKGROUNDS))])
