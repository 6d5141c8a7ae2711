"""What a compressed file's bytes go into: the published table's columns, a row a tensor, and zstd beside them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import zstandard
from torch import Tensor

from seqdsd.compression.coding import encode_shared
from seqdsd.compression.container import CompressedFile
from seqdsd.compression.header import TensorEntry
from seqdsd.compression.huffman import MAX_GAP_BITS, relative_entries
from seqdsd.compression.sharing import SharedTensor

ZSTD_LEVEL = 19


@dataclass(frozen=True)
class TensorSize:
    """A tensor's row of the table; bits are means over its kept weights.

    Attributes:
        name: The first of its names.
        shape: Of the tensor.
        weights: How many it has.
        kept: How many are not pruned.
        centroids: In its codebook; 0 of a dense tensor.
        coding: "ans", "huffman", or "raw" of a dense one.
        shared_code_bits: Of a code after pruning and weight sharing, in a fixed number of bits; fillers counted.
        shared_index_bits: Of the distance to the next kept weight, the same.
        code_bits: Of a code in the file, its table included.
        index_bits: Of what says which weights are kept in the file, its tables included.
        dense_bytes: Of the tensor as it is read.
        shared_bytes: After pruning and weight sharing: fixed bits, and the codebook.
        size_bytes: Of its stream in the file.
        zstd_float_bytes: What zstd makes of the pruned and shared weights as floats.
        zstd_code_bytes: What zstd makes of the codes, a byte each, and the codebook.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int
    centroids: int
    coding: str
    shared_code_bits: float
    shared_index_bits: float
    code_bits: float
    index_bits: float
    dense_bytes: int
    shared_bytes: int
    size_bytes: int
    zstd_float_bytes: int
    zstd_code_bytes: int

    @property
    def density(self) -> float:
        """Share of the weights that are kept."""
        return self.kept / max(1, self.weights)


@dataclass(frozen=True)
class FileSizes:
    """The table of a file.

    Attributes:
        rows: One a tensor, in the file's order.
        header_bytes: All that is not a stream.
        size_bytes: Of the file: the header and all streams.
    """

    rows: tuple[TensorSize, ...]
    header_bytes: int
    size_bytes: int

    @property
    def dense_bytes(self) -> int:
        """Of all tensors, dense."""
        return sum(row.dense_bytes for row in self.rows)

    @property
    def ratio(self) -> float:
        """How many times smaller the file is than its dense tensors."""
        return self.dense_bytes / self.size_bytes


def file_sizes(file: CompressedFile) -> FileSizes:
    """The table of a file, every tensor of which is decoded and encoded again for it, one after the other.

    Raises:
        CompressedFileError: If a stream is damaged.
    """
    rows = []
    for entry in file.entries:
        shared = file.shared(entry.names[0])
        rows.append(
            _dense_row(entry, file.tensor(entry.names[0])) if shared is None else _shared_row(entry, shared)
        )
    return FileSizes(tuple(rows), file.header_bytes, file.size_bytes)


def _dense_row(entry: TensorEntry, tensor: Tensor) -> TensorSize:
    compressed = zstd_bytes(tensor)
    bits = 8 * entry.size_bytes / max(1, entry.weights)
    return TensorSize(
        name=entry.names[0],
        shape=entry.shape,
        weights=entry.weights,
        kept=entry.weights,
        centroids=0,
        coding=entry.coding,
        shared_code_bits=bits,
        shared_index_bits=0.0,
        code_bits=bits,
        index_bits=0.0,
        dense_bytes=entry.dense_bytes,
        shared_bytes=entry.size_bytes,
        size_bytes=entry.size_bytes,
        zstd_float_bytes=compressed,
        zstd_code_bytes=compressed,
    )


def _shared_row(entry: TensorEntry, shared: SharedTensor) -> TensorSize:
    assert entry.coding != "raw"
    coded = encode_shared(shared, entry.coding)
    kept, fixed = int(shared.mask.sum()), _FixedBits.of(shared)
    return TensorSize(
        name=entry.names[0],
        shape=entry.shape,
        weights=entry.weights,
        kept=kept,
        centroids=len(shared.codebook),
        coding=entry.coding,
        shared_code_bits=fixed.entries * fixed.code_bits / max(1, kept),
        shared_index_bits=fixed.entries * fixed.gap_bits / max(1, kept),
        code_bits=coded.codes.code_bits / max(1, kept),
        index_bits=coded.codes.index_bits / max(1, kept),
        dense_bytes=entry.dense_bytes,
        shared_bytes=-(-fixed.size_bits // 8) + len(coded.codebook),
        size_bytes=entry.size_bytes,
        zstd_float_bytes=zstd_bytes(shared.dense()),
        zstd_code_bytes=zstd_bytes(shared.codes) + len(coded.codebook),
    )


@dataclass(frozen=True)
class _FixedBits:
    """A sparse tensor as published, before Huffman coding: entries of a distance and a code, in the fewest bits."""

    entries: int
    gap_bits: int
    code_bits: int

    @classmethod
    def of(cls, shared: SharedTensor) -> _FixedBits:
        code_bits = len(shared.codebook).bit_length()
        codes = shared.codes.numpy()
        tried = (
            cls(len(relative_entries(codes, bits).codes), bits, code_bits)
            for bits in range(1, MAX_GAP_BITS + 1)
        )
        return min(tried, key=lambda one: one.size_bits)

    @property
    def size_bits(self) -> int:
        return self.entries * (self.gap_bits + self.code_bits)


def zstd_bytes(tensor: Tensor) -> int:
    """How many bytes zstd makes of those of a tensor on the CPU."""
    numbers = tensor.contiguous().flatten().view(torch.uint8).numpy()
    return len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(numbers.tobytes()))
