"""What an audio file says of its own end, so that one that was cut short is told from one that is short.

libsndfile makes the best of a file that ends too early: it counts the samples that are there and says nothing. Known
here are the headers of WAV, RF64, W64, AIFF, AU, CAF, NIST SPHERE and MP3 (Xing's), and the pages of Ogg. A length that
a writer to a pipe left open is no fault. Left out: FLAC, of which only decoding tells.
"""

import os
import re
import struct
from dataclasses import dataclass
from io import BufferedIOBase

_STREAMED = {0, 0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF}
"""Sizes that sox, ffmpeg and arecord write where they do not know them; Kaldi's reader has the same list."""
_MOST_CHUNKS = 1000
_LARGEST_CHUNK = 2**48
_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255
_OGG_END = 4
_SPHERE_FIELDS = re.compile(rb"(sample_count|channel_count|sample_n_bytes) -i (\d{1,12})")


@dataclass(frozen=True)
class _Chunks:
    """How the chunks of a format lie one after the other."""

    first: int
    """Where the first one begins."""
    name_bytes: int
    size: str
    """As ``struct`` has it."""
    samples: bytes
    """What the name of the chunk with the samples begins with."""
    align: int = 2
    size_has_header: bool = False


_WAV = _Chunks(12, 4, "<I", b"data")
_AIFF = _Chunks(12, 4, ">I", b"SSND")
_CHUNKED = {
    b"RIFF": _WAV,
    b"RF64": _WAV,
    b"BW64": _WAV,
    b"RIFX": _Chunks(12, 4, ">I", b"data"),
    b"riff": _Chunks(40, 16, "<q", b"data", align=8, size_has_header=True),  # W64
    b"caff": _Chunks(8, 4, ">q", b"data", align=1),
}


def missing_share(file: BufferedIOBase) -> float:
    """The share of the samples' bytes that its header promises and the file does not have; 0 where it does not say."""
    samples = _promised(file)
    if samples is None:
        return 0.0
    start, size = samples
    return max(0.0, 1 - max(0, file.seek(0, os.SEEK_END) - start) / size)


def is_unfinished_ogg(file: BufferedIOBase) -> bool:
    """Whether it is an Ogg file whose last page is not whole, or not marked as the last."""
    if _read(file, 0, 4) != b"OggS":
        return False
    end = file.seek(0, os.SEEK_END)
    tail = _read(file, max(0, end - _LARGEST_OGG_PAGE - 4096), _LARGEST_OGG_PAGE + 4096)  # a tag may follow
    page = tail[max(0, tail.rfind(b"OggS\0")) :]
    if len(page) < 27 or not page[5] & _OGG_END:
        return True
    segments = page[27 : 27 + page[26]]
    return len(page) < 27 + page[26] + sum(segments)


def _promised(file: BufferedIOBase) -> tuple[int, int] | None:
    """Where the samples begin, and how many bytes of them the header promises, if it says."""
    head = _read(file, 0, 64)
    chunks = _AIFF if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC") else _CHUNKED.get(head[:4])
    if chunks is not None:
        return _chunk_of_samples(file, chunks, head)
    if head[:4] in (b".snd", b"dns."):
        start, size = struct.unpack(">II" if head[:4] == b".snd" else "<II", head[4:12].ljust(8, b"\0"))
        return (start, size) if size not in _STREAMED else None
    if head.startswith(b"NIST_1A"):
        return _sphere(_read(file, 0, 1024))
    return _xing(file, head)


def _chunk_of_samples(file: BufferedIOBase, chunks: _Chunks, head: bytes) -> tuple[int, int] | None:
    at = chunks.first
    header_bytes = chunks.name_bytes + struct.calcsize(chunks.size)
    for _ in range(_MOST_CHUNKS):
        header = _read(file, at, header_bytes)
        if len(header) < header_bytes:
            return None
        [size] = struct.unpack(chunks.size, header[chunks.name_bytes :])
        start, size = at + header_bytes, size - chunks.size_has_header * header_bytes
        if header.startswith(chunks.samples):
            if head[12:16] == b"ds64" and size == 0xFFFF_FFFF:
                [size] = struct.unpack("<Q", head[28:36].ljust(8, b"\0"))  # its chunk may be damaged
            return (start, size) if size > 0 and size not in _STREAMED else None
        if not 0 <= size < _LARGEST_CHUNK:
            return None
        at = -(-(start + size) // chunks.align) * chunks.align
    return None


def _sphere(header: bytes) -> tuple[int, int] | None:
    fields = {name: int(value) for name, value in _SPHERE_FIELDS.findall(header)}
    length = header[8:16].strip()
    if b"shorten" in header or len(fields) < 3 or not length.isdigit():
        return None
    size = fields[b"sample_count"] * fields[b"channel_count"] * fields[b"sample_n_bytes"]
    return (int(length), size) if size else None


def _xing(file: BufferedIOBase, head: bytes) -> tuple[int, int] | None:
    """The size of an mp3 stream, as the first of its frames may have it."""
    start = 0
    if head.startswith(b"ID3"):
        start = 10 + sum((byte & 0x7F) << 7 * place for place, byte in enumerate(head[9:5:-1]))
    frame = _read(file, start, 256)
    if frame[:1] != b"\xff":
        return None
    found = re.match(rb".{4}(?:.{9}|.{17}|.{32})(?:Xing|Info)\0\0\0(.)(.*)", frame, re.DOTALL)
    if found is None or not found[1][0] & 2:
        return None
    [size] = struct.unpack(">I", found[2][4 if found[1][0] & 1 else 0 :][:4].ljust(4, b"\0"))
    return (start, size) if size else None


def _read(file: BufferedIOBase, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)
