"""A reader in plain Python, written from docs/format.md alone, gets the bits that ours does."""

import pytest
import torch
from plain_format import read

from seqdsd.compression import SharedTensor, read_compressed, share_weights, write_compressed


def test_a_reader_written_from_the_description_reads_the_same(content, dense_state, header):
    about, tensors = read(content)
    assert about == header and tensors.keys() == dense_state.keys()
    for name, tensor in dense_state.items():
        tensor = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
        read_one = torch.tensor(tensors[name], dtype=tensor.dtype).view(tensor.shape)
        assert read_one.numpy().tobytes() == tensor.contiguous().numpy().tobytes(), name


@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3), (40, 50), (5, 4, 3, 2)])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.6, 1.0])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_other_tensors_too(tmp_path, shape, density, bits):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    mask = torch.rand(shape, generator=generator) < density
    shared = share_weights(weight, mask, bits=bits)
    write_compressed(tmp_path / "a.dsdz", {"weight": shared}, {})
    _, tensors = read((tmp_path / "a.dsdz").read_bytes())
    assert tensors["weight"] == shared.dense().flatten().tolist()


def test_the_file_has_both_codings_and_classes(tmp_path, content, state):
    (tmp_path / "a.dsdz").write_bytes(content)
    file = read_compressed(tmp_path / "a.dsdz")
    codings = {entry.names[0]: entry.coding for entry in file.entries}
    assert {"ans", "huffman"} <= set(codings.values()) and codings["embedding.weight"] == "ans"
    entry = next(one for one in file.entries if one.names[0] == "embedding.weight")
    stream = content[entry.start : entry.start + entry.size_bytes]
    assert isinstance(state["embedding.weight"], SharedTensor)
    assert stream[2 + stream[0] * stream[1]] > 1  # row classes
