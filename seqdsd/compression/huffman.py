"""The published coding: how far it is to the next kept weight, and its code, both Huffman-coded.

A distance is the number of pruned weights between, in a fixed number of bits; where there are more than these can say,
a filler, a weight of code 0, stands in between. The number of bits is the one that makes the stream smallest.

Reference: Han et al. 2016 (Deep Compression), sections 2 and 4, as known from memory. Departure: the number of bits is
not given.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqdsd.compression.ans import Coded, Codes, Counts
from seqdsd.compression.streams import StreamError, StreamReader, number_bytes

MAX_GAP_BITS = 10
MAX_LENGTH = 15
"""Bits of the longest code word: a table of 2^15 finds every word, and four bits hold a length."""
_PART = 2**16


@dataclass(frozen=True)
class Entries:
    """A sparse tensor as published: [entries] each, fillers included.

    Attributes:
        gaps: Pruned weights since the entry before, below 2^bits.
        codes: 0 for a filler.
    """

    gaps: NDArray[np.int64]
    codes: NDArray[np.uint8]


def relative_entries(codes: Codes, gap_bits: int) -> Entries:
    """Distances and codes of the kept weights, with fillers where a distance needs more than ``gap_bits``."""
    flat = codes.ravel()
    places = np.flatnonzero(flat)
    zeros = np.diff(places, prepend=-1) - 1
    # A filler takes a place itself: 2^bits - 1 zeros before it, and one under it.
    fillers = zeros >> gap_bits
    ends = np.cumsum(fillers + 1) - 1
    gaps = np.full(len(places) + int(fillers.sum()), 2**gap_bits - 1)
    with_fillers = np.zeros(len(gaps), np.uint8)
    gaps[ends] = zeros & 2**gap_bits - 1
    with_fillers[ends] = flat[places]
    return Entries(gaps, with_fillers)


def encode_huffman(codes: Codes, num_centroids: int) -> Coded:
    """Encode a tensor's codes; ``decode_huffman`` gives them back."""
    zeros = np.diff(np.flatnonzero(codes), prepend=-1) - 1
    code_counts = np.bincount(codes.ravel(), minlength=num_centroids + 1)
    tables = [_Tables.of(zeros, code_counts, bits) for bits in range(1, MAX_GAP_BITS + 1)]
    best = min(tables, key=lambda one: one.size_bits)
    entries = relative_entries(codes, best.gap_bits)
    gap_words, code_words = _pack(entries.gaps, best.gaps), _pack(entries.codes, best.codes)
    head = number_bytes(best.gap_bits, len(entries.gaps))
    gaps = _nibbles(best.gaps) + number_bytes(len(gap_words)) + gap_words
    coded = _nibbles(best.codes) + code_words
    return Coded(head + gaps + coded, 8 * len(head + gaps), 8 * len(coded))


def decode_huffman(stream: StreamReader, num_weights: int, num_centroids: int) -> NDArray[np.uint8]:
    """The codes of a stream, flat: what ``encode_huffman`` was given.

    Memory is at most ten bytes a weight, besides some megabytes.

    Raises:
        StreamError: If the stream is none of so many weights and centroids.
    """
    gap_bits, count = stream.number(MAX_GAP_BITS), stream.number(num_weights)
    gap_lengths = _read_nibbles(stream, 2**gap_bits)
    gap_words = stream.take(stream.number(2 * num_weights))
    steps = _unpack(gap_words, gap_lengths, count)
    steps += 1
    if (last := int(steps.sum(dtype=np.int64))) > num_weights:
        raise StreamError(f"it has a weight at place {last} of {num_weights}")
    steps[:1] -= 1
    places = np.cumsum(steps, dtype=np.int32 if num_weights < 2**31 else np.int64)
    del steps
    code_lengths = _read_nibbles(stream, num_centroids + 1)
    codes = np.zeros(num_weights, np.uint8)
    codes[places] = _unpack(stream.rest(), code_lengths, count)
    return codes


def code_lengths(counts: Sequence[int] | Counts) -> NDArray[np.uint8]:
    """Bits of each symbol's word in a Huffman code, at most 15; 0 for one that does not occur.

    Where the best code has a longer word, counts are halved until it has not. A symbol that is alone has one bit.
    """
    counts = np.asarray(counts, np.int64)
    while (lengths := _huffman_lengths(counts)).max(initial=0) > MAX_LENGTH:
        counts = (counts + 1) // 2
    return lengths


def _huffman_lengths(counts: Counts) -> NDArray[np.uint8]:
    lengths = np.zeros(len(counts), np.uint8)
    heap = [(int(counts[one]), int(one), [int(one)]) for one in np.flatnonzero(counts)]
    if len(heap) == 1:
        lengths[heap[0][1]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        (some, first, left), (more, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        lengths[left + right] += 1
        heapq.heappush(heap, (some + more, first, left + right))
    return lengths


@dataclass(frozen=True)
class _Tables:
    """The two codes for one number of bits of a distance, and what the stream then takes."""

    gap_bits: int
    gaps: NDArray[np.uint8]
    codes: NDArray[np.uint8]
    size_bits: int

    @classmethod
    def of(cls, zeros: NDArray[np.int64], code_counts: Counts, gap_bits: int) -> _Tables:
        fillers = int(np.sum(zeros >> gap_bits))
        gap_counts = np.bincount(zeros & 2**gap_bits - 1, minlength=2**gap_bits)
        gap_counts[-1] += fillers
        code_counts = np.append(fillers, code_counts[1:])
        gaps, codes = code_lengths(gap_counts), code_lengths(code_counts)
        table_bits = 4 * (len(gaps) + len(codes))
        return cls(gap_bits, gaps, codes, int(gap_counts @ gaps + code_counts @ codes) + table_bits)


def _words(lengths: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The canonical code: symbols by length, then by number, and each one's word, its bits read as a number."""
    symbols = np.flatnonzero(lengths)
    symbols = symbols[np.argsort(lengths[symbols], kind="stable")]
    # Each word is the one before plus 1, with zeros appended up to its own length.
    shares = np.int64(1) << (MAX_LENGTH - lengths[symbols].astype(np.int64))
    return symbols, (np.cumsum(shares) - shares) >> (MAX_LENGTH - lengths[symbols].astype(np.int64))


def _pack(symbols: NDArray[Any], lengths: NDArray[np.uint8]) -> bytes:
    """The words of symbols, one after the other, each with its highest bit first; the last byte ends in zeros."""
    in_order, words = _words(lengths)
    word_of = np.zeros(len(lengths), np.int64)
    word_of[in_order] = words
    parts = [np.zeros(0, np.uint8)]
    for start in range(0, len(symbols), _PART):
        some = symbols[start : start + _PART]
        sizes = lengths[some].astype(np.int64)
        to_the_right = np.repeat(np.cumsum(sizes), sizes) - np.arange(sizes.sum()) - 1
        parts.append((np.repeat(word_of[some], sizes) >> to_the_right & 1).astype(np.uint8))
    return np.packbits(np.concatenate(parts)).tobytes()


def _unpack(data: bytes, lengths: NDArray[np.uint8], count: int) -> NDArray[np.int16]:
    """The symbols of ``_pack``.

    Raises:
        StreamError: If ``lengths`` are no code, or ``data`` are not the words of ``count`` symbols.
    """
    if count > 8 * len(data):
        raise StreamError(f"it has {len(data)} bytes for {count} words")
    symbol_at, length_at = _lookup(lengths)
    symbols = np.empty(count, np.int16)
    done = place = 0
    for first, windows in _windows(data):
        # Where a word ends only its length tells: the one loop that cannot be done for many at a time.
        steps, limit = length_at[windows].tobytes(), len(windows)
        starts, place = [], place - first
        while place < limit:
            starts.append(place)
            place += steps[place]
        place += first
        some = symbol_at[windows[starts[: count - done]]]
        symbols[done : done + len(some)] = some
        done += len(some)
        if done == count:
            break
    # First whether all were found: the rest of ``symbols`` is whatever the memory held.
    are_words = done == count and symbols.min(initial=0) >= 0
    spare = 8 * len(data) - int(lengths[symbols].sum(dtype=np.int64)) if are_words else -1
    if not 0 <= spare < 8 or (data and data[-1] & (1 << spare) - 1):
        raise StreamError(f"it is not the words of {count} weights and fillers")
    return symbols


def _lookup(lengths: NDArray[np.uint8]) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """By the next 15 bits: the symbol (-1 for no word) and its word's length (1 for no word)."""
    symbols, _ = _words(lengths)
    shares = 1 << (MAX_LENGTH - lengths[symbols].astype(np.int64))
    filled = int(shares.sum())
    if filled != 2**MAX_LENGTH and not (len(symbols) == 1 and filled == 2 ** (MAX_LENGTH - 1)) and filled:
        raise StreamError("the lengths of its words are those of no Huffman code")
    symbol_at = np.full(2**MAX_LENGTH, -1, np.int16)
    length_at = np.ones(2**MAX_LENGTH, np.uint8)
    symbol_at[:filled] = np.repeat(symbols, shares)
    length_at[:filled] = np.repeat(lengths[symbols], shares)
    return symbol_at, length_at


def _windows(data: bytes) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """The 15 bits from every bit on, in parts: the part's first bit, and [bits]; past the end come zeros."""
    padded = np.frombuffer(data + bytes(2), np.uint8)
    for start in range(0, len(data), _PART):
        some = padded[start : start + _PART + 2].astype(np.int32)
        three = some[:-2] << 16 | some[1:-1] << 8 | some[2:]
        shifts = 24 - MAX_LENGTH - np.arange(8, dtype=np.int32)
        yield 8 * start, (three[:, None] >> shifts & 2**MAX_LENGTH - 1).ravel()


def _nibbles(lengths: NDArray[np.uint8]) -> bytes:
    """Four bits a length, two in a byte, the first in its higher half."""
    pairs = np.append(lengths, np.zeros(len(lengths) % 2, np.uint8)).reshape(-1, 2)
    return (pairs[:, 0] << 4 | pairs[:, 1]).astype(np.uint8).tobytes()


def _read_nibbles(stream: StreamReader, count: int) -> NDArray[np.uint8]:
    packed = np.frombuffer(stream.take((count + 1) // 2), np.uint8)
    lengths = np.stack([packed >> 4, packed & 15], axis=1).ravel()
    if lengths[count:].any():
        raise StreamError("its table of lengths has one too many")
    return lengths[:count]
