"""Files that were made to deceive: refused by name, before memory is taken. Damage by chance is in test_fuzz.py."""

import hashlib
import json
import struct
import tracemalloc
from pathlib import Path

import pytest
import torch
from plain_format import parts, with_streams, with_text

from seqdsd.compression import CompressedFileError, read_compressed


def opened(path: Path, content: bytes) -> dict[str, torch.Tensor]:
    path.write_bytes(content)
    return read_compressed(path, max_dense_bytes=2**21).state_dict()


def test_the_tests_own_signature_is_accepted(tmp_path, content, dense_state):
    assert opened(tmp_path / "a.dsdz", with_streams(*parts(content))).keys() == dense_state.keys()


LIES = {
    "more weights than bytes": lambda row: row.update(shape=[400_000_000]),
    "a tensor of terabytes": lambda row: row.update(shape=[2**38]),
    "a negative dimension": lambda row: row.update(shape=[-1, -7]),
    "a dimension that is true": lambda row: row.update(shape=[True, 7]),
    "a dimension with a fraction": lambda row: row.update(shape=[7.0]),
    "too many dimensions": lambda row: row.update(shape=[1] * 17),
    "no list of dimensions": lambda row: row.update(shape=7),
    "bytes of another": lambda row: row.update(bytes=row["bytes"] + 4),
    "no bytes": lambda row: row.update(bytes=-1),
    "another coding": lambda row: row.update(coding="pickle"),
    "another type": lambda row: row.update(dtype="object", stored="object"),
    "a type that is a list": lambda row: row.update(dtype=["float32"]),
    "a type that the stored one is not": lambda row: row.update(dtype="int64"),
    "no checksum": lambda row: row.update(sha256=None),
    "another checksum": lambda row: row.update(sha256="0" * 16),
    "no names": lambda row: row.update(names=[]),
    "a name that is a number": lambda row: row.update(names=[3]),
    "the name of another": lambda row: row.update(names=["bias"]),
    "one name twice": lambda row: row.update(names=["exact", "exact"]),
    "a member too many": lambda row: row.update(start=0),
    "a member too few": lambda row: row.pop("sha256"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused_before_memory_is_taken(tmp_path, content, lie):
    header, streams = parts(content)
    LIES[lie](next(row for row in header["tensors"] if row["names"] == ["exact"]))
    path = tmp_path / "a.dsdz"
    path.write_bytes(with_text(json.dumps(header).encode(), b"".join(streams)))
    tracemalloc.start()
    try:
        with pytest.raises(
            CompressedFileError, match=r"a\.dsdz: .*; (fetch the file again|a file that you trust)"
        ):
            read_compressed(path).state_dict()
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_terabytes_of_nothing_are_refused(tmp_path, content):
    header, streams = parts(content)
    next(row for row in header["tensors"] if row["names"] == ["empty"])["shape"] = [0, 2**38, 2**38]
    with pytest.raises(CompressedFileError, match=f"it would take {2**76} bytes decoded"):
        opened(tmp_path / "a.dsdz", with_streams(header, streams))


def row_of(shape: list[int], stream: bytes, coding: str = "ans") -> dict:
    digest = hashlib.sha256(stream).hexdigest()[:16]
    return {"names": ["w"], "shape": shape, "coding": coding, "bytes": len(stream), "sha256": digest}


def test_a_bomb_is_refused(tmp_path):
    # One row class, one column class, one block that keeps nothing: six bytes for any number of weights.
    stream = bytes([0, 2, 1]) + b"\x80\x80\x40" + bytes([1]) + b"\x80\x20" + b"\0"
    text = json.dumps({"about": {}, "tensors": [row_of([2**20, 2**12], stream)]}).encode()
    path = tmp_path / "a.dsdz"
    path.write_bytes(with_text(text, stream))
    with pytest.raises(CompressedFileError, match="17179869184 bytes decoded, where 4294967296 are allowed"):
        read_compressed(path)
    with pytest.raises(CompressedFileError, match="over 16384 times its"):
        read_compressed(path, max_dense_bytes=2**40)


def test_what_is_packed_in_the_header_is_no_bomb(tmp_path):
    path = tmp_path / "a.dsdz"
    text = json.dumps({"about": {}, "tensors": [], "x": " " * 10_000_000}).encode()
    for text_bytes in (100, 2**20, 2**31):
        path.write_bytes(with_text(text, b"", text_bytes=text_bytes))
        tracemalloc.start()
        with pytest.raises(CompressedFileError, match=r"a\.dsdz: (its header is not|cut short or damaged)"):
            read_compressed(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
        tracemalloc.stop()


def test_a_header_of_millions_of_lists_is_refused(tmp_path):
    # It would take half a gigabyte and seconds.
    path = tmp_path / "a.dsdz"
    path.write_bytes(with_text(b'{"about": {"x": [' + b"[]," * 5_000_000 + b'[]]}, "tensors": []}', b""))
    tracemalloc.start()
    with pytest.raises(CompressedFileError, match=r"a\.dsdz: cut short or damaged"):
        read_compressed(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"about": {}, "tensors": {}}',
        b'{"about": [], "tensors": []}',
        b'{"about": {}, "tensors": [], "tensors": []}',
        b'{"about": {"score": NaN}, "tensors": []}',
        b'{"about": {}, "tensors": [[]]}',
        b'{"about": {"x": ' + b"[" * 200_000 + b"]" * 200_000 + b'}, "tensors": []}',
        b'{"about": {"x": ' + b"9" * 5000 + b'}, "tensors": []}',
        b'{"about": {}, "tensors": []}\xff',
    ],
)
def test_what_is_no_header_is_refused(tmp_path, text):
    (tmp_path / "a.dsdz").write_bytes(with_text(text, b""))
    with pytest.raises(CompressedFileError, match=r"a\.dsdz: its header is not one of this format"):
        read_compressed(tmp_path / "a.dsdz")


def test_a_file_of_the_future_says_what_to_do(tmp_path):
    (tmp_path / "a.dsdz").write_bytes(with_text(b'{"about": {}, "tensors": []}', b"", version=2))
    with pytest.raises(CompressedFileError, match=r"a\.dsdz: a file of version 2, .*install a newer seqdsd"):
        read_compressed(tmp_path / "a.dsdz")


@pytest.mark.parametrize("other", [b"", b"PK\x03\x04" + bytes(100), b"\x89DSDZ\n\x1a" + bytes(100)])
def test_another_file_is_none(tmp_path, other):
    (tmp_path / "a.dsdz").write_bytes(other)
    with pytest.raises(CompressedFileError, match=r"not a \.dsdz file"):
        read_compressed(tmp_path / "a.dsdz")


@pytest.mark.parametrize(
    "stream",
    [
        bytes([1, 4]) + struct.pack("<f", float("nan")),
        bytes([1, 4]) + struct.pack("<f", 0.0),
        bytes([2, 2]) + struct.pack("<2e", 1.0, 1.0),
        bytes([2, 2]) + struct.pack("<2e", 2.0, 1.0),
        bytes([1, 3, 0, 0, 0]),
        bytes([200, 4, 1]),
        bytes([0]),
    ],
)
def test_codebooks_that_lie_are_refused(tmp_path, stream):
    text = json.dumps({"about": {}, "tensors": [row_of([4], stream)]}).encode()
    with pytest.raises(CompressedFileError, match=r"a\.dsdz: the stream of 'w' is damaged"):
        opened(tmp_path / "a.dsdz", with_text(text, stream))
