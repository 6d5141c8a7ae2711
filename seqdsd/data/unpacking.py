"""Gzip files, with a bound on what comes out of them: a megabyte can hold a gigabyte of zeros."""

import gzip
from pathlib import Path

TIMES = 100
"""What a gzip file may unpack to, times its own size: text packs to a tenth, rarely a fortieth."""
_IN_ANY_CASE_BYTES = 64_000_000


def largest_unpacked(num_bytes: int) -> int:
    """Bytes that a gzip file of this size may unpack to."""
    return max(_IN_ANY_CASE_BYTES, TIMES * num_bytes)


def read_unpacked(path: Path) -> bytes:
    """The whole file, unpacked where its name ends in ``.gz``.

    Raises:
        gzip.BadGzipFile: If it unpacks to far more than text does, or is no gzip file.
        OSError: If it cannot be read.
        EOFError: If it was cut short.
        zlib.error: If it is damaged.
    """
    if path.suffix != ".gz":
        return path.read_bytes()
    limit = largest_unpacked(path.stat().st_size)
    with gzip.open(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise gzip.BadGzipFile(f"it unpacks to more than {TIMES} times its size")
    return data
