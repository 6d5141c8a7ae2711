"""A reader in plain Python, written from docs/format.md alone, gets the bits that ours does."""

import hashlib
import itertools
import json
import math
import struct
import zlib

import pytest
import torch

from seqdsd.compression import SharedTensor, read_compressed, share_weights, write_compressed

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
    "bool": "?",
}


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:8]


def read(content: bytes) -> tuple[dict, dict[str, list]]:
    """What the writer says, and each tensor's numbers; bfloat16 as its bits."""
    magic, version, packed_bytes, text_bytes = struct.unpack_from("<8sIII", content)
    assert (magic, version) == (bytes.fromhex("89 44 53 44 5A 0D 0A 1A"), 1)
    place = 28 + packed_bytes
    assert sha(content[:20] + content[28:place]) == content[20:28]
    text = zlib.decompress(content[28:place])
    assert len(text) == text_bytes
    header, tensors = json.loads(text), {}
    for row in header["tensors"]:
        stream = content[place : place + row["bytes"]]
        place += row["bytes"]
        assert sha(stream).hex() == row["sha256"]
        if row["coding"] == "raw":
            numbers = list(struct.unpack(f"<{math.prod(row['shape'])}{STRUCT_TYPES[row['stored']]}", stream))
        else:
            numbers = read_shared(stream, row["shape"], row["coding"])
        tensors.update(dict.fromkeys(row["names"], numbers))
    assert place == len(content)
    return header["about"], tensors


def read_shared(stream: bytes, shape: list[int], coding: str) -> list[float]:
    k, width = stream[:2]
    end = 2 + k * width
    codebook = struct.unpack(f"<{k}{'e' if width == 2 else 'f'}", stream[2:end])
    rows = shape[0] if len(shape) > 1 else 1
    columns = math.prod(shape) // rows
    codes = (read_ans if coding == "ans" else read_huffman)(stream[end:], rows, columns, k)
    return [codebook[code - 1] if code else 0.0 for code in codes]


def counts_of(data: bytes):
    """Counts, one after the other; then, sent 0, what is left of the data."""
    while True:
        value = 0
        for index, byte in enumerate(data):
            value |= (byte & 127) << 7 * index
            if byte < 128:
                break
        data = data[index + 1 :]
        if (yield value) == "rest":
            yield data
            return


def rest_of(counts) -> bytes:
    return counts.send("rest")


class Stack:
    def __init__(self, data: bytes) -> None:
        self.words = list(struct.unpack(f"<{len(data) // 4}I", data))
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
        assert [found.count(symbol) for symbol in range(m)] == table
        return found


def read_ans(data: bytes, rows: int, columns: int, k: int) -> list[int]:
    counts = counts_of(data)
    row_table = [next(counts) for _ in range(next(counts))]
    column_table = [next(counts) for _ in range(next(counts))]
    kept = [[next(counts) for _ in column_table] for _ in row_table]
    code_table = [next(counts) for _ in range(k)]
    stack = Stack(rest_of(counts))
    row_class, column_class = stack.symbols(row_table), stack.symbols(column_table)
    mask = [[0] * columns for _ in range(rows)]
    for i, j in itertools.product(range(len(row_table)), range(len(column_table))):
        places = [
            (row, column)
            for row in range(rows)
            for column in range(columns)
            if (row_class[row], column_class[column]) == (i, j)
        ]
        for (row, column), bit in zip(
            places, stack.symbols([len(places) - kept[i][j], kept[i][j]]), strict=True
        ):
            mask[row][column] = bit
    codes = iter(stack.symbols(code_table))
    grid = [next(codes) + 1 if bit else 0 for row in mask for bit in row]
    assert stack.state == 0 and not stack.words
    return grid


def read_huffman(data: bytes, rows: int, columns: int, k: int) -> list[int]:
    counts = counts_of(data)
    b, entries = next(counts), next(counts)
    data = rest_of(counts)
    gap_lengths, data = lengths_of(data, 2**b)
    counts = counts_of(data)
    gap_bytes = next(counts)
    data = rest_of(counts)
    gaps = words_of(data[:gap_bytes], gap_lengths, entries)
    lengths, data = lengths_of(data[gap_bytes:], k + 1)
    codes = words_of(data, lengths, entries)
    grid = [one for gap, code in zip(gaps, codes, strict=True) for one in [0] * gap + [code]]
    return grid + [0] * (rows * columns - len(grid))


def lengths_of(data: bytes, count: int) -> tuple[list[int], bytes]:
    used = (count + 1) // 2
    return [half for byte in data[:used] for half in (byte >> 4, byte & 15)][:count], data[used:]


def words_of(data: bytes, lengths: list[int], count: int) -> list[int]:
    bits = "".join(f"{byte:08b}" for byte in data)
    symbol_of, word, length = {}, -1, 0
    for symbol in sorted((one for one in range(len(lengths)) if lengths[one]), key=lambda one: lengths[one]):
        word = (word + 1) << lengths[symbol] - length
        length = lengths[symbol]
        symbol_of[f"{word:0{length}b}"] = symbol
    found, start, end = [], 0, 1
    while len(found) < count:
        if bits[start:end] in symbol_of:
            found.append(symbol_of[bits[start:end]])
            start = end
        end += 1
    assert len(bits) - start < 8 and set(bits[start:]) <= {"0"}
    return found


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
