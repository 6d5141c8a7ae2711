"""Image files to 8-bit RGB as a viewer shows them, whatever their format and mode; every fault names its file.

The one place that opens images: for training, for captions and for pages, which must not import torch. Reads JPEG, PNG,
WebP, GIF (first frame), BMP and TIFF (first page). Leaves out colour profiles, and formats whose decoders are rarely
used on untrusted files: EPS, for one, would start Ghostscript.
"""

from __future__ import annotations

import codecs
import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image, UnidentifiedImageError

from seqdsd.printable import printable

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")

MAX_PIXELS = 100_000_000
"""Larger images are refused by their header, before anything is decoded. No more pixels than these are decoded at once,
by all threads together: at most 1 GB, of WebP 1.6 GB."""

MAX_FILE_BYTES = 4 * MAX_PIXELS
"""Larger files are not read: no image of ``MAX_PIXELS`` needs more."""

_BLOCK_BYTES = 64 * 2**20
"""In which Pillow asks for memory: so much the C library gives back at once; of less it keeps some for each thread."""

_STRIP_PIXELS = 2_000_000
"""Converted at once: what a conversion needs beside the image and its result stays small."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {  # EXIF's orientation to what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """An image file that cannot be used; the message reads ``PATH: what is wrong. What to do``."""

    def __init__(self, path: Path | str, what: str, remedy: str) -> None:
        super().__init__(f"{printable(str(path))}: {what}. {remedy}")


def read_image(path: Path | str) -> Image.Image:
    """Read an image file as RGB, upright by its EXIF orientation, transparent parts on white.

    16-bit greyscale keeps its upper 8 bits.

    Raises:
        ImageError: If the file is missing, empty, not an image, truncated, damaged, has more than ``MAX_PIXELS``, or
            holds pixels without a fixed range (32-bit).
    """
    with decoded_image(read_image_bytes(path), path) as image:
        return image


def read_image_bytes(path: Path | str) -> bytes:
    """Return a file's content, undecoded.

    Raises:
        ImageError: If the file is missing, empty, larger than ``MAX_FILE_BYTES`` or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(path, "there is no such file", "Correct the path, or copy the image there")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ImageError(path, f"cannot be read ({error.strerror})", "Check its permissions") from error
    if not data:
        raise ImageError(path, "the file is empty (0 bytes)", "Copy or download it again")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(path, f"the file has more than {MAX_FILE_BYTES:,} bytes", "Scale the image down")
    return data


@contextmanager
def decoded_image(data: bytes, path: Path | str, *, at_least: int | None = None) -> Iterator[Image.Image]:
    """Decode a file's content as ``read_image`` does; other threads' images wait until the block lets go of large ones.

    A thread must not open a second image within the block: it might wait for itself.

    Args:
        data: The content.
        path: For messages.
        at_least: A JPEG may come smaller, by 2, 4 or 8, with no side shorter than that: it takes less time and memory.

    Raises:
        ImageError: As ``read_image`` does.
    """
    Image.core.set_block_size(_BLOCK_BYTES)
    image = _opened(data, path)
    with _room.taken(_shrunk(image, at_least)):
        yield _loaded(image, path)


def to_upright_rgb(image: Image.Image, path: Path | str = "image") -> Image.Image:
    """An image that is open, as ``read_image`` gives it; ``path`` is for messages.

    Raises:
        ImageError: As ``read_image`` does, if its pixels cannot be decoded.
    """
    return _loaded(image, path)


def _opened(data: bytes, path: Path | str) -> Image.Image:
    """The image with its header read."""
    try:
        with _pillow_silenced:
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error)) from error
    except UnidentifiedImageError as error:
        raise _not_an_image(path, data) from error
    except Exception as error:
        raise _damaged(path, error) from error
    _check_size(image, path)
    return image


def _shrunk(image: Image.Image, at_least: int | None) -> int:
    """Let a JPEG be decoded smaller; how many pixels are decoded."""
    num_pixels = image.width * image.height
    if at_least is None:
        return num_pixels
    image.draft(None, (at_least, at_least))
    return num_pixels if image.info.get("progressive") else image.width * image.height


def _loaded(image: Image.Image, path: Path | str) -> Image.Image:
    try:
        with _pillow_silenced:
            image.load()
            orientation, rgb = _orientation(image), _to_rgb(image, path)
            if rgb is not image:
                image.close()  # its pixels are not needed beside two others
            return _upright(rgb, orientation)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(path, "there is not enough memory to decode it", "Scale it down") from error
    except Exception as error:
        raise _damaged(path, error) from error


class _Room:
    """Lets threads decode at the same time what has no more pixels together than ``num_pixels``; the others wait."""

    def __init__(self, num_pixels: int) -> None:
        self._num_pixels = num_pixels
        self.clear()

    def clear(self) -> None:
        """Nothing is being decoded."""
        self._free = self._num_pixels
        self._more = threading.Condition()

    @contextmanager
    def taken(self, num_pixels: int) -> Iterator[None]:
        """Wait for room, and hold it."""
        with self._more:
            self._more.wait_for(lambda: self._free >= num_pixels)
            self._free -= num_pixels
        try:
            yield
        finally:
            with self._more:
                self._free += num_pixels
                self._more.notify_all()


_room = _Room(MAX_PIXELS)
# Threads that hold room are not in a child process, to give it back.
os.register_at_fork(after_in_child=_room.clear)


class _Silenced:
    """Drops Pillow's warnings (broken EXIF data and the like, which are no reason to refuse an image).

    Pillow warns, this module decides: anything that matters becomes an ImageError. ``warnings.catch_warnings`` alone
    is not for threads: overlapping blocks restore each other's filters. Here the first to enter sets the filter
    and the last to leave removes it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(kind, error, trace)


_pillow_silenced = _Silenced()


def _check_size(image: Image.Image, path: Path | str) -> None:
    if 0 in image.size:
        raise ImageError(path, f"an image of {image.width} x {image.height} pixels", "Make it again")
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path, f"{image.width} x {image.height} pixels")


def _too_large(path: Path | str, size: str) -> ImageError:
    what = f"its header states more than {MAX_PIXELS:,} pixels ({size}): a decompression bomb?"
    return ImageError(path, what, "If it is genuine, scale it down")


def _damaged(path: Path | str, error: Exception) -> ImageError:
    """Decoders raise whatever the damage leads them into: KeyError, struct.error and others."""
    return ImageError(
        path, f"truncated or damaged ({printable(str(error))[:200]})", "Copy or download it again"
    )


def _not_an_image(path: Path | str, data: bytes) -> ImageError:
    if _is_text(data[:512]):
        remedy = "Was a web page saved in its place? Download it again"
        return ImageError(path, "holds text, not an image", remedy)
    formats = ", ".join(_FORMATS)
    return ImageError(path, f"not an image (of {formats}), or damaged", "Convert it, or copy it again")


def _is_text(start: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)  # its last character may be cut
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character.isspace() for character in text)


def _to_rgb(image: Image.Image, path: Path | str) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    rgb = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        rgb.paste(_strip_to_rgb(image.crop(box), path), box)
    return rgb


def _strip_to_rgb(image: Image.Image, path: Path | str) -> Image.Image:
    if image.mode.startswith("I"):
        image = _upper_eight_bits(image, path)
    if image.mode == "F":
        raise ImageError(path, "floating-point pixels, whose range is not known", "Convert it to 8 bits")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _upper_eight_bits(image: Image.Image, path: Path | str) -> Image.Image:
    """16-bit greyscale to 8 bits; Pillow opens it as mode I;16 or, from some formats, as 32-bit mode I."""
    values = np.asarray(image)
    if image.mode == "I" and (values.min() < 0 or values.max() >= 2**16):
        raise ImageError(path, "32-bit pixels, whose range is not known", "Convert it to 8 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 where there is none or it is unreadable; TIFF's is undone by Pillow, which says 1."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # broken EXIF data end in SyntaxError, struct.error …; the picture itself is sound
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
