"""The table of a file beside others, on a network that comes with the package."""

import gzip
import math

import numpy as np
import pytest

from benchmarks.compression_rivals import Rival, markdown, rivals, side_by_side
from seqdsd.compression import encode_shared, read_compressed
from seqdsd.compression.huffman import relative_entries
from seqdsd.inference.ready import ready_files


@pytest.fixture(scope="module")
def file():
    return read_compressed(ready_files()["mnist-lenet300"])


@pytest.fixture(scope="module")
def rows(file):
    return {row.name: row.size_bytes for row in rivals(file, None)}


def test_rows_are_of_all_bytes(file, rows):
    state = file.state_dict()
    assert rows["float32"] == 4 * sum(one.numel() for one in state.values())
    floats = b"".join(one.numpy().tobytes() for one in state.values())
    assert rows["pruned and shared, as floats: gzip -9"] == len(gzip.compress(floats, 9))
    assert rows["**this file**, header and all"] == file.path.stat().st_size
    assert rows["Deep Compression, published"] == rows["float32"] / 40


def test_networks_stand_side_by_side(rows):
    own = [Rival(name, size) for name, size in rows.items()]
    lines = side_by_side({"one": own, "other": own[:1]}).splitlines()
    assert lines[0] == "| way | `one` | `other` |" and lines[2] == "| float32 | 1.0 | 1.0 |"
    assert len(lines) == 2 + len(own) and lines[-1].endswith("| 40.0 | - |")


def test_two_codings_are_what_a_file_of_each_would_have(file, rows):
    dense = sum(entry.size_bytes for entry in file.entries if entry.coding == "raw")
    shared = [one for name in file.names if (one := file.shared(name)) is not None]
    for coding, name in (
        ("ans", "coded mask, codes by ANS"),
        ("huffman", "relative indices, Huffman (published)"),
    ):
        assert rows[name] == dense + sum(len(encode_shared(one, coding).data) for one in shared)
    assert rows["**this file** without its header"] == dense + sum(
        len(encode_shared(one).data) for one in shared
    )


def test_other_codings_are_near_their_entropy(file, rows):
    def bits(symbols: np.ndarray) -> float:
        counts = np.unique(symbols, return_counts=True)[1]
        return float(-(counts * np.log2(counts / counts.sum())).sum())

    least = sum(entry.size_bytes for entry in file.entries if entry.coding == "raw")
    for name in file.names:
        if shared := file.shared(name):
            entries = [relative_entries(shared.codes.numpy(), one) for one in range(1, 11)]
            least += min(bits(one.gaps) + bits(one.codes) for one in entries) / 8
    assert least < rows["relative indices, ANS"] < 1.05 * least
    assert rows["coded mask, codes by ANS"] < rows["coded mask, codes by Huffman"]


def test_the_table_has_a_row_each(rows, file):
    table = markdown(list(rivals(file, None))).splitlines()
    assert len(table) == 2 + len(rows)
    assert table[2] == "| float32 | 1,066,440 | 1.0 |"
    assert math.isclose(float(table[-2].split("|")[3]), 1_066_440 / file.size_bytes, abs_tol=0.05)
