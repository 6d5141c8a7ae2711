"""One matrix of real numbers out of a MATLAB file, of level 4 or 5 (``save -v4``, ``-v6`` and ``-v7``).

Not scipy's reader: damaged files end it, and the process with it, in a segmentation fault. Here every length is checked
against what is there. Leaves out all that is no matrix of real numbers, and v7.3, which is HDF5.

Reference: MathWorks, "MAT-File Format". No departure.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np

_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_LEVEL_4_TYPES = ("f8", "f4", "i4", "i2", "u2", "u1")
_COMPLEX = 0x0800
_HDF5_VERSION = 0x0200
_LEVEL_5_HEADER = 128
_SMALL_BYTES, _MOST_TIMES = 64_000_000, 100


def read_matrix(data: bytes, name: str) -> np.ndarray | None:
    """The matrix of that name, in column-major order; None where the file has none.

    Raises:
        NotImplementedError: If the file is of v7.3.
        TypeError: If what has this name is no matrix of real numbers.
        ValueError: If the file is damaged or no MATLAB file; ``zlib.error`` and ``struct.error`` too.
    """
    if not data:
        raise ValueError("0 bytes")
    mark = data[_LEVEL_5_HEADER - 2 : _LEVEL_5_HEADER]
    if mark not in (b"IM", b"MI"):
        return _level_4(memoryview(data), name.encode())
    order = "<" if mark == b"IM" else ">"
    if struct.unpack_from(f"{order}H", data, _LEVEL_5_HEADER - 4)[0] == _HDF5_VERSION:
        raise NotImplementedError
    return _level_5(memoryview(data)[_LEVEL_5_HEADER:], name.encode(), order)


def _level_5(data: memoryview, name: bytes, order: str) -> np.ndarray | None:
    for kind, content in _elements(data, order):
        if kind == _COMPRESSED:
            kind, content = next(_elements(memoryview(_unpacked(content)), order), (0, content))
        if kind != _MATRIX:
            raise ValueError(f"an element of type {kind} where a variable is due")
        parts = _elements(content, order)
        head = [part for _, part in zip(range(3), parts, strict=False)]
        if len(head) == 3 and bytes(head[2][1]) == name:
            return _matrix(head[0][1], head[1][1], next(parts, (0, memoryview(b""))), order)
    return None


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Types and contents; a small element has its length in the type's upper half, and its content in the tag."""
    offset = 0
    while offset < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, offset)
        start, end = offset + 8, offset + 8 + size + (-size % 8 if kind != _COMPRESSED else 0)
        if kind >> 16:
            kind, size, start, end = kind & 0xFFFF, kind >> 16, offset + 4, offset + 8
        if start + size > min(len(data), max(end, start)):
            raise ValueError("an element reaches beyond its end")
        yield kind, data[start : start + size]
        offset = end


def _unpacked(content: memoryview) -> bytes:
    """A compressed element; a megabyte can hold a gigabyte of zeros, features never do."""
    limit = max(_SMALL_BYTES, _MOST_TIMES * len(content))
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(content, limit + 1)
    if len(data) > limit:
        raise ValueError(f"an element that unpacks to more than {_MOST_TIMES} times its size")
    if not unpacker.eof:
        raise ValueError("a compressed element that is cut short")
    return data


def _matrix(flags: memoryview, sizes: memoryview, real: tuple[int, memoryview], order: str) -> np.ndarray:
    word = struct.unpack_from(f"{order}I", flags)[0]
    kind, content = real
    if word & 0xFF not in _CLASSES or word & _COMPLEX:
        raise TypeError(f"MATLAB class {word & 0xFF}{', complex' if word & _COMPLEX else ''}")
    if kind not in _STORED:
        raise ValueError(f"numbers of type {kind}")
    shape = np.frombuffer(sizes, f"{order}i4").tolist()
    numbers = np.frombuffer(content, f"{order}{_STORED[kind]}")
    return _shaped(numbers, shape).astype(_CLASSES[word & 0xFF], copy=False)


def _level_4(data: memoryview, name: bytes) -> np.ndarray | None:
    offset = 0
    while offset < len(data):
        order = "<" if struct.unpack_from("<i", data, offset)[0] in range(1000) else ">"
        kind, rows, columns, is_complex, length = struct.unpack_from(f"{order}5i", data, offset)
        if kind % 1000 > 52 or kind // 1000 != (order == ">") or min(rows, columns, length) < 0:
            raise ValueError("neither of level 4 nor of level 5")
        stored = np.dtype(f"{order}{_LEVEL_4_TYPES[kind // 10 % 10]}")
        start = offset + 20 + length
        offset = start + stored.itemsize * rows * columns * (2 if is_complex else 1)
        if offset > len(data):
            raise ValueError("a matrix reaches beyond the end")
        if bytes(data[start - length : start]).rstrip(b"\0") == name:
            if is_complex or kind % 10:
                raise TypeError("complex, text or sparse")
            return _shaped(np.frombuffer(data[start:offset], stored), [rows, columns])
    return None


def _shaped(numbers: np.ndarray, shape: list[int]) -> np.ndarray:
    if min(shape, default=0) < 0 or math.prod(shape) != len(numbers):
        raise ValueError(f"{len(numbers)} numbers for a matrix of {shape}"[:200])
    return numbers.reshape(shape, order="F")
