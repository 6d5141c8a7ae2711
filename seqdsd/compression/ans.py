"""The default coding: mask and codes by asymmetric numeral systems (ANS), with counts that the stream itself states.

The mask's rows and columns are sorted into a few classes of like density, since in trained networks whole inputs and
units are used more than others; each block of a row class and a column class has a density of its own. The codes of
kept weights have one table. All probabilities are ratios of whole numbers, so that any machine reads the same bits;
docs/format.md says how, to the last one. Left out: contexts of neighbours, which would need compiled code of our own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from seqdsd.compression.kmeans import linear_kmeans, nearest
from seqdsd.compression.streams import StreamError, StreamReader, number_bytes, number_size

MAX_CLASSES = 16
_CLASSES_TRIED = (1, 2, 3, 4, 6, 8, 12, MAX_CLASSES)
_PRECISION_BITS = 24
_PART = 2**20
"""Symbols are coded so many at a time: the coder takes four bytes for each."""

Codes = NDArray[np.uint8]
"""[rows, columns]: 0 for a pruned weight, otherwise 1 + index into the codebook."""
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Coded:
    """A tensor's codes in one of the two codings.

    Attributes:
        data: The stream, without its codebook.
        index_bits: Bits of ``data`` that say which weights are kept, tables included.
        code_bits: The other bits: which centroid each of them has.
    """

    data: bytes
    index_bits: int
    code_bits: int


def frequencies(counts: Sequence[int] | Counts) -> Counts:
    """What each symbol has of the 2^24 parts of the coder's range, by how often it occurs: at least one.

    Args:
        counts: Below 2^39, of at least one symbol; not all 0.
    """
    exact = np.asarray(counts, np.int64)
    spare = 2**_PRECISION_BITS - len(exact)
    shares = exact * spare // exact.sum()
    shares[exact.argmax()] += spare - shares.sum()
    return shares + 1


def encode_ans(codes: Codes, num_centroids: int) -> Coded:
    """Encode a tensor's codes; ``decode_ans`` gives them back."""
    mask = codes != 0
    grid = _Grid.chosen_for(mask)
    blocks = list(grid.blocks(grid.arranged(mask)))
    kept = [int(np.count_nonzero(block)) for block in blocks]
    code_counts = np.bincount(codes.ravel(), minlength=num_centroids + 1)[1:]
    coder = constriction.stream.stack.AnsCoder()
    # The last in is the first out.
    _push(coder, codes[mask] - 1, code_counts)
    bits_of_codes = coder.num_bits()
    for block, ones in zip(reversed(blocks), reversed(kept), strict=True):
        _push(coder, block.ravel(), [block.size - ones, ones])
    _push(coder, grid.column_classes, grid.columns)
    _push(coder, grid.row_classes, grid.rows)
    code_table = number_bytes(*code_counts.tolist())
    words = coder.get_compressed().astype("<u4").tobytes()
    data = _head(grid.rows) + _head(grid.columns) + number_bytes(*kept) + code_table + words
    code_bits = bits_of_codes + 8 * len(code_table)
    return Coded(data, 8 * len(data) - code_bits, code_bits)


def decode_ans(stream: StreamReader, shape: tuple[int, int], num_centroids: int) -> Codes:
    """The codes of a stream: what ``encode_ans`` was given.

    Memory is at most four bytes a weight, besides some megabytes.

    Raises:
        StreamError: If the stream is none of ``shape`` and ``num_centroids``.
    """
    rows, columns = (_read_head(stream, extent) for extent in shape)
    kept = [stream.number(height * width) for height in rows for width in columns]
    code_counts = stream.numbers(num_centroids, total=sum(kept))
    coder = _coder(stream.rest())
    grid = _Grid(rows, columns, _pull(coder, rows), _pull(coder, columns))
    arranged = np.empty(shape, bool)
    for block, ones in zip(grid.blocks(arranged), kept, strict=True):
        block[:] = _pull(coder, [block.size - ones, ones]).reshape(block.shape)
    mask = grid.restored(arranged)
    del arranged
    codes = np.zeros(shape, np.uint8)
    codes[mask] = _pull(coder, code_counts) + 1
    if not coder.is_empty():
        raise StreamError("it goes on after its last weight")
    return codes


@dataclass(frozen=True)
class _Grid:
    """A mask's rows and columns in classes; ``rows`` and ``columns`` say how many each class has."""

    rows: list[int]
    columns: list[int]
    row_classes: NDArray[np.uint8]
    column_classes: NDArray[np.uint8]

    @classmethod
    def chosen_for(cls, mask: NDArray[np.bool_]) -> _Grid:
        """Classes of columns, then of rows in the light of those, then of columns again."""
        row_classes = np.zeros(mask.shape[0], np.uint8)
        for _ in range(2):
            column_classes = _best_classes(_kept_by_class(mask, row_classes), np.bincount(row_classes))
            row_classes = _best_classes(_kept_by_class(mask.T, column_classes), np.bincount(column_classes))
        rows, columns = np.bincount(row_classes).tolist(), np.bincount(column_classes).tolist()
        return cls(rows, columns, row_classes, column_classes)

    def arranged(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The mask with the rows and the columns of each class side by side, otherwise in their order."""
        for axis, classes in enumerate((self.row_classes, self.column_classes)):
            if classes.any():
                mask = mask.take(np.argsort(classes, kind="stable"), axis)
        return mask

    def restored(self, arranged: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The mask of which this is ``arranged``."""
        for axis, classes in enumerate((self.row_classes, self.column_classes)):
            if classes.any():
                arranged = arranged.take(np.argsort(np.argsort(classes, kind="stable")), axis)
        return arranged

    def blocks(self, arranged: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
        """Views of the blocks of like density, those of the first class of rows first."""
        for band in np.split(arranged, np.cumsum(self.rows)[:-1]):
            yield from np.split(band, np.cumsum(self.columns)[:-1], axis=1)


def _kept_by_class(mask: NDArray[np.bool_], row_classes: NDArray[np.uint8]) -> Counts:
    """How many weights each column keeps in the rows of each class: [columns, classes]."""
    classes = range(int(row_classes.max()) + 1)
    return np.stack([np.count_nonzero(mask[row_classes == one], axis=0) for one in classes], axis=1)


def _best_classes(kept: Counts, widths: Counts) -> NDArray[np.uint8]:
    """The classes of lines (rows or columns) by their density, as many as make the stream smallest.

    Args:
        kept: Of each line, in each class of the others: [lines, classes].
        widths: How many of the others each class has.
    """
    totals = kept.sum(axis=1).astype(np.float64)
    candidates = []
    for count in _CLASSES_TRIED:
        classes = nearest(totals, linear_kmeans(totals, count))
        members = np.bincount(classes)
        of_blocks = np.stack([kept[classes == one].sum(axis=0) for one in range(len(members))])
        sizes = np.outer(members, widths)
        bits = _bits(np.stack([of_blocks, sizes - of_blocks])) + _bits(members)
        table_bytes = number_size(of_blocks.ravel().tolist()) + number_size(members.tolist())
        candidates.append((bits + 8 * table_bytes, classes))
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _bits(counts: Counts) -> float:
    """What symbols of these counts take, each table along the first axis on its own."""
    total = np.maximum(counts.sum(axis=0), 1)
    return float(-np.sum(counts * np.log2(np.maximum(counts, 1) / total)))


def _head(sizes: Sequence[int]) -> bytes:
    """How many classes there are, and the size of each."""
    return number_bytes(len(sizes), *sizes)


def _read_head(stream: StreamReader, extent: int) -> list[int]:
    count = stream.number(MAX_CLASSES)
    return stream.numbers(count, total=extent)


def _model(counts: Sequence[int] | Counts) -> Any:
    # Whole numbers that already add up to what the coder would scale them to: it takes them as they are. It adds the 1.
    return constriction.stream.model.Categorical((frequencies(counts) - 1).astype(np.float64), perfect=False)


def _push(coder: Any, symbols: NDArray[Any], counts: Sequence[int] | Counts) -> None:
    """Encode symbols; not where they are all the same, which their counts say."""
    if np.count_nonzero(counts) < 2:
        return
    model = _model(counts)
    for start in reversed(range(0, len(symbols), _PART)):
        coder.encode_reverse(symbols[start : start + _PART].astype(np.int32), model)


def _pull(coder: Any, counts: Sequence[int]) -> NDArray[np.uint8]:
    """The symbols of ``_push``.

    Raises:
        StreamError: If they do not occur as often as ``counts`` says.
    """
    symbols = np.zeros(sum(counts), np.uint8)
    if np.count_nonzero(counts) < 2:
        symbols += np.argmax([*counts, 0]).astype(np.uint8)
        return symbols
    model, found = _model(counts), np.zeros(len(counts), np.int64)
    for start in range(0, len(symbols), _PART):
        part = symbols[start : start + _PART]
        part[:] = decoded = coder.decode(model, len(part))
        found += np.bincount(decoded, minlength=len(counts))
    if not np.array_equal(found, counts):
        raise StreamError("its counts are not those of its symbols")
    return symbols


def _coder(data: bytes) -> Any:
    """A coder that decodes; ``data`` are its words.

    Raises:
        StreamError: If they are none.
    """
    if len(data) % 4 or data.endswith(bytes(4)):
        raise StreamError("its end is not that of a stream of words")
    return constriction.stream.stack.AnsCoder(np.frombuffer(data, "<u4").astype(np.uint32))
