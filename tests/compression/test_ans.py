"""Against a decoder in whole numbers, written from docs/format.md; that of whole files is in test_format.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdsd.compression.ans import decode_ans, encode_ans, frequencies
from seqdsd.compression.streams import StreamError, StreamReader


def codes_of(rows: int, columns: int, *, density: float, centroids: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    codes = generator.integers(1, centroids + 1, (rows, columns)).astype(np.uint8)
    return np.where(generator.random((rows, columns)) < density, codes, 0).astype(np.uint8)


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    density=st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0]),
    centroids=st.integers(1, 255),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_what_is_decoded_is_what_was_encoded(rows, columns, density, centroids, seed):
    codes = codes_of(rows, columns, density=density, centroids=centroids, seed=seed)
    coded = encode_ans(codes, centroids)
    assert (decode_ans(StreamReader(coded.data), codes.shape, centroids) == codes).all()
    assert coded.index_bits + coded.code_bits == 8 * len(coded.data)


def test_more_symbols_than_are_coded_at_once():
    codes = codes_of(3, 800_001, density=0.5, centroids=3)
    data = encode_ans(codes, 3).data
    assert (decode_ans(StreamReader(data), codes.shape, 3) == codes).all()


def test_used_rows_and_columns_make_it_smaller():
    generator = np.random.default_rng(0)
    chance = np.outer(generator.choice([0.2, 1.0], 300), generator.choice([0.02, 0.4], 400))
    codes = (generator.random((300, 400)) < chance).astype(np.uint8)
    shuffled = generator.permutation(codes.ravel()).reshape(codes.shape)
    assert len(encode_ans(codes, 1).data) < 0.75 * len(encode_ans(shuffled, 1).data)


def test_size_is_the_entropy():
    codes = codes_of(500, 400, density=0.1, centroids=31)
    kept = np.count_nonzero(codes)
    share = kept / codes.size
    index_bits = -codes.size * (share * np.log2(share) + (1 - share) * np.log2(1 - share))
    coded = encode_ans(codes, 31)
    assert coded.index_bits == pytest.approx(index_bits, rel=0.01)
    assert coded.code_bits == pytest.approx(kept * np.log2(31), rel=0.01)


@pytest.mark.parametrize("counts", [[1, 0, 0], [5, 5], [1, 10**9], [3] * 255, [2**38, 1, 2**37]])
def test_frequencies_are_whole_shares_of_the_range(counts):
    found = frequencies(counts).tolist()
    spare, total = 2**24 - len(counts), sum(counts)
    expected = [1 + count * spare // total for count in counts]
    expected[counts.index(max(counts))] += 2**24 - sum(expected)
    assert found == expected and sum(found) == 2**24


def test_streams_that_nobody_wrote_are_refused():
    codes = codes_of(20, 30, density=0.3, centroids=5)
    data = encode_ans(codes, 5).data
    for damaged in (data[:-4], data[:-1], data + bytes(4), data[:3], b"", data + b"\1\0\0\0"):
        with pytest.raises(StreamError):
            decode_ans(StreamReader(damaged), codes.shape, 5)
    nothing = encode_ans(np.zeros((2, 3), np.uint8), 0).data
    with pytest.raises(StreamError, match="goes on after its last weight"):
        decode_ans(StreamReader(nothing + b"\1\0\0\0"), (2, 3), 0)
    for shape, centroids in (((20, 31), 5), ((21, 30), 5), ((20, 30), 4)):
        with pytest.raises(StreamError):
            decode_ans(StreamReader(data), shape, centroids)
