import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from seqdsd.data import BadDataError
from seqdsd.data.labelled_images import (
    HeldImages,
    ImageFiles,
    ImageFormat,
    channel_statistics,
    common_format,
    draw_variations,
    fitted_pixels,
    open_images,
    read_image_corpus,
    read_pixels,
)
from seqdsd.data.labelled_images import sources as module

SMALL = ImageFormat(3, 6, 6)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQDSD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def train(corpus_folder):
    return read_image_corpus(corpus_folder).train


@pytest.fixture
def reads(monkeypatch):
    """Paths that were opened."""
    opened = []

    def counted(path, *args, **kwargs):
        opened.append(path)
        return read_pixels(path, *args, **kwargs)

    monkeypatch.setattr(module, "read_pixels", counted)
    return opened


@pytest.fixture
def photograph(tmp_path):
    """40 x 30, smooth."""
    y, x = np.mgrid[0:30, 0:40]
    pixels = np.stack([x * 6, y * 8, (x + y) * 3], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photograph.png")
    return tmp_path / "photograph.png"


def contents(images):
    return torch.stack([torch.from_numpy(np.array(Image.open(one.path))).permute(2, 0, 1) for one in images])


@pytest.mark.parametrize("kind", ["held", "files", "workers"])
def test_batches_hold_the_files_pixels_and_labels(train, kind):
    source = (
        HeldImages.read(train, SMALL)
        if kind == "held"
        else ImageFiles(train, SMALL, num_workers=kind == "workers")
    )
    variations = draw_variations(6, seed=0, epoch=0, crop_padding=2, flip=True)
    plan = [[4, 0, 5], [1]]
    batches = list(source.batches(plan, variations=variations))
    for indices, batch in zip(plan, batches, strict=True):
        chosen = [train.images[index] for index in indices]
        assert batch.ids == tuple(one.id for one in chosen)
        assert batch.labels.tolist() == [one.label for one in chosen]
        assert torch.equal(batch.images, contents(chosen)) and batch.bad == ()
        assert torch.equal(batch.variations.corners, variations.corners[indices])
    assert next(source.batches([[2]])).variations is None


def test_small_sets_are_held_and_others_read_when_needed(train, monkeypatch):
    assert isinstance(open_images(train, SMALL), HeldImages)
    assert isinstance(open_images(train, SMALL, resized_crop=True), ImageFiles)
    monkeypatch.setattr(module, "HELD_BYTES", 6 * SMALL.num_bytes - 1)
    assert isinstance(open_images(train, SMALL), ImageFiles)


def test_held_images_are_read_once_until_a_file_changes(train, reads):
    first = HeldImages.read(train, SMALL)
    assert len(reads) == 6
    again = HeldImages.read(train, SMALL)
    assert len(reads) == 6 and torch.equal(again.pixels, first.pixels)
    path = train.images[3].path
    before = path.stat()
    pixels = np.array(Image.open(path))
    pixels[0, 0] ^= 255
    Image.fromarray(pixels).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as archives do: all of one time
    changed = HeldImages.read(train, SMALL)
    assert len(reads) == 12 and torch.equal(changed.pixels, contents(train.images))
    HeldImages.read(train, ImageFormat(1, 6, 6))
    assert len(reads) == 18


def test_held_images_are_read_again_by_another_pillow(train, reads, monkeypatch):
    """Which may decode and scale otherwise."""
    HeldImages.read(train, SMALL)
    monkeypatch.setattr("PIL.__version__", "1.1.7")
    HeldImages.read(train, SMALL)
    assert len(reads) == 12


def test_a_damaged_cache_is_made_again(train, tmp_path, caplog):
    HeldImages.read(train, SMALL)
    (file,) = (tmp_path / "cache").rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-20])
    assert torch.equal(HeldImages.read(train, SMALL).pixels, contents(train.images))
    assert "damaged" in caplog.text


@pytest.mark.parametrize("kind", [HeldImages.read, ImageFiles])
def test_an_unreadable_image_is_named_or_left_out(train, kind):
    bad = train.images[2]
    content = bad.path.read_bytes()
    bad.path.write_bytes(content[: len(content) // 2])
    message = rf"^{bad.path}: truncated or damaged .* \(or --on-bad-data skip\)$"
    with pytest.raises(BadDataError, match=message):
        list(kind(train, SMALL).batches([[1, 2, 3]]))
    for _ in range(2):  # the second time from the cache
        source = kind(train, SMALL, on_bad_data="skip")
        (batch,) = source.batches([range(len(source.images))])
        assert len(batch) == 5 and bad.id not in batch.ids
        assert torch.equal(batch.images, contents([one for one in train.images if one != bad]))
        assert list(source.skipped) == [bad.id] and source.skipped[bad.id].startswith(str(bad.path))
    with pytest.raises(BadDataError, match=message):  # what was skipped once is not good for ever
        list(kind(train, SMALL).batches([[1, 2, 3]]))


def test_no_image_left(train):
    for image in train.images:
        image.path.write_bytes(b"")
    with pytest.raises(BadDataError, match="no image is left of 6. The first .*empty"):
        HeldImages.read(train, SMALL, on_bad_data="skip")
    with pytest.raises(BadDataError, match="none of 6 images can be read.*empty"):
        common_format(train)
    (batch,) = ImageFiles(train, SMALL, on_bad_data="skip").batches([[0, 1]])
    assert len(batch) == 0 and batch.images.shape == (0, 3, 6, 6) and len(batch.bad) == 2


@pytest.mark.parametrize(
    ("shape", "expected"), [((6, 5, 3), ImageFormat(3, 6, 5)), ((6, 5), ImageFormat(1, 6, 5))]
)
def test_the_common_format(make_images, shape, expected):
    train = read_image_corpus(make_images({"train": "ab", "dev": "ab", "test": "ab"}, shape=shape)).train
    assert common_format(train) == expected
    assert HeldImages.read(train, expected).pixels.shape == (4, expected.channels, 6, 5)
    make_images({"train": ["a"]}, shape=(7, 5, 3), number=1)
    assert common_format(train) is None


def test_grey_pixels_stay_what_they_are(make_images):
    train = read_image_corpus(make_images({"train": "a", "dev": "a", "test": "a"}, shape=(6, 6))).train
    pixels = HeldImages.read(train, ImageFormat(1, 6, 6)).pixels
    assert np.array_equal(pixels[0, 0], np.array(Image.open(train.images[0].path)))


def test_other_sizes_are_scaled_and_cut_as_torchvision_does(photograph):
    resized = v2.Compose([v2.Resize(20), v2.CenterCrop(16)])
    image = Image.open(photograph)
    expected = np.asarray(resized(image)).transpose(2, 0, 1)
    assert np.array_equal(read_pixels(photograph, ImageFormat(3, 16, 16, resize=20)), expected)
    covering = v2.Compose([v2.Resize(16), v2.CenterCrop(16)])
    expected = np.asarray(covering(image)).transpose(2, 0, 1)
    assert np.array_equal(read_pixels(photograph, ImageFormat(3, 16, 16)), expected)
    assert read_pixels(photograph, ImageFormat(3, 8, 16)).shape == (3, 8, 16)
    assert read_pixels(photograph, ImageFormat(1, 64, 16)).shape == (1, 64, 16)


@pytest.mark.parametrize("resize", [None, 20])
@pytest.mark.parametrize("is_upright", [False, True])
def test_a_strip_is_not_scaled_to_its_end(resize, is_upright, monkeypatch):
    """It would become 5 times as high and as long: of a file within the limits, any memory."""
    scaled, scale = [], functional.resize

    def resized(*args):
        scaled.append(scale(*args))
        return scaled[-1]

    monkeypatch.setattr(functional, "resize", resized)
    pixels = np.zeros((4, 40_000, 3), np.uint8)
    pixels[:, 20_000:] = 255
    strip = Image.fromarray(pixels.swapaxes(0, 1).copy() if is_upright else pixels)
    fitted = fitted_pixels(strip, ImageFormat(3, 16, 16, resize))[0]
    (one,) = scaled
    assert max(one.size) <= 16 * 20 and fitted.shape == (16, 16)
    seen = fitted.T if is_upright else fitted
    assert (seen[:, :6] == 0).all() and (seen[:, -6:] == 255).all()


def test_random_parts_are_those_of_torchvision_and_of_the_seed_alone(photograph):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    parts = [read_pixels(photograph, ImageFormat(3, 16, 16), crop_seed=(0, 1, index)) for index in (7, 7, 8)]
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(parts[0], parts[1]) and not np.array_equal(parts[0], parts[2])
    torch.manual_seed(int(np.random.SeedSequence((0, 1, 7)).generate_state(1)[0]))
    oracle = v2.RandomResizedCrop((16, 16))(Image.open(photograph))
    assert np.array_equal(parts[0], np.asarray(oracle).transpose(2, 0, 1))


def test_random_parts_change_from_epoch_to_epoch_and_not_with_workers(train):
    def images(epoch, num_workers):
        source = open_images(train, ImageFormat(3, 4, 4), resized_crop=True, num_workers=num_workers)
        variations = draw_variations(6, seed=0, epoch=epoch, resized_crop=True)
        return torch.cat(
            [batch.images for batch in source.batches([[0, 1, 2], [3, 4, 5]], variations=variations)]
        )

    assert torch.equal(images(0, 0), images(0, 1)) and not torch.equal(images(0, 0), images(1, 0))


def test_channel_statistics(train):
    source = HeldImages.read(train, SMALL)
    mean, std = channel_statistics(source)
    normalised = v2.Normalize(mean, std)(source.pixels / 255)
    assert torch.allclose(normalised.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(normalised.square().mean((0, 2, 3)), torch.ones(3), atol=1e-4)
    black = HeldImages(SMALL, source.images, torch.zeros_like(source.pixels), source.labels)
    assert channel_statistics(black) == ((0.0,) * 3, (1 / 255,) * 3)


@pytest.mark.parametrize("numbers", [(2, 6, 6), (3, 0, 6), (3, 6, 6, 5)])
def test_formats_that_are_none(numbers):
    with pytest.raises(ValueError, match="must be"):
        ImageFormat(*numbers)


def test_the_cache_says_where_it_cannot_be_written(train, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEQDSD_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(OSError, match=f"{Path(tmp_path) / 'file' / 'below'}.*SEQDSD_CACHE"):
        HeldImages.read(train, SMALL)


def test_what_is_skipped_in_every_epoch_is_said_once(train, caplog):
    train.images[0].path.write_bytes(b"")
    source = ImageFiles(train, SMALL, on_bad_data="skip")
    for _ in range(2):
        assert [len(batch) for batch in source.batches([[0, 1], [2, 3]])] == [1, 2]
    assert len(caplog.records) == 1 and "0.png: the file is empty" in caplog.text
