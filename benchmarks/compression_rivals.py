"""A compressed network beside what others make of the same weights: the rows of ``benchmarks.compression --table``.

Every row has all tensors. Dense ones (biases, norms) are counted as the file stores them, where weights are shared, and
codebooks are in every row that has codes. Only the file itself has a header.
"""

import gzip
import io
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import constriction
import numpy as np
import zstandard
from numpy.typing import NDArray

from seqdsd.compression import CompressedFile, SharedTensor, encode_shared, file_sizes
from seqdsd.compression.ans import frequencies
from seqdsd.compression.huffman import MAX_GAP_BITS, code_lengths, relative_entries
from seqdsd.compression.streams import number_bytes
from seqdsd.kinds import NONE

PUBLISHED = {
    "LeNet-300-100": ("Deep Compression, published", 40),
    "LeNet-5": ("Deep Compression, published", 39),
}
"""Times smaller, by the network's name (1.58 and 0.74 % error); Han et al. 2016, table 1, the overview's figure 3."""

DEEP_CABAC = """
import glob, importlib.util, io, sys
import numpy as np
# The package itself would import torch, pandas and more, none of which coding needs.
[path] = [one for folder in sys.path for one in glob.glob(folder + "/nncodec/extensions/deepCABAC*.so")]
spec = importlib.util.spec_from_file_location("deepCABAC", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
codes = np.load(io.BytesIO(sys.stdin.buffer.read()))
off = (module.HdspMode.AlwaysOff, np.zeros(2, np.int8))
sizes = []
for unary in range(1, 21):
    encoder = module.Encoder()
    encoder.initCtxModels(unary, 1)
    encoder.encodeLayer(codes, 0, 0, 0, 0, 0, np.zeros(codes.shape[0], np.int32), *off, 0, 0)
    stream = encoder.finish()
    decoder, again = module.Decoder(), np.zeros_like(codes)
    decoder.setStream(stream)
    decoder.initCtxModels(unary)
    decoder.decodeLayer(again, 0, 0, 0, 0, *off, 0, 0)
    assert np.array_equal(again, codes)
    sizes.append(len(stream.tobytes()))
print(min(sizes))
"""


@dataclass(frozen=True)
class Rival:
    """A row.

    Attributes:
        name: Of the way.
        size_bytes: What it takes.
    """

    name: str
    size_bytes: float


def rivals(file: CompressedFile, nncodec: Path | None) -> Iterator[Rival]:
    """The rows of a file's table, from dense to smallest.

    Args:
        file: The network.
        nncodec: Interpreter of an environment that has nncodec; None leaves it out.
    """
    tensors = [one for entry in file.entries if (one := file.shared(entry.names[0])) is not None]
    dense_bytes = sum(entry.size_bytes for entry in file.entries if entry.coding == "raw")
    floats = b"".join(file.tensor(entry.names[0]).numpy().tobytes() for entry in file.entries)
    codes = b"".join(one.codes.numpy().tobytes() for one in tensors)
    codebooks = sum(len(encode_shared(one, "ans").codebook) for one in tensors)
    beside = dense_bytes + codebooks
    zstd, coded = zstandard.ZstdCompressor(level=19), [_Parts.of(one) for one in tensors]
    yield Rival("float32", len(floats))
    yield Rival("pruned and shared, as floats: gzip -9", len(gzip.compress(floats, 9)))
    yield Rival("pruned and shared, as floats: zstd -19", len(zstd.compress(floats)))
    yield Rival("codes, a byte each: gzip -9", beside + len(gzip.compress(codes, 9)))
    yield Rival("codes, a byte each: zstd -19", beside + len(zstd.compress(codes)))
    fixed = sum(row.shared_bytes for row in file_sizes(file).rows if row.coding != "raw")
    yield Rival("relative indices, fixed bits (published, before coding)", dense_bytes + fixed)
    yield Rival("relative indices, Huffman (published)", beside + sum(one.gaps_huffman for one in coded))
    yield Rival("relative indices, ANS", beside + sum(one.gaps_ans for one in coded))
    yield Rival("coded mask, codes by Huffman", beside + sum(one.mask_huffman for one in coded))
    yield Rival("coded mask, codes by ANS", beside + sum(one.mask_ans for one in coded))
    if nncodec is not None:
        by_it = sum(deep_cabac(one, nncodec) for one in tensors)
        yield Rival("nncodec's DeepCABAC of the codes", beside + by_it)
    yield Rival("**this file** without its header", file.size_bytes - file.header_bytes)
    yield Rival("**this file**, header and all", file.size_bytes)
    if (network := file.header.get("network")) in PUBLISHED:
        name, times = PUBLISHED[network]
        yield Rival(name, len(floats) / times)


def markdown(rows: list[Rival]) -> str:
    """The table."""
    dense = rows[0].size_bytes
    lines = ["| way | bytes | times smaller |", "|:--|--:|--:|"]
    return "\n".join(
        [*lines, *(f"| {one.name} | {one.size_bytes:,.0f} | {dense / one.size_bytes:.1f} |" for one in rows)]
    )


def side_by_side(tables: Mapping[str, list[Rival]]) -> str:
    """Of several networks, by name, how many times smaller each way makes them."""
    times = {
        name: {one.name: f"{rows[0].size_bytes / one.size_bytes:.1f}" for one in rows}
        for name, rows in tables.items()
    }
    ways = dict.fromkeys(way for column in times.values() for way in column)
    lines = [["way", *(f"`{name}`" for name in times)], [":--", *["--:"] * len(times)]]
    lines += [[way, *(column.get(way, NONE) for column in times.values())] for way in ways]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


@dataclass(frozen=True)
class _Parts:
    """Bytes of a tensor's codes: where the kept weights are, two ways, by what they are, two ways."""

    gaps_huffman: float
    gaps_ans: float
    mask_huffman: float
    mask_ans: float

    @classmethod
    def of(cls, shared: SharedTensor) -> "_Parts":
        ans, codes = encode_shared(shared, "ans").codes, shared.codes.numpy()
        kept = codes[codes > 0]
        return cls(
            gaps_huffman=len(encode_shared(shared, "huffman").codes.data),
            gaps_ans=min(_gaps_ans(codes, bits) for bits in range(1, MAX_GAP_BITS + 1)),
            mask_huffman=ans.index_bits / 8 + _huffman_bytes(np.bincount(kept)),
            mask_ans=len(ans.data),
        )


def _huffman_bytes(counts: NDArray[np.int64]) -> float:
    lengths = code_lengths(counts)
    return (int(counts @ lengths) + 4 * len(lengths)) / 8


def _gaps_ans(codes: NDArray[np.uint8], gap_bits: int) -> float:
    """The entries as published, coded by ANS with their counts before them."""
    entries = relative_entries(codes, gap_bits)
    coder, tables = constriction.stream.stack.AnsCoder(), 0
    for symbols in (entries.codes, entries.gaps):
        counts = np.bincount(symbols, minlength=2)
        tables += len(number_bytes(*counts.tolist()))
        shares = (frequencies(counts) - 1).astype(np.float64)
        model = constriction.stream.model.Categorical(shares, perfect=False)
        coder.encode_reverse(symbols.astype(np.int32), model)
    return tables + 4 * len(coder.get_compressed())


def deep_cabac(shared: SharedTensor, python: Path) -> int:
    """Bytes of nncodec's coding of a tensor's codes, without loss; its best binarisation of twenty.

    Codes are numbered by their values, with 0 for a pruned weight, since it expects small numbers to be frequent.
    """
    negative = int((shared.codebook < 0).sum())
    values = np.concatenate([[0], np.arange(len(shared.codebook)) - negative]).astype(np.int32)
    values[1 + negative :] += 1
    codes = values[shared.codes.numpy()]
    done = subprocess.run(
        [python, "-c", DEEP_CABAC], input=_npy(codes.reshape(len(codes), -1)), capture_output=True, check=True
    )
    return int(done.stdout)


def _npy(array: NDArray[np.int32]) -> bytes:
    written = io.BytesIO()
    np.save(written, array)
    return written.getvalue()
