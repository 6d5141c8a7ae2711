"""Feature vectors on disk, found by a key of what they were computed from; only ever appended to.

Two files: ``features.f32`` holds the rows, and ``index`` a record for each with its key and checksums. A record is
written after its row, so a process killed at any moment leaves at most rows without a record, or a torn record at the
end; both are overwritten by the next to append. Nothing is synced: what a power cut mixes up, the checksums tell.
A row whose checksum does not fit counts as absent. Leaves out deleting: remove the folder.
"""

from __future__ import annotations

import fcntl
import logging
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float

log = logging.getLogger(__name__)

KEY_BYTES = 16
_KEY_AND_ROW_SUM = struct.Struct(f"<{KEY_BYTES}sI")  # key, CRC-32 of the row
_RECORD_SUM = struct.Struct("<I")  # CRC-32 of the two above
_RECORD_BYTES = _KEY_AND_ROW_SUM.size + _RECORD_SUM.size
_ROW_TYPE = np.dtype("<f4")

_appending = threading.Lock()  # lockf holds against other processes only


class FeatureCache:
    """The features in one folder. Several processes and threads may read and append at once.

    Rows that others append after the opening are not seen.
    """

    def __init__(self, folder: Path, feature_size: int) -> None:
        """Open, or create.

        Raises:
            OSError: If the folder cannot be created.
        """
        self._folder = folder
        self._feature_size = feature_size
        self._row_bytes = feature_size * _ROW_TYPE.itemsize
        self._rows_path, self._index_path = folder / "features.f32", folder / "index"
        with self._refusals_explained():
            folder.mkdir(parents=True, exist_ok=True)
        self._lookup = threading.Lock()
        self._row_of: dict[bytes, int] = {}
        self._unchecked: dict[bytes, int] = {}
        """Checksums that the rows found on disk must have; a row is checked when it is first asked for."""
        self._damaged_records: list[int] = []
        self._read_index()
        self._array = self._map(self._num_rows())

    @property
    def array(self) -> Float[np.ndarray, "rows feature_size"]:
        """All rows, memory-mapped; some may be unused."""
        if self._row_of and max(self._row_of.values()) >= len(self._array):
            self._array = self._map(self._num_rows())
        return self._array

    def row(self, key: bytes) -> int | None:
        """The row of a key; None where there is none or it is damaged, which the log says."""
        with self._lookup:
            row = self._row_of.get(key)
            if row is None or (expected := self._unchecked.pop(key, None)) is None:
                return row
            if row < len(self._array) and zlib.crc32(self._array[row].data) == expected:
                return row
            del self._row_of[key]
        log.warning("%s: row %d is damaged and computed again", self._rows_path, row)
        return None

    def append(self, keys: Sequence[bytes], rows: Float[np.ndarray, "keys feature_size"]) -> None:
        """Add rows; a key that is there already moves to its new row.

        Raises:
            OSError: If they cannot be written.
        """
        content = np.ascontiguousarray(rows, dtype=_ROW_TYPE)
        with self._refusals_explained(), self._locked():
            self._rows_path.touch()
            self._index_path.touch()
            first = self._index_path.stat().st_size // _RECORD_BYTES
            records = [_record(key, row) for key, row in zip(keys, content, strict=True)]
            _write_at(self._rows_path, first * self._row_bytes, content.tobytes())
            _write_at(self._index_path, first * _RECORD_BYTES, b"".join(records))
            while self._damaged_records:  # said once; the row stays unused
                _write_at(self._index_path, self._damaged_records.pop() * _RECORD_BYTES, _NOBODYS_RECORD)
        with self._lookup:
            for i, key in enumerate(keys):
                self._row_of[key] = first + i
                self._unchecked.pop(key, None)

    def _read_index(self) -> None:
        index = self._index_path.read_bytes() if self._index_path.exists() else b""
        for row in range(len(index) // _RECORD_BYTES):
            record = index[row * _RECORD_BYTES : (row + 1) * _RECORD_BYTES]
            key, row_sum = _KEY_AND_ROW_SUM.unpack_from(record)
            if _RECORD_SUM.unpack_from(record, _KEY_AND_ROW_SUM.size)[0] != _record_sum(record):
                self._damaged_records.append(row)
                continue
            self._row_of[key], self._unchecked[key] = row, row_sum
        if count := len(self._damaged_records):
            log.warning("%s: %d damaged records; their features are computed again", self._index_path, count)

    def _num_rows(self) -> int:
        """Whole rows on disk, those without a record included."""
        return self._rows_path.stat().st_size // self._row_bytes if self._rows_path.exists() else 0

    def _map(self, num_rows: int) -> Float[np.ndarray, "rows feature_size"]:
        shape = (num_rows, self._feature_size)
        if not num_rows:  # an empty file cannot be mapped
            return np.empty(shape, _ROW_TYPE)
        return np.memmap(self._rows_path, _ROW_TYPE, "r", shape=shape)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other threads and processes from appending; the lock falls with the process, however it ends."""
        # A file of its own: closing any handle of a locked file would drop the lock.
        with _appending, (self._folder / ".lock").open("a") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _refusals_explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(
                f"cannot write the feature cache {self._folder}: {error}. Choose another cache folder, or make room"
            ) from error


def _record(key: bytes, row: Float[np.ndarray, "feature_size"]) -> bytes:
    start = _KEY_AND_ROW_SUM.pack(key, zlib.crc32(row.data))
    return start + _RECORD_SUM.pack(_record_sum(start))


def _record_sum(record: bytes) -> int:
    return zlib.crc32(record[: _KEY_AND_ROW_SUM.size])


_NOBODYS_RECORD = _record(bytes(KEY_BYTES), np.empty(0, _ROW_TYPE))


def _write_at(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)
