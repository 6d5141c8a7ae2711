"""Reading against pixels written down by hand; damage of every kind must end in an ImageError, never in a warning."""

import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import seqdsd.images
from seqdsd.images import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    ImageError,
    _pillow_silenced,
    _Room,
    decoded_image,
    read_image,
)

REPOSITORY = Path(__file__).parents[1]
RED, GREEN, BLUE, YELLOW, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 255, 255)


def corners(size: tuple[int, int] = (48, 32)) -> Image.Image:
    """Four large patches: red and green above, blue and yellow below."""
    width, height = size
    image = Image.new("RGB", size, RED)
    image.paste(GREEN, (width // 2, 0, width, height))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(YELLOW, (width // 2, height // 2, width, height))
    return image


def patch_colours(image: Image.Image) -> list[tuple[int, ...]]:
    """Colours in the middle of the patches: above left, above right, below left, below right."""
    width, height = image.size
    return [
        image.getpixel((x, y)) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)
    ]


def assert_corners(image: Image.Image, expected: list[tuple[int, ...]], *, tolerance: int = 0) -> None:
    assert image.mode == "RGB"
    np.testing.assert_allclose(patch_colours(image), expected, atol=tolerance)


def noise(size: tuple[int, int] = (64, 48)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_format(tmp_path, suffix):
    path = tmp_path / f"corners{suffix}"
    corners().save(path, **({"lossless": True} if suffix == ".webp" else {}))
    tolerance = 4 if suffix in (".jpg", ".jpeg") else 0
    assert_corners(read_image(path), [RED, GREEN, BLUE, YELLOW], tolerance=tolerance)


def test_the_suffix_does_not_matter(tmp_path):
    corners().save(tmp_path / "corners.jpg", "PNG")
    assert_corners(read_image(tmp_path / "corners.jpg"), [RED, GREEN, BLUE, YELLOW])


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk(tmp_path, suffix):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / f"red{suffix}")
    np.testing.assert_allclose(read_image(tmp_path / f"red{suffix}").getpixel((4, 4)), RED, atol=4)


def test_palette_and_bilevel(tmp_path):
    corners().quantize(4).save(tmp_path / "palette.png")
    assert_corners(read_image(tmp_path / "palette.png"), [RED, GREEN, BLUE, YELLOW])
    Image.new("1", (4, 4), 1).save(tmp_path / "bilevel.png")
    assert read_image(tmp_path / "bilevel.png").getpixel((0, 0)) == WHITE


def test_greyscale_of_8_and_16_bits(tmp_path):
    Image.new("L", (4, 4), 200).save(tmp_path / "eight.png")
    assert read_image(tmp_path / "eight.png").getpixel((0, 0)) == (200, 200, 200)
    values = np.array([[0, 0x00FF], [0x8000, 0xFFFF]], dtype=np.uint16)
    expected = np.array([[0, 0], [128, 255]])
    for name in ("sixteen.png", "sixteen.tif"):
        Image.fromarray(values).save(tmp_path / name)
        np.testing.assert_array_equal(np.asarray(read_image(tmp_path / name))[:, :, 1], expected)
    Image.fromarray(values.astype(">u2")).save(tmp_path / "big_endian.tif")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "big_endian.tif"))[:, :, 1], expected)


def test_sixteen_bits_in_32_and_more(tmp_path):
    Image.fromarray(np.array([[0, 65535]], dtype=np.int32)).save(tmp_path / "fits.tif")
    assert read_image(tmp_path / "fits.tif").getpixel((1, 0)) == WHITE
    Image.fromarray(np.array([[0, 65536]], dtype=np.int32)).save(tmp_path / "large.tif")
    Image.fromarray(np.array([[0.0, 0.5]], dtype=np.float32)).save(tmp_path / "float.tif")
    for name in ("large.tif", "float.tif"):
        with pytest.raises(ImageError, match=rf"{name}: .*range is not known\. Convert it to 8 bits"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["alpha.png", "alpha.webp", "alpha.tif"])
def test_alpha_is_composited_on_white(tmp_path, name):
    image = corners().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 255))
    image.paste((0, 0, 0, 0), (24, 0, 48, 16))
    image.paste((0, 0, 255, 51), (0, 16, 24, 32))
    image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    assert_corners(read_image(tmp_path / name), [RED, WHITE, (204, 204, 255), YELLOW], tolerance=1)


def test_transparency_of_palettes_and_grey(tmp_path):
    palette = corners().quantize(4)
    palette.save(tmp_path / "one.png", transparency=palette.getpixel((40, 4)))
    palette.save(tmp_path / "one.gif", transparency=palette.getpixel((40, 4)))
    for name in ("one.png", "one.gif"):
        assert_corners(read_image(tmp_path / name), [RED, WHITE, BLUE, YELLOW])
    alphas = [255] * 4
    alphas[palette.getpixel((40, 4))] = 0
    palette.save(tmp_path / "several.png", transparency=bytes(alphas))
    assert_corners(read_image(tmp_path / "several.png"), [RED, WHITE, BLUE, YELLOW])
    Image.merge("LA", [Image.new("L", (4, 4), 0), Image.new("L", (4, 4), 51)]).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").getpixel((0, 0)) == (204, 204, 204)


def test_first_frame(tmp_path):
    for name in ("two.gif", "two.webp", "two.tif", "two.png"):
        corners().save(
            tmp_path / name,
            save_all=True,
            append_images=[Image.new("RGB", (48, 32), (0, 0, 0))],
            **({"lossless": True} if name.endswith("webp") else {}),
        )
        assert_corners(read_image(tmp_path / name), [RED, GREEN, BLUE, YELLOW])


# What each orientation does to an upright image before it is stored, by EXIF's definition of where row 0 and column 0
# of the file belong.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],  # row 0 on top, column 0 on the right
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),  # row 0 on the left, column 0 on top
    6: lambda a: a[:, ::-1].transpose(1, 0, 2),  # row 0 on the right, column 0 on top
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),  # row 0 on the right, column 0 below
    8: lambda a: a[::-1].transpose(1, 0, 2),  # row 0 on the left, column 0 below
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(corners()))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(
        tmp_path / f"turned{suffix}", exif=exif, **({"quality": 95} if suffix in (".jpg", ".webp") else {})
    )
    image = read_image(tmp_path / f"turned{suffix}")
    assert image.size == (48, 32)
    assert_corners(image, [RED, GREEN, BLUE, YELLOW], tolerance=8)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x03\0"]
)
def test_broken_exif_is_no_reason_to_refuse(tmp_path, exif):
    corners().save(tmp_path / "photo.jpg", exif=exif)
    assert_corners(read_image(tmp_path / "photo.jpg"), [RED, GREEN, BLUE, YELLOW], tolerance=4)


def test_missing_empty_and_text_files_are_named(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text(
        "<!DOCTYPE html>\n<title>404 – größer</title>\n" * 50, encoding="utf-8"
    )
    (tmp_path / "random.jpg").write_bytes(np.random.default_rng(0).bytes(2000))
    (tmp_path / "figure.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    cases = {
        "missing.jpg": "there is no such file",
        "empty.jpg": "0 bytes",
        "page.jpg": "holds text, not an image",
        "random.jpg": "not an image",
        "figure.jpg": "holds text",  # Pillow would start Ghostscript for it
        ".": "there is no such file",
    }
    for name, reason in cases.items():
        with pytest.raises(ImageError, match=rf"{reason}.*\. \w+") as caught:
            read_image(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")


def test_unreadable_file(tmp_path, monkeypatch):
    corners().save(tmp_path / "secret.png")

    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # chmod does not keep root out
    with pytest.raises(ImageError, match=r"secret\.png: cannot be read \(Permission denied\)"):
        read_image(tmp_path / "secret.png")


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_files_are_refused(tmp_path, suffix, share):
    path = tmp_path / f"noise{suffix}"
    noise().save(path)
    path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])
    with pytest.raises(ImageError, match=rf"noise{suffix}: .*(truncated|damaged)"):
        read_image(path)


def png_header(width: int, height: int) -> bytes:
    """A PNG of that size in a few bytes: all but its first rows are missing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(10_001, 10_000), (20_000, 20_000), (100_000, 100_000)])
def test_decompression_bombs_are_refused_by_their_header(tmp_path, width, height, monkeypatch):
    assert width * height > MAX_PIXELS
    (tmp_path / "bomb.png").write_bytes(png_header(width, height))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("it was decoded"))
    with pytest.raises(
        ImageError, match=r"bomb\.png: its header states more than 100,000,000 pixels \(.*\d+"
    ):
        read_image(tmp_path / "bomb.png")


def test_large_images_that_pillow_warns_of_are_read(tmp_path):
    Image.new("1", (10_000, 9_999)).save(tmp_path / "large.png")
    assert read_image(tmp_path / "large.png").size == (10_000, 9_999)


def test_files_too_large_to_be_an_image_are_not_read(tmp_path, monkeypatch):
    noise().save(tmp_path / "noise.bmp")
    size = (tmp_path / "noise.bmp").stat().st_size
    monkeypatch.setattr("seqdsd.images.MAX_FILE_BYTES", size)
    read_image(tmp_path / "noise.bmp")
    monkeypatch.setattr("seqdsd.images.MAX_FILE_BYTES", size - 1)
    with pytest.raises(ImageError, match=rf"noise\.bmp: the file has more than {size - 1:,} bytes"):
        read_image(tmp_path / "noise.bmp")


def in_mode(mode: str) -> Image.Image:
    image = noise((37, 29))
    if mode.startswith("I"):
        return Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257)
    image = image.convert(mode) if mode != "PA" else image.quantize(9)
    if mode == "PA":
        image.info["transparency"] = 3
    if mode in ("RGBA", "LA"):
        image.putalpha(noise((37, 29)).getchannel("R"))
    return image


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16"])
def test_conversion_in_strips_leaves_no_seam(tmp_path, mode, monkeypatch):
    in_mode(mode).save(tmp_path / "one.png")
    whole = np.asarray(read_image(tmp_path / "one.png"))
    for strip_pixels in (1, 37 * 4):  # a row, and four; the last is shorter
        monkeypatch.setattr("seqdsd.images._STRIP_PIXELS", strip_pixels)
        np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "one.png")), whole)


def test_a_jpeg_may_come_smaller(tmp_path):
    corners((480, 320)).save(tmp_path / "photo.jpg", quality=95)
    data = (tmp_path / "photo.jpg").read_bytes()
    for at_least, size in ((None, (480, 320)), (161, (480, 320)), (160, (240, 160)), (7, (60, 40))):
        with decoded_image(data, "photo.jpg", at_least=at_least) as image:
            assert image.size == size
            assert_corners(image, [RED, GREEN, BLUE, YELLOW], tolerance=8)


def test_images_wait_until_there_is_room():
    room, inside, most = _Room(10), [], []

    def decode(num_pixels: int) -> None:
        with room.taken(num_pixels):
            inside.append(num_pixels)
            most.append(sum(inside))
            time.sleep(0.001)
            inside.remove(num_pixels)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(decode, [3, 10, 1, 4, 4, 10, 2, 5, 6, 1] * 10))
    assert max(most) <= 10 and len(most) == 100
    assert max(most) > 5  # several do go together
    with pytest.raises(KeyError), room.taken(10):
        raise KeyError  # the room is given back
    decode(10)


FOUR_THREADS = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
import seqdsd.images
from seqdsd.images import decoded_image, read_image_bytes

def shrink(path):
    with decoded_image(read_image_bytes(path), path) as image:
        image.reduce(100)

seqdsd.images._room = seqdsd.images._Room(9_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with ThreadPoolExecutor(4) as pool:
    list(pool.map(shrink, [sys.argv[1]] * 4))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_threads_take_no_more_memory_than_one(tmp_path):
    """Nor does each thread keep a picture's worth of memory for its next."""
    Image.new("RGBA", (3000, 3000), (1, 2, 3, 4)).save(tmp_path / "large.png")
    command = [sys.executable, "-c", FOUR_THREADS, str(tmp_path / "large.png")]
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert (
        int(said.stdout) / 1024 < 130
    )  # MB: 36 as decoded, 36 as RGB, and strips; four would take 288 and more


def test_a_child_process_does_not_wait_for_its_parents_threads(tmp_path):
    corners().save(tmp_path / "one.png")
    with seqdsd.images._room.taken(MAX_PIXELS), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which is the point
        child = os.fork()
        if child == 0:
            read_image(tmp_path / "one.png")
            os._exit(0)
        for _ in range(500):
            if (done := os.waitpid(child, os.WNOHANG)) != (0, 0):
                break
            time.sleep(0.01)
        else:
            os.kill(child, signal.SIGKILL)
    assert done == (child, 0)


def test_random_damage_is_an_image_error_or_none():
    generator = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        buffer = io.BytesIO()
        noise((16, 12)).save(buffer, kind)
        for _ in range(60):
            data = bytearray(buffer.getvalue())
            for _ in range(generator.integers(1, 6)):  # mostly in the header, where damage does most
                data[int(len(data) * generator.random() ** 3)] = generator.integers(256)
            try:
                with decoded_image(bytes(data), "x") as image:
                    assert image.mode == "RGB"
            except ImageError as error:
                assert str(error).startswith("x: ")


def test_warnings_of_others_are_left_alone():
    with _pillow_silenced, pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


def test_threads_leave_the_warning_filters_as_they_were():
    def enter_and_leave(number: int) -> None:
        with _pillow_silenced:
            barrier.wait()

    before = list(warnings.filters)
    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter_and_leave, range(40)))
    assert warnings.filters == before
