import os
import re
import sys

import pytest
import torch

from seqdsd.compression import (
    CompressedFileError,
    SharedTensor,
    read_compressed,
    share_weights,
    write_compressed,
)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return one.contiguous().flatten().view(torch.uint8).equal(other.contiguous().flatten().view(torch.uint8))


def test_a_file_gives_every_bit_back(tmp_path, content, state, dense_state, header):
    path = tmp_path / "copy.dsdz"
    path.write_bytes(content)
    file = read_compressed(path)
    assert file.header == header and file.size_bytes == len(content)
    read = file.state_dict()
    assert read.keys() == state.keys() == set(file.names)
    for name, tensor in dense_state.items():
        assert same_bits(read[name], tensor), name
        assert same_bits(file.tensor(name), tensor), name
    assert {entry.coding for entry in file.entries} == {"ans", "huffman", "raw"}
    for name, tensor in state.items():
        shared = file.shared(name)
        assert (shared is None) == isinstance(tensor, torch.Tensor)
        if shared is not None:
            assert torch.equal(shared.codes, tensor.codes) and torch.equal(shared.codebook, tensor.codebook)
    with pytest.raises(KeyError):
        file.tensor("other")


def test_tied_tensors_are_written_once_and_stay_tied(tmp_path, state):
    file = write_compressed(tmp_path / "a.dsdz", state, {})
    assert ("embedding.weight", "output.weight") in [entry.names for entry in file.entries]
    assert ("odd", "also odd") in [entry.names for entry in file.entries]
    read = file.state_dict()
    assert read["embedding.weight"] is read["output.weight"] and read["odd"] is read["also odd"]


def test_what_is_written_is_what_stands_on_the_disk(tmp_path, state, header):
    written = write_compressed(tmp_path / "new" / "a.dsdz", state, header)
    read = read_compressed(str(tmp_path / "new" / "a.dsdz"))
    assert (written.entries, written.header, written.size_bytes) == (
        read.entries,
        read.header,
        read.size_bytes,
    )
    assert read.header_bytes + sum(entry.size_bytes for entry in read.entries) == os.path.getsize(read.path)


def test_two_bytes_where_float16_loses_nothing(tmp_path):
    state = {"exact": torch.tensor([1.5, -0.0]), "not": torch.tensor([0.1, 0.0])}
    file = write_compressed(tmp_path / "a.dsdz", state, {})
    assert {entry.names[0]: (entry.dtype, entry.stored, entry.size_bytes) for entry in file.entries} == {
        "exact": ("float32", "float16", 4),
        "not": ("float32", "float32", 8),
    }
    assert torch.signbit(file.tensor("exact")).tolist() == [False, True]


def test_centroids_beyond_float16_are_written(tmp_path):
    shared = share_weights(torch.tensor([-1e6, 1.0, 3e38]), bits=2)
    assert write_compressed(tmp_path / "a.dsdz", {"w": shared}, {}).tensor("w").equal(shared.dense())


def test_a_module_is_loaded_from_it(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.BatchNorm1d(30))
    weight = model[0].weight
    shared = {"0.weight": share_weights(weight, weight.abs() > 0.1, bits=4)}
    write_compressed(tmp_path / "a.dsdz", {**model.state_dict(), **shared}, {})
    other = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.BatchNorm1d(30))
    other.load_state_dict(read_compressed(tmp_path / "a.dsdz").state_dict())
    assert torch.equal(other[0].weight, shared["0.weight"].dense())
    assert torch.equal(other[0].bias, model[0].bias) and other[1].num_batches_tracked.dtype == torch.int64


def test_a_failed_write_leaves_the_old_file(tmp_path, state, monkeypatch):
    path = tmp_path / "a.dsdz"
    write_compressed(path, {"one": torch.ones(1)}, {})
    old = path.read_bytes()

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_compressed(path, state, {})
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ({"score": float("nan")}, ValueError),
        ({"tensor": torch.ones(1)}, TypeError),
        ({"text": "x" * 2**20}, ValueError),
    ],
)
def test_headers_that_are_not_json_are_refused(tmp_path, header, error):
    with pytest.raises(error):
        write_compressed(tmp_path / "a.dsdz", {}, header)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name,tensor,message",
    [
        ("table", torch.eye(9).to_sparse(), r"table: .* it is of torch\.sparse_coo; give its to_dense\(\)"),
        ("later", torch.ones(9, device="meta"), r"later: .* it has no numbers \(meta\)"),
        ("lstm._extra_state", {"scale": 1}, "lstm._extra_state: .* but a dict; leave it out"),
        (3, torch.ones(9), "3: the name of a tensor is a text"),
    ],
)
def test_what_is_no_dense_tensor_with_a_name_is_refused(tmp_path, name, tensor, message):
    write = getattr(
        write_compressed, "__wrapped__", write_compressed
    )  # as without the tests' checks of types
    with pytest.raises(TypeError, match=message):
        write(tmp_path / "a.dsdz", {name: tensor}, {})
    assert not list(tmp_path.iterdir())


def test_types_that_the_format_lacks_are_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match=r"phase: torch\.complex64 cannot be written; known are float64"):
        write_compressed(tmp_path / "a.dsdz", {"phase": torch.zeros(1, dtype=torch.complex64)}, {})


def test_a_network_of_next_to_nothing_is_not_written(tmp_path):
    nothing = SharedTensor(torch.zeros(0), torch.zeros(3000, 3000, dtype=torch.uint8))
    with pytest.raises(
        ValueError, match=r"a\.dsdz: it would take 36000000 bytes decoded, over 16384 times its \d+"
    ):
        write_compressed(tmp_path / "a.dsdz", {"weight": nothing}, {})
    assert not list(tmp_path.iterdir())


def test_a_file_that_changed_since_is_refused(tmp_path, state):
    file = write_compressed(tmp_path / "a.dsdz", state, {})
    write_compressed(tmp_path / "a.dsdz", {**state, "bias": torch.ones(3)}, {"other": 1})
    with pytest.raises(
        CompressedFileError, match=r"a\.dsdz: the stream of 'small\.weight' is damaged .its checksum"
    ):
        file.tensor("small.weight")
    file.path.unlink()
    with pytest.raises(CompressedFileError, match=r"a\.dsdz: cannot be read .No such file"):
        file.shared("small.weight")


def test_more_than_is_allowed_is_refused(tmp_path, content, dense_state):
    path = tmp_path / "a.dsdz"
    path.write_bytes(content)
    needed = sum({tensor.data_ptr(): tensor.nbytes for tensor in dense_state.values()}.values())
    needed -= dense_state["output.weight"].nbytes  # tied
    assert read_compressed(path, max_dense_bytes=needed)
    with pytest.raises(
        CompressedFileError, match=rf"{re.escape(str(path))}: it would take {needed} bytes .* max_dense_bytes"
    ):
        read_compressed(path, max_dense_bytes=needed - 1)


def test_no_such_file_and_a_folder(tmp_path):
    for path, said in ((tmp_path / "none.dsdz", "cannot be read"), (tmp_path, "a folder; name a .dsdz file")):
        with pytest.raises(CompressedFileError, match=rf"^{re.escape(str(path))}: {said}"):
            read_compressed(path)


def test_an_empty_file_is_said_to_be_so(tmp_path):
    path = tmp_path / "a.dsdz"
    path.write_bytes(b"")
    with pytest.raises(
        CompressedFileError, match=r"not a \.dsdz file \(it is empty\); name one that seqdsd compress"
    ):
        read_compressed(path)


def test_no_unpickling():
    assert not {"pickle", "marshal", "shelve"} & {
        name
        for module in list(sys.modules)
        if module.startswith("seqdsd.compression")
        for name in vars(sys.modules[module])
    }
