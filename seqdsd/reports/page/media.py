"""Pictures and recordings as a page holds them: shrunk or as they are, in data URIs, up to a number of megabytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import soundfile

from seqdsd.images import decoded_image, read_image_bytes

LONGEST_SIDE = 320
"""Of an embedded image, in pixels: 200 of them stay well below 10 MB."""

Encode = Callable[[Path], str]
"""From a file to its data URI; ValueError where it cannot be read."""

_JPEG_QUALITY = 80

# libsndfile's names of what every browser plays, and how a page names it.
_PLAYED = {
    "WAV": "audio/wav",
    "WAVEX": "audio/wav",
    "FLAC": "audio/flac",
    "OGG": "audio/ogg",
    "MP3": "audio/mpeg",
}
_NOT_PLAYED = ("ADPCM", "GSM", "G72", "NMS", "ALAC")  # within WAV


@dataclass(frozen=True)
class Embedded:
    """What of some files went into a page.

    Attributes:
        uris: Data URIs by id.
        unreadable: Ids whose files are not there or cannot be read.
        left_out: Ids for which no room was left.
    """

    uris: dict[str, str]
    unreadable: tuple[str, ...]
    left_out: tuple[str, ...]


def data_uri(data: bytes, media_type: str) -> str:
    """Write bytes as an address that needs no file."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def embed(files: Iterable[tuple[str, Path]], encode: Encode, *, max_bytes: int) -> Embedded:
    """Embed files in their order until there is no room for the next; one that alone is too large is passed over.

    Args:
        files: Ids and where their files are.
        encode: Makes a data URI of a file.
        max_bytes: Of all data URIs together; 0 reads no file.
    """
    uris, unreadable, left_out = dict[str, str](), list[str](), list[str]()
    room, is_full = max_bytes, max_bytes <= 0
    for id_, path in files:
        if is_full:
            left_out.append(id_)
            continue
        try:
            uri = encode(path)
        except ValueError:
            unreadable.append(id_)
            continue
        if len(uri) > room:
            is_full = len(uri) <= max_bytes
            left_out.append(id_)
            continue
        room -= len(uri)
        uris[id_] = uri
    return Embedded(uris, tuple(unreadable), tuple(left_out))


def picture_uri(path: Path) -> str:
    """An image, shrunk to a JPEG.

    Raises:
        ValueError: If it cannot be read.
    """
    return data_uri(thumbnail(path)[0], "image/jpeg")


def audio_uri(path: Path) -> str:
    """A recording: its own bytes where browsers play them, else (NIST SPHERE, AIFF …) FLAC of 16 bits.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        info = soundfile.info(path)
        media_type = _PLAYED.get(info.format)
        if media_type and not any(name in info.subtype for name in _NOT_PLAYED):
            return data_uri(path.read_bytes(), media_type)
        samples, sample_rate_hz = soundfile.read(path, dtype="int16")
        data = io.BytesIO()
        soundfile.write(data, samples, sample_rate_hz, format="FLAC", subtype="PCM_16")
    except (OSError, soundfile.SoundFileError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as a recording ({error})") from error
    return data_uri(data.getvalue(), "audio/flac")


def thumbnail(path: Path, longest_side: int = LONGEST_SIDE) -> tuple[bytes, tuple[int, int]]:
    """Shrink an image, upright and on white where it is transparent; returns a JPEG and its width and height.

    Raises:
        ImageError: If it cannot be read.
    """
    with decoded_image(read_image_bytes(path), path, at_least=2 * longest_side) as image:
        image.thumbnail((longest_side, longest_side))
        data = io.BytesIO()
        image.save(data, "JPEG", quality=_JPEG_QUALITY, optimize=True)
        return data.getvalue(), image.size
