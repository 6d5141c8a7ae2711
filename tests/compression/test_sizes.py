"""The table of a file of LeNet-300-100's shapes: heavy-tailed weights, pruned to 8 % and shared in 6 bits."""

import math

import numpy as np
import pytest
import torch
import zstandard

from seqdsd.compression import encode_shared, file_sizes, half_where_safe, share_weights, write_compressed

DENSITY, BITS = 0.08, 6
SHAPES = {"0": (300, 784), "2": (100, 300), "4": (10, 100)}


@pytest.fixture(scope="module")
def network() -> dict:
    generator = np.random.default_rng(0)
    state = {}
    for layer, shape in SHAPES.items():
        weight = torch.from_numpy(generator.standard_t(5, shape) / math.sqrt(shape[1])).float()
        kept = round(DENSITY * weight.numel())
        mask = weight.abs() >= weight.abs().flatten().kthvalue(weight.numel() - kept + 1).values
        assert int(mask.sum()) == kept
        state[f"{layer}.weight"] = share_weights(weight, mask, bits=BITS)
        state[f"{layer}.bias"] = half_where_safe(torch.from_numpy(generator.normal(0, 0.1, shape[0])).float())
    return state


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    return write_compressed(tmp_path_factory.mktemp("lenet") / "lenet.dsdz", network, {"network": "lenet300"})


def test_the_file_is_42_times_smaller(file):
    sizes = file_sizes(file)
    assert (
        sizes.size_bytes
        == file.path.stat().st_size
        == sizes.header_bytes + sum(one.size_bytes for one in sizes.rows)
    )
    assert sizes.dense_bytes == 4 * (266_200 + 410)
    assert sizes.ratio == sizes.dense_bytes / file.path.stat().st_size
    # Chance has spread the kept weights evenly; a trained network's are not, which makes its file smaller.
    assert 42 < sizes.ratio < 43


def test_columns_of_the_published_table(file, network):
    rows = {row.name: row for row in file_sizes(file).rows}
    assert list(rows) == list(network)
    for name, shared in network.items():
        row = rows[name]
        if not name.endswith("weight"):
            assert (row.coding, row.density, row.centroids, row.code_bits) == ("raw", 1, 0, 16)
            continue
        kept = int(shared.mask.sum())
        assert (row.shape, row.weights, row.kept) == (shared.shape, shared.mask.numel(), kept)
        assert row.density == pytest.approx(DENSITY) and row.centroids == len(shared.codebook)
        assert row.dense_bytes == 4 * row.weights
        # Coding saves bits of both kinds, but where tables are of the size of what they describe.
        if row.weights > 1000:
            assert row.code_bits < row.shared_code_bits and row.index_bits < row.shared_index_bits
            assert row.size_bytes < row.shared_bytes
        # All of them and the codebook are the stream.
        codebook_bytes = 2 + 2 * row.centroids
        assert row.size_bytes == pytest.approx((row.code_bits + row.index_bits) * kept / 8 + codebook_bytes)
        assert (
            row.shared_bytes
            == math.ceil((row.shared_code_bits + row.shared_index_bits) * kept / 8 - 1e-6) + codebook_bytes
        )
        assert row.zstd_float_bytes == len(zstandard.compress(shared.dense().numpy().tobytes(), 19))
        assert (
            row.zstd_code_bytes
            == len(zstandard.compress(shared.codes.numpy().tobytes(), 19)) + codebook_bytes
        )
    first = rows["0.weight"]
    assert first.size_bytes < 0.8 * first.zstd_code_bytes and first.size_bytes < 0.6 * first.zstd_float_bytes


def test_fixed_bits_counted_by_hand(tmp_path):
    # Kept at 0, 4 and 9. Distances of 2 bits need a filler for the last: 4 entries of 2 + 2 bits, against 3 of 3 + 2.
    weight = torch.tensor([1.0, 0, 0, 0, 2.0, 0, 0, 0, 0, -3.0, 0, 0])
    shared = share_weights(weight, weight != 0, bits=3)
    (row,) = file_sizes(write_compressed(tmp_path / "a.dsdz", {"weight": shared}, {})).rows
    assert (row.weights, row.kept, row.centroids) == (12, 3, 3)
    assert (row.shared_index_bits, row.shared_code_bits) == (3, 2)
    assert row.shared_bytes == 2 + 2 + 6


def test_huffman_beside_ans(network):
    # Where kept weights are spread by chance, neither knows more: that words are of whole bits is the difference.
    shared = network["0.weight"]
    ans, huffman = (encode_shared(shared, one) for one in ("ans", "huffman"))
    assert len(ans.data) < len(huffman.data) < 1.02 * len(ans.data)
    assert encode_shared(shared).data == ans.data
