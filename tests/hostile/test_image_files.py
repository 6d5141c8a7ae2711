"""Damaged and disguised files: each is read, or refused by an error of ours with its path; nothing is started.

More of them: ``SEQDSD_EXAMPLES=10000 pytest tests/hostile/test_image_files.py``.
"""

import io
import json
import os
import resource
import sys
from collections.abc import Callable

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as safetensors_bytes

import seqdsd.images
from seqdsd.data import CaptionDataError, read_captions
from seqdsd.images import ImageError, decoded_image
from seqdsd.printable import printable
from seqdsd.vision import FeatureError, WeightsError, read_feature_file
from seqdsd.vision.encoders import _read_weights

EXAMPLES = int(os.environ.get("SEQDSD_EXAMPLES", "250"))
MOST_MEGABYTES = 300
_STARTS = ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "os.system", "os.spawn")

started: list[str] = []
is_watching = False


def _watch(event: str, arguments: object) -> None:
    if is_watching and event in _STARTS:
        started.append(event)


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def nothing_started_in_little_memory(monkeypatch):
    """Images of a megapixel are the limit here, so that many fit into seconds."""
    monkeypatch.setattr(seqdsd.images, "MAX_PIXELS", 1_000_000)
    monkeypatch.setattr(sys.modules[__name__], "is_watching", True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert started == []
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MOST_MEGABYTES


def written(write: Callable, *arguments, **options) -> bytes:
    buffer = io.BytesIO()
    write(buffer, *arguments, **options)
    return buffer.getvalue()


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8))


IMAGES = {
    "JPEG": written(picture().save, "JPEG"),
    "progressive": written(picture().save, "JPEG", progressive=True),
    "PNG": written(picture().save, "PNG"),
    "palette": written(picture().quantize(9).save, "PNG", transparency=3),
    "WEBP": written(picture().save, "WEBP"),
    "GIF": written(picture().save, "GIF"),
    "BMP": written(picture().save, "BMP"),
    "TIFF": written(picture().save, "TIFF"),
    "LZW": written(picture().save, "TIFF", compression="tiff_lzw"),
}
DISGUISED = {
    kind: written(picture().save, kind) for kind in ("EPS", "AVIF", "DDS", "ICO", "PPM", "TGA", "PCX")
}
DISGUISED["BLP"] = written(picture().quantize().save, "BLP")

FEATURES = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
NPY = (
    written(np.save, FEATURES),
    written(np.save, np.asfortranarray(FEATURES)),
    written(np.save, FEATURES.astype(object)),
)
MAT = tuple(
    written(scipy.io.savemat, {"feats": FEATURES.T}, **options)
    for options in ({}, {"do_compression": True}, {"format": "4"})
) + (written(scipy.io.savemat, {"feats": np.array([[1, "x"]], dtype=object)}),)
WEIGHTS = (
    (".pth", written(lambda file: torch.save({"w": torch.zeros(3)}, file))),
    (
        ".pth",
        written(lambda file: torch.save({"w": torch.zeros(3)}, file, _use_new_zipfile_serialization=False)),
    ),
    (".pth", b"cos\nsystem\n(S'true'\ntR."),  # a pickle that starts a program
    (".pth", b"just some text\n" * 9),
    (".safetensors", safetensors_bytes({"w": torch.zeros(3)})),
)
CAPTIONS = json.dumps(
    {
        "images": [
            {"filename": f"{n}.jpg", "imgid": n, "split": split, "sentences": [{"tokens": ["a", "dog"]}]}
            for n, split in enumerate(("train", "val", "test"))
        ]
    }
).encode()

Damage = Callable[[bytes], bytes]


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """A few bytes changed, put in, or cut off at the end; mostly near the start, where it does most."""
    hits = draw(
        st.lists(
            st.tuples(
                st.sampled_from(("change", "insert", "cut", "count")),
                st.floats(0, 1, exclude_max=True),
                st.binary(min_size=1, max_size=4),
            ),
            max_size=5,
        )
    )

    def damage(data: bytes) -> bytes:
        for kind, where, new in hits:
            place = int(len(data) * where**2)
            if kind == "cut":
                data = data[: int(len(data) * where)]
            elif kind == "insert":
                data = data[:place] + new + data[place:]
            else:
                new = new if kind == "change" else b"\xff\xff\xff\x7f"
                data = data[:place] + new + data[place + len(new) :]
        return data

    return damage


def many(examples: int = EXAMPLES) -> settings:
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def check(error: ValueError, path: object) -> None:
    said = str(error)
    assert said.startswith(f"{path}: ") and len(said) < 1000
    assert printable(said) == said  # one line, and nothing that steers a terminal


@many(2 * EXAMPLES)
@given(st.sampled_from(sorted(IMAGES)), damages(), st.sampled_from((None, 4)))
def test_damaged_images(kind, damage, at_least):
    try:
        with decoded_image(damage(IMAGES[kind]), "x.jpg", at_least=at_least) as image:
            assert image.mode == "RGB" and image.resize((8, 8)).size == (8, 8)
    except ImageError as error:
        check(error, "x.jpg")


@many(EXAMPLES // 2)
@given(st.sampled_from(sorted(DISGUISED)), damages())
def test_other_formats_by_the_name_of_a_jpeg(kind, damage):
    with pytest.raises(ImageError) as caught, decoded_image(damage(DISGUISED[kind]), "x.jpg"):
        pass
    check(caught.value, "x.jpg")


@many()
@given(st.sampled_from([(".npy", data) for data in NPY] + [(".mat", data) for data in MAT]), damages())
def test_damaged_features(tmp_path, file, damage):
    path = tmp_path / f"feats{file[0]}"
    path.write_bytes(damage(file[1]))
    try:
        assert read_feature_file(path, ["a", "b", "c", "d"]).take(["a"]).isfinite().all()
    except FeatureError as error:
        check(error, path)


@many(EXAMPLES // 2)
@given(st.sampled_from(WEIGHTS), damages())
def test_damaged_weights(tmp_path, file, damage):
    path = tmp_path / f"weights{file[0]}"
    path.write_bytes(damage(file[1]))
    try:
        assert all(isinstance(one, torch.Tensor) for one in _read_weights(path).values())
    except WeightsError as error:
        check(error, path)


@many()
@given(damages())
def test_damaged_caption_files(tmp_path, damage):
    path = tmp_path / "dataset_x.json"
    path.write_bytes(damage(CAPTIONS))
    try:
        corpus = read_captions(path)
        assert all(image.path.startswith(f"{tmp_path}/images/") for image in corpus.images)
    except CaptionDataError as error:
        check(error, path)


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.just(10**4000),
        st.floats(),
        st.text(st.characters(exclude_categories=()), max_size=9),
        st.sampled_from(
            ("../x.jpg", "/etc/passwd", "a/../../x", "\x1b[2J", "\ud800", "x\0.jpg", "train", "")
        ),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
PLACES = (
    ("images",),
    ("image_folder",),
    ("images", 1),
    *(("images", 1, key) for key in ("filename", "filepath", "imgid", "split", "sentences")),
    ("images", 1, "sentences", 0),
    ("images", 1, "sentences", 0, "tokens"),
    ("images", 1, "sentences", 0, "tokens", 1),
)


@many()
@given(st.sampled_from(PLACES), VALUES)
def test_caption_files_of_another_shape(tmp_path, place, value):
    content = json.loads(CAPTIONS)
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    path = tmp_path / "dataset_x.json"
    path.write_text(json.dumps(content))
    try:
        corpus = read_captions(path)
        assert all(
            image.path.startswith(f"{corpus.image_folder}/".replace("//", "/")) for image in corpus.images
        )
    except CaptionDataError as error:
        check(error, path)


@pytest.mark.parametrize("levels", [400, 900, 100_000])
def test_nested_caption_files(tmp_path, levels):
    path = tmp_path / "dataset_x.json"
    nested = "[" * levels + "]" * levels
    for text in (nested, CAPTIONS.decode().replace('["a", "dog"]', nested), '{"images": ' + "9" * 5000 + "}"):
        path.write_text(text)
        with pytest.raises(CaptionDataError) as caught:
            read_captions(path)
        check(caught.value, path)
