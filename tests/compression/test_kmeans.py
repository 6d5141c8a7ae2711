"""Against Lloyd's algorithm in fractions, which rounds nothing."""

from fractions import Fraction

import numpy as np
import pytest

from seqdsd.compression.kmeans import linear_kmeans, nearest


def exact_lloyd(values: list[float], num_centroids: int) -> list[Fraction]:
    numbers = [Fraction(value) for value in values]
    low, high = min(numbers), max(numbers)
    centroids = [low + (high - low) * index / (num_centroids - 1) for index in range(num_centroids)]
    while True:
        # ``min`` takes the first, which is the lower, of two at the same distance.
        of = [min(range(num_centroids), key=lambda one: abs(number - centroids[one])) for number in numbers]
        moved = list(centroids)
        for one in set(of):
            own = [number for number, its in zip(numbers, of, strict=True) if its == one]
            moved[one] = sum(own) / len(own)
        if moved == centroids:
            return [centroids[one] for one in sorted(set(of))]
        centroids = moved


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_as_exact_arithmetic_has_it(seed, dtype):
    generator = np.random.default_rng(seed)
    # Heavy tails and a hole where weights were pruned: some centroids end up with nothing.
    values = generator.standard_t(2, 200).astype(dtype)
    values = values[np.abs(values) > 0.7]
    expected = exact_lloyd(values.tolist(), 7)
    assert linear_kmeans(values, 7) == pytest.approx([float(one) for one in expected], rel=1e-12)
    assert linear_kmeans(generator.permutation(values), 7).tobytes() == linear_kmeans(values, 7).tobytes()


def test_few_different_values_are_their_own_centroids():
    values = np.array([3, -1, 3, 0.5, -1], np.float32)
    assert linear_kmeans(values, 3).tolist() == [-1, 0.5, 3]
    assert linear_kmeans(values, 2).tolist() == [-0.5, 3]
    assert linear_kmeans(values, 1).tolist() == [pytest.approx(0.9)]
    assert linear_kmeans(np.array([2.0]), 5).tolist() == [2]


def test_numbers_whose_distance_is_no_float32():
    values = np.array([-3e38, 1e38, 2e38, 3e38], np.float32)
    assert linear_kmeans(values, 3) == pytest.approx([-3e38, 1e38, 2.5e38])


def test_halfway_is_the_lowers_however_it_is_rounded():
    step = np.float32(2.0**-23)
    for low in (np.float32(1), np.float32(1) + step):  # half a step more is rounded down, and up
        pair = np.array([low, low + step])
        assert nearest(pair, pair.astype(np.float64)).tolist() == [0, 1]
    centroids = np.array([-1, 1, 4.0])
    assert nearest(np.array([0, 2.5, 2.5 + 1e-6, -9, 9], np.float32), centroids).tolist() == [0, 1, 2, 0, 2]
    for seed in range(5):
        generator = np.random.default_rng(seed)
        values, centroids = generator.normal(size=500).astype(np.float32), np.sort(generator.normal(size=9))
        distances = np.abs(values[:, None].astype(np.float64) - centroids)
        assert (nearest(values, centroids) == distances.argmin(1)).all()
