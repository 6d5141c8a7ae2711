import io
import os
import tarfile
import zipfile
from pathlib import Path

import cifar10
import numpy as np
import pytest
from PIL import Image

from seqdsd.data.labelled_images import read_image_corpus

CLASSES = ["airplane", "automobile", "bird"]
SIZES = {"train": 30, "test": 6}


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch):
    monkeypatch.setattr(cifar10, "OFFICIAL_IMAGES", SIZES)


def record(label, number):
    """One image as the release describes it: the label, and 1,024 bytes of red, of green and of blue, row by row."""
    red = bytes((number + row) % 256 for row in range(32) for _ in range(32))
    green = bytes(column for _ in range(32) for column in range(32))
    return bytes([label]) + red + green + bytes([200]) * 1024


@pytest.fixture
def unpacked(tmp_path):
    folder = tmp_path / "corpus" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    (folder / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")
    for batch in range(5):
        content = b"".join(record(number % 3, 6 * batch + number) for number in range(6))
        (folder / f"data_batch_{batch + 1}.bin").write_bytes(content)
    (folder / "test_batch.bin").write_bytes(b"".join(record(number % 3, number) for number in range(6)))
    return folder


@pytest.fixture
def archive(unpacked):
    path = unpacked.parent / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        file.add(unpacked, unpacked.name)
    for one in unpacked.iterdir():
        one.unlink()
    unpacked.rmdir()
    return path


@pytest.fixture
def zips(tmp_path):
    """train.zip and test.zip with JPEG files, a folder a class."""
    folder = tmp_path / "zips"
    folder.mkdir()
    for split, size in SIZES.items():
        with zipfile.ZipFile(folder / f"{split}.zip", "w") as file:
            for number in range(size):
                buffer = io.BytesIO()
                Image.new("RGB", (32, 32), (number, 0, 0)).save(buffer, "JPEG")
                file.writestr(f"{CLASSES[number % 3]}/{number:04d}.jpg", buffer.getvalue())
    return folder


def prepared(corpus, out):
    cifar10.main(corpus, out, dev_per_class=2)
    found = read_image_corpus(out)
    assert found.classes == tuple(CLASSES)
    assert [len(found.split(split)) for split in found.splits] == [24, 6, 6]
    return found


def refused(corpus, out, message):
    cifar10._binary_files.cache_clear()
    with pytest.raises(ValueError, match=message):
        cifar10.main(corpus, out, dev_per_class=2)
    assert not out.exists() or list(out.iterdir()) == []


def test_the_binary_release_packed_or_not(unpacked, tmp_path, capsys, request):
    found = prepared(unpacked.parent, tmp_path / "out")
    for image in found.train.images + found.dev.images:
        number = int(image.path.stem)
        pixels = np.array(Image.open(image.path))
        assert image.label == number % 3
        assert (
            (pixels[5, :, 0] == number + 5).all()
            and (pixels[:, 7, 1] == 7).all()
            and (pixels[..., 2] == 200).all()
        )
    assert sorted(int(one.path.stem) for one in found.train.images + found.dev.images) == list(range(30))
    request.getfixturevalue("archive")
    cifar10._binary_files.cache_clear()
    packed = prepared(unpacked.parent, tmp_path / "packed")
    for image, same in zip(found.train.images, packed.train.images, strict=True):
        assert image.id == same.id and image.path.read_bytes() == same.path.read_bytes()


def test_zips_of_jpeg_files_stay_as_they_are(zips, tmp_path, capsys):
    found = prepared(zips, tmp_path / "out")
    with zipfile.ZipFile(zips / "train.zip") as file:
        assert all(image.path.read_bytes() == file.read(image.id) for image in found.train.images)


def test_binary_files_that_cannot_be_used(unpacked, tmp_path):
    corpus, out = unpacked.parent, tmp_path / "out"
    refused(tmp_path, out, r"neither cifar-10-binary\.tar\.gz, nor data_batch_1\.bin .*Name the folder")
    batch = unpacked / "data_batch_3.bin"
    good = batch.read_bytes()
    batch.write_bytes(good[:-1])
    refused(corpus, out, r"data_batch_3\.bin has 18,437 bytes, not whole records of 3,073: truncated")
    batch.write_bytes(b"\7" + good[1:])
    refused(corpus, out, r"data_batch_3\.bin has the label 7, and batches\.meta\.txt names 3 classes")
    batch.unlink()
    refused(corpus, out, rf"^{unpacked}: data_batch_3\.bin is missing. Fetch")


def test_a_truncated_archive(archive, tmp_path):
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    refused(archive.parent, tmp_path / "out", f"^{archive}: truncated or damaged .*Fetch it again")


def test_zips_that_cannot_be_used(zips, tmp_path):
    out, path = tmp_path / "out", zips / "train.zip"
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    refused(zips, out, f"^{path}: missing, truncated or not a zip .*Fetch it again")
    damaged = bytearray(good)
    damaged[300] ^= 255  # within the first file
    path.write_bytes(damaged)
    refused(zips, out, rf"^{path}: airplane/0000\.jpg is damaged .*Fetch it again")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("../0.jpg", b"")
        file.writestr("../1.jpg", b"")
    refused(zips, out, "only train or only test has the classes")
    path.write_bytes(good)
    (zips / "test.zip").unlink()
    refused(zips, out, r"test\.zip: missing")


def test_names_that_would_lead_out_of_the_folder(zips, tmp_path):
    for split, size in SIZES.items():
        with zipfile.ZipFile(zips / f"{split}.zip", "w") as file:
            for number in range(size):
                file.writestr(f"../{number}.jpg", b"jpeg")
    refused(zips, tmp_path / "out", r"'\.\.' is not the name of a class")
    assert not list(tmp_path.rglob("0.jpg"))


def test_the_real_zips(tmp_path, monkeypatch):
    data = Path(os.environ.get("SEQDSD_DATA", Path(__file__).parents[3] / "shared" / "data")) / "cifar10"
    if not data.is_dir():
        pytest.skip("CIFAR-10 is not here: set SEQDSD_DATA to the folder that holds cifar10/")
    for split, size in {"train": 50_000, "test": 10_000}.items():
        found = cifar10._read_zip(data, split)
        assert len(found.classes) == size and len(set(found.classes)) == 10
        picture = next(iter(found.pictures))
        assert Image.open(io.BytesIO(picture.content)).size == (32, 32)
