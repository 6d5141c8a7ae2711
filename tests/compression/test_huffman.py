"""Against codes and entries made in the slow, obvious way."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdsd.compression.huffman import code_lengths, decode_huffman, encode_huffman, relative_entries
from seqdsd.compression.streams import StreamError, StreamReader


@given(
    size=st.integers(1, 3000),
    density=st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.0]),
    centroids=st.integers(1, 255),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_what_is_decoded_is_what_was_encoded(size, density, centroids, seed):
    generator = np.random.default_rng(seed)
    codes = np.where(generator.random(size) < density, generator.integers(1, centroids + 1, size), 0).astype(
        np.uint8
    )
    coded = encode_huffman(codes, centroids)
    assert (decode_huffman(StreamReader(coded.data), size, centroids) == codes).all()
    assert coded.index_bits + coded.code_bits == 8 * len(coded.data)


def test_words_across_the_parts_in_which_they_are_read():
    generator = np.random.default_rng(0)
    codes = (
        np.where(generator.random(700_000) < 0.6, generator.geometric(0.3, 700_000), 0)
        .clip(0, 40)
        .astype(np.uint8)
    )
    coded = encode_huffman(codes, 40)
    assert coded.index_bits > 8 * 2**16 < coded.code_bits
    assert (decode_huffman(StreamReader(coded.data), len(codes), 40) == codes).all()


@pytest.mark.parametrize("gap_bits", [1, 3, 8])
def test_entries_as_published(gap_bits):
    generator = np.random.default_rng(0)
    codes = np.where(generator.random(2000) < 0.1, 7, 0).astype(np.uint8)
    gaps, found, zeros = [], [], 0
    for code in codes:
        if code == 0 and zeros < 2**gap_bits - 1:
            zeros += 1
        else:  # a kept weight, or a zero that can no longer be counted
            gaps.append(zeros)
            found.append(code)
            zeros = 0
    while found[-1] == 0:  # what follows the last kept weight needs no fillers
        gaps.pop()
        found.pop()
    entries = relative_entries(codes, gap_bits)
    assert entries.gaps.tolist() == gaps and entries.codes.tolist() == found


def optimal_bits(counts: tuple[int, ...]) -> int:
    """The fewest bits of any prefix code, by trying all lengths that Kraft's inequality allows."""
    lengths = itertools.product(range(1, len(counts) + 1), repeat=len(counts))
    allowed = (some for some in lengths if sum(2.0**-one for one in some) <= 1)
    return min(sum(count * length for count, length in zip(counts, some, strict=True)) for some in allowed)


@pytest.mark.parametrize("counts", [(3, 3), (1, 1, 1), (10, 1, 1, 1), (1, 2, 4, 8, 16), (7, 7, 1, 5, 2)])
def test_codes_are_the_best(counts):
    lengths = code_lengths(counts)
    assert int(np.dot(counts, lengths)) == optimal_bits(counts)
    assert sum(2.0 ** -lengths.astype(float)) == 1


def test_no_word_is_longer_than_a_table_can_be():
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = code_lengths(fibonacci)
    assert lengths.max() == 15 and sum(2.0 ** -lengths.astype(float)) == 1


def test_symbols_that_are_alone_or_absent():
    assert code_lengths([0, 9, 0]).tolist() == [0, 1, 0]
    assert code_lengths([0, 0]).tolist() == [0, 0]


def test_streams_that_nobody_wrote_are_refused():
    codes = np.array([0, 1, 2, 0, 0, 3, 1, 1, 0, 2] * 9, np.uint8)
    data = encode_huffman(codes, 3).data
    for damaged in (data[:-1], data[:4], b"", data + b"\0", b"\x0b" + data[1:]):
        with pytest.raises(StreamError):
            decode_huffman(StreamReader(damaged), len(codes), 3)
    with pytest.raises(StreamError, match="a weight at place"):
        decode_huffman(StreamReader(data), len(codes) - 1, 3)
    no_code = bytearray(data)
    no_code[2] ^= 0x11  # lengths of words that leave a gap, or overlap
    with pytest.raises(StreamError, match="no Huffman code"):
        decode_huffman(StreamReader(bytes(no_code)), len(codes), 3)


def test_a_last_byte_that_does_not_end_in_zeros_is_refused():
    """There would be two streams of one tensor."""
    codes = np.array([0, 1, 2, 0, 0, 3, 1, 1, 0, 2] * 9, np.uint8)
    coded = encode_huffman(codes, 3)
    assert coded.data[-1] & 1 == 0  # a spare bit
    with pytest.raises(StreamError, match="not the words"):
        decode_huffman(StreamReader(coded.data[:-1] + bytes([coded.data[-1] | 1])), len(codes), 3)
