"""Pictures and recordings in data URIs."""

import base64
import io
import os

import numpy as np
import pytest
import soundfile
from PIL import Image

from seqdsd.images import ImageError
from seqdsd.reports.page.media import LONGEST_SIDE, audio_uri, embed, picture_uri, thumbnail

RATE = 16000


def decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def content(uri: str) -> tuple[str, bytes]:
    """Media type and bytes."""
    head, _, data = uri.partition(",")
    return head.removeprefix("data:").removesuffix(";base64"), base64.b64decode(data)


def tone(seconds: float = 0.1) -> np.ndarray:
    return (8000 * np.sin(np.arange(int(RATE * seconds)) / 9)).astype(np.int16)


# Pictures


def test_thumbnails_fit_and_keep_their_shape(tmp_path):
    for size, expected in (((500, 375), (320, 240)), ((100, 900), (36, 320)), ((64, 32), (64, 32))):
        Image.new("RGB", size, (200, 30, 30)).save(tmp_path / "one.png")
        data, size = thumbnail(tmp_path / "one.png")
        assert size == decoded(data).size == expected
    assert LONGEST_SIDE == 320


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "LA", "P", "1"])
def test_thumbnails_of_any_mode_are_rgb(tmp_path, mode):
    path = tmp_path / ("one.jpg" if mode in ("L", "CMYK") else "one.png")
    Image.new("RGB", (20, 20), (255, 255, 255)).convert(mode).save(path)
    picture = decoded(thumbnail(path)[0])
    assert picture.mode == "RGB"
    assert np.asarray(picture).min() > 250


def test_transparency_becomes_white(tmp_path):
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "one.png")
    assert np.asarray(decoded(thumbnail(tmp_path / "one.png")[0])).min() > 250


def test_a_rotated_photo_stands_upright(tmp_path):
    image = Image.new("RGB", (40, 20), "white")
    exif = image.getexif()
    exif[0x0112] = 6  # the camera lay on its side
    image.save(tmp_path / "one.jpg", exif=exif)
    assert thumbnail(tmp_path / "one.jpg")[1] == (20, 40)


def test_unreadable_images_are_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = tmp_path / "whole.jpg"
    Image.fromarray(noise).save(whole)
    for name, data in (("text.jpg", b"text"), ("empty.jpg", b""), ("cut.jpg", whole.read_bytes()[:900])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match=f"{name}: .*(text, not an image|empty|truncated)"):
            thumbnail(tmp_path / name)


def test_other_formats_in_disguise_are_not_opened(tmp_path, monkeypatch):
    """Pillow opens them; for the first it would start Ghostscript, and of others it gives tracebacks if damaged."""
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\necho started >> {tmp_path}/log\necho 10.0\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # it looks once
    picture = Image.new("RGB", (16, 16), "white")
    for kind in ("EPS", "AVIF", "BLP", "DDS", "ICO", "PPM"):
        (picture.quantize() if kind == "BLP" else picture).save(tmp_path / "one.jpg", kind)
        whole = (tmp_path / "one.jpg").read_bytes()
        for data in (whole, whole[: len(whole) // 2]):
            (tmp_path / "one.jpg").write_bytes(data)
            with pytest.raises(ImageError, match=r"one\.jpg: (not|holds text, not) an image"):
                thumbnail(tmp_path / "one.jpg")
    assert not (tmp_path / "log").exists()


def test_a_picture_is_a_jpeg(tmp_path):
    Image.new("RGB", (640, 320), (200, 30, 30)).save(tmp_path / "one.png")
    media_type, data = content(picture_uri(tmp_path / "one.png"))
    assert media_type == "image/jpeg" and decoded(data).size == (320, 160)


# Recordings


@pytest.mark.parametrize(
    ("suffix", "media_type"),
    [("wav", "audio/wav"), ("flac", "audio/flac"), ("ogg", "audio/ogg"), ("mp3", "audio/mpeg")],
)
def test_what_browsers_play_is_embedded_as_it_is(tmp_path, suffix, media_type):
    path = tmp_path / f"one.{suffix}"
    soundfile.write(path, tone(), RATE)
    assert content(audio_uri(path)) == (media_type, path.read_bytes())


@pytest.mark.parametrize(
    ("format", "subtype"), [("NIST", "PCM_16"), ("AIFF", "PCM_16"), ("WAV", "IMA_ADPCM")]
)
def test_what_browsers_do_not_play_becomes_flac(tmp_path, format, subtype):
    path = tmp_path / "one.wav"  # NIST SPHERE often goes by this name
    soundfile.write(path, tone(), RATE, format=format, subtype=subtype)
    media_type, data = content(audio_uri(path))
    samples, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert media_type == "audio/flac" and rate == RATE
    expected, _ = soundfile.read(path, dtype="int16")
    assert np.array_equal(samples, expected)


def test_unreadable_recordings_are_named(tmp_path):
    for name, data in (("text.wav", b"text"), ("empty.flac", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name}: cannot be read as a recording"):
            audio_uri(tmp_path / name)
    with pytest.raises(ValueError, match="gone.wav: cannot be read as a recording"):
        audio_uri(tmp_path / "gone.wav")


# How much


@pytest.fixture
def files(tmp_path):
    """Ids whose files hold that many bytes."""

    def make(**sizes: int):
        for name, size in sizes.items():
            (tmp_path / name).write_bytes(b"x" * size)
        return [(name, tmp_path / name) for name in sizes]

    return make


def encode(path) -> str:
    if path.stat().st_size == 13:
        raise ValueError("unlucky")
    return path.read_text()


def test_files_are_embedded_until_the_room_is_spent(files):
    embedded = embed(files(a=40, b=13, c=60, d=1, e=1), encode, max_bytes=100)
    assert embedded.uris == {"a": "x" * 40, "c": "x" * 60}
    assert (embedded.unreadable, embedded.left_out) == (("b",), ("d", "e"))


def test_one_that_alone_is_too_large_is_passed_over(files):
    embedded = embed(files(a=101, b=50, c=51, d=1), encode, max_bytes=100)
    assert list(embedded.uris) == ["b"]
    assert embedded.left_out == ("a", "c", "d")  # nothing smaller but less changed slips in after c


def test_no_room_reads_no_file(tmp_path):
    embedded = embed([("a", tmp_path / "gone")], encode, max_bytes=0)
    assert (embedded.uris, embedded.unreadable, embedded.left_out) == ({}, (), ("a",))
