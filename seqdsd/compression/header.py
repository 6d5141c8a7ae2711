"""The head of a .dsdz file: fixed numbers, a checksum, and a JSON header with a table of tensors, held against limits.

docs/format.md describes each byte. The streams are ``container.py``'s.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any, Literal

import torch

from seqdsd.compression.coding import CODINGS, Coding

MAGIC = b"\x89DSDZ\r\n\x1a"
"""As PNG's: not text, and spoilt by whatever changes line ends."""
VERSION = 1
MAX_HEADER_BYTES = 2**20
"""JSON of many small parts takes some twenty times its size in memory, and a quarter of a second to read."""
MAX_DENSE_BYTES = 2**32
"""Of a network, decoded, unless the reader allows more."""
MAX_RATIO = 2**14
"""Decoded bytes for each of the file, beyond the first megabyte; a network of one weight in a thousand has 2^11."""
_FREE_BYTES = 2**20
AGAIN = "; fetch the file again, or make it again by what made it"
"""The remedy where a file is damaged."""
_MAX_DIMENSIONS = 16
_FIXED = struct.Struct("<8sIII")  # magic, version, size of the header as it stands, size of its JSON
_DIGEST_BYTES = 8


@dataclass(frozen=True)
class Dtype:
    """A type of numbers.

    Attributes:
        torch: As a tensor has it.
        numpy: Of the same bytes in a file; NumPy has no bfloat16.
    """

    torch: torch.dtype
    numpy: str


DTYPES = {
    "float64": Dtype(torch.float64, "<f8"),
    "float32": Dtype(torch.float32, "<f4"),
    "float16": Dtype(torch.float16, "<f2"),
    "bfloat16": Dtype(torch.bfloat16, "<i2"),
    "int64": Dtype(torch.int64, "<i8"),
    "int32": Dtype(torch.int32, "<i4"),
    "int16": Dtype(torch.int16, "<i2"),
    "int8": Dtype(torch.int8, "|i1"),
    "uint8": Dtype(torch.uint8, "|u1"),
    "bool": Dtype(torch.bool, "|b1"),
}


@dataclass(frozen=True)
class TensorEntry:
    """A tensor as the header has it.

    Attributes:
        names: One, or several where weights are tied.
        shape: Of the tensor.
        coding: Of its stream; "raw" for a dense one.
        dtype: What it is read as; "float32" for a shared one.
        stored: What its stream holds; "float16" where float32 loses nothing by it. For a shared one as ``dtype``.
        start: Where its stream begins in the file, in bytes.
        size_bytes: Of its stream.
        digest: Of its stream: the first 16 hex digits of its SHA-256.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    coding: Coding | Literal["raw"]
    dtype: str
    stored: str
    start: int
    size_bytes: int
    digest: str

    @property
    def weights(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def dense_bytes(self) -> int:
        """What it takes when decoded."""
        return self.weights * DTYPES[self.dtype].torch.itemsize


@dataclass(frozen=True)
class Head:
    """What stands before the streams.

    Attributes:
        about: The writer's own part.
        entries: The tensors, in the streams' order.
        size_bytes: Of all that is not a stream: where the streams begin.
    """

    about: dict[str, Any]
    entries: tuple[TensorEntry, ...]
    size_bytes: int


class HeadError(ValueError):
    """A head that cannot be used; the message says what is wrong, and the remedy."""


def digest(data: bytes) -> bytes:
    """The first 8 bytes of the SHA-256."""
    return hashlib.sha256(data).digest()[:_DIGEST_BYTES]


def head_bytes(about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The head of a file whose table of tensors has these rows.

    Raises:
        TypeError: If ``about`` is not JSON.
        ValueError: If it has NaN or infinity, or the header is larger than 1 MiB.
    """
    header = {"about": dict(about), "tensors": rows}
    text = json.dumps(header, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {len(text)} bytes; at most {MAX_HEADER_BYTES} are read again")
    packed = zlib.compress(text, 9)
    fixed = _FIXED.pack(MAGIC, VERSION, len(packed), len(text))
    return fixed + digest(fixed + packed) + packed


def read_head(file: BufferedIOBase, size: int, *, max_dense_bytes: int) -> Head:
    """Read a head and hold what it claims against the file's size and the limits, before memory is taken for it.

    Raises:
        HeadError: If there is none, it is damaged, of another version, or claims what cannot be or is not allowed.
    """
    fixed, checksum = file.read(_FIXED.size), file.read(_DIGEST_BYTES)
    if not fixed.startswith(MAGIC):
        said = "it does not begin as one" if size else "it is empty"
        raise HeadError(
            f"not a .dsdz file ({said}); name one that seqdsd compress has made, or fetch it again"
        )
    if len(checksum) < _DIGEST_BYTES:
        raise HeadError(f"cut short after {size} bytes{AGAIN}")
    _, version, packed_bytes, text_bytes = _FIXED.unpack(fixed)
    if version != VERSION:
        raise HeadError(f"a file of version {version}, where {VERSION} is known; install a newer seqdsd")
    start = _FIXED.size + _DIGEST_BYTES + packed_bytes
    if start > size or packed_bytes > MAX_HEADER_BYTES or text_bytes > MAX_HEADER_BYTES:
        raise HeadError(
            f"cut short or damaged: {size} bytes, of which {packed_bytes} are to be a header{AGAIN}"
        )
    packed = file.read(packed_bytes)
    if digest(fixed + packed) != checksum:
        raise HeadError(f"damaged header (its checksum does not fit){AGAIN}")
    try:
        header = _parsed(packed, text_bytes)
        head = Head(header["about"], tuple(_entries(header["tensors"], start)), start)
    except (ValueError, RecursionError, zlib.error) as error:
        raise HeadError(f"its header is not one of this format ({error}){AGAIN}") from error
    _check_sizes(head, size, max_dense_bytes=max_dense_bytes)
    return head


def _parsed(packed: bytes, text_bytes: int) -> dict[str, Any]:
    unpacking = zlib.decompressobj()
    text = unpacking.decompress(packed, text_bytes + 1)
    if len(text) != text_bytes or not unpacking.eof or unpacking.unused_data:
        raise ValueError(f"it does not unpack to {text_bytes} bytes")
    header = json.loads(
        text.decode(), object_pairs_hook=_without_twins, parse_constant=_finite, parse_float=_finite
    )
    if (
        b"\\ud" in text.lower()
    ):  # halves of a pair that stand alone, which Python reads, cannot be written or printed
        json.dumps(header, ensure_ascii=False).encode()
    if (
        not isinstance(header, dict)
        or header.keys() != {"about", "tensors"}
        or type(header["about"]) is not dict
    ):
        raise ValueError('it is not an object of "about", itself an object, and "tensors"')
    return header


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of two members of one name, one program would take the first and another the last.
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("an object has two members of one name")
    return values


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):  # 1e999 is JSON, but not NaN
        raise ValueError(f"{number} is no number of a header")
    return value


def _entries(rows: Any, start: int) -> list[TensorEntry]:
    """The table of tensors; their streams begin at ``start``, one after the other."""
    if not isinstance(rows, list):
        raise ValueError('"tensors" is no list')
    entries = []
    for row in rows:
        entries.append(_entry(row, start))
        start += entries[-1].size_bytes
    names = [name for entry in entries for name in entry.names]
    if len(set(names)) < len(names):
        raise ValueError("two tensors have one name")
    return entries


_ROW = {"names", "shape", "coding", "bytes", "sha256"}


def _entry(row: Any, start: int) -> TensorEntry:
    expected = _ROW | ({"dtype", "stored"} if isinstance(row, dict) and row.get("coding") == "raw" else set())
    if not isinstance(row, dict) or row.keys() != expected:
        raise ValueError(f"a tensor has not the members {', '.join(sorted(expected))}")
    names, shape, coding = row["names"], row["shape"], row["coding"]
    dtype, stored = row.get("dtype", "float32"), row.get("stored", "float32")
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise ValueError("a tensor's names are not texts")
    if not (isinstance(shape, list) and len(shape) <= _MAX_DIMENSIONS and all(map(_is_count, shape))):
        raise ValueError(f"{names[0]!r} has no shape")
    if coding not in ("raw", *CODINGS):
        raise ValueError(f"{names[0]!r} has the unknown coding {coding!r}")
    if not all(isinstance(one, str) and one in DTYPES for one in (dtype, stored)):
        raise ValueError(f"{names[0]!r} has an unknown type, {dtype!r} or {stored!r}")
    if stored != dtype and (dtype, stored) != ("float32", "float16"):
        raise ValueError(f"{names[0]!r} is of {dtype} stored as {stored}")
    if not (_is_count(row["bytes"]) and isinstance(row["sha256"], str)):
        raise ValueError(f"{names[0]!r} has no size or checksum")
    entry = TensorEntry(tuple(names), tuple(shape), coding, dtype, stored, start, row["bytes"], row["sha256"])
    if coding == "raw" and entry.size_bytes != entry.weights * DTYPES[stored].torch.itemsize:
        raise ValueError(f"{names[0]!r} has {entry.weights} numbers of {stored} in {entry.size_bytes} bytes")
    if coding != "raw" and not entry.weights:
        raise ValueError(f"{names[0]!r} is shared and has no weights")
    return entry


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**39  # True is an int, too


def _check_sizes(head: Head, size: int, *, max_dense_bytes: int) -> None:
    end = head.size_bytes + sum(entry.size_bytes for entry in head.entries)
    if end != size:
        raise HeadError(f"cut short or damaged: {size} bytes, where its header has {end}{AGAIN}")
    # As if no dimension were 0: torch multiplies them all, too.
    largest = max((math.prod(max(1, one) for one in entry.shape) for entry in head.entries), default=0)
    dense = max(sum(entry.dense_bytes for entry in head.entries), largest)
    if dense > max_dense_bytes:
        raise HeadError(
            f"it would take {dense} bytes decoded, where {max_dense_bytes} are allowed; a file that you trust can be "
            "read with a larger max_dense_bytes"
        )
    if dense > MAX_RATIO * size + _FREE_BYTES:
        raise HeadError(
            f"it would take {dense} bytes decoded, over {MAX_RATIO} times its {size}: no network's file"
        )
