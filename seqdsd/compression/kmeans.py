"""Lloyd's k-means of numbers on a line: exact, the same everywhere, and quick for tens of millions of them.

The numbers are sorted once. Clusters then are intervals, so that a round only moves their ends: a binary search a
centroid, and sums that are differences of one running sum. Left out: other starts than the linear one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_ROUNDS = 10_000
"""Rounds end when no number changes its cluster any more: after some hundreds for 20 million weights."""


def linear_kmeans(values: NDArray[np.floating[Any]], num_centroids: int) -> NDArray[np.float64]:
    """Centroids of numbers, ascending, begun at equal distances between the smallest and the largest.

    Where there are no more different numbers than centroids, these are the centroids. Those that end up nearest to no
    number are left out of what is returned.

    Args:
        values: Finite numbers, at least one, in any order.
        num_centroids: At least 1.

    Reference: Han et al. 2016 (Deep Compression), sections 3 and 3.1 and the linear initialisation of section 3.2, as
    known from memory. No departure.
    """
    ordered = np.sort(values, axis=None)
    different = ordered[np.append(True, ordered[1:] != ordered[:-1])]
    if len(different) <= num_centroids:
        return different.astype(np.float64)
    # One after the other, so that the sum has the same bits wherever it is taken.
    running = np.append(0.0, np.cumsum(ordered, dtype=np.float64))
    # Of Python's floats: between two of float32 NumPy would count, and overflow, in float32.
    centroids = np.linspace(float(ordered[0]), float(ordered[-1]), num_centroids)
    ends = _ends(ordered, centroids)
    for _ in range(_MAX_ROUNDS):
        sizes, sums = np.diff(ends), np.diff(running[ends])
        # Within its interval also after rounding, and where it was while nothing is nearest to it.
        means = np.clip(sums / np.maximum(sizes, 1), *_interval(ordered, ends))
        centroids = np.where(sizes > 0, means, centroids)
        if np.array_equal(moved := _ends(ordered, centroids), ends):
            break
        ends = moved
    return centroids[np.diff(ends) > 0]


def nearest(values: NDArray[np.floating[Any]], centroids: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The index of the centroid nearest to each number, of two at the same distance the lower; shaped as ``values``.

    Args:
        values: Finite numbers.
        centroids: Ascending, 1 to 256.
    """
    return np.searchsorted(_last_nearest(centroids, values.dtype), values, side="left").astype(np.uint8)


def _last_nearest(centroids: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.floating[Any]]:
    """The largest number of a type that is nearest to each centroid but the last: what lies halfway is the lower's.

    In the numbers' own type, since NumPy would else convert all of them to search among these.
    """
    halfway = (centroids[1:] + centroids[:-1]) / 2
    rounded = halfway.astype(dtype)
    return np.where(rounded > halfway, np.nextafter(rounded, dtype.type(-np.inf)), rounded)


def _ends(ordered: NDArray[np.floating[Any]], centroids: NDArray[np.float64]) -> NDArray[np.int64]:
    """Where each cluster begins among the ordered numbers, and where the last one ends."""
    inner = np.searchsorted(ordered, _last_nearest(centroids, ordered.dtype), side="right")
    return np.concatenate([[0], inner, [len(ordered)]]).astype(np.int64)


def _interval(
    ordered: NDArray[np.floating[Any]], ends: NDArray[np.int64]
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """The smallest and the largest number of each cluster; of an empty one, some number."""
    last = len(ordered) - 1
    return ordered[np.minimum(ends[:-1], last)], ordered[np.maximum(ends[1:] - 1, 0)]
