"""The .dsdz file in plain Python, by docs/format.md alone: a reader as strict as it asks for, and a writer."""

import hashlib
import itertools
import json
import math
import struct
import zlib
from typing import Any

MAGIC = bytes.fromhex("89 44 53 44 5A 0D 0A 1A")
STRUCT_TYPES = {
    "float64": "d",
    "float32": "f",
    "float16": "e",
    "bfloat16": "h",
    "int64": "q",
    "int32": "i",
    "int16": "h",
    "int8": "b",
    "uint8": "B",
    "bool": "B",
}
DENSE_BYTES = {name: struct.calcsize("<" + letter) for name, letter in STRUCT_TYPES.items()}
MAX_DENSE_BYTES = 2**32


class Refused(Exception):
    """What a reader must refuse."""


def need(condition: Any) -> None:
    if not condition:
        raise Refused


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:8]


def read(content: bytes) -> tuple[dict, dict[str, list]]:
    """What the writer says, and each tensor's numbers; bfloat16 as its bits."""
    try:
        header, streams = parts(content)
        tensors = {}
        for row, stream in zip(header["tensors"], streams, strict=True):
            need(sha(stream).hex() == row["sha256"])
            tensors.update(dict.fromkeys(row["names"], read_stream(row, stream)))
    except (ValueError, RecursionError, struct.error, zlib.error) as error:
        raise Refused from error
    return header["about"], tensors


def parts(content: bytes) -> tuple[dict, list[bytes]]:
    """The header, checked, and the streams."""
    need(len(content) >= 28)
    magic, version, packed_bytes, text_bytes = struct.unpack_from("<8sIII", content)
    place = 28 + packed_bytes
    need((magic, version) == (MAGIC, 1) and packed_bytes <= 2**20 and text_bytes <= 2**20)
    need(sha(content[:20] + content[28:place]) == content[20:28])
    header = parsed(content[28:place], text_bytes)
    check_table(header["tensors"])
    need(place + sum(row["bytes"] for row in header["tensors"]) == len(content))
    # A dimension of 0 counts as 1 where one tensor alone is held against the limit.
    of_one = [math.prod(one or 1 for one in row["shape"]) for row in header["tensors"]]
    in_all = sum(DENSE_BYTES[type_of(row)] * math.prod(row["shape"]) for row in header["tensors"])
    need(max([in_all, *of_one]) <= min(MAX_DENSE_BYTES, 2**14 * len(content) + 2**20))
    streams = []
    for row in header["tensors"]:
        streams.append(content[place : place + row["bytes"]])
        place += row["bytes"]
    return header, streams


def parsed(packed: bytes, text_bytes: int) -> dict:
    unpacking = zlib.decompressobj()
    text = unpacking.decompress(packed, text_bytes + 1)
    need(unpacking.eof and not unpacking.unused_data and len(text) == text_bytes)

    def once(members: list[tuple[str, Any]]) -> dict:
        need(len(dict(members)) == len(members))
        return dict(members)

    header = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    need(can_be_json(header) and type(header) is dict and header.keys() == {"about", "tensors"})
    need(type(header["about"]) is dict and type(header["tensors"]) is list)
    return header


def can_be_json(value: Any) -> bool:
    if isinstance(value, str):
        return not any("\ud800" <= one <= "\udfff" for one in value)
    if isinstance(value, dict):
        return all(can_be_json(one) for member in value.items() for one in member)
    if isinstance(value, list):
        return all(map(can_be_json, value))
    return not isinstance(value, float) or math.isfinite(value)


def type_of(row: dict) -> str:
    return row["dtype"] if row["coding"] == "raw" else "float32"


def check_table(rows: list) -> None:
    for row in rows:
        need(type(row) is dict)
        raw = ["dtype", "stored"] if row.get("coding") == "raw" else []
        need(sorted(row) == sorted(["names", "shape", "coding", "bytes", "sha256", *raw]))
        need(type(row["names"]) is list and row["names"] and all(type(one) is str for one in row["names"]))
        need(type(row["shape"]) is list and len(row["shape"]) <= 16)
        need(all(type(one) is int and 0 <= one < 2**39 for one in [*row["shape"], row["bytes"]]))
        need(row["coding"] in ("raw", "ans", "huffman") and type(row["sha256"]) is str)
        weights = math.prod(row["shape"])
        if raw:
            dtype, stored = row["dtype"], row["stored"]
            need(all(type(one) is str and one in STRUCT_TYPES for one in (dtype, stored)))
            need(stored == dtype or (dtype, stored) == ("float32", "float16"))
            need(row["bytes"] == weights * DENSE_BYTES[stored])
        need(raw or weights)
    names = [name for row in rows for name in row["names"]]
    need(len(names) == len(set(names)))


def read_stream(row: dict, stream: bytes) -> list[float]:
    if row["coding"] != "raw":
        return read_shared(stream, row["shape"], row["coding"])
    numbers = list(struct.unpack(f"<{math.prod(row['shape'])}{STRUCT_TYPES[row['stored']]}", stream))
    need(row["dtype"] != "bool" or set(numbers) <= {0, 1})
    return numbers


def read_shared(stream: bytes, shape: list[int], coding: str) -> list[float]:
    need(len(stream) >= 2 and stream[1] in (2, 4))
    k, width = stream[:2]
    end = 2 + k * width
    codebook = struct.unpack(f"<{k}{'e' if width == 2 else 'f'}", stream[2:end])
    need(all(math.isfinite(one) and one for one in codebook))
    need(all(one < other for one, other in itertools.pairwise(codebook)))
    rows = shape[0] if len(shape) > 1 else 1
    columns = math.prod(shape) // rows
    codes = (read_ans if coding == "ans" else read_huffman)(stream[end:], rows, columns, k)
    return [codebook[code - 1] if code else 0.0 for code in codes]


class Counts:
    """Counts from the front of some bytes, and what is left of these."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def take(self) -> int:
        size = next((index + 1 for index, byte in enumerate(self.rest) if byte < 128), None)
        need(size is not None and (size == 1 or self.rest[size - 1]))
        digits, self.rest = self.rest[:size], self.rest[size:]
        return sum((byte & 127) << 7 * index for index, byte in enumerate(digits))

    def table(self, count: int, total: int) -> list[int]:
        numbers = [self.take() for _ in range(count)]
        need(sum(numbers) == total)
        return numbers


class Stack:
    def __init__(self, data: bytes) -> None:
        self.words = list(struct.unpack(f"<{len(data) // 4}I", data))
        need(not self.words or self.words[-1])
        self.state = self.words.pop() if self.words else 0
        if self.words:
            self.state = self.state << 32 | self.words.pop()

    def symbols(self, table: list[int]) -> list[int]:
        if sum(one > 0 for one in table) < 2:
            return [symbol for symbol, count in enumerate(table) for _ in range(count)]
        m, total = len(table), sum(table)
        f = [n * (2**24 - m) // total for n in table]
        f[table.index(max(table))] += 2**24 - m - sum(f)
        f = [one + 1 for one in f]
        before = list(itertools.accumulate(f, initial=0))
        found = []
        for _ in range(total):
            q = self.state % 2**24
            symbol = next(i for i in range(m) if before[i] <= q < before[i + 1])
            self.state = f[symbol] * (self.state // 2**24) + q - before[symbol]
            if self.state < 2**32 and self.words:
                self.state = self.state << 32 | self.words.pop()
            found.append(symbol)
        need([found.count(symbol) for symbol in range(m)] == table)
        return found


def read_ans(data: bytes, rows: int, columns: int, k: int) -> list[int]:
    counts = Counts(data)
    tables = []
    for extent in (rows, columns):
        need((classes := counts.take()) <= 16)
        tables.append(counts.table(classes, extent))
    row_table, column_table = tables
    kept = [[counts.take() for _ in column_table] for _ in row_table]
    for i, j in itertools.product(range(len(row_table)), range(len(column_table))):
        need(kept[i][j] <= row_table[i] * column_table[j])
    code_table = counts.table(k, sum(map(sum, kept)))
    stack = Stack(counts.rest)
    row_class, column_class = stack.symbols(row_table), stack.symbols(column_table)
    mask = [[0] * columns for _ in range(rows)]
    for i, j in itertools.product(range(len(row_table)), range(len(column_table))):
        in_rows = [row for row in range(rows) if row_class[row] == i]
        places = [(row, column) for row in in_rows for column in range(columns) if column_class[column] == j]
        bits = stack.symbols([len(places) - kept[i][j], kept[i][j]])
        for (row, column), bit in zip(places, bits, strict=True):
            mask[row][column] = bit
    codes = iter(stack.symbols(code_table))
    grid = [next(codes) + 1 if bit else 0 for row in mask for bit in row]
    need(stack.state == 0 and not stack.words)
    return grid


def read_huffman(data: bytes, rows: int, columns: int, k: int) -> list[int]:
    counts, weights = Counts(data), rows * columns
    b, entries = counts.take(), counts.take()
    need(b <= 10 and entries <= weights)
    gap_lengths, data = lengths_of(counts.rest, 2**b)
    counts = Counts(data)
    gap_bytes = counts.take()
    need(gap_bytes <= len(counts.rest))
    gaps = words_of(counts.rest[:gap_bytes], gap_lengths, entries)
    lengths, data = lengths_of(counts.rest[gap_bytes:], k + 1)
    codes = words_of(data, lengths, entries)
    grid = [one for gap, code in zip(gaps, codes, strict=True) for one in [0] * gap + [code]]
    need(len(grid) <= weights)
    return grid + [0] * (weights - len(grid))


def lengths_of(data: bytes, count: int) -> tuple[list[int], bytes]:
    used = (count + 1) // 2
    need(len(data) >= used)
    halves = [half for byte in data[:used] for half in (byte >> 4, byte & 15)]
    need(not any(halves[count:]))
    return halves[:count], data[used:]


def words_of(data: bytes, lengths: list[int], count: int) -> list[int]:
    bits = "".join(f"{byte:08b}" for byte in data)
    in_order = sorted((one for one in range(len(lengths)) if lengths[one]), key=lambda one: lengths[one])
    if len(in_order) == 1:
        need(lengths[in_order[0]] == 1)
    elif in_order:
        need(sum(2.0 ** -lengths[one] for one in in_order) == 1)
    symbol_of, word, length = {}, -1, 0
    for symbol in in_order:
        word = (word + 1) << lengths[symbol] - length
        length = lengths[symbol]
        symbol_of[f"{word:0{length}b}"] = symbol
    found, start = [], 0
    for _ in range(count):
        end = next((end for end in range(start + 1, start + 16) if bits[start:end] in symbol_of), None)
        need(end is not None and end <= len(bits))
        found.append(symbol_of[bits[start:end]])
        start = end
    need(len(bits) - start < 8 and set(bits[start:]) <= {"0"})
    return found


def signed(packed: bytes, streams: bytes, *, version: int = 1, text_bytes: int = 0) -> bytes:
    """A file whose header, as it stands, has a checksum that fits."""
    fixed = struct.pack("<8sIII", MAGIC, version, len(packed), text_bytes)
    return fixed + sha(fixed + packed) + packed + streams


def with_text(text: bytes, streams: bytes, *, version: int = 1, text_bytes: int | None = None) -> bytes:
    """A file of this JSON."""
    size = len(text) if text_bytes is None else text_bytes
    return signed(zlib.compress(text), streams, version=version, text_bytes=size)


def with_streams(header: dict, streams: list[bytes]) -> bytes:
    """A file of this header, in which sizes and checksums are made to fit the streams."""
    rows = [
        {**row, "bytes": len(stream), "sha256": sha(stream).hex()}
        for row, stream in zip(header["tensors"], streams, strict=True)
    ]
    return with_text(json.dumps({**header, "tensors": rows}).encode(), b"".join(streams))
