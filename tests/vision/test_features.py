"""Cached features against the encoder called on each image by hand."""

import hashlib
import io
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import seqdsd.vision.features
from seqdsd.vision import FeatureError, ImageEncoder, ImageError, encode_images, read_image
from seqdsd.vision.cache import FeatureCache

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def encode(tmp_path, tiny_encoder):
    """Encodes on the CPU with a cache of the test's own; says how many images were computed."""

    def call(images, *, encoder=None, **options):
        encoder = encoder or tiny_encoder()
        batches = []
        handle = encoder.register_forward_pre_hook(lambda module, inputs: batches.append(len(inputs[0])))
        try:
            features = encode_images(encoder, images, device="cpu", cache_dir=tmp_path / "cache", **options)
        finally:
            handle.remove()
            call.computed = sum(batches)
        return features

    return call


def by_hand(encoder: ImageEncoder, path: Path) -> torch.Tensor:
    return encoder(torch.from_numpy(encoder.prepare(read_image(path)).copy())[None])[0]


def test_features_are_the_encoders(encode, make_images, tiny_encoder):
    images = make_images(10)
    features = encode(images, batch_size=4)
    expected = torch.stack([by_hand(tiny_encoder(), path) for path in images.values()])
    torch.testing.assert_close(features.take(list(images)), expected)
    assert features.take(["0-3.png", "0-1.png", "0-3.png"]).equal(features.take(list(images))[[3, 1, 3]])
    assert features.array.dtype == np.float32
    assert isinstance(features.array, np.memmap)
    assert (features.feature_size, features.source, dict(features.skipped)) == (5, "tiny", {})
    with pytest.raises(KeyError, match="absent"):
        features.take(["absent"])


def test_the_second_call_computes_nothing(encode, make_images):
    images = make_images(10)
    first = encode(images)
    assert encode.computed == 10
    again = encode(images)
    assert encode.computed == 0
    assert again.take(list(images)).equal(first.take(list(images)))
    assert again.fingerprint == first.fingerprint


def test_content_decides(encode, make_images):
    images = make_images(3)
    before = encode(images)
    images["0-0.png"].rename(images["0-0.png"].with_name("renamed.png"))
    images["0-0.png"] = images["0-0.png"].with_name("renamed.png")
    images["copy"] = images["0-0.png"]
    after = encode(images)
    assert encode.computed == 0
    assert after.rows["copy"] == after.rows["0-0.png"] == before.rows["0-0.png"]
    images["0-1.png"].write_bytes(make_images(1, seed=5)["5-0.png"].read_bytes())
    changed = encode(images)
    assert encode.computed == 1
    assert not changed.take(["0-1.png"]).equal(before.take(["0-1.png"]))
    assert len({before.fingerprint, after.fingerprint, changed.fingerprint}) == 3


@pytest.mark.parametrize("batch_size", [1, 3])
def test_copies_are_computed_once(encode, make_images, batch_size):
    path = make_images(1)["0-0.png"]
    features = encode({str(number): path for number in range(20)}, batch_size=batch_size)
    assert encode.computed == 1
    assert features.array.shape == (1, 5)


def test_other_weights_have_a_cache_of_their_own(encode, make_images, tiny_encoder):
    images = make_images(3)
    first = encode(images)
    second = encode(images, encoder=tiny_encoder(seed=1))
    assert encode.computed == 3
    assert not second.take(list(images)).equal(first.take(list(images)))
    assert second.fingerprint != first.fingerprint


def test_an_image_alone_has_the_features_it_has_in_a_batch(tmp_path, make_images, tiny_encoder):
    images = make_images(7)
    caches = {size: tmp_path / f"cache-{size}" for size in (1, 3, 16)}
    taken = [
        encode_images(tiny_encoder(), images, device="cpu", cache_dir=cache, batch_size=size).take(
            list(images)
        )
        for size, cache in caches.items()
    ]
    torch.testing.assert_close(taken[0], taken[1])
    torch.testing.assert_close(taken[0], taken[2])


def spoil(images: dict[str, Path], id_: str) -> None:
    images[id_].write_bytes(images[id_].read_bytes()[:50])


def test_the_first_bad_image_stops_and_nothing_is_lost(encode, make_images):
    images = make_images(10)
    spoil(images, "0-8.png")
    with pytest.raises(ImageError, match=r"0-8\.png: truncated or damaged .*Copy"):
        encode(images, batch_size=4)
    assert encode.computed == 8
    images |= {"0-8.png": make_images(1, seed=3)["3-0.png"]}
    encode(images)
    assert encode.computed == 2


def test_bad_images_are_skipped_if_asked_for(encode, make_images, caplog):
    images = make_images(5)
    spoil(images, "0-2.png")
    images["absent"] = Path("absent.jpg")
    features = encode(images, on_bad_data="skip")
    assert list(features.rows) == ["0-0.png", "0-1.png", "0-3.png", "0-4.png"]
    assert list(features.skipped) == ["0-2.png", "absent"]
    assert "absent.jpg: there is no such file" in features.skipped["absent"]
    assert [record.levelno for record in caplog.records].count(logging.WARNING) == 2


@pytest.mark.parametrize("on_bad_data", ["error", "skip"])
def test_no_image_left(encode, on_bad_data):
    with pytest.raises(FeatureError, match="no image is left of 0"):
        encode({}, on_bad_data=on_bad_data)
    with pytest.raises((FeatureError, ImageError), match=r"absent\.jpg: there is no such file"):
        encode({"absent": Path("absent.jpg")}, on_bad_data=on_bad_data)


def test_an_encoder_that_gives_nan_is_named_with_the_image(encode, make_images):
    class Broken(nn.Module):
        def forward(self, images):
            features = images.mean(dim=(2, 3))
            features[1] = torch.nan
            return features

    encoder = ImageEncoder(Broken(), name="broken", feature_size=3, image_size=8)
    with pytest.raises(FeatureError, match=r"0-1\.png: the encoder broken gives NaN"):
        encode(make_images(3), encoder=encoder)


def test_damage_to_the_cache_is_named_and_repaired(tmp_path, encode, make_images, caplog):
    images = make_images(6)
    whole = encode(images, batch_size=2)
    expected = whole.take(list(images))
    path = next((tmp_path / "cache").glob("features/tiny-*/features.f32"))
    content = bytearray(path.read_bytes())
    content[2 * 5 * 4] ^= 1
    path.write_bytes(content)
    repaired = encode(images)
    assert encode.computed == 1
    assert f"{path}: row 2 is damaged" in caplog.text
    torch.testing.assert_close(repaired.take(list(images)), expected)
    assert repaired.fingerprint == whole.fingerprint


SLOW_RUN = """
import sys, time
from pathlib import Path
import torch
from seqdsd.vision import ImageEncoder, encode_images
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
encoder = ImageEncoder(network, name="tiny", feature_size=5, image_size=8)
encoder.register_forward_pre_hook(lambda module, inputs: time.sleep(0.02))
order = sorted(Path(sys.argv[1]).iterdir(), reverse=sys.argv[3] == "backwards")
encode_images(encoder, {path.name: path for path in order}, device="cpu", cache_dir=Path(sys.argv[2]), batch_size=1)
"""


def test_killed_runs_side_by_side_leave_a_cache_that_goes_on(tmp_path, encode, make_images, tiny_encoder):
    """Two processes fill a cache from both ends; killed once each has written, they lose nothing and spoil nothing."""
    images = make_images(400)
    folder = tmp_path / "cache" / "features" / tiny_encoder().fingerprint
    ends = [hashlib.blake2b(path.read_bytes(), digest_size=16).digest() for path in sorted(images.values())]
    command = [sys.executable, "-c", SLOW_RUN, str(tmp_path / "images"), str(tmp_path / "cache")]
    environment = {**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen([*command, order], cwd=REPOSITORY, env=environment)
        for order in ("forwards", "backwards")
    ]
    deadline = time.monotonic() + 60
    while (
        not all(FeatureCache(folder, 5).row(end) for end in (ends[5], ends[-5]))
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    for run in runs:
        run.kill()
        run.wait()
    features = encode(images)
    assert 0 < encode.computed <= 400 - 10
    expected = torch.stack([by_hand(tiny_encoder(), path) for path in images.values()])
    torch.testing.assert_close(features.take(list(images)), expected)


def test_the_bar_appears_on_a_terminal_if_it_takes_a_while(tmp_path, make_images, tiny_encoder, monkeypatch):
    def shown(*, terminal: bool, quiet_seconds: float) -> str:
        monkeypatch.setattr(seqdsd.vision.features, "QUIET_UNTIL_SECONDS", quiet_seconds)
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=terminal, width=100)
        encode_images(
            tiny_encoder(), make_images(5), device="cpu", cache_dir=tmp_path / "cache", console=console
        )
        return stream.getvalue()

    assert "image features" in shown(terminal=True, quiet_seconds=0.0)
    assert shown(terminal=True, quiet_seconds=60.0) == ""
    assert shown(terminal=False, quiet_seconds=0.0) == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_features_on_a_gpu(tmp_path, make_images, tiny_encoder):
    images = make_images(7)
    taken = [
        encode_images(tiny_encoder(), images, device=device, cache_dir=tmp_path / device).take(list(images))
        for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(taken[0], taken[1], rtol=1e-2, atol=1e-3)  # TF32 in convolutions
