"""Over 10,000 damaged files, also with checksums that fit again: read as by a reader in plain Python, or refused.

Where a checksum finds the damage, the file must be refused. Where it was made to fit, ours must refuse what the reader
written from docs/format.md refuses, and must read the same numbers otherwise; what was read must be the same after it
was written anew. None may take a second, or much memory.
"""

import copy
import gc
import json
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_format import Refused, parts, read, sha, signed, with_streams, with_text

from seqdsd.compression import (
    CompressedFile,
    CompressedFileError,
    SharedTensor,
    encode_shared,
    read_compressed,
    share_weights,
    write_compressed,
)
from seqdsd.compression.streams import number_bytes

LONGEST_SECONDS = 1.0
MOST_BYTES = 2**27
"""The most memory that a file may take here: tensors can claim some megabytes, a header takes the most."""


def tiny_file() -> bytes:
    """Both codings, rows of two classes, tied weights, some types: in some 500 bytes."""
    generator = np.random.default_rng(0)
    weight = torch.from_numpy(generator.standard_normal((16, 16))).float()
    chance = torch.tensor([0.97] * 7 + [0.03] * 9)[:, None]
    mask = torch.from_numpy(generator.random((16, 16))) < chance
    shared = {
        "ans": share_weights(weight, mask, bits=3),
        "huffman": share_weights(weight[:2, :12], torch.arange(24).view(2, 12) % 5 < 2, bits=2),
    }
    rows, streams = [], []
    for coding, one in shared.items():
        rows.append({"names": [coding], "shape": list(one.shape), "coding": coding})
        streams.append(encode_shared(one, coding).data)
    assert streams[0][2 + streams[0][0] * streams[0][1]] == 2  # row classes
    for names, shape, dtype, stored, stream in (
        (["tied", "other"], [2, 2], "float32", "float16", struct.pack("<4e", 1, -2, 0.5, 0)),
        (["mask"], [3], "bool", "bool", b"\1\0\1"),
        (["steps"], [], "int64", "int64", struct.pack("<q", -7)),
    ):
        rows.append({"names": names, "shape": shape, "coding": "raw", "dtype": dtype, "stored": stored})
        streams.append(stream)
    return with_streams({"about": {"network": "tiny", "score": 0.25}, "tensors": rows}, streams)


@pytest.fixture(scope="module")
def tiny() -> bytes:
    return tiny_file()


@pytest.fixture
def opened() -> Iterator[Callable[[bytes], tuple[CompressedFile, dict[str, torch.Tensor]]]]:
    """Reads a file of ever other content, held in memory, since a disk's would take most of the time."""
    descriptor = os.memfd_create("damaged")
    path = Path(f"/proc/self/fd/{descriptor}")

    def read_all(content: bytes) -> tuple[CompressedFile, dict[str, torch.Tensor]]:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content, 0)
        start = time.process_time()
        try:
            file = read_compressed(path)
            return file, file.state_dict()
        except CompressedFileError as error:
            assert str(error).startswith(f"{path}: ")
            raise
        finally:
            assert time.process_time() - start < LONGEST_SECONDS

    yield read_all
    os.close(descriptor)


@pytest.fixture(autouse=True)
def of_its_own_garbage() -> Iterator[None]:
    """What other tests of the process have left is not looked through again while a file is read, and timed."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """The process's highest memory during a test, which starts from what it has before."""

    def held(which: str) -> int:
        return 1024 * int(re.search(rf"{which}:\s+(\d+)", Path("/proc/self/status").read_text())[1])

    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest one so far
    before = held("VmRSS")
    yield
    assert held("VmHWM") - before < MOST_BYTES


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """Some bytes changed, lost, doubled, swapped, zeroed, or put there."""
    start = int(generator.integers(len(content) + 1))
    length = int(generator.choice([1, 1, 1, 2, 4, 16, 200]))
    end = min(start + length, len(content))
    piece = content[start:end]
    other = int(generator.integers(len(content) + 1))
    kinds: list[Callable[[], bytes]] = [
        lambda: content[:start] + generator.bytes(len(piece)) + content[end:],
        lambda: content[:start] + bytes(len(piece)) + content[end:],
        lambda: content[:start] + b"\xff" * len(piece) + content[end:],
        lambda: content[:start] + content[end:],
        lambda: content[:start] + generator.bytes(length) + content[start:],
        lambda: content[:other] + piece + content[other:],
        lambda: content[:start],
        lambda: content[:start] + piece[::-1] + content[end:],
    ]
    return kinds[int(generator.integers(len(kinds)))]()


def flips(content: bytes) -> Iterator[bytes]:
    """Every bit of it the other way."""
    for place, bit in np.ndindex(len(content), 8):
        yield content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def by_chance(content: bytes, count: int, *, seed: int) -> Iterator[bytes]:
    """Different content, by one or two damages each."""
    generator = np.random.default_rng(seed)
    while count:
        other = damaged(content, generator)
        if generator.random() < 0.3:
            other = damaged(other, generator)
        if other != content:
            count -= 1
            yield other


def numbers_of(state: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """Their bits, but that every NaN is the same: float16's, which nothing writes, have others in Python's float."""
    same = {
        name: torch.where(one.isnan(), torch.nan, one) if one.is_floating_point() else one
        for name, one in state.items()
    }
    return {name: one.flatten().view(torch.uint8).numpy().tobytes() for name, one in same.items()}


def plain_numbers(content: bytes, state: dict[str, torch.Tensor]) -> tuple[dict, dict[str, bytes]]:
    about, tensors = read(content)
    made = {}
    for name, values in tensors.items():
        dtype = state[name].dtype
        bits = dtype == torch.bfloat16
        one = torch.tensor(values, dtype=torch.int16 if bits else dtype)
        made[name] = one.view(dtype) if bits else one
    return about, numbers_of(made)


def refusals(opened: Callable, contents: Iterable[bytes], tmp_path: Path) -> tuple[int, int]:
    """How many were read and how many refused, where ours and the plain reader agree on each."""
    counts = [0, 0]
    for content in contents:
        try:
            file, state = opened(content)
        except CompressedFileError as error:
            counts[1] += 1
            with pytest.raises(Refused):
                print(f"refused by ours alone: {error}", read(content))
            continue
        counts[0] += 1
        assert plain_numbers(content, state) == (file.header, numbers_of(state))
        if counts[0] % 20 == 1:
            anew = {name: file.shared(name) or state[name] for name in file.names}
            written = write_compressed(tmp_path / "anew.dsdz", anew, file.header)
            assert (written.header, numbers_of(written.state_dict())) == (file.header, numbers_of(state))
    return counts[0], counts[1]


def test_the_file_is_what_it_is_meant_to_be(opened, tiny, tmp_path):
    assert len(tiny) < 700 and refusals(opened, [tiny], tmp_path) == (1, 0)
    file, _ = opened(tiny)
    assert [entry.coding for entry in file.entries] == ["ans", "huffman", "raw", "raw", "raw"]
    assert all(isinstance(file.shared(name), SharedTensor) for name in ("ans", "huffman"))


def test_any_damage_is_found_by_a_checksum(opened, tiny):
    cuts = (tiny[:length] for length in range(len(tiny)))
    tried = 0
    for contents in (flips(tiny), cuts, by_chance(tiny, 4000, seed=0)):
        for content in contents:
            tried += 1
            with pytest.raises(CompressedFileError):
                opened(content)
    assert tried > 7500


@pytest.mark.slow
def test_streams_whose_checksums_fit_again(opened, tiny, tmp_path):
    header, streams = parts(tiny)

    def contents() -> Iterator[bytes]:
        for index, stream in enumerate(streams):
            for other in (*flips(stream), *by_chance(stream, 600, seed=index)):
                yield with_streams(header, [*streams[:index], other, *streams[index + 1 :]])

    read_ones, refused = refusals(opened, contents(), tmp_path)
    assert read_ones > 500 and refused > 2000


def test_headers_whose_checksums_fit_again(opened, tiny, tmp_path):
    header, streams = parts(tiny)
    text, rest = json.dumps(header).encode(), b"".join(streams)
    contents = (with_text(other, rest) for other in by_chance(text, 2000, seed=0))
    read_ones, refused = refusals(opened, contents, tmp_path)
    assert read_ones > 30 and refused > 1000


def test_packed_headers_whose_checksums_fit_again(opened, tiny, tmp_path):
    header, streams = parts(tiny)
    text, rest = json.dumps(header).encode(), b"".join(streams)
    contents = (
        signed(other, rest, text_bytes=len(text)) for other in by_chance(zlib.compress(text), 500, seed=0)
    )
    assert refusals(opened, contents, tmp_path)[1] > 400


def test_first_numbers_whose_checksums_fit_again(opened, tiny, tmp_path):
    def contents() -> Iterator[bytes]:
        for other in (*flips(tiny[:20]), *(tiny[:8] + one for one in by_chance(tiny[8:20], 200, seed=0))):
            rest = tiny[28:]
            (packed_bytes,) = struct.unpack_from("<I", other.ljust(20, b"\0"), 12)
            yield other + sha(other + rest[:packed_bytes]) + rest

    assert refusals(opened, contents(), tmp_path) == (0, 360)


LIES: list[Any] = [
    None, True, False, 0, 1, -1, 3, 23, 24, 256, 2**20, 2**31, 2**39, 2**64, 1.5, -0.0, float("inf"), float("nan"),
    "", "x", "ans", "huffman", "raw", "float32", "float16", "bool", "uint8", "bfloat16", "mask", "\ud800", "0" * 16,
    [], {}, [0], [1], [3], [24], [256], [12, 2], [2, 12], [8, 32], [16, 16, 1], [1] * 17, [2**19], [2**38, 2**38],
    [0, 2**38], [-1, -24], ["ans"], ["mask"], ["x", "x"], ["\ud800"], [[]], {"x": []},
]  # fmt: skip


def lied(header: dict, generator: np.random.Generator) -> dict:
    """Some member is something else, is another's, is missing, or is new; or rows are."""
    header = copy.deepcopy(header)
    rows = header["tensors"]
    objects = [header, header["about"], *rows, *rows, *rows]
    one, other = (objects[index] for index in generator.integers(len(objects), size=2))
    member = str(generator.choice(list(one)))
    kind = int(generator.integers(8))
    if kind < 4:
        one[member] = copy.deepcopy(LIES[int(generator.integers(len(LIES)))])
    elif kind == 4 and member in other:
        one[member], other[member] = other[member], one[member]
    elif kind == 5:
        del one[member]
    elif kind == 6:
        one[str(generator.choice(["shape", "dtype", "stored", "x"]))] = one[member]
    else:
        header["tensors"] = [rows[index] for index in generator.integers(len(rows), size=len(rows))]
    return header


@pytest.mark.slow
def test_headers_that_lie(opened, tiny, tmp_path):
    header, streams = parts(tiny)
    generator = np.random.default_rng(0)
    contents = []
    while len(contents) < 3000:
        if (lie := lied(header, generator)) != header:
            contents.append(with_text(json.dumps(lie).encode(), b"".join(streams)))
    read_ones, refused = refusals(opened, contents, tmp_path)
    assert read_ones > 100 and refused > 1000


def emptied(row: dict, **members: Any) -> dict:
    return {**row, "shape": [0], "bytes": 0, "sha256": sha(b"").hex(), **members}


BOMBS = {
    "lists": lambda _: b'{"about":{"x":[' + b"[]," * 345_000 + b'[]]},"tensors":[]}',
    "objects": lambda _: b'{"about":{"x":[' + b'{"":{}},' * 130_000 + b'{}]},"tensors":[]}',
    "digits": lambda _: b'{"about":{"x":[' + (b"9" * 4299 + b",") * 240 + b'0]},"tensors":[]}',
    "halves": lambda _: b'{"about":{"x":"' + rb"\ud83d\ude00" * 85_000 + b'"},"tensors":[]}',
    "tensors": lambda row: json.dumps(
        {"about": {}, "tensors": [emptied(row, names=[str(index)]) for index in range(7_500)]}
    ).encode(),
    "names": lambda row: json.dumps(
        {"about": {}, "tensors": [emptied(row, names=[f"{index:x}" for index in range(85_000)])]}
    ).encode(),
}


TIMED = """
import sys, time
from seqdsd.compression import CompressedFileError, read_compressed
for path in sys.argv[1:]:
    start = time.process_time()
    try:
        read_compressed(path).state_dict()
        said = "read"
    except CompressedFileError as error:
        said = str(error)
    print(time.process_time() - start, said, sep="\\t")
"""
"""In a process of its own, where the type checks that tests add do not take most of the time."""


def test_the_largest_headers_are_read_in_time(tiny, tmp_path):
    header, _ = parts(tiny)
    files = []
    for bomb, make in BOMBS.items():
        text = make(header["tensors"][-1])
        assert 2**19 < len(text) <= 2**20
        for name, one in ((bomb, text), (f"{bomb}-too-large", text + b" " * 2**20)):
            files.append(tmp_path / f"{name}.dsdz")
            files[-1].write_bytes(with_text(one, b""))
    done = subprocess.run([sys.executable, "-c", TIMED, *map(str, files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [said == "read" for _, said in rows] == [True, False] * len(BOMBS)
    assert all("cut short or damaged" in said for _, said in rows[1::2])
    assert max(float(seconds) for seconds, _ in rows) < LONGEST_SECONDS


@pytest.mark.parametrize("coding", ["ans", "huffman"])
def test_the_largest_tensors_are_read_in_time(opened, coding):
    """Of about as many weights as a file of this size may have, of which half are kept, or none."""
    weights = 800_000
    row = {"names": ["w"], "shape": [weights, 1], "coding": coding}
    half = number_bytes(weights // 2)
    one_class = b"\1" + number_bytes(weights) + b"\1\1"
    kept = {"ans": one_class + half + half + b"\1\2\3\4", "huffman": b"\1" + half + b"\x10\1\0\x10\0"}
    with pytest.raises(
        CompressedFileError, match=r"counts are not those of its symbols|1 bytes for 400000 words"
    ):
        opened(with_streams({"about": {}, "tensors": [row]}, [b"\1\2\0\x3c" + kept[coding]]))
    none = {"ans": one_class + b"\0", "huffman": bytes(5)}
    assert not opened(with_streams({"about": {}, "tensors": [row]}, [b"\0\2" + none[coding]]))[1]["w"].any()
